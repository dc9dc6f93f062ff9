//! What we ask of systemd, and what we make of its answers: against one that is played, on a bus of its own.
#![cfg(feature = "systemd")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod fake;

use std::time::Duration;

use dominator_core::port::{ServiceAction, ServiceError, ServiceRunner, ServiceState};
use dominator_fs::service::{AGENT_SERVICE, SystemServices, Systemd};
use fake::{Fake, Job, Unit, WELL, unit};

/// Does `check` where there is a bus daemon.
fn check(units: &[Unit], check: impl Fn(&mut Fake, &SystemServices)) {
    let Some(mut fake) = Fake::on_bus(units) else {
        return dominator_fs_testkit::left_out("what is asked of systemd", "there is no dbus-daemon");
    };
    let services = SystemServices::systemd(Systemd::on(&fake.socket), "/nowhere/systemctl");
    check(&mut fake, &services);
}

fn outcome(services: &SystemServices, action: ServiceAction, service: &str) -> String {
    services.run(action, service).map_or_else(|error| error.to_string(), |()| "done".to_owned())
}

#[test]
fn each_action_is_a_job_whose_end_is_awaited() {
    let units = [
        unit("web.service", "inactive", WELL),
        unit("db.socket", "active", Job::EndsAtOnce("done", "inactive", "dead")),
        unit("cron.service", "active", WELL),
    ];
    check(&units, |fake, services| {
        assert_eq!(outcome(services, ServiceAction::Start, "web"), "done");
        assert_eq!(services.state("web.service"), ServiceState::Running);
        assert_eq!(outcome(services, ServiceAction::Stop, "db.socket"), "done");
        assert_eq!(services.state("db.socket"), ServiceState::Stopped);
        assert_eq!(outcome(services, ServiceAction::Reload, "cron"), "done");
        assert_eq!(outcome(services, ServiceAction::Restart, "cron"), "done");
        let expected = [
            "ResetFailedUnit web.service",
            "StartUnit web.service replace",
            "StopUnit db.socket replace",
            "ReloadUnit cron.service replace",
            "ResetFailedUnit cron.service",
            "RestartUnit cron.service replace",
        ];
        assert_eq!(fake.calls(), expected);
    });
}

#[test]
fn a_job_that_fails_says_why() {
    let exits = Unit {
        words: ("exit-code", 1, 203, "reading the configuration"),
        ..unit("a.service", "inactive", Job::Ends("failed", "failed", "failed"))
    };
    let killed = Unit { name: "b.service", words: ("signal", 2, 9, ""), ..exits.clone() };
    let waits = unit("c.service", "inactive", Job::Ends("dependency", "inactive", "dead"));
    check(&[exits, killed, waits], |_, services| {
        let said = outcome(services, ServiceAction::Start, "a");
        let expected = "start a failed: its job ended as \"failed\"; the unit is failed (failed), result \"exit-code\", \
            its main process exited with status 203: reading the configuration";
        assert_eq!(said, expected);
        let said = outcome(services, ServiceAction::Start, "b");
        assert!(said.ends_with("result \"signal\", its main process was ended by signal 9"), "{said}");
        let said = outcome(services, ServiceAction::Stop, "c");
        assert!(said.contains("\"dependency\"; the unit is inactive (dead)"), "{said}");
        assert_eq!(services.state("a"), ServiceState::Failed);
    });
}

#[test]
fn a_service_that_dies_as_soon_as_it_runs_was_not_started() {
    let dies = unit("a.service", "inactive", Job::Ends("done", "failed", "failed"));
    let again = unit("b.service", "inactive", Job::Ends("done", "activating", "auto-restart"));
    let once = unit("c.service", "inactive", Job::Ends("done", "inactive", "dead"));
    check(&[dies, again, once], |_, services| {
        assert!(services.run(ServiceAction::Start, "a").is_err());
        assert!(services.run(ServiceAction::Start, "b").is_err());
        // That is how one that only does something at the start looks.
        assert_eq!(outcome(services, ServiceAction::Start, "c"), "done");
    });
}

#[test]
fn a_job_that_hangs_is_cancelled() {
    check(&[unit("a.service", "active", Job::Hangs)], |fake, services| {
        let services = services.clone().limit(Duration::from_millis(200));
        let error = services.run(ServiceAction::Stop, "a").unwrap_err();
        assert!(matches!(error, ServiceError::Timeout { .. }), "{error}");
        assert_eq!(fake.calls(), ["StopUnit a.service replace", "Cancel a.service"]);
    });
}

#[test]
fn a_service_is_given_the_time_its_unit_says_it_needs() {
    let late = Job::EndsLate(Duration::from_secs(2));
    let slow = Unit { limit: Duration::from_secs(60), ..unit("a.service", "active", late) };
    check(&[slow, unit("b.service", "active", late)], |fake, services| {
        let services = services.clone().limit(Duration::from_secs(1));
        assert_eq!(outcome(&services, ServiceAction::Restart, "a"), "done");
        // One that says nothing has our limit.
        let error = services.run(ServiceAction::Stop, "b").unwrap_err();
        assert!(matches!(error, ServiceError::Timeout { .. }), "{error}");
        assert_eq!(fake.calls()[2..], ["StopUnit b.service replace", "Cancel b.service"]);
    });
}

#[test]
fn unit_files_that_changed_are_read_again_before_and_once() {
    let changed = |name| Unit { files_changed: true, ..unit(name, "active", WELL) };
    check(&[changed("a.service"), changed("b.service"), changed("subd.service")], |fake, services| {
        assert_eq!(outcome(services, ServiceAction::Start, "a"), "done");
        assert_eq!(outcome(services, ServiceAction::Reload, "b"), "done");
        let expected = [
            "Reload",
            "ResetFailedUnit a.service",
            "StartUnit a.service replace",
            "ReloadUnit b.service replace",
        ];
        assert_eq!(fake.calls(), expected);
    });
}

#[test]
fn the_agent_restarts_itself_without_waiting_for_its_own_end() {
    let agent = Unit { files_changed: true, ..unit("subd.service", "active", Job::Hangs) };
    check(&[agent], |fake, services| {
        for name in [AGENT_SERVICE, "subd.service"] {
            assert_eq!(outcome(services, ServiceAction::Start, name), "done");
        }
        let restart = ["ResetFailedUnit subd.service", "RestartUnit subd.service replace"];
        assert_eq!(fake.calls(), [&["Reload"][..], &restart, &restart].concat());
    });
}

#[test]
fn what_is_not_there_is_stopped_but_can_not_be_started() {
    check(&[], |_, services| {
        assert_eq!(outcome(services, ServiceAction::Stop, "new"), "done");
        let said = outcome(services, ServiceAction::Start, "new");
        assert_eq!(said, "start new failed: Unit new.service not found.");
        assert_eq!(services.state("new"), ServiceState::Stopped);
    });
}

#[test]
fn what_does_not_run_has_nothing_to_read_again() {
    check(&[unit("a.service", "inactive", WELL)], |fake, services| {
        assert_eq!(outcome(services, ServiceAction::Reload, "a"), "done");
        assert_eq!(fake.calls(), Vec::<String>::new());
    });
}

#[test]
fn a_reboot_stops_everything_in_order_and_is_not_waited_for() {
    check(&[unit("reboot.target", "inactive", Job::Hangs)], |fake, services| {
        assert_eq!(outcome(services, ServiceAction::Reboot, "kernel-upgrade"), "done");
        assert_eq!(fake.calls(), ["StartUnit reboot.target replace-irreversibly"]);
    });
}

#[test]
fn the_state_of_a_service_is_what_can_be_relied_on() {
    let known = [
        ("active", "running", ServiceState::Running),
        ("active", "exited", ServiceState::Running),
        ("reloading", "reload", ServiceState::Running),
        ("inactive", "dead", ServiceState::Stopped),
        ("deactivating", "stop-sigterm", ServiceState::Stopped),
        ("failed", "failed", ServiceState::Failed),
        ("activating", "auto-restart", ServiceState::Failed),
        ("activating", "start-pre", ServiceState::Unknown),
        ("something", "new", ServiceState::Unknown),
    ];
    for (active, sub, expected) in known {
        check(&[Unit { sub, ..unit("a.service", active, WELL) }], |_, services| {
            assert_eq!(services.state("a"), expected, "{active} {sub}");
        });
    }
}

#[test]
fn without_a_bus_systemctl_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (program, log) = fake::systemctl(dir.path());
    let services = SystemServices::systemd(Systemd::on(dir.path().join("none")), program);
    services.run(ServiceAction::Start, "web").unwrap();
    assert_eq!(services.state("web"), ServiceState::Failed);
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        ["--no-ask-password start web", "show --property=ActiveState --property=SubState web"]
    );
}

#[test]
fn a_service_is_brought_where_it_should_be_by_systemctl_when_the_bus_goes_away_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (program, log) = fake::systemctl(dir.path());
    let Some(mut fake) = Fake::on_bus(&[unit("dbus.service", "active", Job::Hangs)]) else {
        return dominator_fs_testkit::left_out("a bus that goes away", "there is no dbus-daemon");
    };
    let services = SystemServices::systemd(Systemd::on(&fake.socket), &program);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| services.run(ServiceAction::Stop, "dbus"));
        fake.jobs.blocking_recv().unwrap();
        fake.kill_bus();
        stopping.join().unwrap().unwrap();
    });
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "--no-ask-password stop dbus\n");
}

#[test]
fn nobody_else_on_the_bus_can_say_that_a_job_ended() {
    let Some(mut fake) = Fake::on_bus(&[unit("a.service", "active", Job::Hangs)]) else {
        return dominator_fs_testkit::left_out("a liar on the bus", "there is no dbus-daemon");
    };
    let services = SystemServices::systemd(Systemd::on(&fake.socket), "/nowhere/systemctl");
    let services = services.limit(Duration::from_secs(2));
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| services.run(ServiceAction::Stop, "a"));
        let job = fake.jobs.blocking_recv().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let liar = zbus::Connection::from(&fake::member(&fake.socket, None).await);
            fake::tell(&liar, &job, "a.service", "done").await.unwrap();
        });
        let error = stopping.join().unwrap().unwrap_err();
        assert!(matches!(error, ServiceError::Timeout { .. }), "{error}");
    });
}

#[test]
fn services_can_be_asked_for_from_within_any_runtime() {
    check(&[unit("a.service", "active", WELL)], |_, services| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { services.run(ServiceAction::Stop, "a").unwrap() });
    });
}

#[test]
fn a_systemd_that_says_nothing_leaves_time_for_systemctl() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("private");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (program, log) = fake::systemctl(dir.path());
    let services = SystemServices::systemd(Systemd::on(&socket), program);
    let services = services.limit(Duration::from_secs(2));
    services.run(ServiceAction::Stop, "a").unwrap();
    assert_eq!(std::fs::read_to_string(log).unwrap(), "--no-ask-password stop a\n");
}
