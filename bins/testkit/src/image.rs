//! Images in the making: Debian with what scenarios need.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::binaries::{binary, recovery_program};
use crate::debian::{Kernels, Tree};

/// What no image says anything about: what machines keep for themselves.
pub(crate) const FILTER: &str = "\
/(dev|proc|run|sys|tmp)/.*
/var/(backups|cache|lib|local|log|mail|spool|tmp)/.*
/etc/(\\.updated|machine-id|subd\\.toml|ssl/subd(|/.*)|ssl/CA\\.pem)
/(lost\\+found|var/\\.updated)
";

/// The same in the words of the oracle, which knows neither what an image nor what a machine's operator leaves alone.
pub const EXCLUDED: &[&str] = &[
    "/(dev|proc|run|sys|tmp|home|data)/.*",
    "/var/(backups|cache|lib|local|log|mail|spool|tmp)/.*",
    "/etc/(\\.updated|machine-id|subd\\.toml|ssl/subd(/.*)?|ssl/CA\\.pem)",
    "/(lost\\+found|var/\\.updated|\\.subd(/.*)?)",
];

/// A tree, and what else an image says.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its files.
    pub tree: Tree,
    /// Its triggers, as in the file that `imagetool` takes.
    pub triggers: Vec<Value>,
    /// Its health checks, if there are any.
    pub health: Option<Value>,
}

impl Image {
    /// Debian in the new directory `path`, with nginx, which says "first", cron and `subd`.
    pub fn debian(path: &Path, kernels: Kernels) -> Self {
        let tree = Tree::debian(path, kernels);
        fs::create_dir_all(path.join("etc/ssl")).expect("ours");
        tree.install(&binary("subd"), "usr/sbin/subd");
        fs::copy(recovery_program(), path.join("usr/sbin/subd-recover")).expect("ours");
        let unit = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
            fs::read_to_string(path).expect("it is there")
        };
        tree.unit("subd.service", &unit("subd/subd.service"));
        tree.unit("subd-recover.service", &unit("recover/subd-recover.service"));
        tree.unit("subd-guard.service", &unit("recover/subd-guard.service"));
        let mut image = Self { tree, triggers: Vec::new(), health: None };
        image.page("first");
        image.trigger("nginx", "/etc/nginx/.*", &json!({"DoReload": true}));
        image.trigger("nginx", "/usr/sbin/nginx", &json!({}));
        image.trigger("cron", "/usr/sbin/cron", &json!({}));
        image.trigger("subd", "/usr/sbin/subd", &json!({}));
        image
    }

    /// A copy in the new directory `path`, to be changed.
    pub fn copy(&self, path: &Path) -> Self {
        Self { tree: self.tree.copy(path), triggers: self.triggers.clone(), health: self.health.clone() }
    }

    /// A trigger for `service` and the paths that match `line`.
    pub fn trigger(&mut self, service: &str, line: &str, more: &Value) {
        let mut trigger = json!({"MatchLines": [line], "Service": service});
        for (key, value) in more.as_object().into_iter().flatten() {
            trigger.as_object_mut().expect("invariant: it is one").insert(key.clone(), value.clone());
        }
        self.triggers.push(trigger);
    }

    /// A service of ours: its program is `/opt/NAME/run`, and starts and stops are told to `/var/log/told`. `more` are
    /// lines of its unit.
    pub fn service(&self, name: &str, more: &str) {
        let unit = format!(
            "[Service]\nExecStart=/opt/{name}/run\nExecStartPost=/bin/sh -c 'echo start {name} >>/var/log/told'\n\
             ExecStopPost=/bin/sh -c 'echo stop {name} >>/var/log/told'\n{more}\n[Install]\nWantedBy=multi-user.target\n"
        );
        self.tree.unit(&format!("{name}.service"), &unit);
        self.program(name, "exec sleep infinity");
    }

    /// What such a service does: a line of shell.
    pub fn program(&self, name: &str, line: &str) {
        self.tree.write(&format!("opt/{name}/run"), format!("#!/bin/sh\n{line}\n"), 0o755);
    }

    /// Takes such a service away, with its triggers.
    pub fn remove_service(&mut self, name: &str) {
        self.tree.remove_unit(&format!("{name}.service"));
        self.tree.remove(&format!("opt/{name}"));
        self.triggers.retain(|trigger| trigger.get("Service").and_then(Value::as_str) != Some(name));
    }

    /// Makes a program another that does the same: what stands behind its end is nothing to the kernel.
    pub fn append(&self, program: &str) {
        let mut bytes = fs::read(self.tree.path().join(program)).expect("it is there");
        bytes.extend(b"another version\n");
        self.tree.write(program, bytes, 0o755);
    }

    /// What nginx says.
    pub fn page(&self, words: &str) {
        self.answer(200, words);
    }

    /// What nginx says, and with which status.
    pub fn answer(&self, status: u16, words: &str) {
        let location = format!("location / {{ return {status} '{words}\\n'; }}");
        let site = format!("server {{ listen 80 default_server; {location} }}\n");
        self.tree.write("etc/nginx/sites-available/default", site, 0o644);
    }
}
