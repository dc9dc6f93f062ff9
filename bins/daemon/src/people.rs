//! Whom a daemon trusts beyond what certificates list.

use clap::Args;
use dominator_core::auth::People;

/// Whom a daemon trusts beyond what certificates list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Trusted people")]
pub struct PeopleOptions {
    /// Let this user call every method, whatever its certificate lists; may be given several times
    #[arg(long, value_name = "USER", value_parser = name)]
    pub trusted_user: Vec<String>,
    /// Let members of this group call every method, whatever their certificates list; may be given several times
    #[arg(long, value_name = "GROUP", value_parser = name)]
    pub trusted_group: Vec<String>,
}

impl PeopleOptions {
    /// Them.
    pub fn people(&self) -> People {
        People::new(self.trusted_user.iter().cloned(), self.trusted_group.iter().cloned())
    }
}

/// The name of a user or a group, as it stands in certificates.
///
/// # Errors
/// What is wrong with it, for people.
pub fn name(text: &str) -> Result<String, &'static str> {
    // A blank where a name was meant, out of a script, must not come to mean anybody.
    match text.trim().is_empty() || text.chars().any(char::is_control) {
        true => Err("a name is not blank and has no control characters"),
        false => Ok(text.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn a_blank_is_nobodys_name() {
        assert_eq!(name("alice"), Ok("alice".to_owned()));
        assert!(["", " ", "a\n"].into_iter().all(|text| name(text).is_err()));
    }
}
