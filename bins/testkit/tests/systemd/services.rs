use serde_json::json;

use crate::has_machines;
use crate::stage::Scenario;

#[test]
fn a_changed_configuration_is_reloaded_and_a_changed_program_restarts_its_service_and_no_other() {
    if !has_machines("a_changed_configuration_is_reloaded") {
        return;
    }
    let (scenario, first) = Scenario::new(|_| {});
    let pid = |unit| scenario.machine.unit(unit, "MainPID");
    let (nginx, cron, subd) = (pid("nginx"), pid("cron"), pid("subd"));
    assert_eq!(scenario.page(), "first");

    let second = scenario.stage.next(&first, "second");
    second.page("second");
    scenario.update("web/2", &second);
    assert_eq!(scenario.page(), "second");
    assert_eq!(pid("nginx"), nginx, "it was restarted where a reload was asked for");

    let third = scenario.stage.next(&second, "third");
    third.append("usr/sbin/nginx");
    scenario.update("web/3", &third);
    assert_eq!(scenario.page(), "second");
    assert_ne!(pid("nginx"), nginx, "it still runs the program that was there before");
    assert_eq!((pid("cron"), pid("subd")), (cron.clone(), subd), "their files did not change");

    let (nginx, fourth) = (pid("nginx"), scenario.stage.next(&third, "fourth"));
    fourth.append("usr/sbin/cron");
    scenario.update("cron/2", &fourth);
    assert_ne!(pid("cron"), cron, "it still runs the program that was there before");
    assert_eq!(pid("nginx"), nginx, "its files did not change");
}

#[test]
fn services_are_stopped_and_started_in_order_and_one_that_goes_is_stopped_for_good() {
    if !has_machines("services_are_stopped_and_started_in_order") {
        return;
    }
    let (scenario, first) = Scenario::new(|image| {
        for (name, order) in [("late", "10"), ("early", "9"), ("going", "8")] {
            image.service(name, "");
            image.trigger(name, &format!("/opt/{name}/.*"), &json!({"SortName": order}));
        }
    });
    assert_eq!(scenario.told().len(), 3);
    let mut second = scenario.stage.next(&first, "second");
    second.program("early", "exec sleep 1000000");
    // A unit that is another is read before it is started.
    second.service("late", "ExecStartPost=/bin/sh -c 'echo another late >>/var/log/told'");
    second.program("late", "exec sleep 1000000");
    second.remove_service("going");
    scenario.update("services/2", &second);
    let expected = ["stop going", "stop early", "stop late", "start early", "start late", "another late"];
    assert_eq!(scenario.told(), expected);
    assert_eq!(scenario.machine.unit("going", "ActiveState"), "inactive");
}

#[test]
fn a_machine_that_an_image_wants_restarted_goes_down_once_and_is_as_the_image_says_when_it_is_up() {
    if !has_machines("a_machine_that_an_image_wants_restarted") {
        return;
    }
    let (mut scenario, first) = Scenario::new(|image| {
        image.trigger("reboot", "/etc/sysctl.d/.*", &json!({"DoReboot": true}));
    });
    let second = scenario.stage.next(&first, "second");
    second.tree.write("etc/sysctl.d/new.conf", "", 0o644);
    scenario.stage.order("reboot/2", &second);
    assert!(scenario.machine.wait_until_down(), "it was switched off");
    let mark = scenario.stage.mark();
    scenario.machine.boot();
    scenario.stage.wait(mark, "synced");
    scenario.assert_is(&second);
    assert_eq!(scenario.stage.updates(mark), 0, "one update was enough");
}

#[test]
fn a_service_that_does_not_stop_in_time_holds_nobody_up_for_ever() {
    if !has_machines("a_service_that_does_not_stop_in_time_holds_nobody_up_for_ever") {
        return;
    }
    let (scenario, first) = Scenario::new(|image| {
        // A little more than it is waited for.
        image.service("slow", "ExecStop=/bin/sleep 95\nTimeoutStopSec=infinity");
        image.trigger("slow", "/opt/slow/.*", &json!({}));
    });
    scenario.told();
    let second = scenario.stage.next(&first, "second");
    second.program("slow", "exec sleep 1000000");
    scenario.update("slow/2", &second);
    assert_eq!(scenario.told(), ["stop slow", "start slow"]);
    let said = scenario.machine.journal();
    assert!(said.contains("stop slow was not done within 90 s"), "{said}");
}
