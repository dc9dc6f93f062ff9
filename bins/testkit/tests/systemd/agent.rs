use serde_json::json;

use crate::has_machines;
use crate::stage::Scenario;

#[test]
fn the_agent_upgrades_itself() {
    if !has_machines("the_agent_upgrades_itself") {
        return;
    }
    let (scenario, first) = Scenario::new(|_| {});
    let before = scenario.machine.unit("subd", "MainPID");
    let second = scenario.stage.next(&first, "second");
    second.append("usr/sbin/subd");
    scenario.update("agent/2", &second);
    let after = scenario.machine.unit("subd", "MainPID");
    assert_ne!(after, before);
    // What runs is what lies there, and not what lay there before.
    scenario.machine.shell(&format!("cmp /proc/{after}/exe /usr/sbin/subd"));
}

#[test]
fn an_agent_that_does_not_work_is_undone_by_the_recovery_program() {
    if !has_machines("an_agent_that_does_not_work_is_undone_by_the_recovery_program") {
        return;
    }
    for (name, broken) in [("ends", "exit 1"), ("hangs", "exec sleep infinity")] {
        let (scenario, first) = Scenario::new(|image| {
            let soon = "[Service]\nExecStart=\n\
                        ExecStart=/usr/sbin/subd-recover guard --deadline 10 --agent subd.service\n";
            image.tree.write("etc/systemd/system/subd-guard.service.d/soon.conf", soon, 0o644);
        });
        let second = scenario.stage.next(&first, "second");
        second.tree.write("usr/sbin/subd", format!("#!/bin/sh\n{broken}\n"), 0o755);
        let image = format!("agent/{name}");
        let mark = scenario.stage.order(&image, &second);
        scenario.assert_undone(mark, &image, &first);
        assert_eq!(scenario.machine.unit("subd", "ActiveState"), "active");
    }
}

#[test]
fn a_machine_that_never_comes_back_healthy_is_undone_by_the_recovery_program_when_it_starts_again() {
    if !has_machines("a_machine_that_never_comes_back_healthy_is_undone_by_the_recovery_program") {
        return;
    }
    let (mut scenario, first) = Scenario::new(|image| {
        image.trigger("reboot", "/etc/sysctl.d/.*", &json!({"DoReboot": true}));
    });
    let second = scenario.stage.next(&first, "second");
    second.tree.write("etc/sysctl.d/new.conf", "", 0o644);
    second.tree.write("usr/sbin/subd", "#!/bin/sh\nexec sleep infinity\n", 0o755);
    let mark = scenario.stage.order("reboot/2", &second);
    assert!(scenario.machine.wait_until_down(), "it was switched off");
    scenario.machine.boot();
    scenario.assert_is(&second);
    scenario.machine.kill();
    scenario.machine.switch_on();
    assert!(scenario.machine.wait_until_down(), "what had been started with what is undone was switched off");
    scenario.machine.boot();
    scenario.assert_undone(mark, "reboot/2", &first);
}
