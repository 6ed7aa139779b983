//! `mingchu demo`: an RTSP camera, an MQTT broker and the daemon in one process, with no config. Only
//! the surroundings are the demo's own; the daemon is the one that `run` runs.
mod broker;
pub mod rtsp_server;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::broker::DemoBroker;
pub use self::broker::LOG_FILTER;
use self::rtsp_server::{Clip, ClipUnit, Reports};
use super::blocking::on_thread;
use super::config::{self, CODES, Problems, SiteConfig, toml_text};
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::models::shipped_or;
use super::run::Signals;
use super::site::{RunningSite, Site, find_upwards};
use super::tail::{self, View};
use super::terminal::{Terminal, Tone};
use crate::base::metrics::Metric;
use crate::base::secret::Secret;
use crate::base::time::{SystemClock, process_cpu};
use crate::base::words::{Texts, demo as words, padded};
use crate::capture::{OpenContainer as _, SourceConfig};
use crate::decode::Clips;
use crate::uplink::{Heard, SiteStatus, Topics};

/// Made at set-up.
pub const CLIP: &str = ".runtime/demo/kitchen.mp4";
/// After the daemon's goodbye, what is on its way to the tail may take this long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// A camera or clip of the user's own.
    pub source: Option<String>,
    /// User name and password for it.
    pub login: Option<(String, Secret)>,
    /// Until Ctrl-C if absent.
    pub duration: Option<Duration>,
}

/// A folder that goes when the demo does.
struct StateDir(PathBuf);

impl StateDir {
    fn new() -> std::io::Result<Self> {
        let name = format!("mingchu-demo-{:016x}", fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        // Fails if it exists: what somebody else put there is not ours to use or to remove.
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(err = %e, "the demo's folder {} stays", self.0.display());
        }
    }
}

/// Reads a clip whole into memory.
///
/// # Errors
/// It is no video, or there is no picture in it.
pub fn read_clip(path: &Path) -> anyhow::Result<Clip> {
    read_beginning(path, Duration::MAX)
}

/// The same, up to the first key picture that is `most` from the first picture or later.
///
/// # Errors
/// As [`read_clip`].
pub fn read_beginning(path: &Path, most: Duration) -> anyhow::Result<Clip> {
    let most_90k = i64::try_from(most.as_millis() * 90).unwrap_or(i64::MAX);
    let mut container = Clips.open(path)?;
    let codec = container.info().codec;
    let mut units: Vec<ClipUnit> = Vec::new();
    while let Some(unit) = container.next_unit()? {
        let begin = units.first().map_or(unit.pts.0, |first| first.pts_90k);
        if unit.is_key && unit.pts.0.saturating_sub(begin) >= most_90k {
            break;
        }
        units.push(ClipUnit {
            data: unit.data,
            pts_90k: unit.pts.0,
            is_key: unit.is_key,
        });
    }
    let (Some(first), Some(last)) = (
        units.iter().map(|u| u.pts_90k).min(),
        units.iter().map(|u| u.pts_90k).max(),
    ) else {
        bail!("{} holds no picture", path.display());
    };
    let gaps = i64::try_from(units.len())? - 1;
    let period = if gaps > 0 {
        (last - first) / gaps
    } else {
        90_000
    };
    Ok(Clip {
        codec,
        units,
        duration_90k: last - first + period,
    })
}

/// Starts the demo's camera and returns its URL.
async fn start_camera(stop: CancellationToken) -> anyhow::Result<String> {
    let path = find_upwards(Path::new(CLIP)).ok_or_else(|| {
        anyhow!("there is no {CLIP} here: run `make demo`, which makes it, or give --source")
    })?;
    let clip = on_thread("read-clip", move || read_clip(&path)).await??;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("rtsp://{}/kitchen", listener.local_addr()?);
    tokio::spawn(async move {
        if let Err(e) = rtsp_server::serve(listener, Arc::new(clip), Reports::default(), stop).await
        {
            tracing::error!(err = %e, "the demo's camera ended");
        }
    });
    Ok(url)
}

/// The user's own source as a config URL.
fn own_source(source: &str) -> anyhow::Result<String> {
    if source.starts_with("rtsp:") {
        return Ok(source.to_owned());
    }
    let path = Path::new(source.strip_prefix("file:").unwrap_or(source));
    let path = path.canonicalize().with_context(|| {
        format!("{source}: give rtsp://host/path or a video file that is there")
    })?;
    Ok(format!("file:{}", path.display()))
}

/// The config that an integrator would write for this.
fn site_toml(url: &str, state_dir: &Path, models: &[PathBuf], broker_port: u16) -> String {
    let repeat = if url.starts_with("file:") {
        "repeat = true\n"
    } else {
        ""
    };
    let models = models.iter().map(|m| toml_text(&m.display().to_string()));
    let models: Vec<String> = models.collect();
    let mut rules = String::new();
    for code in CODES.iter().map(|c| c.code) {
        rules += &format!(
            "[[rule]]\nid = \"{code}\"\ncode = \"{code}\"\nclear_ms = 6000\nupdate_ms = 5000\n"
        );
    }
    format!(
        "[site]\nregion = \"000000\"\nid = \"demo\"\nstate_dir = {state_dir}\n\
         [status]\nlisten = \"off\"\n\
         [uplink]\nbroker = \"mqtt://127.0.0.1:{broker_port}\"\ntelemetry_s = 10\n\
         [detect]\nmodels = [{models}]\n\
         [[camera]]\nid = \"wok-1\"\nurl = {url}\n{repeat}{rules}",
        state_dir = toml_text(&state_dir.display().to_string()),
        models = models.join(", "),
        url = toml_text(url),
    )
}

fn site_config(
    options: &DemoOptions,
    url: &str,
    state_dir: &Path,
    broker_port: u16,
) -> Result<SiteConfig, Failure> {
    let text = site_toml(url, state_dir, &shipped_or(&[])?, broker_port);
    let parsed = config::parse(Path::new("demo"), &text);
    let mut config = parsed
        .config
        .ok_or(Problems(parsed.problems))
        .or_exit(ExitCode::Usage)?;
    if let (Some(own), SourceConfig::Rtsp { login, .. }) =
        (&options.login, &mut config.cameras[0].capture.source)
    {
        *login = Some(own.clone());
    }
    Ok(config)
}

/// Runs the demo until its time is up or a signal comes.
///
/// # Errors
/// [`Failure`] with the exit code, above all when set-up has not been run.
pub async fn run(options: DemoOptions, terminal: Terminal) -> Outcome {
    let mut signals = Signals::catch().or_exit(ExitCode::Internal)?;
    let camera_stop = CancellationToken::new();
    let url = match &options.source {
        Some(source) => own_source(source).or_exit(ExitCode::Usage)?,
        None => start_camera(camera_stop.clone())
            .await
            .or_exit(ExitCode::Config)?,
    };
    let started = on_thread("start-broker", DemoBroker::start).await;
    let broker = started
        .or_exit(ExitCode::Internal)?
        .or_exit(ExitCode::Unavailable)?;
    let port = broker.port();
    let state_dir = StateDir::new().or_exit(ExitCode::CannotCreate)?;
    let config = site_config(&options, &url, &state_dir.0, port)?;
    let topics = Topics::new(&config.identity);
    terminal.line(terminal.paint(Tone::Bold, "mingchu demo"));
    let until = match options.duration {
        Some(duration) => words::for_seconds(duration.as_secs()),
        None => words::until_ctrl_c(),
    };
    let watch = format!("mosquitto_sub -V mqttv5 -p {port} -v -t 'mingchu/#'");
    for (name, what) in [
        (words::camera(), Texts::same(url.clone())),
        (
            words::broker(),
            Texts::same(format!("mqtt://127.0.0.1:{port}  (MQTT 5)")),
        ),
        (words::watch(), Texts::same(watch)),
        (words::below(), words::operator_sees(&until)),
    ] {
        print_row(terminal, &name, terminal.say(&what));
    }
    terminal.line("");

    let mut view = View::new(false, terminal);
    let mut tail = tail::own_subscriber(config.uplink.clone(), &config.identity);
    let built = on_thread("build", || Site::build(config, SystemClock::shared()));
    let mut site = built.await.or_exit(ExitCode::Internal)??.start()?;
    let clock = SystemClock::shared();
    let begun = clock.mono();
    let deadline = async {
        match options.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let outcome = loop {
        tokio::select! {
            heard = tail.next() => drop(show(&heard, &topics, &mut view, terminal)),
            () = &mut deadline => break Ok(()),
            () = signals.next() => break Ok(()),
            fault = site.fault() => break Err(Failure::new(ExitCode::Internal, fault)),
        }
    };
    let figures = Figures::of(&site, clock.mono().since(begun));
    let goodbye = async {
        loop {
            let heard = tail.next().await;
            if show(&heard, &topics, &mut view, terminal) {
                return;
            }
        }
    };
    let stop = async {
        let (metrics, store) = (site.metrics.clone(), site.store.clone());
        site.stop().await;
        figures.finish(&metrics, store.stats().records)
    };
    tokio::pin!(goodbye);
    let figures = tokio::select! {
        figures = async {
            let figures = stop.await;
            drop(tokio::time::timeout(LAST_WORDS, &mut goodbye).await);
            figures
        } => figures,
        () = signals.next() => {
            terminal.line(terminal.say(&words::at_once()));
            std::process::exit(130);
        }
    };
    camera_stop.cancel();
    if !broker.is_running() {
        let text = words::broker_ended();
        terminal.line(terminal.paint(Tone::Warn, terminal.say(&text)));
    }
    figures.print(terminal);
    outcome
}

/// Prints what was heard; true if it was the daemon's goodbye.
fn show(heard: &Heard, topics: &Topics, view: &mut View, terminal: Terminal) -> bool {
    match heard {
        Heard::Connected => false,
        Heard::Lost { error, .. } => {
            tracing::warn!(err = %error.chain(), "the demo's listener lost the broker");
            false
        }
        Heard::Message(message) => {
            if let Some(line) = view.line(message) {
                terminal.line(line);
            }
            let status = serde_json::from_slice::<SiteStatus>(&message.payload);
            message.topic == topics.status() && status.is_ok_and(|s| !s.online)
        }
    }
}

/// A name in its column, and what there is to say.
fn print_row(terminal: Terminal, name: &Texts, what: &str) {
    let name = padded(terminal.say(name), 8);
    terminal.line(format_args!("  {name}  {what}"));
}

/// What the summary says.
struct Figures {
    elapsed: Duration,
    cpu: Duration,
    decoded: u64,
    looked_at: u64,
    still: u64,
    replaced: u64,
    dropped: u64,
    /// Opened, updated, closed.
    changes: [u64; 3],
    acked: u64,
    waiting: u64,
}

impl Figures {
    fn of(site: &RunningSite, elapsed: Duration) -> Self {
        let total = |metric| site.metrics.total(metric);
        Self {
            elapsed,
            cpu: process_cpu(),
            decoded: total(Metric::DecodeFrames),
            looked_at: total(Metric::DetectFrames),
            still: total(Metric::FramesStill),
            replaced: total(Metric::FramesReplaced),
            dropped: total(Metric::CaptureUnitsDropped),
            changes: [0; 3],
            acked: 0,
            waiting: 0,
        }
    }

    /// Adds what is only final once the site has stopped.
    fn finish(mut self, metrics: &crate::base::metrics::Metrics, waiting: u64) -> Self {
        self.changes = ["opened", "updated", "closed"].map(|phase| {
            let counter = metrics.counter(Metric::FindingChanges, &[("phase", phase)]);
            counter.value()
        });
        self.acked = metrics.total(Metric::UplinkAcked);
        self.waiting = waiting;
        self
    }

    fn print(&self, terminal: Terminal) {
        let seconds = self.elapsed.as_secs_f64();
        let after = words::after(format_args!("{seconds:.0}"));
        terminal.line("");
        terminal.line(terminal.paint(Tone::Bold, terminal.say(&after)));
        let [opened, updated, closed] = self.changes;
        let cost = self.cpu.as_secs_f64() / seconds.max(0.001);
        for (name, what) in [
            (
                words::pictures(),
                words::seen(
                    self.decoded,
                    self.looked_at,
                    self.still,
                    self.replaced,
                    self.dropped,
                ),
            ),
            (words::findings(), words::changes(opened, updated, closed)),
            (
                words::delivery(),
                words::delivered(self.acked, self.waiting),
            ),
            (words::cost(), words::of_one_core(format_args!("{cost:.2}"))),
        ] {
            print_row(terminal, &name, terminal.say(&what));
        }
    }
}
