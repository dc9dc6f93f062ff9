//! Triggers: which services an update must stop, reload or start because of the paths it touches.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::filter::{BadFilter, Lines};
use crate::path::ImagePath;

/// What to do with a service when a matching path changes. The JSON form is the reference's: an array of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Trigger {
    /// Regular expressions as in a filter; one that matches a changed path fires the trigger. None inverts the others.
    #[serde(default)]
    pub match_lines: Vec<String>,
    /// The service: a unit name for `systemctl`, or what `service` takes.
    pub service: String,
    /// The order of firing, compared as version strings: digits inside count as numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sort_name: String,
    /// The machine must be rebooted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub do_reboot: bool,
    /// Reload instead of restart.
    #[serde(default, skip_serializing_if = "is_false")]
    pub do_reload: bool,
    /// Disturbs the machine's users; needs the disruption gate's leave.
    #[serde(default, skip_serializing_if = "is_false")]
    pub high_impact: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// An ordered, checked list of triggers with their lines compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    list: Vec<Trigger>,
    /// The lines of each; those of merged triggers in several parts.
    lines: Vec<Vec<Lines>>,
}

impl Triggers {
    /// How many there may be.
    pub const MAX_COUNT: usize = 1000;
    /// The longest JSON text accepted, in bytes.
    pub const MAX_JSON: usize = 1024 * 1024;
    /// The longest service name, in bytes.
    pub const MAX_SERVICE: usize = 255;

    /// Compiles `list`.
    ///
    /// # Errors
    /// [`BadTriggers`] naming the first trigger that is wrong.
    pub fn new(list: Vec<Trigger>) -> Result<Self, BadTriggers> {
        if list.len() > Self::MAX_COUNT {
            return Err(BadTriggers::TooMany);
        }
        let compile = |trigger: &Trigger| {
            if !is_service_name(&trigger.service) {
                return Err(BadTriggers::Service { service: trigger.service.chars().take(80).collect() });
            }
            if trigger.match_lines.iter().any(|line| line == "!") {
                return Err(BadTriggers::Inverted { service: trigger.service.clone() });
            }
            Lines::new(trigger.match_lines.clone())
                .map(|lines| vec![lines])
                .map_err(|source| BadTriggers::Line { service: trigger.service.clone(), source })
        };
        let lines = list.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { list, lines })
    }

    /// Reads the reference's JSON: an array of triggers.
    ///
    /// # Errors
    /// [`BadTriggers`] when it is none; unknown fields are refused, since a misspelt `DoReboot` must not be dropped.
    pub fn from_json(json: &[u8]) -> Result<Self, BadTriggers> {
        if json.len() > Self::MAX_JSON {
            return Err(BadTriggers::TooMany);
        }
        let list = serde_json::from_slice(json).map_err(|error| BadTriggers::Json(error.to_string()))?;
        Self::new(list)
    }

    /// The triggers as the reference's JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.list).expect("invariant: strings and flags always serialise")
    }

    /// The triggers in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Trigger> {
        self.list.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The triggers that one of `changed` fires, in order of their sort names, each once.
    pub fn fired_by<'a>(&self, changed: impl IntoIterator<Item = &'a ImagePath> + Clone) -> Vec<&Trigger> {
        let fires = |parts: &[Lines]| {
            changed.clone().into_iter().any(|path| parts.iter().any(|lines| lines.matches(path.as_bytes())))
        };
        let mut fired: Vec<_> = self
            .list
            .iter()
            .zip(&self.lines)
            .filter(|(_, lines)| fires(lines))
            .map(|(trigger, _)| trigger)
            .collect();
        fired.sort_by(|a, b| version_order(&a.sort_name, &b.sort_name));
        fired
    }

    /// The same with each service called by its [`plain_name`].
    pub(crate) fn by_plain_names(&self) -> Self {
        let plain = |trigger: &Trigger| Trigger {
            service: plain_name(&trigger.service).to_owned(),
            ..trigger.clone()
        };
        Self { list: self.list.iter().map(plain).collect(), lines: self.lines.clone() }
    }

    /// Both lists as one: triggers of one service and action are merged, fire when either would, and have the graver of
    /// their flags. Of their sort names the least is kept, that of this list if it says anything. The limits hold for each
    /// list, not for both.
    pub fn merged(&self, other: &Self) -> Self {
        let mut merged: BTreeMap<(String, bool), (Trigger, Vec<Lines>)> = BTreeMap::new();
        let both = self.list.iter().zip(&self.lines).chain(other.list.iter().zip(&other.lines));
        for (trigger, parts) in both {
            let empty = || {
                let (service, do_reload) = (trigger.service.clone(), trigger.do_reload);
                (Trigger { service, do_reload, ..Trigger::default() }, Vec::new())
            };
            let (entry, lines) =
                merged.entry((trigger.service.clone(), trigger.do_reload)).or_insert_with(empty);
            for part in parts {
                if !lines.contains(part) {
                    lines.push(part.clone());
                }
            }
            for line in &trigger.match_lines {
                if !entry.match_lines.contains(line) {
                    entry.match_lines.push(line.clone());
                }
            }
            entry.do_reboot |= trigger.do_reboot;
            entry.high_impact |= trigger.high_impact;
        }
        for (trigger, _) in merged.values_mut() {
            let mut names = [self, other].into_iter().filter_map(|list| list.first_sort_name(trigger));
            trigger.sort_name = names.find(|name| !name.is_empty()).unwrap_or_default().to_owned();
        }
        let (list, lines) = merged.into_values().unzip();
        Self { list, lines }
    }

    /// The least sort name of those triggers that are merged to `merged`.
    fn first_sort_name(&self, merged: &Trigger) -> Option<&str> {
        let same =
            |trigger: &&Trigger| trigger.service == merged.service && trigger.do_reload == merged.do_reload;
        let names = self.list.iter().filter(same).map(|trigger| trigger.sort_name.as_str());
        names.min_by(|a, b| version_order(a, b))
    }
}

/// A name that `systemctl` and `service` can take and never read as an option or a path.
pub(crate) fn is_service_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"@._:\\-+".contains(&b);
    !name.is_empty()
        && name.len() <= Triggers::MAX_SERVICE
        && !name.starts_with(['-', '.'])
        && name.bytes().all(allowed)
}

/// What a service is called without saying that it is one: `web` and `web.service` are the same to whoever starts it. What
/// would be a unit of another kind then keeps its name.
pub(crate) fn plain_name(service: &str) -> &str {
    let plain = service.strip_suffix(".service").filter(|plain| !plain.is_empty());
    plain.filter(|plain| !UNIT_KINDS.iter().any(|kind| plain.ends_with(kind))).unwrap_or(service)
}

/// How the names of systemd's units end.
const UNIT_KINDS: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

/// Compares strings with runs of digits as numbers: `a2` comes before `a10`.
pub fn version_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (run_a, run_b) = (digits(a), digits(b));
        let ordering = match (run_a.is_empty(), run_b.is_empty()) {
            (false, false) => {
                (a, b) = (a.get(run_a.len()..).unwrap_or_default(), b.get(run_b.len()..).unwrap_or_default());
                let (n, m) = (number(run_a), number(run_b));
                n.len().cmp(&m.len()).then_with(|| n.cmp(m)).then_with(|| run_a.len().cmp(&run_b.len()))
            }
            _ => match (a.split_first(), b.split_first()) {
                (Some((x, rest_a)), Some((y, rest_b))) => {
                    (a, b) = (rest_a, rest_b);
                    x.cmp(y)
                }
                (x, y) => return x.is_some().cmp(&y.is_some()),
            },
        };
        if ordering.is_ne() {
            return ordering;
        }
    }
}

fn digits(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn number(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|b| **b == b'0').count();
    digits.get(zeros..).unwrap_or_default()
}

/// The name of a service: a unit for `systemctl`, or what `service` takes; never an option or a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

impl ServiceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = BadTriggers;

    fn from_str(text: &str) -> Result<Self, BadTriggers> {
        match is_service_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(BadTriggers::Service { service: text.chars().take(80).collect() }),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A list of triggers that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadTriggers {
    /// A line that would invert a filter: it fires nothing, and whoever wrote it meant something else.
    #[error("the trigger for {service} has a line `!`, which only filters know; say which paths fire it")]
    Inverted {
        /// Of which service.
        service: String,
    },
    /// Not the JSON it should be.
    #[error(
        "triggers are not an array of {{MatchLines, Service, SortName, DoReboot, DoReload, HighImpact}}: {0}"
    )]
    Json(String),
    /// A service that could not be one.
    #[error("{service:?} can't be the name of a service")]
    Service {
        /// The name.
        service: String,
    },
    /// A line that does not compile.
    #[error("the trigger of service {service:?} has a line that is no regular expression")]
    Line {
        /// Whose line.
        service: String,
        /// What is wrong with it.
        source: BadFilter,
    },
    /// More than anybody needs.
    #[error("more than {} triggers, or more than {} bytes of them", Triggers::MAX_COUNT, Triggers::MAX_JSON)]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const JSON: &[u8] = br#"[
        {"MatchLines": ["/etc/ssh/.*", "/usr/sbin/sshd$"], "Service": "ssh", "SortName": "10"},
        {"MatchLines": ["/etc/cron.*"], "Service": "cron", "SortName": "9", "DoReload": true},
        {"MatchLines": ["/boot/.*"], "Service": "reboot", "DoReboot": true, "HighImpact": true}
    ]"#;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn paths_fire_triggers_in_version_order() {
        let triggers = Triggers::from_json(JSON).unwrap();
        let changed = [path("/usr/sbin/sshd"), path("/etc/crontab"), path("/srv/x")];
        let fired: Vec<_> = triggers.fired_by(&changed).iter().map(|t| t.service.clone()).collect();
        assert_eq!(fired, ["cron", "ssh"]);
        assert!(triggers.fired_by(&[path("/usr/sbin/sshd-old")]).is_empty());
    }

    #[test]
    fn json_round_trips_and_misspellings_are_refused() {
        let triggers = Triggers::from_json(JSON).unwrap();
        assert_eq!(Triggers::from_json(triggers.to_json().as_bytes()), Ok(triggers));
        assert!(matches!(
            Triggers::from_json(br#"[{"Service":"x","DoRebot":true}]"#),
            Err(BadTriggers::Json(_))
        ));
    }

    #[test]
    fn no_line_of_a_trigger_inverts_the_others() {
        let refused = Triggers::from_json(br#"[{"MatchLines":["/etc/a","!"],"Service":"web"}]"#);
        assert_eq!(refused, Err(BadTriggers::Inverted { service: "web".to_owned() }));
    }

    #[test]
    fn a_service_can_not_be_an_option_or_a_command() {
        for service in ["", "-H", "a b", "x;y", "../../bin/sh", ".hidden", "a/b"] {
            let trigger = Trigger { service: service.into(), ..Trigger::default() };
            assert!(Triggers::new(vec![trigger]).is_err(), "{service:?}");
        }
    }

    #[test]
    fn a_plain_name_is_the_same_unit_as_the_whole_one() {
        for (whole, plain) in [
            ("web.service", "web"),
            ("web", "web"),
            ("php8.2-fpm.service", "php8.2-fpm"),
            ("web.socket", "web.socket"),
            ("web.socket.service", "web.socket.service"),
            (".service", ".service"),
        ] {
            assert_eq!(plain_name(whole), plain);
        }
    }

    #[test]
    fn merging_keeps_the_sort_name_and_the_graver_flags() {
        let old = Triggers::from_json(br#"[{"MatchLines":["/a"],"Service":"s","SortName":"3"}]"#).unwrap();
        let new = Triggers::from_json(br#"[{"MatchLines":["/b"],"Service":"s","HighImpact":true}]"#).unwrap();
        let merged: Vec<_> = old.merged(&new).iter().cloned().collect();
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].sort_name.as_str(), merged[0].high_impact), ("3", true));
        assert_eq!(merged[0].match_lines, ["/a", "/b"]);
        let fires = |list: &Triggers, text: &str| list.fired_by(&[path(text)]).len();
        assert_eq!((fires(&old.merged(&new), "/b"), fires(&new.merged(&old), "/a")), (1, 1));
        assert_eq!(fires(&old.merged(&old), "/c"), 0);
    }

    #[test]
    fn two_lists_at_their_limit_can_be_merged() {
        let list = |prefix: &str| {
            let trigger = |n| Trigger {
                match_lines: vec![format!("/{prefix}/{n}$")],
                service: format!("{prefix}{n}"),
                ..Trigger::default()
            };
            Triggers::new((0..Triggers::MAX_COUNT).map(trigger).collect()).unwrap()
        };
        let merged = list("a").merged(&list("b"));
        assert_eq!(merged.iter().count(), 2 * Triggers::MAX_COUNT);
        assert_eq!(merged.fired_by(&[path("/b/7")]).len(), 1);
    }

    proptest! {
        #[test]
        fn version_order_is_an_order(a in "[a0-9.]{0,6}", b in "[a0-9.]{0,6}", c in "[a0-9.]{0,6}") {
            prop_assert_eq!(version_order(&a, &b), version_order(&b, &a).reverse());
            prop_assert_eq!(version_order(&a, &b).is_eq(), a == b);
            if version_order(&a, &b).is_le() && version_order(&b, &c).is_le() {
                prop_assert!(version_order(&a, &c).is_le());
            }
        }
    }
}
