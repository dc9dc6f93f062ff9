use std::fs;

use dominator_testkit::Image;
use serde_json::{Value, json};

use crate::has_machines;
use crate::stage::Scenario;

/// That nginx answers, and with what it is to answer.
fn answers() -> Value {
    let check = json!({
        "Name": "the web server answers", "Http": {"URL": "http://127.0.0.1/", "Status": 200},
        "Timeout": "2s", "Retries": 2, "Delay": "100ms"
    });
    json!({"Deadline": "20s", "Checks": [check]})
}

impl Scenario {
    /// The machine was made `image` for a while and is as before again, the image is held to be bad here, and is not sent a
    /// second time however often the machine is looked at.
    pub(crate) fn assert_undone(&self, mark: usize, image: &str, before: &Image) {
        let said = self.stage.wait(mark, "bad image");
        assert!(said.contains(image), "{said}");
        self.assert_is(before);
        self.stage.wait_for_scans(3);
        assert_eq!(self.stage.updates(mark), 1, "it was tried again");
    }
}

#[test]
fn an_update_after_which_a_health_check_fails_is_undone_and_not_tried_again() {
    if !has_machines("an_update_after_which_a_health_check_fails_is_undone") {
        return;
    }
    let (scenario, first) = Scenario::new(|image| image.health = Some(answers()));
    let second = scenario.stage.next(&first, "second");
    second.page("second");
    scenario.update("web/2", &second);
    assert_eq!(scenario.page(), "second", "what is healthy stays");

    let third = scenario.stage.next(&second, "third");
    third.answer(500, "broken");
    third.append("usr/sbin/nginx");
    let mark = scenario.stage.order("web/3", &third);
    scenario.assert_undone(mark, "web/3", &second);
    assert_eq!(scenario.page(), "second", "the service that was there before answers as it did before");
}

#[test]
fn an_update_after_which_a_service_does_not_start_is_undone_and_the_old_one_runs() {
    if !has_machines("an_update_after_which_a_service_does_not_start_is_undone") {
        return;
    }
    let (scenario, first) = Scenario::new(|image| {
        image.service("fragile", "Type=oneshot\nRemainAfterExit=yes");
        image.program("fragile", "exit 0");
        image.trigger("fragile", "/opt/fragile/.*", &json!({}));
    });
    scenario.told();
    let second = scenario.stage.next(&first, "second");
    second.program("fragile", "exit 1");
    let mark = scenario.stage.order("fragile/2", &second);
    scenario.assert_undone(mark, "fragile/2", &first);
    assert_eq!(scenario.machine.unit("fragile", "ActiveState"), "active");
    assert_eq!(scenario.told().last().map(String::as_str), Some("start fragile"));
}

#[test]
fn nothing_is_changed_while_the_stop_switch_is_set() {
    if !has_machines("nothing_is_changed_while_the_stop_switch_is_set") {
        return;
    }
    let (scenario, first) = Scenario::new(|_| {});
    let switch = scenario.machine.disk("var/lib/subd/stop");
    fs::write(&switch, "the disk is being replaced\n").unwrap();
    let second = scenario.stage.next(&first, "second");
    second.page("second");
    let mark = scenario.stage.order("web/2", &second);
    let said = scenario.stage.wait(mark, "updates disabled");
    assert!(said.contains("the disk is being replaced"), "{said}");
    scenario.assert_is(&first);
    fs::remove_file(&switch).unwrap();
    scenario.stage.wait(mark, "synced");
    scenario.assert_is(&second);
    assert_eq!(scenario.page(), "second");
}
