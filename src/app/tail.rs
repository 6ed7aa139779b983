//! `mingchu tail`: what sites publish, readable for an operator, or as JSON for a machine.
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::config;
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::health::state_word;
use super::run::Signals;
use super::terminal::{Terminal, Tone};
use crate::base::ids::Name;
use crate::base::secret::Secret;
use crate::base::time::UtcMicros;
use crate::base::words::{self, Texts, padded, tail as said};
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
        outbox_bytes: 0,
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
            let text = said::unknown_topic(&message.topic);
            return Some(terminal.paint(Tone::Faint, terminal.say(&text)));
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
                let text = texts(data.text, data.text_zh);
                Some(format!("{time}  {site}  {word}  {}", terminal.say(&text)))
            }),
            TopicKind::CommandResult(_) => {
                serde_json::from_slice(payload).map(|r: Event<CommandResult>| {
                    let (time, data) = (clock_of(r.data.at), r.data);
                    let tone = if data.outcome == "done" {
                        Tone::Good
                    } else {
                        Tone::Warn
                    };
                    let word = padded(terminal.say(&outcome_of(&data.outcome)), 8);
                    let word = terminal.paint(tone, word);
                    let name = said::command(data.command);
                    let (name, text) = (terminal.say(&name), texts(data.text, data.text_zh));
                    let text = terminal.say(&text);
                    Some(format!("{time}  {site}  {word}  {name}  {text}"))
                })
            }
            TopicKind::Evidence(finding, n) => {
                let text = said::evidence(n, finding, payload.len());
                Ok(Some(aside(&site, terminal.say(&text), terminal)))
            }
            TopicKind::ConfigReported => serde_json::from_slice(payload).map(|c: ConfigReport| {
                self.news(message, c.applied, config_line(&site, &c, terminal))
            }),
            TopicKind::Receipt => {
                let what = said::receipt();
                Ok(Some(from_centre(&site, &what, payload, terminal)))
            }
            TopicKind::Command(name) => {
                let what = said::command(name);
                Ok(Some(from_centre(&site, &what, payload, terminal)))
            }
            TopicKind::ConfigDesired => {
                let what = said::config_desired();
                Ok(Some(aside(&site, terminal.say(&what), terminal)))
            }
            TopicKind::Other(rest) => Ok(Some(aside(&site, rest, terminal))),
        };
        line.unwrap_or_else(|e| {
            let text = said::unreadable(&message.topic, e);
            let text = format!("          {site}  {}", terminal.say(&text));
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

/// What has no time of its own and matters less.
fn aside(site: &str, text: impl std::fmt::Display, terminal: Terminal) -> String {
    terminal.paint(Tone::Faint, format_args!("          {site}  {text}"))
}

/// A short message as it is.
fn from_centre(site: &str, what: &Texts, payload: &[u8], terminal: Terminal) -> String {
    let text = String::from_utf8_lossy(payload);
    let short: String = text.chars().take(200).collect();
    aside(
        site,
        format_args!("{} {short}", terminal.say(what)),
        terminal,
    )
}

/// Both languages of a payload; a site of an older version says it in English only.
fn texts(en: String, zh: String) -> Texts {
    if zh.is_empty() {
        return Texts::same(en);
    }
    Texts { en, zh }
}

fn outcome_of(word: &str) -> Texts {
    match word {
        "done" => words::command::outcome_done(),
        "refused" => words::command::outcome_refused(),
        "expired" => words::command::outcome_expired(),
        "failed" => words::command::outcome_failed(),
        "unknown-outcome" => words::command::outcome_unknown(),
        other => Texts::same(other),
    }
}

/// How much of an hour was watched, and why the rest was not.
fn coverage_line(site: &str, event: &Event<CoverageReport>, terminal: Terminal) -> String {
    let report = &event.data;
    let watched = said::watched();
    let mut line = format!(
        "{}  {site}  {} ",
        clock_of(report.hour),
        terminal.say(&watched)
    );
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
            let blind = said::blind(words::cause_of(cause), ms / 1000);
            line += " ";
            line += terminal.say(&blind);
        }
    }
    line
}

fn status_line(site: &str, status: &SiteStatus, terminal: Terminal) -> String {
    let word = if status.online {
        terminal.paint(Tone::Good, padded(terminal.say(&said::online()), 8))
    } else {
        terminal.paint(Tone::Bad, padded(terminal.say(&said::offline()), 8))
    };
    let mut line = format!("{site}  {word}");
    if status.online {
        let cameras = match status.cameras {
            1 => said::camera_one(),
            more => said::cameras(more),
        };
        line += "  ";
        line += terminal.say(&cameras);
        if let Some(outbox) = status.outbox.filter(|o| o.records > 0) {
            let waiting = said::waiting(outbox.records);
            line += &format!(", {}", terminal.say(&waiting));
        }
        if let Some(parked) = status.outbox.map(|o| o.parked).filter(|n| *n > 0) {
            let refused = said::refused_for_good(parked);
            let refused = format!(", {}", terminal.say(&refused));
            line += &terminal.paint(Tone::Bad, refused);
        }
    } else {
        line += "  ";
        line += terminal.say(&said::nobody_watches());
    }
    let mut zh = status.problems_zh.iter();
    for problem in &status.problems {
        let problem = texts(problem.clone(), zh.next().cloned().unwrap_or_default());
        let problem = terminal.paint(Tone::Warn, terminal.say(&problem));
        line += &format!("\n          {problem}");
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
    let state = words::state_of(&state_word(report.state));
    let word = terminal.paint(tone, padded(terminal.say(&state), 8));
    let camera = said::camera(&report.camera);
    let mut line = format!("{site}  {word}  {}", terminal.say(&camera));
    if let (Some(codec), Some(width), Some(height)) = (&report.codec, report.width, report.height) {
        let fps = report.fps.unwrap_or(0.0);
        line += &terminal.paint(
            Tone::Faint,
            format_args!("  {codec} {width}x{height} {fps:.0} fps"),
        );
    }
    let detail = texts(report.detail.clone(), report.detail_zh.clone());
    if !detail.is_empty() {
        line += &format!("  {}", terminal.say(&detail));
    }
    line
}

fn config_line(site: &str, report: &ConfigReport, terminal: Terminal) -> String {
    let short = |revision: &str| revision.get(..8).unwrap_or(revision).to_owned();
    let parts = report.restarted.join(", ");
    let in_force = said::config_in_force(short(&report.revision), parts);
    let mut line = format!("{site}  {}", terminal.say(&in_force));
    line = terminal.paint(Tone::Faint, line);
    if let Some(rejected) = &report.rejected {
        let word = padded(terminal.say(&said::refused()), 8);
        let word = terminal.paint(Tone::Bad, word);
        let config = said::config(short(&rejected.revision));
        line = format!("{site}  {word}  {}", terminal.say(&config));
        for p in &rejected.problems {
            let text = format!("{}:{}: {} {}", p.line, p.column, p.key, p.message);
            line += &format!("\n          {}", terminal.paint(Tone::Warn, text));
        }
    }
    line
}

fn finding_line(site: &str, event: &FindingEvent, terminal: Terminal) -> String {
    let f = &event.data;
    let (tone, word) = match f.phase {
        FindingPhase::Opened => (Tone::Bad, said::found()),
        FindingPhase::Updated => (Tone::Warn, said::goes_on()),
        FindingPhase::Closed => (Tone::Good, said::closed()),
        FindingPhase::Reopened => (Tone::Bad, said::again()),
    };
    let word = terminal.paint(tone, padded(terminal.say(&word), 8));
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
    // A code of a site's own has the title that the site gives it.
    let title = words::known_title(&f.code).unwrap_or_else(|| f.title.clone());
    let title = terminal.say(&title);
    let title = if title.is_empty() || title == f.code {
        String::new()
    } else {
        format!("  {title}")
    };
    let mut line = format!(
        "{}  {site}  {word}  {code}{title}  {}{zone}",
        clock_of(shown),
        f.camera.id
    );
    let detail = texts(
        f.detail.clone().unwrap_or_default(),
        f.detail_zh.clone().unwrap_or_default(),
    );
    if f.phase == FindingPhase::Closed {
        let seconds = (f.last_seen.0 - f.first_seen.0) / 1_000_000;
        let lasted = said::lasted(seconds);
        line += &format!("  {}", terminal.say(&lasted));
    } else if let Some(object) = f.objects.first() {
        let label = words::label_beside(&object.label);
        line += &format!("  {} {:.2}", terminal.say(&label), object.score);
    } else if !detail.is_empty() {
        line += &format!("  {}", terminal.say(&detail));
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
    let class = said::class(f.class);
    let faint = format!("  {}  #{short}.{}", terminal.say(&class), f.revision);
    line += &terminal.paint(Tone::Faint, faint);
    if f.replayed {
        let late = format!("  {}", terminal.say(&said::late()));
        line += &terminal.paint(Tone::Faint, late);
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
    let figures = said::figures(
        telemetry.uptime_seconds,
        sum("decode_frames_total"),
        sum("detect_frames_total"),
        sum("frames_replaced_total"),
        sum("outbox_records"),
    );
    let text = said::telemetry(&figures);
    let time = clock_of(telemetry.time);
    let text = terminal.paint(Tone::Faint, terminal.say(&text));
    format!("{time}  {site}  {text}")
}

/// For the demo, which knows its site.
pub fn own_subscriber(mut config: UplinkConfig, site: &SiteIdentity) -> Subscriber {
    config.client_id = client_id();
    Subscriber::new(config, Topics::new(site).all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::words::Lang;
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
    fn an_officer_who_reads_chinese_is_told_in_chinese() {
        let terminal = Terminal::with_colour(false).with_lang(Lang::Zh);
        let mut view = View::new(true, terminal);
        let mut line = |topic: &str, payload: Value| view.line(&message(topic, &payload)).unwrap();
        let mut online = status(true, "2026-11-24T03:12:07.000Z");
        online["problems_zh"] = json!(["磁盘已满"]);
        assert_eq!(
            line("status", online),
            "03:12:07  site-1  在线      1 个摄像头\n          磁盘已满"
        );
        let camera = json!({"camera": "wok", "state": "no_video", "since": "2026-11-24T03:12:07.000Z",
            "detail": "the camera offers only audio", "detail_zh": "无视频：the camera offers only audio",
            "codec": null, "width": null, "height": null, "fps": null,
            "time": "2026-11-24T03:12:07.000Z", "epoch": 7});
        assert_eq!(
            line("camera/wok/status", camera),
            "03:12:07  site-1  无视频    摄像头 wok  无视频：the camera offers only audio"
        );
        let event = |kind: &str, data: Value| {
            json!({"specversion": "1.0", "id": "x", "source": "//mingchu/410724/site-1",
                "type": kind, "subject": "site", "time": "2026-11-24T03:12:07.000Z",
                "datacontenttype": "application/json", "seq": 1, "data": data})
        };
        let result = json!({"id": "c", "command": "mute", "outcome": "done", "text": "1 ended",
            "text_zh": "已结束 1 个", "at": "2026-11-24T03:12:07.000Z", "data": null});
        assert_eq!(
            line(
                "command/mute/result",
                event("cn.mingchu.command.result.v1", result)
            ),
            "03:12:07  site-1  完成      命令 mute  已结束 1 个"
        );
        let coverage = json!({"hour": "2026-11-24T03:00:00.000Z", "revision": 1, "partial": false,
            "cameras": [{"camera": "wok", "watched_ms": 3_240_000, "blind_ms": {"offline": 360_000}}]});
        assert_eq!(
            line("coverage", event("cn.mingchu.coverage.v1", coverage)),
            "03:00:00  site-1  已监测 wok 90.0 % （摄像头无法连接 360 秒）"
        );
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
