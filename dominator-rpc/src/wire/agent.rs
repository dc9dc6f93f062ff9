use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use dominator_core::filter::{Filter, Lines};
use dominator_core::image::ImageName;
use dominator_core::path::ImagePath;
use dominator_core::port::{Configuration, MachineTraits, PathFailure, Percent, Reconfiguration};
use dominator_core::view::{Granularity, Ownership, XattrPolicy};
use tonic::Status;

use super::{invalid, readable};
use crate::{limits, v1};

pub(super) fn traits(traits: &MachineTraits) -> v1::MachineTraits {
    v1::MachineTraits {
        protected: traits.protected.iter().map(path).collect(),
        exclusions: Some(filter(&traits.exclusions)),
        xattrs: traits.xattrs.bits().into(),
        ignores_owners: traits.ownership == Ownership::Ignored,
        mtime_nanos: traits.mtime.as_nanos(),
    }
}

pub(crate) fn traits_from(traits: &v1::MachineTraits) -> Result<MachineTraits, Status> {
    let bits = u8::try_from(traits.xattrs).ok().and_then(XattrPolicy::from_bits);
    let exclusions = traits.exclusions.as_ref().ok_or_else(|| invalid("traits without exclusions"))?;
    Ok(MachineTraits {
        protected: paths_from(&traits.protected)?,
        exclusions: filter_from(exclusions)?,
        xattrs: bits.ok_or_else(|| invalid("an unknown class of attributes"))?,
        ownership: if traits.ignores_owners { Ownership::Ignored } else { Ownership::Kept },
        mtime: Granularity::nanos(traits.mtime_nanos).ok_or_else(|| invalid("an impossible granularity"))?,
    })
}

fn filter(filter: &Filter) -> v1::Filter {
    let (state, lines) = match filter {
        Filter::Sparse => (v1::FilterState::Sparse, Vec::new()),
        Filter::Empty => (v1::FilterState::Empty, Vec::new()),
        Filter::Lines(lines) => (v1::FilterState::Lines, lines.lines().to_vec()),
    };
    v1::Filter { state: state.into(), lines }
}

fn filter_from(filter: &v1::Filter) -> Result<Filter, Status> {
    match (filter.state(), filter.lines.is_empty()) {
        (v1::FilterState::Sparse, true) => Ok(Filter::Sparse),
        (v1::FilterState::Empty, true) => Ok(Filter::Empty),
        (v1::FilterState::Lines, false) => Lines::new(filter.lines.clone())
            .map(Filter::Lines)
            .map_err(|error| invalid(format!("a filter that is none: {error}"))),
        _ => Err(invalid("a filter in no known state")),
    }
}

pub(crate) fn configuration(configuration: &Configuration) -> v1::Configuration {
    v1::Configuration {
        cpu_percent: configuration.cpu.get().into(),
        scan_speed_percent: configuration.scan_speed.get().into(),
        exclusions: Some(filter(&configuration.exclusions)),
        network_speed_percent: configuration.network_speed.get().into(),
        network_bytes_per_second: configuration.network_bytes.map_or(0, NonZeroU64::get),
    }
}

pub(crate) fn configuration_from(configuration: &v1::Configuration) -> Result<Configuration, Status> {
    let exclusions = configuration.exclusions.as_ref();
    Ok(Configuration {
        cpu: percent_from(configuration.cpu_percent)?,
        scan_speed: percent_from(configuration.scan_speed_percent)?,
        exclusions: filter_from(exclusions.ok_or_else(|| invalid("a configuration without exclusions"))?)?,
        network_speed: match configuration.network_speed_percent {
            0 => Percent::ALL,
            percent => percent_from(percent)?,
        },
        network_bytes: NonZeroU64::new(configuration.network_bytes_per_second),
    })
}

pub(crate) fn reconfiguration(change: Reconfiguration) -> v1::SetConfigurationRequest {
    let percent = |percent: Option<Percent>| percent.map_or(0, |percent| percent.get().into());
    v1::SetConfigurationRequest {
        cpu_percent: percent(change.cpu),
        scan_speed_percent: percent(change.scan_speed),
        network_speed_percent: percent(change.network_speed),
        network_bytes_per_second: change.network_bytes,
    }
}

pub(crate) fn reconfiguration_from(change: &v1::SetConfigurationRequest) -> Result<Reconfiguration, Status> {
    let percent = |percent: u32| (percent != 0).then(|| percent_from(percent)).transpose();
    Ok(Reconfiguration {
        cpu: percent(change.cpu_percent)?,
        scan_speed: percent(change.scan_speed_percent)?,
        network_speed: percent(change.network_speed_percent)?,
        network_bytes: change.network_bytes_per_second,
    })
}

pub(super) fn percent_from(percent: u32) -> Result<Percent, Status> {
    let percent = u8::try_from(percent).ok().and_then(Percent::new);
    percent.ok_or_else(|| invalid("a share that is none of 1 to 100 percent"))
}

pub(super) fn failure(failure: &PathFailure) -> v1::PathFailure {
    let mut reason = failure.reason.clone();
    reason.truncate(reason.floor_char_boundary(limits::REASON));
    v1::PathFailure { path: path(&failure.path), reason }
}

pub(super) fn failure_from(failure: v1::PathFailure) -> Result<PathFailure, Status> {
    Ok(PathFailure { path: path_from(&failure.path)?, reason: readable(&failure.reason) })
}

pub(super) fn path(path: &ImagePath) -> Bytes {
    Bytes::copy_from_slice(path.as_bytes())
}

pub(super) fn path_from(bytes: &Bytes) -> Result<ImagePath, Status> {
    ImagePath::parse(bytes).map_err(|error| invalid(error.to_string()))
}

pub(super) fn paths_from(paths: &[Bytes]) -> Result<BTreeSet<ImagePath>, Status> {
    paths.iter().map(path_from).collect()
}

/// The name of an image, as it came.
pub(crate) fn image_name(name: &str) -> Result<ImageName, Status> {
    name.parse().map_err(|error: dominator_core::image::BadImageName| invalid(error.to_string()))
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
