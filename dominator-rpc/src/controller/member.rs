use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use dominator_core::herd::{FastUpdate, Moment, Status, SubInfo};
use dominator_core::image::ImageName;
use dominator_core::machine::Machine;
use tokio::sync::{Notify, watch};

use super::control::{Consent, Stage, Standing};

/// A machine of the fleet, as its task and all others share it. One lock and one bell: there are as many as machines.
pub(super) struct Member {
    state: Mutex<State>,
    /// Calls the task to look at its orders.
    bell: Notify,
}

struct State {
    machine: Arc<Machine>,
    shown: Shown,
    stays: Stays,
    /// Since the task last looked.
    orders: Vec<Order>,
}

/// What a machine's task is told, but for what the machine must be.
#[derive(Debug)]
pub(super) enum Order {
    /// An operator agrees to an unsafe plan.
    ClearSafety,
    /// An operator has the machine's users disturbed.
    ForceDisruption,
    /// Our certificate, or whom we believe, is another.
    Renewed,
    /// An operator waits, and wants to be told how it goes.
    FastUpdate(FastUpdate, watch::Sender<Standing>),
}

/// Whether a machine is of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stays {
    In,
    Out,
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
        let state = Mutex::new(State { machine, shown, stays: Stays::In, orders: Vec::new() });
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

    /// An operator agrees to what a machine in one of these states waits for. What they said before and nobody looked at
    /// yet counts once.
    pub(super) fn consent(&self, order: Order, waiting: &[Status]) -> Consent {
        let mut state = self.state();
        if !waiting.contains(&state.shown.status) {
            return Consent::NotWaiting(state.shown.status);
        }
        let same = |other: &Order| std::mem::discriminant(other) == std::mem::discriminant(&order);
        state.orders.retain(|other| !same(other));
        state.orders.push(order);
        self.call();
        Consent::Given
    }

    /// An operator waits for the machine, and is told how it stands from now on.
    pub(super) fn hurry(&self, order: FastUpdate) -> watch::Receiver<Standing> {
        let mut state = self.state();
        let Shown { status, detail, .. } = &state.shown;
        let detail = detail.clone().unwrap_or_default();
        let (told, telling) = watch::channel(Standing { status: *status, detail, stage: Stage::UnderWay });
        state.orders.push(Order::FastUpdate(order, told));
        self.call();
        telling
    }

    /// Whoever refused us may not do so any more.
    pub(super) fn renewed(&self) {
        let mut state = self.state();
        state.orders.retain(|order| !matches!(order, Order::Renewed));
        state.orders.push(Order::Renewed);
        self.call();
    }

    /// Ends the machine's task.
    pub(super) fn leave(&self) {
        self.state().stays = Stays::Out;
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

    /// Whether the machine is still of the fleet, the orders, each of which is handed out once, and what it must be.
    pub(super) fn orders(&self) -> (Stays, Vec<Order>, Arc<Machine>) {
        let mut state = self.state();
        (state.stays, std::mem::take(&mut state.orders), Arc::clone(&state.machine))
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
        let unsafe_plan = [Status::UnsafeUpdate];
        assert_eq!(member.consent(Order::ClearSafety, &unsafe_plan), Consent::NotWaiting(Status::Unknown));
        assert!(!called(), "it does not wait for that");
        member.show(SubInfo { status: Status::UnsafeUpdate, ..SubInfo::default() });
        for _ in 0..2 {
            assert_eq!(member.consent(Order::ClearSafety, &unsafe_plan), Consent::Given);
        }
        assert!(called());
        assert!(matches!(member.orders().1[..], [Order::ClearSafety]));
        assert!(member.orders().1.is_empty(), "agreed once");
        member.leave();
        assert!(called());
        assert_eq!((member.orders().0, member.orders().0), (Stays::Out, Stays::Out), "for good");
    }
}
