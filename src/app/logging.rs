//! The log: to standard error, text for people or JSON for machines, levels by `MINGCHU_LOG`.
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line per event.
    #[default]
    Text,
    /// A JSON object per event.
    Json,
}

/// Starts the log. `quiet` shows warnings and worse only, unless `MINGCHU_LOG` says otherwise. A
/// second call in one process changes nothing.
pub fn start(format: LogFormat, quiet: bool) {
    // rumqttd and its kin log each packet at info; retina logs recoveries at warn.
    let default = if quiet {
        "error,mingchu=warn"
    } else {
        "warn,mingchu=info"
    };
    let default = format!("{default},{}", super::demo::LOG_FILTER);
    let filter = EnvFilter::try_from_env("MINGCHU_LOG").unwrap_or_else(|_| default.into());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    drop(started);
}
