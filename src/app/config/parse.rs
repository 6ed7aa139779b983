//! Text → [`SiteConfig`]. Everything that can be known without the models and the network is decided
//! here, once.
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::evidence::read_evidence;
use super::health::{HealthConfig, of_camera, read_health};
use super::hours::{Calendar, read_calendar};
use super::keys::SECTIONS;
use super::problem::{Problem, Problems};
use super::rules::read_rules;
use super::section::{Located, Reading, Section, did_you_mean};
use super::status::read_status;
use super::{CameraConfig, SiteConfig};
use crate::base::digest::sha256_hex;
use crate::base::ids::Name;
use crate::base::secret::Secret;
use crate::capture::{CaptureConfig, Pace, SourceConfig, Transport};
use crate::decode::{DecodeConfig, MotionConfig, QuietConfig};
use crate::detect::{DetectConfig, Provider, REGIONS_PER_S};
use crate::rules::DeviceFault;
use crate::track::TrackConfig;
use crate::uplink::{AckBy, SiteIdentity, TlsConfig, UplinkConfig};

/// Which ONNX Runtime, and where it runs the networks.
#[derive(Clone, Debug, Default)]
pub struct Library {
    /// The file; `None`: looked for.
    pub path: Option<PathBuf>,
    /// Where.
    pub provider: Provider,
}

/// What a config text gave: with mistakes in it, `config` is absent, and the rest is what can still
/// be checked.
#[derive(Debug)]
pub struct Parsed {
    /// The whole, if there is no mistake.
    pub config: Option<SiteConfig>,
    /// Model cards that are named, with their places.
    pub models: Vec<Located<PathBuf>>,
    /// `detect.onnxruntime` and `detect.provider`.
    pub onnxruntime: Library,
    /// Labels that rules name.
    pub labels: Vec<Located<String>>,
    /// All mistakes, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Reads a config file.
///
/// # Errors
/// All mistakes at once.
pub fn load(path: &Path) -> Result<SiteConfig, Problems> {
    let parsed = parse(path, &read_file(path)?);
    parsed.config.ok_or(Problems(parsed.problems))
}

/// The text of a config file.
///
/// # Errors
/// It cannot be read.
pub fn read_file(path: &Path) -> Result<String, Problems> {
    std::fs::read_to_string(path).map_err(|e| {
        Problems(vec![Problem {
            file: path.display().to_string(),
            line: 0,
            column: 0,
            key: String::new(),
            message: format!("cannot be read: {e}"),
            remedy:
                "name a config file that this user can read; config/site.example.toml shows one"
                    .to_owned(),
        }])
    })
}

/// Reads a config text that came from `path`.
pub fn parse(path: &Path, text: &str) -> Parsed {
    let reading = Reading::new(path, text);
    let (config, mut parsed) = read(&reading, path, text);
    parsed.problems = reading.into_problems();
    parsed.config = config.filter(|_| parsed.problems.is_empty());
    parsed
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// No config only if a problem was noted.
pub(super) fn read(reading: &Reading<'_>, path: &Path, text: &str) -> (Option<SiteConfig>, Parsed) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let unreadable = !errors.is_empty();
    for error in errors {
        let at = error.span().map_or(0, |s| s.start);
        reading.problem(
            Some(at),
            "",
            error.message().trim_end(),
            "correct the TOML here",
        );
    }
    read_root(reading, path, text, &root.into_inner(), unreadable)
}

/// The same of a text that is TOML already; `unreadable`: parts of it were not.
pub(super) fn read_root(
    reading: &Reading<'_>,
    path: &Path,
    text: &str,
    root: &DeTable<'_>,
    unreadable: bool,
) -> (Option<SiteConfig>, Parsed) {
    let known = || SECTIONS.iter().map(|(name, _, _)| *name);
    for (key, _) in root {
        let word: &str = key.get_ref();
        if !known().any(|k| k == word) {
            let remedy = did_you_mean(word, known())
                .unwrap_or_else(|| format!("known: {}", known().collect::<Vec<_>>().join(", ")));
            reading.problem(
                Some(key.span().start),
                word,
                "is no table of the config",
                remedy,
            );
        }
    }
    let empty = DeTable::new();
    let table = |name: &'static str| -> Section<'_, '_> {
        let found = root.iter().find(|(k, _)| k.get_ref() == name);
        let (at, table) = match found.map(|(k, v)| (k.span().start, v.get_ref())) {
            Some((at, DeValue::Table(table))) => (at, table),
            Some((at, other)) => {
                let message = format!("is a {}", other.type_str());
                reading.problem(Some(at), name, message, format!("write `[{name}]`"));
                (at, &empty)
            }
            None => (text.len(), &empty),
        };
        Section::new(reading, name, name.to_owned(), at, table)
    };
    let (site, calendar) = read_site(table("site"));
    let identity = site.as_ref().map(|(identity, _)| identity);
    let uplink = read_uplink(table("uplink"), identity);
    let evidence = read_evidence(
        table("evidence"),
        site.as_ref().map(|(_, dir)| dir.as_path()),
    );
    let (detect, models, onnxruntime) = read_detect(table("detect"));
    let track = read_track(table("track"));
    let health = read_health(table("health"));
    let status = read_status(table("status"));
    let cameras = read_cameras(
        reading,
        &tables(reading, root, "camera", unreadable),
        &health,
    );
    let mut labels = Vec::new();
    let tables = tables(reading, root, "rule", unreadable);
    let rules = read_rules(reading, &tables, cameras.as_ref(), &calendar, &mut labels);
    let rest = Parsed {
        config: None,
        models,
        onnxruntime,
        labels,
        problems: Vec::new(),
    };
    let whole = || {
        let (identity, state_dir) = site?;
        let rules = rules?;
        let mut cameras = cameras?
            .into_iter()
            .map(|(_, config)| config)
            .collect::<Option<Vec<_>>>()?;
        for rule in rules.iter().filter(|rule| !rule.late_decode) {
            for camera in &rule.config.cameras {
                cameras[camera.index()].decode.late = false;
            }
        }
        Some(SiteConfig {
            file: path.to_path_buf(),
            revision: sha256_hex(text.as_bytes()),
            identity,
            state_dir,
            calendar,
            uplink: uplink?,
            evidence: evidence?,
            detect: detect?,
            track,
            health,
            status,
            cameras,
            rules,
            desired: None,
        })
    };
    (whole(), rest)
}

/// The tables of `[[name]]` with their offsets. Notes if there is none, unless a syntax error may
/// have swallowed them.
fn tables<'r, 'a>(
    reading: &Reading<'a>,
    root: &'r DeTable<'a>,
    name: &'static str,
    unreadable: bool,
) -> Vec<(usize, &'r DeTable<'a>)> {
    let Some((key, value)) = root.iter().find(|(k, _)| k.get_ref() == name) else {
        if !unreadable {
            let message = format!("there is no `[[{name}]]`");
            let remedy =
                format!("add at least one `[[{name}]]` table: without it nothing is watched");
            reading.problem(None, name, message, remedy);
        }
        return Vec::new();
    };
    let items: Option<Vec<_>> = value.get_ref().as_array().and_then(|array| {
        let table =
            |v: &'r Spanned<DeValue<'a>>| v.get_ref().as_table().map(|t| (v.span().start, t));
        array.iter().map(table).collect()
    });
    items.unwrap_or_else(|| {
        let message = format!("is a {}", value.get_ref().type_str());
        let remedy = format!("write `[[{name}]]`, with two brackets");
        reading.problem(Some(key.span().start), name, message, remedy);
        Vec::new()
    })
}

/// The calendar is there whatever else is wrong, so that rules can be checked against it.
fn read_site(section: Section<'_, '_>) -> (Option<(SiteIdentity, PathBuf)>, Calendar) {
    let region = section.name("region");
    let site = section.name("id");
    let uscc = section.text("uscc");
    if let Some(text) = uscc
        && (text.chars().count() != 18 || !text.chars().all(|c| c.is_ascii_alphanumeric()))
    {
        let message = format!("`{text}` is not 18 letters and digits");
        section.wrong(
            "uscc",
            message,
            "take it from the business licence, or leave it out",
        );
    }
    // GB 32100 codes are upper case; the centre compares them as texts.
    let uscc = uscc.map(str::to_ascii_uppercase);
    let state_dir = section.path("state_dir").unwrap_or_else(default_state_dir);
    let calendar = read_calendar(&section);
    section.finish();
    let identity = region
        .zip(site)
        .map(|(region, site)| SiteIdentity { region, site, uscc });
    (identity.map(|i| (i, state_dir)), calendar)
}

fn default_state_dir() -> PathBuf {
    // systemd.exec(5): several directories are separated by colons; ours has one.
    let from_systemd = std::env::var_os("STATE_DIRECTORY").filter(|d| !d.is_empty());
    from_systemd.map_or_else(|| PathBuf::from("/var/lib/mingchu"), PathBuf::from)
}

fn read_uplink(section: Section<'_, '_>, site: Option<&SiteIdentity>) -> Option<UplinkConfig> {
    let broker = section
        .text("broker")
        .and_then(|text| match broker_address(text) {
            Ok(broker) => Some(broker),
            Err((message, remedy)) => {
                section.wrong("broker", message, remedy);
                None
            }
        });
    let client_id = section.text("client_id").map(str::to_owned);
    let username = section.text("username");
    let password = section.secret("password_file");
    if section.has("password_file") && username.is_none() {
        section.wrong(
            "password_file",
            "needs `username`",
            "add `username = \"…\"`",
        );
    }
    let ca_file = section.file("ca_file");
    let cert_file = section.file("cert_file");
    let key_file = section.file("key_file");
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if section.has(one) && !section.has(other) {
            let remedy = format!("add `{other} = \"…\"`, or take both out");
            section.wrong(one, format!("needs `{other}`"), remedy);
        }
    }
    if let Some(broker) = &broker {
        let tls_key = ["ca_file", "cert_file", "key_file"]
            .into_iter()
            .find(|k| section.has(k));
        match (broker.tls, tls_key) {
            (true, _) if !section.has("ca_file") => {
                let remedy = "add `ca_file = \"…\"`: the PEM file of the authority that signed the broker's certificate";
                section.wrong("broker", "is `mqtts` and needs `ca_file`", remedy);
            }
            (false, Some(key)) => {
                let remedy = "write `mqtts://` for TLS, or take the TLS files out";
                section.wrong(key, "has no use with `mqtt://`", remedy);
            }
            _ => {}
        }
    }
    let ack = section.choice(
        "ack",
        &[("broker", AckBy::Broker), ("centre", AckBy::Centre)],
    );
    let window = section.integer("window", 1..=1000);
    let keep_alive = section.integer("keep_alive_s", 5..=1200);
    let progress_timeout = section.integer("progress_timeout_s", 2..=600);
    let telemetry = section.integer("telemetry_s", 1..=86_400);
    let evidence_kbps = section.integer("evidence_kbps", 0..=1_000_000);
    let outbox_mb = section.integer("outbox_mb", 1..=1_000_000);
    section.finish();
    let broker = broker?;
    let tls = if broker.tls {
        let client = cert_file.zip(key_file);
        Some(TlsConfig {
            ca_file: ca_file?,
            client,
        })
    } else {
        None
    };
    let default_id = site.map(|s| format!("mingchu-{}-{}", s.region, s.site));
    Some(UplinkConfig {
        host: broker.host,
        port: broker.port,
        tls,
        client_id: client_id.or(default_id).unwrap_or_default(),
        login: username.map(|u| (u.to_owned(), password.unwrap_or_else(|| Secret::new("")))),
        ack: ack.unwrap_or_default(),
        window: window.unwrap_or(32) as u16,
        keep_alive: Duration::from_secs(keep_alive.unwrap_or(30)),
        progress_timeout: Duration::from_secs(progress_timeout.unwrap_or(20)),
        telemetry_every: Duration::from_secs(telemetry.unwrap_or(60)),
        evidence_kbps: evidence_kbps.unwrap_or(256) as u32,
        outbox_bytes: outbox_mb.unwrap_or(500) << 20,
    })
}

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `mqtts`.
    pub tls: bool,
}

/// Reads `mqtt://host[:port]` or `mqtts://host[:port]`.
///
/// # Errors
/// What is wrong, and what to do.
pub fn broker_address(text: &str) -> Result<BrokerAddress, (String, &'static str)> {
    const FORM: &str = "write `mqtt://host[:1883]` or `mqtts://host[:8883]`";
    let url = Url::parse(text).map_err(|e| (format!("`{text}` is no URL: {e}"), FORM))?;
    if !url.username().is_empty() || url.password().is_some() {
        let remedy = "take them out of the URL: they belong into `username` and `password_file`";
        return Err(("holds a user name or password".to_owned(), remedy));
    }
    let (tls, default_port) = match url.scheme() {
        "mqtt" => (false, 1883),
        "mqtts" => (true, 8883),
        other => return Err((format!("`{other}://` is not MQTT"), FORM)),
    };
    let host = url.host_str().filter(|h| !h.is_empty());
    let Some(host) = host else {
        return Err((format!("`{text}` names no host"), FORM));
    };
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err((format!("`{text}` has something after the port"), FORM));
    }
    // rumqttc and rustls want an IPv6 address without its brackets.
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Ok(BrokerAddress {
        host,
        port: url.port().unwrap_or(default_port),
        tls,
    })
}

type Detect = (Option<DetectConfig>, Vec<Located<PathBuf>>, Library);

fn read_detect(section: Section<'_, '_>) -> Detect {
    let resolve = |m: Located<String>| Located {
        value: section.resolve(&m.value),
        place: m.place,
    };
    let models: Option<Vec<_>> = section
        .texts("models")
        .map(|models| models.into_iter().map(resolve).collect());
    let workers = section.integer_or("workers", 1..=64, "auto");
    let workers = workers.map(|n| n as usize);
    let regions = section.integer("regions", 0..=16).map(|n| n as usize);
    let per_s = section.integer("regions_per_s", 0..=10_000);
    let onnxruntime = section.path("onnxruntime");
    let known: Vec<_> = Provider::ALL.iter().map(|p| (p.word(), *p)).collect();
    let provider = section.choice("provider", &known).unwrap_or_default();
    section.finish();
    let config = models.as_ref().map(|models| DetectConfig {
        models: models.iter().map(|m| m.value.clone()).collect(),
        workers,
        regions,
        regions_per_s: per_s.map_or(REGIONS_PER_S, |n| n as u32),
        provider,
        onnxruntime: onnxruntime.clone(),
    });
    let library = Library {
        path: onnxruntime,
        provider,
    };
    (config, models.unwrap_or_default(), library)
}

fn read_track(section: Section<'_, '_>) -> TrackConfig {
    let default = TrackConfig::default();
    let config = TrackConfig {
        score_high: section
            .number("score_high", 0.0..=1.0)
            .unwrap_or(default.score_high),
        score_low: section
            .number("score_low", 0.0..=1.0)
            .unwrap_or(default.score_low),
        match_iou: section
            .number("match_iou", 0.0..=1.0)
            .unwrap_or(default.match_iou),
        confirm_hits: section
            .integer("confirm_hits", 1..=100)
            .map_or(default.confirm_hits, |n| n as u32),
        lost_ms: section
            .integer("lost_ms", 100..=60_000)
            .unwrap_or(default.lost_ms),
    };
    if config.score_low > config.score_high {
        let message = format!(
            "is {}, above `score_high` ({})",
            config.score_low, config.score_high
        );
        section.wrong("score_low", message, "make it the lower of the two");
    }
    section.finish();
    config
}

/// By index. A camera with a mistake has no config, but perhaps a name that rules may use.
pub(super) type Cameras = Vec<(Option<Name>, Option<CameraConfig>)>;

fn read_cameras(
    reading: &Reading<'_>,
    tables: &[(usize, &DeTable<'_>)],
    health: &HealthConfig,
) -> Option<Cameras> {
    let mut ids: Vec<Name> = Vec::new();
    let mut cameras = Vec::new();
    for (i, (at, table)) in tables.iter().enumerate() {
        let section = Section::new(reading, "camera", format!("camera[{i}]"), *at, table);
        let id = section.name("id");
        note_duplicate(&section, id.as_ref(), &mut ids);
        cameras.push((id.clone(), read_camera(section, id, health)));
    }
    (!cameras.is_empty()).then_some(cameras)
}

pub(super) fn note_duplicate(section: &Section<'_, '_>, id: Option<&Name>, seen: &mut Vec<Name>) {
    let Some(id) = id else { return };
    if seen.contains(id) {
        section.wrong(
            "id",
            format!("`{id}` is there twice"),
            "give each an id of its own",
        );
    }
    seen.push(id.clone());
}

fn read_camera(
    section: Section<'_, '_>,
    id: Option<Name>,
    health: &HealthConfig,
) -> Option<CameraConfig> {
    let read_url = |key: &'static str| {
        section.text(key).and_then(|text| match source_url(text) {
            Ok(url) => Some(url),
            Err((message, remedy)) => {
                section.wrong(key, message, remedy);
                None
            }
        })
    };
    let (url, main_url) = (read_url("url"), read_url("main_url"));
    let username = section.text("username").map(str::to_owned);
    let password = section.secret("password_file");
    for (one, other) in [("username", "password_file"), ("password_file", "username")] {
        if section.has(one) && !section.has(other) {
            section.wrong(
                one,
                format!("needs `{other}`"),
                format!("add `{other} = \"…\"`"),
            );
        }
    }
    let transport = section.choice(
        "transport",
        &[("tcp", Transport::Tcp), ("udp", Transport::Udp)],
    );
    let pace = section.choice(
        "pace",
        &[("realtime", Pace::RealTime), ("fastest", Pace::Fastest)],
    );
    let repeat = section.boolean("repeat");
    let useless: &[&str] = match &url {
        Some(SourceUrl::Rtsp(_)) => &["pace", "repeat"],
        Some(SourceUrl::File(_)) => &["username", "password_file", "transport"],
        None => &[],
    };
    for key in useless.iter().filter(|k| section.has(k)) {
        let scheme = if matches!(url, Some(SourceUrl::File(_))) {
            "file:"
        } else {
            "rtsp:"
        };
        section.wrong(
            key,
            format!("has no use with a `{scheme}` url"),
            "take it out",
        );
    }
    for (key, url) in [("url", &url), ("main_url", &main_url)] {
        if let Some(SourceUrl::File(path)) = url
            && let Err(e) = std::fs::File::open(section.resolve(path))
        {
            let message = format!("{}: {e}", section.resolve(path).display());
            section.wrong(key, message, "name a clip that the daemon's user can read");
        }
    }
    if main_url.is_some() && main_url == url {
        let remedy = "name the camera's other stream, or take it out";
        section.wrong("main_url", "is the same as `url`", remedy);
    }
    let analyse_fps = section.number("analyse_fps", 0.1..=30.0);
    let gate = section.boolean("motion_gate").unwrap_or(true);
    let default = MotionConfig::default();
    let motion = MotionConfig {
        min_area: section
            .number("motion_min_area", 0.0..=1.0)
            .unwrap_or(default.min_area),
        hold: section
            .integer("motion_hold_ms", 0..=600_000)
            .map_or(default.hold, ms),
        refresh: section
            .integer("motion_refresh_ms", 100..=5000)
            .map_or(default.refresh, ms),
    };
    let late = section.boolean("late_decode");
    if late == Some(true) && !gate {
        let remedy = "take one of the two out";
        section.wrong("late_decode", "needs `motion_gate`", remedy);
    }
    let quiet = QuietConfig {
        look_every: section
            .integer("quiet_look_ms", 0..=10_000)
            .map_or(QuietConfig::default().look_every, ms),
    };
    let loop_filter = section.boolean("loop_filter").unwrap_or(true);
    let step_timeout = section.integer("step_timeout_ms", 500..=60_000);
    let silence = section.integer("silence_ms", 500..=60_000);
    let (device, picture) = of_camera(&section, health);
    let gb28181 = section.text("gb28181");
    if let Some(text) = gb28181
        && (text.len() != 20 || !text.bytes().all(|b| b.is_ascii_digit()))
    {
        section.wrong(
            "gb28181",
            format!("`{text}` is not 20 digits"),
            "correct it, or leave it out",
        );
    }
    let login = username.zip(password);
    let source_of = |url: SourceUrl| match url {
        SourceUrl::Rtsp(url) => SourceConfig::Rtsp {
            url,
            login: login.clone(),
            transport: transport.unwrap_or_default(),
        },
        SourceUrl::File(path) => SourceConfig::File {
            path: section.resolve(&path),
            pace: pace.unwrap_or_default(),
            repeat: repeat.unwrap_or(false),
        },
    };
    let capture_of = |url: SourceUrl| CaptureConfig {
        source: source_of(url),
        step_timeout: step_timeout.map_or(CaptureConfig::STEP_TIMEOUT, ms),
        silence: silence.map_or(CaptureConfig::SILENCE, ms),
    };
    let (capture, main) = (url.map(capture_of), main_url.map(capture_of));
    section.finish();
    Some(CameraConfig {
        id: id?,
        gb28181: gb28181.map(str::to_owned),
        capture: capture?,
        main,
        decode: DecodeConfig {
            analyse_fps: analyse_fps.unwrap_or(DecodeConfig::default().analyse_fps),
            motion: gate.then_some(motion),
            late: late.unwrap_or(gate),
            quiet,
            loop_filter,
            picture,
        },
        clock_limit: (!device.off.contains(&DeviceFault::Clock)).then_some(health.clock_limit),
        device,
    })
}

/// A camera's URL, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceUrl {
    /// `rtsp://…`
    Rtsp(Url),
    /// `file:…`: the path as written, possibly relative.
    File(String),
}

/// Reads `rtsp://host[:port]/path` or `file:path`.
///
/// # Errors
/// What is wrong, without the password if there is one, and what to do.
pub fn source_url(text: &str) -> Result<SourceUrl, (String, &'static str)> {
    const FORM: &str = "write `rtsp://host[:554]/path` or `file:/path/clip.mp4`";
    if let Some(path) = text.strip_prefix("file:") {
        // file:///a/b and file:/a/b are absolute, file:a/b is relative to the config file.
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(("names no file".to_owned(), FORM));
        }
        return Ok(SourceUrl::File(path.to_owned()));
    }
    let url = Url::parse(text).map_err(|e| (format!("is no URL: {e}"), FORM))?;
    if !url.username().is_empty() || url.password().is_some() {
        let remedy = "take them out of the URL: they belong into `username` and `password_file`";
        return Err(("holds a user name or password".to_owned(), remedy));
    }
    match url.scheme() {
        "rtsp" if url.host_str().is_some_and(|h| !h.is_empty()) => Ok(SourceUrl::Rtsp(url)),
        "rtsp" => Err(("names no host".to_owned(), FORM)),
        "rtsps" => {
            let remedy = "RTSP over TLS is not supported; put the camera on a network of its own and use `rtsp://`";
            Err(("is `rtsps://`".to_owned(), remedy))
        }
        other => Err((format!("`{other}:` is no camera"), FORM)),
    }
}
