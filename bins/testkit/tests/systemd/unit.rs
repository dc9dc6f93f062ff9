use std::fs;

use serde_json::{Value, json};

use crate::has_machines;
use crate::stage::Scenario;

/// What somebody may want to know of a machine, and what it takes to find out.
const CHECKS: [(&str, &str); 6] = [
    ("a data base answers its own user", "runuser -u nobody -- true"),
    ("a set-uid program is one", "test $(setpriv --reuid=65534 --clear-groups /opt/check/id -u) = 0"),
    ("the kernel is asked about routes", "ip route show table all"),
    ("another machine is pinged", "perl -MSocket -e 'socket(my $raw, PF_INET, SOCK_RAW, 1) or die'"),
    ("a program makes machine code", "perl -e 'exit(0 > syscall(9, 0, 4096, 7, 0x22, -1, 0))'"),
    ("a file-system is mounted for a moment", "mount -t tmpfs none /mnt && umount /mnt"),
];

#[test]
fn what_an_agent_runs_may_do_what_any_service_may_and_systemd_finds_nothing_wrong_with_our_units() {
    if !has_machines("what_an_agent_runs_may_do_what_any_service_may") {
        return;
    }
    let (scenario, first) = Scenario::new(|image| {
        let id = fs::read(image.tree.path().join("usr/bin/id")).unwrap();
        image.tree.write("opt/check/id", id, 0o4755);
        let check = |(name, line): (&str, &str)| json!({"Name": name, "Command": ["/bin/sh", "-c", line], "Retries": 0});
        let checks: Vec<Value> = CHECKS.into_iter().map(check).collect();
        image.health = Some(json!({"Deadline": "60s", "Checks": checks}));
    });
    let units = ["subd.service", "subd-guard.service", "subd-recover.service"];
    let verified = scenario.machine.run(["systemd-analyze", "verify"].into_iter().chain(units));
    assert_eq!((verified.code(), verified.stderr.as_str()), (Some(0), ""));

    let second = scenario.stage.next(&first, "second");
    second.page("second");
    scenario.update("web/2", &second);
    assert_eq!(scenario.page(), "second");
}
