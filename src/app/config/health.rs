//! `[health]`: how long what is wrong with a camera must last, and what is not looked for.
use std::collections::BTreeSet;
use std::time::Duration;

use super::section::Section;
use crate::decode::PictureConfig;
use crate::rules::{DeviceConfig, DeviceFault};

/// `[health]`, for the whole site.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthConfig {
    /// Findings about cameras.
    pub device: DeviceConfig,
    /// Faults of pictures, before any is switched off.
    pub picture: PictureConfig,
    /// A camera's clock may be off by so much.
    pub clock_limit: Duration,
}

fn words() -> Vec<(&'static str, DeviceFault)> {
    DeviceFault::ALL.map(|f| (f.word(), f)).into()
}

/// Reads the table.
pub(super) fn read_health(section: Section<'_, '_>) -> HealthConfig {
    let device = DeviceConfig::default();
    let picture = PictureConfig::default();
    let seconds = |name, from, default: Duration| {
        let read = section.integer(name, from..=86_400);
        read.map_or(default, Duration::from_secs)
    };
    let picture_seconds =
        |name, from, default: Option<Duration>| default.map(|default| seconds(name, from, default));
    let faults = |name| {
        let read = section.words(name, &words());
        read.map(BTreeSet::from_iter)
    };
    let config = HealthConfig {
        picture: PictureConfig {
            masked: picture_seconds("masked_s", 2, picture.masked),
            frozen: picture_seconds("frozen_s", 5, picture.frozen),
            dark: picture_seconds("dark_s", 2, picture.dark),
            occluded: picture_seconds("occluded_s", 2, picture.occluded),
            moved: picture_seconds("moved_s", 2, picture.moved),
            defocused: picture_seconds("defocused_s", 10, picture.defocused),
        },
        device: DeviceConfig {
            offline: seconds("offline_s", 1, device.offline),
            no_video: seconds("no_video_s", 1, device.no_video),
            clock: seconds("clock_s", 1, device.clock),
            clear: seconds("clear_s", 1, device.clear),
            update: seconds("update_s", 60, device.update),
            off: faults("off").unwrap_or(device.off),
            business_hours_only: faults("business_hours_only")
                .unwrap_or(device.business_hours_only),
        },
        clock_limit: seconds("clock_limit_s", 1, CLOCK_LIMIT),
    };
    section.finish();
    config
}

/// Findings are timed by the daemon's clock; a camera's own is burnt into its pictures and into the
/// recorder's files, and an inspector compares the two.
const CLOCK_LIMIT: Duration = Duration::from_secs(5);

/// What holds for one camera, whose table may switch more off.
pub(super) fn of_camera(
    section: &Section<'_, '_>,
    site: &HealthConfig,
) -> (DeviceConfig, PictureConfig) {
    let mut device = site.device.clone();
    device
        .off
        .extend(section.words("health_off", &words()).into_iter().flatten());
    let unless_off =
        |fault, after: Option<Duration>| after.filter(|_| !device.off.contains(&fault));
    let picture = PictureConfig {
        masked: unless_off(DeviceFault::Masked, site.picture.masked),
        frozen: unless_off(DeviceFault::Frozen, site.picture.frozen),
        dark: unless_off(DeviceFault::Dark, site.picture.dark),
        occluded: unless_off(DeviceFault::Occluded, site.picture.occluded),
        moved: unless_off(DeviceFault::Moved, site.picture.moved),
        defocused: unless_off(DeviceFault::Defocused, site.picture.defocused),
    };
    (device, picture)
}
