//! The status page of the box: `/metrics` for Prometheus and `/healthz` for a watchdog or a person, over
//! HTTP, on loopback unless the config says otherwise, and then with a token.
//!
//! What must not be here: anything that changes the site. The page reads what the site publishes
//! anyway ([`Source`]) and knows no secret but its own token.
//!
//! # Failure
//! A port that is taken is a problem in the site's status and tried again every minute: a box must
//! watch although nobody can read its page. Readers are hostile until they have shown the token: at
//! most 8 at once, 5 s for their request, and no body is read.
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::config::StatusConfig;
use super::health::{Problems, state_word};
use crate::base::digest::sha256_hex;
use crate::base::heartbeat::Heartbeats;
use crate::base::metrics::{Metric, Metrics};
use crate::base::time::{SharedClock, UtcMicros};
use crate::base::words;
use crate::uplink::{CameraState, OutboxStatus, SiteState, StoreHandle, UplinkHealth};

/// Readers served at once; others wait in the system's queue.
const MOST_READERS: usize = 8;
/// How long a reader may take for its request, and for the whole.
const HEAD_WAIT: Duration = Duration::from_secs(5);
const WHOLE_WAIT: Duration = Duration::from_secs(20);
/// Wait before a port that is taken is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);
/// Name of the problem in the site's status.
const PROBLEM: &str = "status page";
/// What every metric's name begins with on the page.
pub const PREFIX: &str = "mingchu_";

/// Where the page has its news from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The site's metrics.
    pub metrics: Metrics,
    /// Who makes progress.
    pub heartbeats: Heartbeats,
    /// What the site says of itself.
    pub state: watch::Receiver<SiteState>,
    /// How the line to the broker is.
    pub uplink: watch::Receiver<UplinkHealth>,
    /// What waits.
    pub store: StoreHandle,
    /// The site's clock.
    pub clock: SharedClock,
}

/// What `/healthz` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`; `degraded`: it watches, and `problems` or a camera need a look; `stuck`: a part of the
    /// pipeline makes no progress, and the answer's HTTP status is 503.
    #[schemars(extend("enum" = ["ok", "degraded", "stuck"]))]
    pub status: String,
    /// The daemon's version.
    pub version: String,
    /// Since it started.
    pub uptime_seconds: u64,
    /// What a person should look at, in English, one line each.
    pub problems: Vec<String>,
    /// The same in Chinese.
    pub problems_zh: Vec<String>,
    /// Parts of the pipeline that make no progress.
    pub stuck: Vec<String>,
    /// All cameras.
    pub cameras: Vec<CameraHealth>,
    /// The line to the broker.
    pub uplink: LineHealth,
    /// What waits to be sent.
    pub outbox: OutboxStatus,
}

/// One camera on the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CameraHealth {
    /// Its name.
    pub camera: String,
    /// Its state.
    pub state: CameraState,
    /// Since when (RFC 3339).
    pub since: String,
    /// Why, in English; empty while online.
    pub detail: String,
}

/// The line to the broker on the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LineHealth {
    /// Whether the broker has let us in.
    pub connected: bool,
    /// Since when this is so (RFC 3339).
    pub since: String,
    /// Why not, with the remedy.
    pub error: Option<String>,
}

impl Source {
    /// What `/healthz` answers.
    pub fn health(&self) -> Health {
        let state = self.state.borrow().clone();
        let uplink = self.uplink.borrow().clone();
        let stuck: Vec<String> = self.heartbeats.stuck().into_iter().map(|s| s.0).collect();
        let blind = |c: &CameraState| !matches!(c, CameraState::Online | CameraState::Connecting);
        let problems = || state.problems.iter().chain(&uplink.problems);
        let needs_a_look =
            problems().next().is_some() || state.cameras.iter().any(|c| blind(&c.state));
        let status = match (stuck.is_empty(), needs_a_look) {
            (false, _) => "stuck",
            (true, true) => "degraded",
            (true, false) => "ok",
        };
        let cameras = state.cameras.iter().map(|c| CameraHealth {
            camera: c.camera.clone(),
            state: c.state,
            since: c.since.to_string(),
            detail: c.detail.clone(),
        });
        Health {
            status: status.to_owned(),
            version: state.version.clone(),
            uptime_seconds: self.uptime_seconds(state.started),
            problems: problems().map(|p| p.en.clone()).collect(),
            problems_zh: problems().map(|p| p.zh.clone()).collect(),
            stuck,
            cameras: cameras.collect(),
            uplink: LineHealth {
                connected: uplink.connected,
                since: uplink.since.to_string(),
                error: uplink.error.clone(),
            },
            outbox: self.store.stats(),
        }
    }

    fn uptime_seconds(&self, started: UtcMicros) -> u64 {
        let micros = self.clock.utc().0 - started.0;
        u64::try_from(micros / 1_000_000).unwrap_or(0)
    }

    /// What `/metrics` answers: Prometheus' text format 0.0.4.
    pub fn metrics_text(&self) -> String {
        let mut page = Page::default();
        let samples = self.metrics.samples();
        for metric in Metric::ALL {
            page.family(metric.name(), metric.help(), kind_of(*metric));
            for sample in samples.iter().filter(|s| s.metric == *metric) {
                let labels: Vec<(&str, &str)> = sample
                    .labels
                    .iter()
                    .map(|(k, v)| (*k, v.as_str()))
                    .collect();
                page.value(metric.name(), &labels, sample.value);
            }
        }
        let health = self.health();
        let state = |wanted: &'static str| u64::from(health.status == wanted);
        for (name, help) in OF_THE_PAGE {
            page.family(name, help, "gauge");
            match *name {
                "build_info" => page.value(name, &[("version", &health.version)], 1),
                "health" => {
                    for word in ["ok", "degraded", "stuck"] {
                        page.value(name, &[("status", word)], state(word));
                    }
                }
                "problems" => page.value(name, &[], health.problems.len() as u64),
                "uptime_seconds" => page.value(name, &[], health.uptime_seconds),
                "uplink_connected" => page.value(name, &[], u64::from(health.uplink.connected)),
                "camera_state" => {
                    for camera in &health.cameras {
                        let word = state_word(camera.state);
                        page.value(name, &[("camera", &camera.camera), ("state", &word)], 1);
                    }
                }
                "stage_stuck" => {
                    for stage in &health.stuck {
                        page.value(name, &[("stage", stage)], 1);
                    }
                }
                _ => {
                    if let Some(value) = of_process(name) {
                        page.value(name, &[], value);
                    }
                }
            }
        }
        page.text
    }
}

/// What the page adds to the registry: name and meaning; all of them gauges but for the CPU time.
pub const OF_THE_PAGE: &[(&str, &str)] = &[
    ("build_info", "Always 1, by version."),
    (
        "health",
        "Gauge: 1 for what /healthz says, by status (ok, degraded, stuck).",
    ),
    ("problems", "Gauge: problems in the site's status."),
    ("uptime_seconds", "Gauge: seconds since the daemon started."),
    (
        "uplink_connected",
        "Gauge: 1 while the broker has let us in.",
    ),
    (
        "camera_state",
        "Gauge: 1 for the state of each camera, by camera and state.",
    ),
    (
        "stage_stuck",
        "Gauge: 1 for each part of the pipeline that makes no progress, by stage.",
    ),
    (
        "process_resident_bytes",
        "Gauge: memory of the process that is in RAM.",
    ),
    (
        "process_cpu_milliseconds",
        "Gauge: CPU time of the process so far.",
    ),
    ("process_threads", "Gauge: threads of the process."),
    (
        "process_open_files",
        "Gauge: files and sockets the process has open.",
    ),
];

fn kind_of(metric: Metric) -> &'static str {
    if metric.name().ends_with("_total") {
        "counter"
    } else {
        "gauge"
    }
}

/// Figures of this process, from `/proc` (proc(5)); `None` where there is none.
fn of_process(name: &str) -> Option<u64> {
    match name {
        "process_cpu_milliseconds" => {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            u64::try_from(t.tv_sec * 1000 + t.tv_nsec / 1_000_000).ok()
        }
        "process_open_files" => Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        _ => {
            let (field, unit) = match name {
                "process_resident_bytes" => ("VmRSS:", 1024),
                "process_threads" => ("Threads:", 1),
                _ => return None,
            };
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let line = status.lines().find_map(|l| l.strip_prefix(field))?;
            let number: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(number * unit)
        }
    }
}

/// Prometheus' text format.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, help: &str, kind: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _infallible = write!(
            self.text,
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
        );
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.text.push_str(PREFIX);
        self.text.push_str(name);
        for (i, (key, text)) in labels.iter().enumerate() {
            let text = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let open = if i == 0 { '{' } else { ',' };
            let _infallible = write!(self.text, "{open}{key}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _infallible = writeln!(self.text, " {value}");
    }
}

/// Serves the page until told to stop.
pub async fn serve(
    config: StatusConfig,
    source: Source,
    problems: Problems,
    stop: CancellationToken,
) {
    let Some(address) = config.listen else {
        return;
    };
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(e) => {
                tracing::warn!(%address, err = %e, "no status page");
                problems.set(PROBLEM, words::problem::no_status_page(address, e));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LISTEN_AGAIN) => {}
            () = stop.cancelled() => return,
        }
    };
    problems.clear(PROBLEM);
    let at = listener.local_addr().unwrap_or(address);
    tracing::info!(address = %at, "status page");
    let token = config
        .token
        .map(|t| Arc::new(sha256_hex(t.expose().as_bytes())));
    let source = Arc::new(source);
    let room = Arc::new(Semaphore::new(MOST_READERS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // No descriptor left, or the reader is gone again: neither may spin.
                tracing::debug!(err = %e, "status page: a reader was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (source, token) = (source.clone(), token.clone());
        let service = hyper::service::service_fn(move |request| {
            let response = answer(
                &request,
                &source,
                token.as_deref().map(String::as_str),
                from,
            );
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WAIT)
                .keep_alive(false)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(WHOLE_WAIT, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(err = %e, "status page: a reader was lost"),
                Err(_) => tracing::debug!("status page: a reader was too slow"),
            }
            drop(permit);
        });
    }
}

/// Answers one request. `token`: the SHA-256 of what the reader must bring.
fn answer<B>(
    request: &Request<B>,
    source: &Source,
    token: Option<&str>,
    from: SocketAddr,
) -> Response<Full<Bytes>> {
    if let Some(token) = token {
        let brought = request.headers().get(AUTHORIZATION);
        let brought = brought.and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
        // Digests are compared: how long that takes says nothing of the token.
        if brought.is_none_or(|b| sha256_hex(b.as_bytes()) != token) {
            tracing::debug!(%from, "status page: a reader without the token");
            let mut refusal = text(StatusCode::UNAUTHORIZED, "a token is needed\n".to_owned());
            let scheme = HeaderValue::from_static("Bearer");
            refusal.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            return refusal;
        }
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => {
            let mut page = text(StatusCode::OK, source.metrics_text());
            let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            page.headers_mut().insert(CONTENT_TYPE, form);
            page
        }
        "/healthz" => {
            let health = source.health();
            let status = if health.stuck.is_empty() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let body = serde_json::to_string_pretty(&health).unwrap_or_default();
            let mut page = text(status, body + "\n");
            let form = HeaderValue::from_static("application/json");
            page.headers_mut().insert(CONTENT_TYPE, form);
            page
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics and /healthz\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let form = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, form);
    response
}

/// Every metric of the page as a Markdown table, for `systemd/METRICS.md`.
pub fn reference() -> String {
    let mut out = "| metric | kind | meaning |\n| --- | --- | --- |\n".to_owned();
    let registry = Metric::ALL
        .iter()
        .map(|m| (m.name(), m.help(), kind_of(*m)));
    let page = OF_THE_PAGE
        .iter()
        .map(|(name, help)| (*name, *help, "gauge"));
    for (name, help, kind) in registry.chain(page) {
        let help = help.strip_prefix("Gauge: ").unwrap_or(help);
        let _infallible = writeln!(out, "| `{PREFIX}{name}` | {kind} | {help} |");
    }
    out
}
