use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use dominator_testkit::Image;
use serde_json::{Value, json};

use crate::has_machines;
use crate::stage::Scenario;

/// A rule of the table that services alone can show. All are tried at once: each has services and files of its own.
#[derive(Default)]
struct Rule {
    name: String,
    old: Vec<Value>,
    new: Vec<Value>,
    changes: Vec<(String, String)>,
    calls: Vec<String>,
    services: BTreeSet<String>,
    /// Something in it that no service of ours can play: the agent, a reboot, a unit that is no service, an earlier update.
    other: bool,
}

/// The service of that name of a rule, and the path.
fn service(rule: usize, name: &str) -> String {
    format!("rule{rule}-{name}")
}

fn path(rule: usize, path: &str) -> String {
    format!("srv/rules/{rule}{path}")
}

impl Rule {
    fn trigger(&mut self, number: usize, text: &str) -> Value {
        let (head, lines) = text.split_once(':').unwrap();
        let mut words = head.split_whitespace();
        let name = words.next().unwrap();
        self.other |= ["subd", "reboot"].contains(&name) || name.contains('.');
        self.services.insert(name.to_owned());
        let lines: Vec<_> = lines.split_whitespace().map(|line| format!("/{}", path(number, line))).collect();
        let mut trigger = json!({"Service": service(number, name), "MatchLines": lines});
        for word in words {
            match word.split_once('=') {
                Some((_, sort)) => trigger["SortName"] = sort.into(),
                None if word == "reload" => trigger["DoReload"] = true.into(),
                None if word == "impact" => trigger["HighImpact"] = true.into(),
                None => self.other = true,
            }
        }
        trigger
    }

    fn line(&mut self, number: usize, word: &str, rest: &str) {
        match word {
            "old" => {
                let trigger = self.trigger(number, rest);
                self.old.push(trigger);
            }
            "new" => {
                let trigger = self.trigger(number, rest);
                self.new.push(trigger);
            }
            "change" => {
                let (what, at) = rest.split_once(' ').unwrap();
                self.changes.push((what.to_owned(), path(number, at)));
            }
            "calls" => {
                let calls = rest.split(", ").filter_map(|call| call.split_once(' '));
                self.calls = calls.map(|(verb, name)| format!("{verb} {}", service(number, name))).collect();
            }
            "impact" => {}
            _ => self.other = true,
        }
    }
}

/// With their numbers.
fn rules() -> Vec<(usize, Rule)> {
    let mut rules: Vec<(usize, Rule)> = Vec::new();
    for line in include_str!("../../../../dominator-core/tests/triggers.txt").lines() {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        match line.split_once(' ') {
            Some(("case", name)) => {
                rules.push((rules.len(), Rule { name: name.to_owned(), ..Rule::default() }));
            }
            Some((word, rest)) if word != "#" => {
                let (number, rule) = rules.last_mut().unwrap();
                rule.line(*number, word, rest);
            }
            _ => {}
        }
    }
    rules.retain(|(_, rule)| !rule.other);
    rules
}

/// What there is before the change.
fn prepare(image: &Image, change: &str, at: &str) {
    let parent = image.tree.path().join(at).parent().unwrap().to_owned();
    fs::create_dir_all(parent).unwrap();
    match change {
        "put" | "delete" | "chmod" | "touch" => image.tree.write(at, "old", 0o644),
        "link" => image.tree.write(&format!("{at}-target"), "target", 0o644),
        "mkdir" => {}
        other => panic!("{other}"),
    }
}

fn change(image: &Image, change: &str, at: &str) {
    let place = image.tree.path().join(at);
    match change {
        "put" => image.tree.write(at, "new", 0o644),
        "delete" => image.tree.remove(at),
        "mkdir" => fs::create_dir(&place).unwrap(),
        "link" => fs::hard_link(place.with_file_name(with_target(&place)), &place).unwrap(),
        "chmod" => image.tree.write(at, "old", 0o600),
        "touch" => {
            image.tree.write(at, "old", 0o644);
            let earlier = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            fs::File::open(&place).and_then(|file| file.set_modified(earlier)).unwrap();
        }
        other => panic!("{other}"),
    }
}

fn with_target(place: &Path) -> String {
    format!("{}-target", place.file_name().unwrap().to_str().unwrap())
}

#[test]
fn the_rules_of_triggers_hold_with_real_services() {
    if !has_machines("the_rules_of_triggers_hold_with_real_services") {
        return;
    }
    let rules = rules();
    assert!(rules.len() >= 30, "{}", rules.len());
    let mut usual = Vec::new();
    let (scenario, first) = Scenario::new(|image| {
        usual.clone_from(&image.triggers);
        for (number, rule) in &rules {
            for name in &rule.services {
                let name = service(*number, name);
                image.service(&name, &format!("ExecReload=/bin/sh -c 'echo reload {name} >>/var/log/told'"));
            }
            rule.changes.iter().for_each(|(what, at)| prepare(image, what, at));
            image.triggers.extend(rule.old.iter().cloned());
        }
    });
    let services: usize = rules.iter().map(|(_, rule)| rule.services.len()).sum();
    assert_eq!(scenario.told().len(), services, "they were started with the machine");
    let mut second = scenario.stage.next(&first, "second");
    second.triggers = usual;
    for (_, rule) in &rules {
        rule.changes.iter().for_each(|(what, at)| change(&second, what, at));
        second.triggers.extend(rule.new.iter().cloned());
    }
    scenario.update("rules/2", &second);
    let told = scenario.told();
    for (number, rule) in &rules {
        let of_rule = service(*number, "");
        let told: Vec<_> =
            told.iter().filter(|line| line.split(' ').nth(1).unwrap().starts_with(&of_rule)).collect();
        assert_eq!(told, rule.calls.iter().collect::<Vec<_>>(), "{}", rule.name);
    }
}
