use std::collections::{BTreeMap, BTreeSet};
use std::io;

use dominator_core::object::ObjectId;
use dominator_core::plan::{Need, Needs};
use dominator_core::port::{AgentError, Cause, Chain, StoreError};

use super::super::Shared;
use super::super::order::failed;
use crate::update::{FreeSpace, Local, ObjectCache, Updater};

/// What is to be fetched.
pub(super) struct Wanted {
    pub(super) cache: ObjectCache,
    /// With their lengths.
    pub(super) wanted: BTreeMap<ObjectId, u64>,
    /// How many need not be, as files of the machine have these contents.
    pub(super) local: u64,
}

/// Those that are not here, if there is room for them and for all else the update takes.
pub(super) fn wanted(shared: &Shared, needs: &Needs) -> Result<Wanted, AgentError> {
    let scan = shared.lock().base().map(|(_, _, scan)| scan);
    let look = |updater: &mut Updater| {
        let cache = updater.objects().clone();
        let begun = cache.trim_partials().map_err(fault)?;
        let (here, mut wanted) = sorted(&cache, needs)?;
        let local = match &scan {
            Some(scan) => {
                let wanted = wanted.keys().copied().filter(|id| !shared.is_distrusted(id)).collect();
                Local::find(&scan.snapshot, &wanted, |_| true)
            }
            None => Local::default(),
        };
        wanted.retain(|id, _| !local.has(id));
        make_sure(shared, updater, needs, &Had { here, begun, local: &local })?;
        Ok(Wanted { cache, wanted, local: local.len() as u64 })
    };
    shared.with_updater(look).map_err(|error| failed("fetch", error))?.map_err(AgentError::Fetch)
}

/// What need not come, or not all of it.
struct Had<'a> {
    here: BTreeSet<ObjectId>,
    /// The lengths of beginnings that are gone on with: the room they take is not needed once more.
    begun: BTreeMap<ObjectId, u64>,
    local: &'a Local,
}

/// Those that are in the cache, and the others with their lengths.
fn sorted(
    cache: &ObjectCache,
    needs: &Needs,
) -> Result<(BTreeSet<ObjectId>, BTreeMap<ObjectId, u64>), StoreError> {
    let (mut here, mut wanted) = (BTreeSet::new(), BTreeMap::new());
    for (id, need) in &needs.objects {
        // One of another length was damaged since; it is fetched again.
        if cache.size(id).map_err(fault)? == Some(need.size) {
            here.insert(*id);
        } else {
            wanted.insert(*id, need.size);
        }
    }
    Ok((here, wanted))
}

/// Makes sure that there is room, if need be by dropping what is needed least.
fn make_sure(shared: &Shared, updater: &mut Updater, needs: &Needs, had: &Had<'_>) -> Result<(), StoreError> {
    let cache = updater.objects().clone();
    let suffices = || room(&cache.free_space().map_err(fault)?, needs, had);
    if suffices().is_ok() {
        return Ok(());
    }
    // What is kept for an image that is not wanted any more must not keep this one out.
    let wanted = needs.objects.keys().copied().collect();
    cache.retain(&wanted).map_err(fault)?;
    if suffices().is_err() {
        make_room(shared, updater);
    }
    suffices()
}

/// What is kept to undo the update before would be dropped by the next one anyway.
fn make_room(shared: &Shared, updater: &mut Updater) {
    if !updater.is_undoable() {
        return;
    }
    shared.let_go();
    if let Err(error) = updater.clean_up() {
        tracing::warn!(error = %Chain(&error), "what is kept to undo the last update takes room, and can't be removed");
    }
}

/// Whether there is room for the update: for what comes, for copies of what is used more than once, and for what has no
/// contents. What is taken from the machine's own files is reckoned when it is known how, before anything is staged.
fn room(free: &FreeSpace, needs: &Needs, had: &Had<'_>) -> Result<(), StoreError> {
    let made = |(id, need): (&ObjectId, &Need)| match had.local.has(id) {
        true => 0,
        false => need.uses.max(1) - u64::from(had.here.contains(id)),
    };
    // One that is not shorter than its object is none, and goes when that comes.
    let begun = |(id, need): (&ObjectId, &Need)| match had.begun.get(id) {
        Some(length) if *length < need.size && made((id, need)) > 0 => *length,
        Some(_) | None => 0,
    };
    let inodes = needs.objects.iter().map(made).fold(needs.inodes, u64::saturating_add);
    let others = free.needed([0]).saturating_mul(needs.inodes);
    let bytes = needs.objects.iter().map(|(id, need)| {
        let all = free.needed([need.size]).saturating_mul(made((id, need)));
        all.saturating_sub(begun((id, need)))
    });
    free.suffices(bytes.fold(others, u64::saturating_add), inodes)
}

fn fault(error: io::Error) -> StoreError {
    StoreError::Failed {
        what: "the objects kept beside the root can't be looked at".to_owned(),
        cause: Cause::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room_of(free: &FreeSpace, needs: &Needs, here: &BTreeSet<ObjectId>) -> Result<(), StoreError> {
        let had = Had { here: here.clone(), begun: BTreeMap::new(), local: &Local::default() };
        room(free, needs, &had)
    }

    #[test]
    fn room_is_made_for_all_of_the_update_and_not_only_for_what_comes() {
        let id = ObjectId::of(b"1");
        let needs =
            |uses, inodes| Needs { objects: BTreeMap::from([(id, Need { size: 4096, uses })]), inodes };
        let free = FreeSpace { bytes: 3 * 5120, block: 4096, inodes: Some(4) };
        let (none, here) = (BTreeSet::new(), BTreeSet::from([id]));
        assert!(room_of(&free, &needs(3, 0), &none).is_ok());
        assert!(matches!(room_of(&free, &needs(4, 0), &none), Err(StoreError::NoSpace { need: 20480, .. })));
        assert!(room_of(&free, &needs(4, 0), &here).is_ok());
        assert!(matches!(
            room_of(&free, &needs(1, 4), &none),
            Err(StoreError::NoInodes { need: 5, free: 4 })
        ));
        assert!(room_of(&free, &needs(1, 4), &here).is_ok());
        let endless = needs(u64::MAX, u64::MAX);
        assert!(matches!(room_of(&free, &endless, &none), Err(StoreError::NoSpace { need: u64::MAX, .. })));
    }
}
