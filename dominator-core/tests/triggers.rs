//! What an update does to services, rule by rule: `triggers.txt` has the rules, this file carries them out.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use dominator_core::activation::{Activation, Debt, Due, changed};
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::{ServiceAction, ServiceError, ServiceOutcome, ServiceRunner, ServiceState};
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::trigger::{Trigger, Triggers};
use dominator_core::view::View;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// One rule.
#[derive(Default)]
struct Case {
    name: String,
    old: Vec<Trigger>,
    new: Vec<Trigger>,
    plan: Plan,
    owed: Vec<Debt>,
    machine: Machine,
    fate: String,
    calls: String,
    impact: String,
    verdict: String,
    owing: Vec<Debt>,
}

/// Services that do as they are told, but for what they can't; it notes what it was told.
#[derive(Default)]
struct Machine {
    states: BTreeMap<String, ServiceState>,
    failing: BTreeSet<String>,
    calls: Mutex<Vec<String>>,
}

impl ServiceRunner for Machine {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let call = format!("{} {service}", action.verb());
        let fails = self.failing.contains(&call);
        self.calls.lock().unwrap().push(call);
        let (action, service, output) = (action.verb(), service.to_owned(), "no".to_owned());
        if fails { Err(ServiceError::Failed { action, service, output }) } else { Ok(()) }
    }

    fn state(&self, service: &str) -> ServiceState {
        self.states.get(service).copied().unwrap_or_default()
    }
}

impl Machine {
    fn note(&self, what: &str) {
        self.calls.lock().unwrap().push(what.to_owned());
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn inode(mode: u32, kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(mode), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

fn file(mode: u32, mtime: i64) -> Inode {
    let mtime = Timestamp::new(mtime, 0).unwrap();
    inode(mode, Kind::Regular { mtime, size: 1, object: ObjectId::of(b"x") })
}

fn directory() -> Inode {
    inode(0o755, Kind::Directory { id: Builder::placeholder() })
}

fn operation(text: &str) -> Operation {
    let (what, at) = text.split_once(' ').unwrap();
    let path = path(at);
    match what {
        "put" => Operation::Put { path, inode: file(0o600, 2) },
        "delete" => Operation::Delete { path, directory: false },
        "mkdir" => Operation::MakeDirectory { path, inode: directory() },
        "link" => Operation::Link { path, target: self::path("/target") },
        "chmod" => Operation::SetMetadata { paths: vec![path], inode: file(0o600, 1) },
        "touch" => Operation::SetMetadata { paths: vec![path], inode: file(0o644, 2) },
        other => panic!("{other}"),
    }
}

/// A machine that has all files whose metadata change.
fn before(plan: &Plan) -> Snapshot {
    let mut builder = Builder::new(directory()).unwrap();
    for operation in &plan.operations {
        let Operation::SetMetadata { paths, .. } = operation else { continue };
        let parent = paths[0].parent().unwrap();
        if !builder.contains(&parent) {
            builder.insert(&parent, directory()).unwrap();
        }
        builder.insert(&paths[0], file(0o644, 1)).unwrap();
    }
    builder.finish(View::everything().id())
}

fn trigger(text: &str) -> Trigger {
    let (head, lines) = text.split_once(':').unwrap();
    let mut words = head.split_whitespace();
    let mut trigger = Trigger {
        service: words.next().unwrap().to_owned(),
        match_lines: lines.split_whitespace().map(ToOwned::to_owned).collect(),
        ..Trigger::default()
    };
    for word in words {
        match (word, word.strip_prefix("sort=")) {
            (_, Some(sort)) => trigger.sort_name = sort.to_owned(),
            ("reload", None) => trigger.do_reload = true,
            ("reboot", None) => trigger.do_reboot = true,
            ("impact", None) => trigger.high_impact = true,
            (other, None) => panic!("{other}"),
        }
    }
    trigger
}

fn debt(text: &str) -> Debt {
    let (due, service) = text.split_once(' ').unwrap();
    Debt { service: service.to_owned(), due: Due::of_word(due).unwrap() }
}

fn state(text: &str) -> (String, ServiceState) {
    let (service, state) = text.split_once(' ').unwrap();
    let all = [ServiceState::Running, ServiceState::Stopped, ServiceState::Failed];
    (service.to_owned(), all.into_iter().find(|known| known.text() == state).unwrap())
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in include_str!("triggers.txt").lines() {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Some((word, rest)) = line.split_once(' ').filter(|(word, _)| *word != "#") else { continue };
        if word == "case" {
            cases.push(Case { name: rest.to_owned(), fate: "made".into(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().unwrap();
        match word {
            "old" => case.old.push(trigger(rest)),
            "new" => case.new.push(trigger(rest)),
            "change" => case.plan.operations.push(operation(rest)),
            "owed" => case.owed.push(debt(rest)),
            "state" => case.machine.states.extend([state(rest)]),
            "fails" => drop(case.machine.failing.insert(rest.to_owned())),
            "fate" => case.fate = rest.to_owned(),
            "calls" => case.calls = rest.to_owned(),
            "impact" => case.impact = rest.to_owned(),
            "verdict" => case.verdict = rest.to_owned(),
            "owing" => case.owing.push(debt(rest)),
            other => panic!("{other}"),
        }
    }
    cases
}

/// What an agent does, with what it comes to.
fn carry_out(activation: &Activation, machine: &Machine, fate: &str) -> Vec<ServiceOutcome> {
    let mut outcomes = activation.stop(machine);
    machine.note("[files]");
    if fate == "not made" {
        outcomes.extend(activation.restore(machine));
        return outcomes;
    }
    outcomes.extend(activation.start(machine));
    if fate == "taken back" {
        let withdrawal = activation.withdrawal();
        withdrawal.stop(machine);
        machine.note("[back]");
        outcomes.extend(withdrawal.start(machine));
    } else if !outcomes.iter().any(ServiceOutcome::is_failure) {
        outcomes.extend(activation.conclude(machine));
    }
    outcomes
}

#[test]
fn an_update_does_to_services_what_the_rules_say() {
    let cases = cases();
    assert!(cases.len() >= 40, "{}", cases.len());
    for Case { name, old, new, plan, owed, machine, fate, calls, impact, verdict, owing } in cases {
        let (old, new) = (Triggers::new(old).unwrap(), Triggers::new(new).unwrap());
        let before = before(&plan);
        let changed = changed(&plan, &before);
        let activation = Activation::new(&old, &new, changed.iter().copied()).owing(owed).observing(&machine);
        let planned: Vec<_> = activation
            .actions()
            .iter()
            .map(|planned| format!("{} {}", planned.action, planned.service))
            .collect();
        let outcomes = carry_out(&activation, &machine, &fate);
        let done = machine.calls.into_inner().unwrap();
        assert_eq!(done.join(", "), calls, "{name}");
        let expected = if impact.is_empty() { "no" } else { &impact };
        assert_eq!(if activation.is_high_impact() { "yes" } else { "no" }, expected, "{name}: impact");
        let expected = if verdict.is_empty() { "good" } else { &verdict };
        let is_bad = outcomes.iter().any(ServiceOutcome::is_failure);
        assert_eq!(if is_bad { "bad" } else { "good" }, expected, "{name}: verdict");
        assert_eq!(Debt::unpaid(&outcomes), owing, "{name}: what is owed");
        // What is shown beforehand is what is done, when nothing goes wrong.
        if fate == "made" && expected == "good" {
            let done: Vec<_> = done.iter().filter(|call| *call != "[files]").cloned().collect();
            let same = |call: &String| call.replace("restart subd", "start subd");
            assert_eq!(planned.iter().map(same).collect::<Vec<_>>(), done, "{name}: as planned");
        }
    }
}

/// Triggers of a few services for a few paths, each with a sort name of its own.
fn some_triggers() -> impl Strategy<Value = Vec<Trigger>> {
    const SERVICES: [&str; 6] = ["web", "web.service", "db", "subd", "reboot", "mail.socket"];
    let some = (0..SERVICES.len(), subsequence(vec!["/a", "/b", "/c"], 0..=3), any::<[bool; 2]>());
    let list = vec(some, 0..7).prop_map(|list| {
        let trigger =
            |(number, (service, lines, [do_reload, do_reboot])): (usize, (usize, Vec<&str>, [bool; 2]))| {
                Trigger {
                    service: SERVICES[service].to_owned(),
                    match_lines: lines.into_iter().map(ToOwned::to_owned).collect(),
                    sort_name: number.to_string(),
                    do_reload,
                    do_reboot,
                    high_impact: false,
                }
            };
        list.into_iter().enumerate().map(trigger).collect::<Vec<_>>()
    });
    list.prop_shuffle()
}

/// What `calls` come to for each service: the last that was done to it, and how often it was stopped and started.
fn ends(calls: &[String]) -> BTreeMap<&str, (&str, usize, usize)> {
    let mut ends = BTreeMap::new();
    for (verb, service) in calls.iter().filter_map(|call| call.split_once(' ')) {
        let (last, stops, starts) = ends.entry(service).or_insert(("", 0, 0));
        *last = verb;
        *stops += usize::from(verb == "stop");
        *starts += usize::from(verb == "start");
    }
    ends
}

proptest! {
    /// Whatever the triggers: nobody who must run stays down, none is done the same to twice, the agent is never stopped, and
    /// the order of a list says nothing where sort names do.
    #[test]
    fn whatever_the_triggers_nobody_who_must_run_stays_down(
        (old, new) in (some_triggers(), some_triggers()),
        paths in subsequence(vec!["/a", "/b", "/c"], 1..=3),
        fate in select(vec!["made", "not made", "taken back"]),
    ) {
        let plan = Plan { operations: paths.iter().map(|path| operation(&format!("put {path}"))).collect() };
        let before = before(&plan);
        let carried_out = |old: &[Trigger], new: &[Trigger]| {
            let (old, new) = (Triggers::new(old.to_vec()).unwrap(), Triggers::new(new.to_vec()).unwrap());
            let machine = Machine::default();
            let changed = changed(&plan, &before);
            let activation = Activation::new(&old, &new, changed.iter().copied()).observing(&machine);
            carry_out(&activation, &machine, fate);
            machine.calls.into_inner().unwrap()
        };
        let calls = carried_out(&old, &new);
        let known: BTreeSet<_> = new.iter().map(|trigger| trigger.service.trim_end_matches(".service")).collect();
        for (service, (last, stops, starts)) in ends(&calls) {
            let is_new = known.contains(service);
            prop_assert!(service != "subd" || stops == 0, "{calls:?}");
            prop_assert!(stops <= 2 && starts <= 2 && (fate == "taken back" || stops.max(starts) <= 1), "{calls:?}");
            prop_assert!(last != "stop" || (fate == "made" && !is_new), "{service} stays down: {calls:?}");
        }
        let sorted = |list: &[Trigger]| {
            let mut list = list.to_vec();
            list.sort_by(|a, b| a.sort_name.cmp(&b.sort_name));
            list
        };
        prop_assert_eq!(calls, carried_out(&sorted(&old), &sorted(&new)), "by the order of the lists");
    }
}
