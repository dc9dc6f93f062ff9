use std::collections::BTreeSet;

use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::{ServiceAction, ServiceOutcome, ServiceRunner};
use dominator_core::tree::Snapshot;
use dominator_core::trigger::{Trigger, Triggers, version_order};

use super::AGENT_SERVICE;

/// What an update does to services, and when: those whose files change are stopped before, and started or reloaded
/// after.
///
/// The triggers of the image before count, too: a service only it knew is stopped. A reload is left out for a service
/// that is restarted anyway. A reboot comes last, and only when everything else succeeded.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Those that are stopped, in order.
    stopped: Vec<String>,
    /// Triggers of the current image that fire, or whose service is stopped, in order.
    after: Vec<Trigger>,
    high_impact: bool,
    /// What earlier updates owe.
    debts: Vec<Debt>,
    /// The services the current image knows.
    known: BTreeSet<String>,
}

impl Activation {
    /// What changes of `changed` fire.
    pub fn new<'a>(
        previous: &Triggers,
        current: &Triggers,
        changed: impl IntoIterator<Item = &'a ImagePath> + Clone,
    ) -> Self {
        let both = previous.merged(current);
        let before = both.fired_by(changed.clone());
        let stopped =
            once(before.iter().filter(|trigger| is_stopped(trigger)).map(|trigger| &trigger.service));
        let mut after: Vec<_> = current.fired_by(changed).into_iter().cloned().collect();
        // A service that is stopped for a path only the image before cared about must run again nevertheless.
        for trigger in current.iter().filter(|trigger| stopped.contains(&trigger.service)) {
            if !after.iter().any(|other| other.service == trigger.service) {
                after.push(Trigger { do_reboot: false, ..trigger.clone() });
            }
        }
        after.sort_by(|a, b| version_order(&a.sort_name, &b.sort_name));
        Self {
            stopped,
            after,
            high_impact: before.iter().any(|trigger| trigger.high_impact),
            debts: Vec::new(),
            known: current.iter().map(|trigger| trigger.service.clone()).collect(),
        }
    }

    /// Takes over what earlier updates owe. A service the current image does not know is nobody's concern once the
    /// machine is that image.
    #[must_use]
    pub fn owing(mut self, debts: Vec<Debt>) -> Self {
        self.debts = debts;
        self
    }

    /// What will be owed from the first stop on, whatever becomes of the update or of this process.
    pub fn owed(&self) -> Vec<Debt> {
        let stopped = self.stopped.iter().filter(|service| self.known.contains(*service));
        let mut owed: Vec<_> = stopped.map(|service| Debt::start(service)).collect();
        let earlier = self.debts.iter().filter(|debt| !self.stopped.contains(&debt.service));
        owed.extend(earlier.cloned());
        owed
    }

    /// Whether the machine's users are disturbed.
    pub fn is_high_impact(&self) -> bool {
        self.high_impact
    }

    /// Stops what must not run while its files change.
    pub fn stop(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        self.stopped.iter().map(|service| outcome(services, ServiceAction::Stop, service)).collect()
    }

    /// Starts what was stopped and the current image knows, and reloads what only must read its files again; then what
    /// earlier updates owe to services it knows.
    pub fn start(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        let wanted =
            self.after.iter().filter(|trigger| !is_of_agent(trigger) && trigger.service != REBOOT_SERVICE);
        let wanted = once(wanted.map(|trigger| &trigger.service));
        let earlier: Vec<_> = self
            .debts
            .iter()
            .filter(|debt| self.known.contains(&debt.service) && !wanted.contains(&debt.service))
            .collect();
        let action = |service: &String| {
            let is_down = self.stopped.contains(service) || self.debts.contains(&Debt::start(service));
            if is_down { ServiceAction::Start } else { ServiceAction::Reload }
        };
        let mut outcomes: Vec<_> =
            wanted.iter().map(|service| outcome(services, action(service), service)).collect();
        outcomes.extend(earlier.into_iter().map(|debt| debt.pay(services)));
        outcomes
    }

    /// Starts again what was stopped, when the update was not made, and does what earlier updates owe.
    pub fn restore(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        let stopped = self.stopped.iter().map(|service| outcome(services, ServiceAction::Start, service));
        let earlier = self.debts.iter().filter(|debt| !self.stopped.contains(&debt.service));
        stopped.chain(earlier.map(|debt| debt.pay(services))).collect()
    }

    /// Restarts the machine, or at least the agent, if that is due: after everything else, when all of it succeeded.
    pub fn conclude(&self, services: &dyn ServiceRunner) -> Option<ServiceOutcome> {
        if let Some(trigger) = self.after.iter().find(|trigger| trigger.do_reboot) {
            return Some(outcome(services, ServiceAction::Reboot, &trigger.service));
        }
        self.after.iter().any(is_of_agent).then(|| outcome(services, ServiceAction::Start, AGENT_SERVICE))
    }
}

/// A service that must be started or reloaded, and was not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Which.
    pub service: String,
    /// What is owed to it.
    pub due: Due,
}

/// What can be owed to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To run again.
    Start,
    /// To read its files again.
    Reload,
}

impl Debt {
    fn start(service: &str) -> Self {
        Self { service: service.to_owned(), due: Due::Start }
    }

    /// Does what is owed.
    pub fn pay(&self, services: &dyn ServiceRunner) -> ServiceOutcome {
        let action = match self.due {
            Due::Start => ServiceAction::Start,
            Due::Reload => ServiceAction::Reload,
        };
        outcome(services, action, &self.service)
    }

    /// What is still owed after `outcomes`: each service that could not be started or reloaded.
    pub fn unpaid(outcomes: &[ServiceOutcome]) -> Vec<Self> {
        let due = |action: &str| {
            let is = |wanted: ServiceAction| action == wanted.verb();
            if is(ServiceAction::Start) {
                Some(Due::Start)
            } else {
                is(ServiceAction::Reload).then_some(Due::Reload)
            }
        };
        let failed = outcomes.iter().filter(|outcome| outcome.error.is_some());
        failed
            .filter_map(|outcome| Some(Self { service: outcome.service.clone(), due: due(&outcome.action)? }))
            .collect()
    }
}

/// The paths that `plan` changes on a machine that is as `before`. A time that is set says nothing to a service.
pub fn changed<'a>(plan: &'a Plan, before: &Snapshot) -> Vec<&'a ImagePath> {
    let only_time = |operation: &Operation| match operation {
        Operation::SetMetadata { paths, inode } => paths.first().is_some_and(|path| {
            before.inode(path).is_some_and(|now| now.same_contents(inode) && now.same_attributes(inode))
        }),
        Operation::MakeDirectory { .. }
        | Operation::Put { .. }
        | Operation::Link { .. }
        | Operation::Delete { .. } => false,
        _ => false,
    };
    plan.operations.iter().filter(|o| !only_time(o)).flat_map(Operation::paths).collect()
}

/// The service a trigger names when it only wants the machine restarted.
const REBOOT_SERVICE: &str = "reboot";

fn is_of_agent(trigger: &Trigger) -> bool {
    trigger.service == AGENT_SERVICE || trigger.service == "subd.service"
}

fn is_stopped(trigger: &Trigger) -> bool {
    !trigger.do_reload && !is_of_agent(trigger) && trigger.service != REBOOT_SERVICE
}

/// Each service once, where it comes first.
fn once<'a>(services: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    services.filter(|service| seen.insert(*service)).cloned().collect()
}

fn outcome(services: &dyn ServiceRunner, action: ServiceAction, service: &str) -> ServiceOutcome {
    let error = services.run(action, service).err().map(|error| error.to_string());
    tracing::info!(service, action = action.verb(), error, "service");
    ServiceOutcome { service: service.to_owned(), action: action.verb().to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::port::ServiceError;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder {
        calls: Mutex<Vec<String>>,
        failing: Option<&'static str>,
    }

    impl ServiceRunner for Recorder {
        fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
            self.calls.lock().unwrap().push(format!("{} {service}", action.verb()));
            if self.failing == Some(service) {
                let output = "no".to_owned();
                return Err(ServiceError::Failed {
                    action: action.verb(),
                    service: service.to_owned(),
                    output,
                });
            }
            Ok(())
        }
    }

    fn triggers(json: &str) -> Triggers {
        Triggers::from_json(json.as_bytes()).unwrap()
    }

    fn calls(previous: &str, current: &str, changed: &[&str]) -> Vec<String> {
        let changed: Vec<_> = changed.iter().map(|p| ImagePath::parse(p.as_bytes()).unwrap()).collect();
        let activation = Activation::new(&triggers(previous), &triggers(current), &changed);
        let recorder = Recorder::default();
        activation.stop(&recorder);
        recorder.calls.lock().unwrap().push("swap".to_owned());
        activation.start(&recorder);
        activation.conclude(&recorder);
        recorder.calls.into_inner().unwrap()
    }

    #[test]
    fn services_stop_before_and_start_after_in_order() {
        let current = r#"[
            {"MatchLines": ["/etc/b"], "Service": "b", "SortName": "10"},
            {"MatchLines": ["/etc/.*"], "Service": "a", "SortName": "9"},
            {"MatchLines": ["/etc/b"], "Service": "r", "SortName": "1", "DoReload": true},
            {"MatchLines": ["/usr"], "Service": "other"},
            {"MatchLines": ["/etc"], "Service": "subd"}
        ]"#;
        assert_eq!(
            calls("[]", current, &["/etc/b"]),
            ["stop a", "stop b", "swap", "reload r", "start a", "start b", "start subd"]
        );
        assert_eq!(calls("[]", current, &["/var/x"]), ["swap"]);
    }

    #[test]
    fn a_service_only_the_image_before_knew_is_stopped_and_stays_so() {
        let previous = r#"[{"MatchLines": ["/opt/old"], "Service": "old"}]"#;
        assert_eq!(calls(previous, "[]", &["/opt/old"]), ["stop old", "swap"]);
    }

    #[test]
    fn a_service_stopped_for_a_path_only_the_image_before_cared_about_runs_again() {
        let previous = r#"[{"MatchLines": ["/opt/old"], "Service": "s"}]"#;
        for reload in [true, false] {
            let current =
                format!(r#"[{{"MatchLines": ["/opt/new"], "Service": "s", "DoReload": {reload}}}]"#);
            assert_eq!(calls(previous, &current, &["/opt/old"]), ["stop s", "swap", "start s"]);
        }
    }

    #[test]
    fn a_restart_makes_a_reload_superfluous() {
        let current = r#"[
            {"MatchLines": ["/a"], "Service": "s", "DoReload": true, "SortName": "1"},
            {"MatchLines": ["/b"], "Service": "s", "SortName": "2"}
        ]"#;
        assert_eq!(calls("[]", current, &["/a"]), ["swap", "reload s"]);
        assert_eq!(calls("[]", current, &["/a", "/b"]), ["stop s", "swap", "start s"]);
    }

    #[test]
    fn a_reboot_comes_last_and_instead_of_the_agents_restart() {
        let current = r#"[
            {"MatchLines": ["/boot"], "Service": "reboot", "DoReboot": true, "SortName": "0"},
            {"MatchLines": ["/boot"], "Service": "db"},
            {"MatchLines": ["/boot"], "Service": "subd"}
        ]"#;
        assert_eq!(calls("[]", current, &["/boot/x"]), ["stop db", "swap", "start db", "reboot reboot"]);
    }

    #[test]
    fn every_error_is_reported_and_the_rest_goes_on() {
        let current = triggers(
            r#"[{"MatchLines": ["/a"], "Service": "bad", "SortName": "1"}, {"MatchLines": ["/a"], "Service": "good", "SortName": "2"}]"#,
        );
        let changed = [ImagePath::parse(b"/a").unwrap()];
        let activation = Activation::new(&Triggers::default(), &current, &changed);
        let recorder = Recorder { failing: Some("bad"), ..Recorder::default() };
        let mut outcomes = activation.stop(&recorder);
        outcomes.append(&mut activation.start(&recorder));
        let failed: Vec<_> = outcomes.iter().map(|o| (o.service.as_str(), o.error.is_some())).collect();
        assert_eq!(failed, [("bad", true), ("good", false), ("bad", true), ("good", false)]);
    }
}
