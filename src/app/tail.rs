//! `mingchu tail`: what sites publish, readable for an operator, or as JSON for a machine.
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::config;
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::run::Signals;
use super::terminal::{Terminal, Tone};
use crate::base::ids::Name;
use crate::base::secret::Secret;
use crate::base::time::UtcMicros;
use crate::uplink::{
    ALL_SITES, AckBy, CameraState, CameraStatus, CommandResult, ConfigReport, CoverageReport,
    Event, FindingEvent, FindingPhase, Heard, Message, Notice, SiteIdentity, SiteStatus,
    Subscriber, Telemetry, TlsConfig, TopicKind, Topics, UplinkConfig,
};

/// What to follow and how.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// A site's config: broker, login, TLS and the site.
    pub config: Option<PathBuf>,
    /// Or the broker's URL.
    pub broker: Option<String>,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// Authorities for TLS.
    pub ca_file: Option<PathBuf>,
    /// Only this region.
    pub region: Option<String>,
    /// Only this site.
    pub site: Option<String>,
    /// Show telemetry.
    pub telemetry: bool,
    /// JSON lines.
    pub json: bool,
}

/// A client id that no other tail and no daemon has.
fn client_id() -> String {
    format!("mingchu-tail-{:08x}", fastrand::u32(..))
}

fn usage(why: String) -> Failure {
    Failure::new(ExitCode::Usage, anyhow::anyhow!(why))
}

/// How to reach the broker, and what to ask it for.
fn target(options: &TailOptions) -> Result<(UplinkConfig, String), Failure> {
    if let Some(path) = &options.config {
        let site = config::load(path).or_exit(ExitCode::Config)?;
        let filter = Topics::new(&site.identity).all();
        return Ok((
            UplinkConfig {
                client_id: client_id(),
                ..site.uplink
            },
            filter,
        ));
    }
    let broker = options.broker.as_deref().unwrap_or_default();
    let address = config::broker_address(broker)
        .map_err(|(message, remedy)| usage(format!("--broker {message}: {remedy}")))?;
    let tls = match (&options.ca_file, address.tls) {
        (Some(ca_file), true) => Some(TlsConfig {
            ca_file: ca_file.clone(),
            client: None,
        }),
        (None, false) => None,
        (None, true) => return Err(usage("mqtts:// needs --ca-file".to_owned())),
        (Some(_), false) => return Err(usage("--ca-file has no use with mqtt://".to_owned())),
    };
    let level = |name: &str, value: &Option<String>| match value {
        None => Ok("+".to_owned()),
        Some(text) => match Name::new(text) {
            Ok(_) => Ok(text.clone()),
            Err(e) => Err(usage(format!("--{name} {text}: {e}"))),
        },
    };
    let filter = if options.region.is_none() && options.site.is_none() {
        ALL_SITES.to_owned()
    } else {
        let (region, site) = (
            level("region", &options.region)?,
            level("site", &options.site)?,
        );
        format!("mingchu/v1/{region}/{site}/#")
    };
    let config = UplinkConfig {
        host: address.host,
        port: address.port,
        tls,
        client_id: client_id(),
        login: options.login.clone(),
        ack: AckBy::Broker,
        window: 1,
        keep_alive: Duration::from_secs(30),
        progress_timeout: Duration::from_secs(20),
        telemetry_every: Duration::from_secs(60),
        evidence_kbps: 0,
    };
    Ok((config, filter))
}

/// Follows the topics until a signal.
///
/// # Errors
/// A command line or config that cannot be used. A broker that is away is waited for.
pub async fn run(options: TailOptions, terminal: Terminal) -> Outcome {
    let (config, filter) = target(&options)?;
    let broker = format!("{}:{}", config.host, config.port);
    crate::uplink::check(&config)
        .map_err(|e| Failure::new(ExitCode::Config, anyhow::anyhow!("{}", e.chain())))?;
    let mut signals = Signals::catch().or_exit(ExitCode::Internal)?;
    let mut subscriber = Subscriber::new(config, filter.clone());
    let mut view = View::new(options.telemetry, terminal);
    loop {
        let heard = tokio::select! {
            () = signals.next() => return Ok(()),
            heard = subscriber.next() => heard,
        };
        match heard {
            Heard::Connected => tracing::info!("following {filter} at {broker}"),
            Heard::Lost { error, retry_in } => {
                // To the log, not among the messages: a script reads those.
                tracing::warn!(err = %error.chain(), retry_in_s = retry_in.as_secs(), "not connected to {broker}");
            }
            Heard::Message(message) if options.json => terminal.line(as_json(&message)),
            Heard::Message(message) => {
                if let Some(line) = view.line(&message) {
                    terminal.line(line);
                }
            }
        }
    }
}

fn as_json(message: &Message) -> String {
    let payload = serde_json::from_slice(&message.payload).unwrap_or_else(|_| {
        if message.payload.is_empty() {
            Value::Null
        } else {
            Value::String(String::from_utf8_lossy(&message.payload).into_owned())
        }
    });
    let line = json!({"topic": message.topic, "retain": message.retain, "payload": payload});
    line.to_string()
}

/// Hour, minute and second of an RFC 3339 time.
fn clock_of(utc: UtcMicros) -> String {
    let text = utc.to_string();
    text.get(11..19).unwrap_or(&text).to_owned()
}

/// The operator's view: what was shown last, so that a status sent again is not shown again.
#[derive(Debug)]
pub struct View {
    terminal: Terminal,
    telemetry: bool,
    /// By topic; as many as there are sites and cameras.
    shown: HashMap<String, String>,
}

impl View {
    /// Nothing shown yet.
    pub fn new(telemetry: bool, terminal: Terminal) -> Self {
        Self {
            terminal,
            telemetry,
            shown: HashMap::new(),
        }
    }

    /// The line for a message; `None` for what an operator need not see.
    pub fn line(&mut self, message: &Message) -> Option<String> {
        let terminal = self.terminal;
        let Some((_, site, kind)) = Topics::parse(&message.topic) else {
            let text = format!("unknown topic {}", message.topic);
            return Some(terminal.paint(Tone::Faint, text));
        };
        let site = site.to_string();
        let payload = &message.payload[..];
        let line = match kind {
            TopicKind::Status => serde_json::from_slice(payload)
                .map(|s: SiteStatus| self.news(message, s.time, status_line(&site, &s, terminal))),
            TopicKind::CameraStatus(_) => serde_json::from_slice(payload).map(|s: CameraStatus| {
                self.news(message, s.time, camera_line(&site, &s, terminal))
            }),
            TopicKind::Finding(_) => {
                serde_json::from_slice(payload).map(|f| Some(finding_line(&site, &f, terminal)))
            }
            TopicKind::Telemetry if self.telemetry => {
                serde_json::from_slice(payload).map(|t| Some(telemetry_line(&site, &t, terminal)))
            }
            // Active: the same findings again, for whoever connects later.
            TopicKind::Telemetry | TopicKind::Active(_) => Ok(None),
            TopicKind::Coverage => {
                serde_json::from_slice(payload).map(|c| Some(coverage_line(&site, &c, terminal)))
            }
            TopicKind::Notice => serde_json::from_slice(payload).map(|n: Event<Notice>| {
                let (time, data) = (clock_of(n.data.at), n.data);
                let word = terminal.paint(Tone::Warn, format_args!("{:<8}", data.kind));
                Some(format!("{time}  {site}  {word}  {}", data.text))
            }),
            TopicKind::CommandResult(_) => {
                serde_json::from_slice(payload).map(|r: Event<CommandResult>| {
                    let (time, data) = (clock_of(r.data.at), r.data);
                    let tone = if data.outcome == "done" {
                        Tone::Good
                    } else {
                        Tone::Warn
                    };
                    let word = terminal.paint(tone, format_args!("{:<8}", data.outcome));
                    let (name, text) = (data.command, data.text);
                    Some(format!("{time}  {site}  {word}  command {name}  {text}"))
                })
            }
            TopicKind::Evidence(finding, n) => Ok(Some(terminal.paint(
                Tone::Faint,
                format_args!(
                    "          {site}  evidence {n} of {finding}, {} bytes",
                    payload.len()
                ),
            ))),
            TopicKind::ConfigReported => serde_json::from_slice(payload).map(|c: ConfigReport| {
                self.news(message, c.applied, config_line(&site, &c, terminal))
            }),
            TopicKind::Receipt => Ok(Some(from_centre(&site, "receipt", payload, terminal))),
            TopicKind::Command(name) => {
                let what = format!("command {name}");
                Ok(Some(from_centre(&site, &what, payload, terminal)))
            }
            TopicKind::ConfigDesired => Ok(Some(terminal.paint(
                Tone::Faint,
                format_args!("          {site}  config desired"),
            ))),
            TopicKind::Other(rest) => Ok(Some(
                terminal.paint(Tone::Faint, format_args!("          {site}  {rest}")),
            )),
        };
        line.unwrap_or_else(|e| {
            let text = format!(
                "          {site}  unreadable message on {}: {e}",
                message.topic
            );
            Some(terminal.paint(Tone::Warn, text))
        })
    }

    /// `text` after its time, unless it was the last thing shown for the topic.
    fn news(&mut self, message: &Message, time: UtcMicros, text: String) -> Option<String> {
        let line = format!("{}  {text}", clock_of(time));
        let is_news = self.shown.get(&message.topic) != Some(&text);
        self.shown.insert(message.topic.clone(), text);
        is_news.then_some(line)
    }
}

/// A short message as it is.
fn from_centre(site: &str, what: &str, payload: &[u8], terminal: Terminal) -> String {
    let text = String::from_utf8_lossy(payload);
    let short: String = text.chars().take(200).collect();
    terminal.paint(
        Tone::Faint,
        format_args!("          {site}  {what} {short}"),
    )
}

/// How much of an hour was watched, and why the rest was not.
fn coverage_line(site: &str, event: &Event<CoverageReport>, terminal: Terminal) -> String {
    let report = &event.data;
    let mut line = format!("{}  {site}  watched ", clock_of(report.hour));
    for (i, camera) in report.cameras.iter().enumerate() {
        let blind: u64 = camera.blind_ms.values().sum();
        let all = (camera.watched_ms + blind).max(1);
        let tone = if blind * 100 > all {
            Tone::Warn
        } else {
            Tone::Good
        };
        let share = format!("{:.1} %", 100.0 * camera.watched_ms as f64 / all as f64);
        let comma = if i > 0 { ", " } else { "" };
        line += &format!("{comma}{} {}", camera.camera, terminal.paint(tone, share));
        if let Some((cause, ms)) = camera.blind_ms.iter().max_by_key(|(_, ms)| **ms) {
            line += &format!(" ({cause} {} s)", ms / 1000);
        }
    }
    line
}

fn status_line(site: &str, status: &SiteStatus, terminal: Terminal) -> String {
    let word = if status.online {
        terminal.paint(Tone::Good, "ONLINE  ")
    } else {
        terminal.paint(Tone::Bad, "OFFLINE ")
    };
    let mut line = format!("{site}  {word}");
    if status.online {
        let plural = if status.cameras == 1 { "" } else { "s" };
        line += &format!("  {} camera{plural}", status.cameras);
        if let Some(outbox) = status.outbox.filter(|o| o.records > 0) {
            line += &format!(", {} records waiting", outbox.records);
        }
        if let Some(parked) = status.outbox.map(|o| o.parked).filter(|n| *n > 0) {
            line += &terminal.paint(Tone::Bad, format_args!(", {parked} refused for good"));
        }
    } else {
        line += "  nobody is watching there";
    }
    for problem in &status.problems {
        line += &format!("\n          {}", terminal.paint(Tone::Warn, problem));
    }
    line
}

fn camera_line(site: &str, status: &CameraStatus, terminal: Terminal) -> String {
    let report = &status.report;
    let tone = match report.state {
        CameraState::Online => Tone::Good,
        CameraState::Connecting | CameraState::Ended => Tone::Faint,
        _ => Tone::Bad,
    };
    let state = serde_json::to_value(report.state).unwrap_or_default();
    let word = terminal.paint(tone, format_args!("{:<8}", state.as_str().unwrap_or("?")));
    let mut line = format!("{site}  {word}  camera {}", report.camera);
    if let (Some(codec), Some(width), Some(height)) = (&report.codec, report.width, report.height) {
        let fps = report.fps.unwrap_or(0.0);
        line += &terminal.paint(
            Tone::Faint,
            format_args!("  {codec} {width}x{height} {fps:.0} fps"),
        );
    }
    if !report.detail.is_empty() {
        line += &format!("  {}", report.detail);
    }
    line
}

fn config_line(site: &str, report: &ConfigReport, terminal: Terminal) -> String {
    let short = |revision: &str| revision.get(..8).unwrap_or(revision).to_owned();
    let parts = report.restarted.join(", ");
    let mut line = terminal.paint(
        Tone::Faint,
        format_args!(
            "{site}  config {} in force: {parts}",
            short(&report.revision)
        ),
    );
    if let Some(rejected) = &report.rejected {
        let word = terminal.paint(Tone::Bad, "REFUSED ");
        line = format!("{site}  {word}  config {}", short(&rejected.revision));
        for p in &rejected.problems {
            let text = format!("{}:{}: {} {}", p.line, p.column, p.key, p.message);
            line += &format!("\n          {}", terminal.paint(Tone::Warn, text));
        }
    }
    line
}

fn finding_line(site: &str, event: &FindingEvent, terminal: Terminal) -> String {
    let f = &event.data;
    let word = match f.phase {
        FindingPhase::Opened => terminal.paint(Tone::Bad, "FOUND   "),
        FindingPhase::Updated => terminal.paint(Tone::Warn, "goes on "),
        FindingPhase::Closed => terminal.paint(Tone::Good, "closed  "),
        FindingPhase::Reopened => terminal.paint(Tone::Bad, "AGAIN   "),
    };
    let zone = f
        .camera
        .zone
        .as_ref()
        .map_or_else(String::new, |z| format!("/{z}"));
    let shown = match f.phase {
        FindingPhase::Closed => f.closed_at.unwrap_or(f.last_seen),
        _ => f.last_seen,
    };
    let code = terminal.paint(Tone::Bold, &f.code);
    let mut line = format!(
        "{}  {site}  {word}  {code}  {}{zone}",
        clock_of(shown),
        f.camera.id
    );
    if f.phase == FindingPhase::Closed {
        let seconds = (f.last_seen.0 - f.first_seen.0) / 1_000_000;
        line += &format!("  lasted {seconds} s");
    } else if let Some(object) = f.objects.first() {
        line += &format!("  {} {:.2}", object.label, object.score);
    }
    let short: String = f
        .finding
        .simple()
        .to_string()
        .chars()
        .rev()
        .take(6)
        .collect();
    let short: String = short.chars().rev().collect();
    let faint = format!("  class {}  #{short}.{}", f.class, f.revision);
    line += &terminal.paint(Tone::Faint, faint);
    if f.replayed {
        line += &terminal.paint(Tone::Faint, "  delivered late");
    }
    line
}

fn telemetry_line(site: &str, telemetry: &Telemetry, terminal: Terminal) -> String {
    let sum = |name: &str| -> u64 {
        let of_name = |k: &str| k == name || k.starts_with(&format!("{name}{{"));
        telemetry
            .counters
            .iter()
            .filter(|(k, _)| of_name(k))
            .map(|(_, v)| v)
            .sum()
    };
    let text = format!(
        "up {} s, {} pictures decoded, {} analysed, {} replaced, {} records waiting",
        telemetry.uptime_seconds,
        sum("decode_frames_total"),
        sum("detect_frames_total"),
        sum("frames_replaced_total"),
        sum("outbox_records"),
    );
    let time = clock_of(telemetry.time);
    format!(
        "{time}  {site}  {}",
        terminal.paint(Tone::Faint, format_args!("telemetry  {text}"))
    )
}

/// For the demo, which knows its site.
pub fn own_subscriber(mut config: UplinkConfig, site: &SiteIdentity) -> Subscriber {
    config.client_id = client_id();
    Subscriber::new(config, Topics::new(site).all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::Asked;

    fn message(topic: &str, payload: &Value) -> Message {
        let payload = if payload.is_null() {
            String::new()
        } else {
            payload.to_string()
        };
        let topic = format!("mingchu/v1/410724/site-1/{topic}");
        Message {
            topic,
            payload: payload.into(),
            retain: false,
            asked: Asked::default(),
        }
    }

    fn status(online: bool, time: &str) -> Value {
        json!({"online": online, "epoch": 7, "version": "0.1.0", "started": time, "time": time,
               "cameras": 1, "problems": ["the disk is full"]})
    }

    #[test]
    fn a_status_that_says_nothing_new_is_not_shown_again() {
        let mut view = View::new(false, Terminal::with_colour(false));
        let first = view.line(&message(
            "status",
            &status(true, "2026-11-24T03:12:07.000Z"),
        ));
        let line = "03:12:07  site-1  ONLINE    1 camera\n          the disk is full";
        assert_eq!(first.as_deref(), Some(line));
        assert_eq!(
            view.line(&message(
                "status",
                &status(true, "2026-11-24T03:13:07.000Z")
            )),
            None
        );
        let gone = view.line(&message(
            "status",
            &status(false, "2026-11-24T03:13:09.000Z"),
        ));
        assert!(gone.is_some_and(|l| l.contains("OFFLINE   nobody is watching there")));
    }

    #[test]
    fn what_is_not_ours_is_shown_as_such_and_what_is_internal_is_not() {
        let mut view = View::new(false, Terminal::with_colour(false));
        let odd = view.line(&message("status", &json!({"online": "perhaps"})));
        assert!(odd.is_some_and(|l| l.contains("unreadable message")));
        let active = "active/01935c3a-0000-7000-8000-000000000001";
        assert_eq!(view.line(&message(active, &Value::Null)), None);
        let strange = Message {
            topic: "mingchu/v9/x".to_owned(),
            ..message("status", &Value::Null)
        };
        assert!(
            view.line(&strange)
                .is_some_and(|l| l.contains("unknown topic"))
        );
    }
}
