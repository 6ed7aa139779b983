//! Reading `[evidence]`.
use std::path::Path;
use std::time::Duration;

use super::parse::ms;
use super::section::Section;
use crate::evidence::{EvidenceConfig, Redact};

const MIB: u64 = 1 << 20;

/// The signing key's file in the state directory.
const KEY_FILE: &str = "site.key";

pub(super) fn read_evidence(
    section: Section<'_, '_>,
    state_dir: Option<&Path>,
) -> Option<EvidenceConfig> {
    let quality = section.integer("jpeg_quality", 30..=100);
    let redact = section.choice("redact", &[("faces", Redact::Faces), ("off", Redact::Off)]);
    let pre_roll = section.integer("pre_roll_ms", 0..=60_000);
    let post_roll = section.integer("post_roll_ms", 0..=60_000);
    let ring_mb = section.integer("ring_mb", 1..=1024);
    let max_mb = section.integer("max_mb", 10..=1_000_000);
    let max_days = section.integer("max_days", 1..=3650);
    let min_free_mb = section.integer("min_free_mb", 0..=1_000_000);
    section.finish();
    let state_dir = state_dir?;
    Some(EvidenceConfig {
        dir: state_dir.join("evidence"),
        key_file: state_dir.join(KEY_FILE),
        jpeg_quality: quality.unwrap_or(85) as u8,
        redact: redact.unwrap_or_default(),
        pre_roll: ms(pre_roll.unwrap_or(5000)),
        post_roll: ms(post_roll.unwrap_or(5000)),
        ring_bytes: (ring_mb.unwrap_or(16) * MIB) as usize,
        max_bytes: max_mb.unwrap_or(2000) * MIB,
        max_age: Duration::from_secs(max_days.unwrap_or(90) * 24 * 3600),
        min_free_bytes: min_free_mb.unwrap_or(200) * MIB,
    })
}
