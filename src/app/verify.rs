//! `mingchu verify PATH`: whether evidence is what was signed, with nothing but the files.
use std::path::PathBuf;

use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::terminal::{Terminal, Tone};
use crate::evidence::{Head, KeyFrom, PublicKey, Verdict, VerifyError, verify_with_head};

/// What to check and with what.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// A bundle, an evidence folder, or a state directory.
    pub path: PathBuf,
    /// The site's public key.
    pub key: Option<PathBuf>,
    /// An entry that the chain must hold.
    pub head: Option<Head>,
    /// One JSON object.
    pub json: bool,
}

/// Checks and prints what was found.
///
/// # Errors
/// [`ExitCode::Data`] if anything is broken, after it has been printed; [`ExitCode::Usage`] if there is
/// nothing to check or the key is none.
pub fn run(options: &VerifyOptions, terminal: Terminal) -> Outcome {
    let key = options.key.as_deref().map(PublicKey::read);
    let key = key.transpose().or_exit(ExitCode::Usage)?;
    let verdict = verify_with_head(&options.path, key, options.head.as_ref()).map_err(|e| {
        let code = match e {
            VerifyError::NotEvidence { .. } | VerifyError::NoChain { .. } | VerifyError::Key(_) => {
                ExitCode::Usage
            }
            VerifyError::Unreadable { .. } => ExitCode::Data,
        };
        Failure::new(code, e)
    })?;
    if options.json {
        terminal.line(serde_json::to_string(&verdict).unwrap_or_default());
    } else {
        print(&verdict, terminal);
    }
    let Some(first) = verdict.broken.first() else {
        return Ok(());
    };
    let entry = first
        .index
        .map_or_else(String::new, |i| format!("entry {i}: "));
    let reason = anyhow::anyhow!(
        "{}: {} things are wrong; the first: {entry}{} {}",
        options.path.display(),
        verdict.broken.len(),
        first.file,
        first.what
    );
    Err(Failure::new(ExitCode::Data, reason))
}

fn print(verdict: &Verdict, terminal: Terminal) {
    for broken in &verdict.broken {
        let entry = broken
            .index
            .map_or_else(String::new, |i| format!("entry {i}: "));
        let what = terminal.paint(Tone::Bad, format!("{} {}", broken.file, broken.what));
        terminal.line(format_args!("{entry}{what}"));
    }
    for note in &verdict.notes {
        terminal.line(terminal.paint(Tone::Faint, note));
    }
    let key_from = match verdict.key_from {
        KeyFrom::Given => "the key given",
        KeyFrom::Beside => "the key beside it",
        KeyFrom::Entries => "the key it names itself",
    };
    terminal.line(format_args!(
        "{} entries, {} bundles, {} files checked, {} files ({} bytes) deleted by record; signed with {key_from}, {}",
        verdict.entries,
        verdict.bundles,
        verdict.files,
        verdict.deleted_files,
        verdict.deleted_bytes,
        verdict.key
    ));
    if verdict.head == Some(true) {
        terminal.line("the entry given with --head is in the chain");
    }
    let (tone, word) = if verdict.ok {
        (Tone::Good, "whole")
    } else {
        (Tone::Bad, "broken")
    };
    terminal.line(terminal.paint(tone, word));
}
