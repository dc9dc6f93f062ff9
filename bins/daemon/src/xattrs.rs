//! Which extended attributes count, as a flag.

use clap::{Args, ValueEnum};
use dominator_core::view::{XattrClass, XattrPolicy};

/// Which extended attributes count.
#[derive(Clone, Copy, Debug, Args)]
pub struct XattrOptions {
    /// Which extended attributes count; others are neither looked at nor changed
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Xattrs::All)]
    pub xattrs: Xattrs,
}

/// A choice of extended attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Xattrs {
    /// None of them
    None,
    /// Those that say who may do what: file capabilities, SELinux labels, access control lists
    Security,
    /// Those and all that begin with user.
    #[default]
    All,
}

impl Xattrs {
    /// The classes it means.
    pub fn policy(self) -> XattrPolicy {
        match self {
            Self::None => XattrPolicy::NONE,
            Self::Security => {
                XattrPolicy::of([XattrClass::Capability, XattrClass::Selinux, XattrClass::PosixAcl])
            }
            Self::All => XattrPolicy::ALL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_is_what_decides_who_may_do_what() {
        let covered = |choice: Xattrs| {
            [&b"security.capability"[..], b"security.selinux", b"system.posix_acl_access", b"user.x"]
                .map(|name| choice.policy().covers(name))
        };
        assert_eq!(covered(Xattrs::None), [false; 4]);
        assert_eq!(covered(Xattrs::Security), [true, true, true, false]);
        assert_eq!(covered(Xattrs::All), [true; 4]);
    }
}
