use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dominator_core::herd::{Moment, Status, SubInfo};
use dominator_core::image::ImageName;
use dominator_core::machine::Machine;
use tokio::sync::Notify;

/// A machine of the fleet, as its task and all others share it. One lock and one bell: there are as many as machines.
pub(super) struct Member {
    state: Mutex<State>,
    /// Calls the task to look at its orders.
    bell: Notify,
}

struct State {
    machine: Arc<Machine>,
    shown: Shown,
    orders: Orders,
}

/// What a machine's task was told since it last looked, but for what the machine must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Orders {
    #[default]
    None,
    /// An operator agrees to an unsafe plan.
    Clear,
    /// The machine is of the fleet no more.
    Leave,
}

/// What is known of a machine, for whoever looks at the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) status: Status,
    pub(super) detail: Option<String>,
    pub(super) since: SystemTime,
    pub(super) last_image: Option<ImageName>,
    pub(super) last_reply: Option<Moment>,
    pub(super) unknown: u64,
}

impl Shown {
    fn of(info: SubInfo, since: SystemTime) -> Self {
        let SubInfo { status, detail, last_image, last_reply, unknown, .. } = info;
        Self { status, detail, since, last_image, last_reply, unknown }
    }
}

/// Whether what is shown of a machine is other than what was shown before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// In what surrounds its status.
    Within,
    /// It stands otherwise.
    Status,
}

impl Member {
    pub(super) fn new(machine: Machine) -> Arc<Self> {
        let (machine, shown) = (Arc::new(machine), Shown::of(SubInfo::default(), SystemTime::now()));
        let state = Mutex::new(State { machine, shown, orders: Orders::None });
        Arc::new(Self { state, bell: Notify::new() })
    }

    /// What the machine must be.
    pub(super) fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.state().machine)
    }

    /// What the machine must be from now on.
    pub(super) fn replace(&self, machine: Machine) {
        let mut state = self.state();
        if *state.machine != machine {
            state.machine = Arc::new(machine);
            self.call();
        }
    }

    /// An operator agrees to an unsafe plan.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        if state.orders == Orders::None {
            state.orders = Orders::Clear;
            self.call();
        }
    }

    /// Ends the machine's task.
    pub(super) fn leave(&self) {
        self.state().orders = Orders::Leave;
        self.call();
    }

    /// Makes the task look at its orders and at what is decided for all machines.
    pub(super) fn call(&self) {
        self.bell.notify_one();
    }

    /// Waits until the task is called; a call made before counts. Safe to cancel.
    pub(super) async fn called(&self) {
        self.bell.notified().await;
    }

    /// The orders and what the machine must be. A clearance is handed out once.
    pub(super) fn orders(&self) -> (Orders, Arc<Machine>) {
        let mut state = self.state();
        let orders = state.orders;
        if orders == Orders::Clear {
            state.orders = Orders::None;
        }
        (orders, Arc::clone(&state.machine))
    }

    /// What the machine must be and what is known of it.
    pub(super) fn shown(&self) -> (Arc<Machine>, Shown) {
        let state = self.state();
        (Arc::clone(&state.machine), state.shown.clone())
    }

    /// Shows how the machine stands. It stands so since now, if its status is another.
    pub(super) fn show(&self, info: SubInfo) -> Change {
        let mut state = self.state();
        let before = &state.shown;
        let entered = info.status != before.status;
        let since = if entered { SystemTime::now() } else { before.since };
        let shown = Shown::of(info, since);
        let change = match (entered, shown == *before) {
            (true, _) => Change::Status,
            (false, false) => Change::Within,
            (false, true) => Change::None,
        };
        state.shown = shown;
        change
    }

    /// The state is whole after every statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_task_is_called_for_each_order_and_not_when_nothing_changed() {
        let (known, other) =
            (Machine::named("web1"), Machine { disable_updates: true, ..Machine::named("web1") });
        let member = Member::new(known.clone());
        let called = || member.called().now_or_never().is_some();
        member.replace(known);
        assert!(!called(), "it is what it was");
        member.replace(other.clone());
        assert!(called());
        assert_eq!(*member.machine(), other);
        member.clear();
        assert!(called());
        assert_eq!(member.orders().0, Orders::Clear);
        assert_eq!(member.orders().0, Orders::None, "agreed once");
        member.leave();
        member.clear();
        assert!(called());
        assert_eq!((member.orders().0, member.orders().0), (Orders::Leave, Orders::Leave), "for good");
    }
}
