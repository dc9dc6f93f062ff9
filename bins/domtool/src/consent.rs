//! What operators agree to, machine by machine.

use std::io::{self, Write};

use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure};
use dominator_rpc::controller::{Consent, FleetControl};
use serde::Serialize;

/// What is agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// An update that deletes much.
    UnsafeUpdate,
    /// An update that disturbs the machine's users.
    Disruption,
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Consents {
    #[serde(skip)]
    wish: Wish,
    subs: Vec<String>,
    not_waiting: Vec<Bystander>,
}

/// A machine that does not wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Bystander {
    hostname: String,
    status: &'static str,
}

impl Consents {
    /// Agrees for machine after machine; names as well those the controller does not know.
    pub(crate) async fn give(
        fleet: &dyn FleetControl,
        wish: Wish,
        hostnames: Vec<String>,
    ) -> Result<(Self, Vec<String>), Failure> {
        let (mut consents, mut strangers) =
            (Self { wish, subs: Vec::new(), not_waiting: Vec::new() }, Vec::new());
        for hostname in hostnames {
            let consent = match wish {
                Wish::UnsafeUpdate => fleet.clear_safety_shutoff(&hostname).await,
                Wish::Disruption => fleet.force_disruptive_update(&hostname).await,
            };
            match consent.during(|| format!("can't {} of {hostname}", wish.words()))? {
                Consent::Given => consents.subs.push(hostname),
                Consent::NotWaiting(status) => {
                    consents.not_waiting.push(Bystander { hostname, status: status.text() });
                }
                Consent::NoSuchMachine => strangers.push(hostname),
            }
        }
        Ok((consents, strangers))
    }
}

impl Wish {
    fn words(self) -> &'static str {
        match self {
            Self::UnsafeUpdate => "clear the safety shut-off",
            Self::Disruption => "force the update",
        }
    }
}

impl Show for Consents {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let done = match self.wish {
            Wish::UnsafeUpdate => "the update that was held back as unsafe is carried out",
            Wish::Disruption => "the update is carried out, and users are disturbed",
        };
        self.subs.iter().try_for_each(|name| writeln!(out, "{name}: {done}"))?;
        self.not_waiting.iter().try_for_each(|Bystander { hostname, status }| {
            writeln!(out, "{hostname}: nothing was done; its status is {status:?}")
        })
    }
}
