//! Where the shipped models are.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::exit::{ExitCode, Failure, OrExit as _};
use super::site::find_upwards;
use crate::base::ids::CameraIx;
use crate::detect::{ClassInfo, Models};
use crate::rules::RuleConfig;

/// Cards looked for upwards of here and of the program, and then where packages put them.
pub const SHIPPED: &[&str] = &[
    "models/kitchen.toml",
    "models/heads.toml",
    "models/smoking.toml",
];
const INSTALLED: &str = "/usr/share/mingchu";

/// `cards`, or the shipped ones if there are none.
///
/// # Errors
/// None are given, and the shipped ones are not there.
pub fn shipped_or(cards: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    if !cards.is_empty() {
        return Ok(cards.to_vec());
    }
    let place = |card: &&str| {
        let installed = Path::new(INSTALLED).join(card);
        find_upwards(Path::new(card)).or_else(|| installed.is_file().then_some(installed))
    };
    SHIPPED
        .iter()
        .map(|card| {
            let missing = || format!("there is no {card} here: run it in a checkout, or name cards with --models where the command has it");
            place(card).with_context(missing).or_exit(ExitCode::Config)
        })
        .collect()
}

/// By class, the score from which a camera's tracker takes a detection seriously: what the class's card
/// and the camera's rules that name it ask for, whichever is least.
pub fn starts(models: &Models, rules: &[RuleConfig], camera: CameraIx) -> Arc<[f32]> {
    starts_of(models.classes(), rules, camera)
}

/// The same without the networks.
pub fn starts_of(classes: &[ClassInfo], rules: &[RuleConfig], camera: CameraIx) -> Arc<[f32]> {
    let mut starts: Vec<f32> = classes.iter().map(|c| c.threshold).collect();
    for rule in rules.iter().filter(|r| r.cameras.contains(&camera)) {
        for class in &rule.classes {
            let start = &mut starts[usize::from(class.0)];
            *start = start.min(rule.least_threshold());
        }
    }
    starts.into()
}
