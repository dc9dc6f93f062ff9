use std::fs;

use dominator_testkit::debian::Kernels;
use dominator_testkit::{Image, Machine, Stage};

/// A machine that runs `subd` as a service, and what controls it.
pub(crate) struct Scenario {
    pub(crate) machine: Machine,
    pub(crate) stage: Stage,
}

impl Scenario {
    /// Such a machine, on, as its first image says, which `dress` completes.
    pub(crate) fn new(dress: impl FnOnce(&mut Image)) -> (Self, Image) {
        Self::with("", dress)
    }

    /// The same with these lines more in the configuration of its agent.
    pub(crate) fn with(more: &str, dress: impl FnOnce(&mut Image)) -> (Self, Image) {
        let trees = tempfile::tempdir().unwrap();
        let mut image = Image::debian(&trees.path().join("first"), Kernels::Left);
        dress(&mut image);
        let mut machine = Machine::new(&image.tree);
        let stage = Stage::new(machine.network(), &image, trees);
        stage.equip(&machine.disk(""), more);
        machine.boot();
        stage.wait(0, "synced");
        (Self { machine, stage }, image)
    }

    /// Makes the machine another image, and waits until it is, and until a judge who shares no code with us says so.
    pub(crate) fn update(&self, name: &str, image: &Image) {
        self.stage.update(name, image);
        self.assert_is(image);
    }

    /// The machine's disk is as the image says.
    pub(crate) fn assert_is(&self, image: &Image) {
        self.stage.assert_is(&self.machine.disk(""), image);
    }

    /// What services of ours told of themselves since the last time.
    pub(crate) fn told(&self) -> Vec<String> {
        let path = self.machine.disk("var/log/told");
        let told = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "").unwrap();
        told.lines().map(str::to_owned).collect()
    }

    /// What nginx says.
    pub(crate) fn page(&self) -> String {
        let get = r"exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3";
        let answer = self.machine.run(["bash", "-c", get]).success();
        answer.lines().last().unwrap_or_default().to_owned()
    }
}
