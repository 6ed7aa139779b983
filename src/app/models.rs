//! Where the shipped models are.
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::exit::{ExitCode, Failure, OrExit as _};
use super::site::find_upwards;

/// Cards looked for upwards of here and of the program, and then where packages put them.
pub const SHIPPED: &[&str] = &["models/face-mask.toml"];
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
            let missing = || format!("there is no {card} here: name cards with --models");
            place(card).with_context(missing).or_exit(ExitCode::Config)
        })
        .collect()
}
