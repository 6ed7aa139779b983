//! Eight cameras, a broker and a daemon for a chosen time, with faults: `make soak SOAK_MINUTES=30`.
//!
//! ```text
//! cargo bench --locked --bench soak -- --minutes 30 [--seed 1] [--out tests/soak.svg]
//! ```
//! The daemon is the shipped program, in a process of its own, watched from outside: memory, threads, file
//! handles and CPU from `/proc`, the outbox from its status page, once a second. Between it and its eight
//! cameras and its broker (mosquitto) stand gates of ours, which cut, stall and garble what goes through;
//! the broker is also killed. The faults come from a seed, one after the other.
//!
//! Without `--minutes` (as `make bench` calls it) it says so and ends.
//!
//! Printed at the end: the slope of memory over time with its 95 % interval, by minute, the first fifth of
//! the run left out; and whether every record that was committed arrived.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark prints, takes the time, and ends where its surroundings fail"
)]
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mingchu::app::demo::read_clip;
use mingchu::app::demo::rtsp_server::{Reports, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

#[path = "common/mod.rs"]
mod common;
use common::root;

const CAMERAS: usize = 8;
/// Quiet time after the last fault, in which the outbox must run empty.
const CALM: Duration = Duration::from_secs(60);

/// What a gate does with what goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    Open = 0,
    /// Connections end, new ones too.
    Cut = 1,
    /// Connections stay, nothing goes through.
    Stalled = 2,
    /// One byte in a thousand is another one.
    Garbled = 3,
}

/// A TCP proxy on a port of its own.
#[derive(Clone)]
struct Gate {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
}

impl Gate {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(0));
        let of = mode.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if of.load(Ordering::Relaxed) == Passing::Cut as u8 {
                    continue;
                }
                tokio::spawn(pass(client, target, of.clone()));
            }
        });
        Self { address, mode }
    }

    fn set(&self, passing: Passing) {
        self.mode.store(passing as u8, Ordering::Relaxed);
    }
}

fn set_all(gates: &[Gate], passing: Passing) {
    for gate in gates {
        gate.set(passing);
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, mode: Arc<AtomicU8>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let (mut up, mut down) = ([0; 16384], [0; 16384]);
    let mut random = fastrand::Rng::with_seed(1);
    loop {
        let now = mode.load(Ordering::Relaxed);
        if now == Passing::Cut as u8 {
            return;
        }
        if now == Passing::Stalled as u8 {
            sleep(Duration::from_millis(100)).await;
            continue;
        }
        tokio::select! {
            n = client.read(&mut up) => {
                let Ok(n @ 1..) = n else { return };
                if server.write_all(&up[..n]).await.is_err() { return }
            }
            n = server.read(&mut down) => {
                let Ok(n @ 1..) = n else { return };
                if now == Passing::Garbled as u8 {
                    for byte in &mut down[..n] {
                        if random.u16(..1000) == 0 {
                            *byte = random.u8(..);
                        }
                    }
                }
                if client.write_all(&down[..n]).await.is_err() { return }
            }
            // Looks at the mode again, whether anything comes or not.
            () = sleep(Duration::from_millis(200)) => {}
        }
    }
}

/// mosquitto on one port, killed and started again.
struct Broker {
    child: Child,
    config: PathBuf,
    port: u16,
}

impl Broker {
    fn start(dir: &Path) -> Self {
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .unwrap()
            .port();
        let config = dir.join("mosquitto.conf");
        // What it has acknowledged it must not lose when it is killed: a message goes to the listener,
        // whose session it keeps, at once, and to the disk as soon as it comes.
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {}/\nautosave_interval 1\nautosave_on_changes true\nuser root\n\
             max_queued_messages 0\n",
            dir.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Self::run(&config);
        Self {
            child,
            config,
            port,
        }
    }

    fn run(config: &Path) -> Child {
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|p| Path::new(p).exists())
            .unwrap_or("mosquitto");
        Command::new(program)
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto: `.ci/setup test` installs it")
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn again(&mut self) {
        self.child = Self::run(&self.config);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What arrived, by an MQTT client that is not ours.
struct Centre {
    child: Child,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Clone, Default)]
struct Heard {
    seqs: BTreeSet<u64>,
    findings: u64,
    repeated: u64,
}

impl Centre {
    fn start(port: u16) -> Self {
        let port = port.to_string();
        let args = [
            "-oL",
            "mosquitto_sub",
            "-V",
            "mqttv5",
            "-q",
            "1",
            "-c",
            "-i",
            "centre",
        ];
        let topics = ["finding/#", "coverage", "notice"];
        let mut command = Command::new("stdbuf");
        command
            .args(args)
            .args(["-x", "86400", "-h", "127.0.0.1", "-p", &port, "-F", "%t %p"]);
        for topic in topics {
            command.args(["-t", &format!("mingchu/v1/+/+/{topic}")]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub: `.ci/setup test` installs it");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let into = heard.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Some((topic, payload)) = line.split_once(' ') else {
                    continue;
                };
                let Ok(event) = serde_json::from_str::<serde_json::Value>(payload) else {
                    continue;
                };
                let mut heard = into.lock().unwrap();
                heard.findings += u64::from(topic.contains("/finding/"));
                if let Some(seq) = event["seq"].as_u64() {
                    heard.repeated += u64::from(!heard.seqs.insert(seq));
                }
            }
        });
        Self { child, heard }
    }
}

impl Drop for Centre {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One second of the daemon's life.
#[derive(Clone, Copy, Default)]
struct Sample {
    at_s: f64,
    rss_mib: f64,
    threads: f64,
    handles: f64,
    outbox: f64,
    cpu_percent: f64,
}

fn status_field(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let number = line.and_then(|l| l.trim_start_matches([':', '\t', ' ']).split(' ').next());
    number
        .and_then(|n| n.trim().parse().ok())
        .unwrap_or(f64::NAN)
}

/// Clock ticks of the process so far, in user and system mode.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(") ")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)
}

async fn metrics(address: SocketAddr) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    timeout(Duration::from_secs(2), ask).await.ok()?
}

fn metric(text: &str, name: &str) -> Option<f64> {
    let is = |l: &&str| {
        l.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
    };
    let lines = text.lines().filter(is);
    let values = lines.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.reduce(|a, b| a + b)
}

/// Slope by least squares with its half 95 % interval, per unit of the first.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    let b = sxy / sxx;
    let residual: f64 = points
        .iter()
        .map(|p| (p.1 - my - b * (p.0 - mx)).powi(2))
        .sum();
    // Student's t for 95 %, to a hundredth from 10 degrees of freedom on.
    let freedom = n - 2.0;
    let t = 1.96 + 2.4 / freedom + 3.0 / freedom.powi(2);
    (b, t * (residual / freedom / sxx).sqrt())
}

/// Means by minute of what comes after the first fifth.
fn by_minute(samples: &[Sample], of: fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let from = samples.len() / 5;
    let minutes = samples[from..].chunks(60).filter(|c| c.len() >= 30);
    let mean = |c: &[Sample], f: fn(&Sample) -> f64| c.iter().map(f).sum::<f64>() / c.len() as f64;
    minutes
        .map(|c| (mean(c, |s| s.at_s) / 3600.0, mean(c, of)))
        .collect()
}

/// The run as a picture: one panel a figure, a line at each fault.
fn drawing(samples: &[Sample], faults: &[(f64, String)]) -> String {
    type Panel = (&'static str, fn(&Sample) -> f64);
    const PANELS: [Panel; 5] = [
        ("memory (RSS), MiB", |s| s.rss_mib),
        ("threads", |s| s.threads),
        ("file handles", |s| s.handles),
        ("records in the outbox", |s| s.outbox),
        ("CPU, % of one core", |s| s.cpu_percent),
    ];
    const LEFT: f64 = 60.0;
    const WIDTH: f64 = 900.0;
    const HEIGHT: f64 = 110.0;
    const STEP: f64 = 150.0;
    let end = samples.last().map_or(1.0, |s| s.at_s).max(1.0);
    let x = |at: f64| LEFT + at / end * WIDTH;
    let tall = STEP * PANELS.len() as f64 + 50.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {tall}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        LEFT + WIDTH + 20.0
    );
    for (i, (title, of)) in PANELS.iter().enumerate() {
        let top = 25.0 + STEP * i as f64;
        let values: Vec<f64> = samples.iter().map(of).filter(|v| v.is_finite()).collect();
        let most = values.iter().copied().fold(1.0_f64, f64::max) * 1.05;
        let y = |v: f64| top + HEIGHT * (1.0 - v / most);
        writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\">{title}</text>", top - 6.0).unwrap();
        for share in [0.0, 0.5, 1.0] {
            let (at, label) = (y(most * share), most * share);
            let digits = usize::from(most < 10.0);
            writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label:.digits$}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                at + 4.0
            )
            .unwrap();
        }
        for (at, what) in faults {
            let colour = if what.contains("broker") {
                "#d62728"
            } else {
                "#ff7f0e"
            };
            writeln!(
                svg,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top}\" y2=\"{1}\" stroke=\"{colour}\" stroke-opacity=\"0.35\"/>",
                x(*at),
                top + HEIGHT
            )
            .unwrap();
        }
        let points: Vec<String> = samples
            .iter()
            .filter(|s| of(s).is_finite())
            .map(|s| format!("{:.1},{:.1}", x(s.at_s), y(of(s))))
            .collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"#1f4e9c\" stroke-width=\"1.2\" points=\"{}\"/>",
            points.join(" ")
        )
        .unwrap();
    }
    let bottom = 25.0 + STEP * PANELS.len() as f64;
    for tenth in 0..=10 {
        let at = end * f64::from(tenth) / 10.0;
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{:.0}</text>",
            x(at),
            bottom - 10.0,
            at / 60.0
        )
        .unwrap();
    }
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\">minutes; orange: a fault of a camera begins, red: of the broker or its line</text>\n</svg>",
        bottom + 12.0
    )
    .unwrap();
    svg
}

/// One fault from begin to end; what it was.
async fn fault(
    random: &mut fastrand::Rng,
    cameras: &[Gate],
    line: &Gate,
    broker: &Mutex<Broker>,
    tell: impl Fn(String),
) {
    let camera = random.usize(..cameras.len());
    let seconds = random.u64(5..25);
    let lasts = Duration::from_secs(seconds);
    let through = |gate: &Gate, passing| {
        gate.set(passing);
        gate.clone()
    };
    match random.u8(..8) {
        0 | 1 => {
            tell(format!("camera {camera} cut for {seconds} s"));
            let gate = through(&cameras[camera], Passing::Cut);
            sleep(lasts).await;
            gate.set(Passing::Open);
        }
        2 => {
            tell(format!("camera {camera} stalled for {seconds} s"));
            let gate = through(&cameras[camera], Passing::Stalled);
            sleep(lasts).await;
            gate.set(Passing::Open);
        }
        3 => {
            tell(format!("camera {camera} garbled for {seconds} s"));
            let gate = through(&cameras[camera], Passing::Garbled);
            sleep(lasts).await;
            gate.set(Passing::Open);
        }
        4 => {
            tell(format!("all cameras cut for {seconds} s"));
            set_all(cameras, Passing::Cut);
            sleep(lasts).await;
            set_all(cameras, Passing::Open);
        }
        5 => {
            tell(format!("broker killed for {seconds} s"));
            broker.lock().unwrap().kill();
            sleep(lasts).await;
            broker.lock().unwrap().again();
        }
        6 => {
            tell(format!("line to the broker stalled for {seconds} s"));
            let gate = through(line, Passing::Stalled);
            sleep(lasts).await;
            gate.set(Passing::Open);
        }
        _ => {
            tell(format!("line to the broker cut for {seconds} s"));
            let gate = through(line, Passing::Cut);
            sleep(lasts).await;
            gate.set(Passing::Open);
        }
    }
}

struct Daemon {
    child: Child,
    status: SocketAddr,
}

impl Daemon {
    fn start(dir: &Path, broker: SocketAddr, cameras: &[Gate]) -> Self {
        let mut config = format!(
            "[site]\nregion = \"410724\"\nid = \"soak\"\nstate_dir = \"state\"\n\
             [status]\nlisten = \"127.0.0.1:0\"\n[uplink]\nbroker = \"mqtt://{broker}\"\n\
             [detect]\nmodels = [\"{}\", \"{}\"]\nonnxruntime = \"{}\"\n",
            root("models/kitchen.toml").display(),
            root("models/heads.toml").display(),
            root(".runtime/onnxruntime/libonnxruntime.so").display(),
        );
        for (i, gate) in cameras.iter().enumerate() {
            write!(
                config,
                "[[camera]]\nid = \"cam-{i}\"\nurl = \"rtsp://{}/clip\"\n",
                gate.address
            )
            .unwrap();
        }
        for code in ["ppe.mask.missing", "ppe.hat.missing", "pest.rodent"] {
            write!(
                config,
                "[[rule]]\nid = \"{}\"\ncode = \"{code}\"\n",
                code.replace('.', "-")
            )
            .unwrap();
        }
        let path = dir.join("site.toml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mingchu"))
            .args(["run", "--config"])
            .arg(path)
            .env("MINGCHU_LOG", "warn,mingchu=info")
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let status = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("the daemon ended:\n{}", said.join("\n"));
            };
            if let Some(at) = line.split("status page address=").nth(1) {
                break at.trim().parse().unwrap();
            }
            said.push(line);
        };
        let log = dir.join("daemon.log");
        std::thread::spawn(move || {
            use std::io::Write as _;
            let mut log = std::fs::File::create(log).unwrap();
            for line in lines.map_while(Result::ok) {
                writeln!(log, "{line}").unwrap();
            }
        });
        Self { child, status }
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Eight streams of what clips there are: real ones first.
async fn cameras(stop: &CancellationToken) -> Vec<Gate> {
    let clips: Vec<_> = common::clips()
        .into_iter()
        .rev()
        .map(|(_, path)| path)
        .collect();
    assert!(!clips.is_empty(), "no clips: run `.ci/setup test`");
    let mut gates = Vec::new();
    for i in 0..CAMERAS {
        let clip = read_clip(&clips[i % clips.len()]).expect("a clip");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(
            listener,
            Arc::new(clip),
            Reports::default(),
            stop.clone(),
        ));
        gates.push(Gate::before(address).await);
    }
    gates
}

async fn soak(minutes: f64, seed: u64, out: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let cameras = cameras(&stop).await;
    let broker = Broker::start(dir.path());
    let port = broker.port;
    sleep(Duration::from_millis(500)).await;
    let centre = Centre::start(port);
    let broker = Mutex::new(broker);
    let line = Gate::before(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let mut daemon = Daemon::start(dir.path(), line.address, &cameras);
    let (pid, status) = (daemon.child.id(), daemon.status);
    let began = Instant::now();
    let lasts = Duration::from_secs_f64(minutes * 60.0);
    let faults = Mutex::new(Vec::new());
    let mut samples: Vec<Sample> = Vec::new();
    let mut newest = String::new();
    let mut watch = async || {
        let (mut before, mut asked) = (ticks(pid), Instant::now());
        while began.elapsed() < lasts {
            sleep(Duration::from_secs(1)).await;
            let (now, at) = (ticks(pid), Instant::now());
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let handles = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
            if let Some(text) = metrics(status).await {
                newest = text;
            }
            let used = now.zip(before).map_or(f64::NAN, |(a, b)| (a - b) as f64);
            samples.push(Sample {
                at_s: began.elapsed().as_secs_f64(),
                rss_mib: status_field(&text, "VmRSS") / 1024.0,
                threads: status_field(&text, "Threads"),
                handles: handles.map_or(f64::NAN, |n| n as f64),
                outbox: metric(&newest, "outbox_records")
                    .or_else(|| metric(&newest, "mingchu_outbox_records"))
                    .unwrap_or(f64::NAN),
                // A tick is 10 ms everywhere Linux runs.
                cpu_percent: used / at.duration_since(asked).as_secs_f64(),
            });
            (before, asked) = (now, at);
            if samples.len().is_multiple_of(60) {
                let s = samples[samples.len() - 1];
                println!(
                    "{:4.0} min  {:6.1} MiB  {} threads  {} handles  {} in the outbox  {:3.0} % CPU",
                    s.at_s / 60.0,
                    s.rss_mib,
                    s.threads,
                    s.handles,
                    s.outbox,
                    s.cpu_percent
                );
            }
            assert!(
                daemon.is_alive(),
                "the daemon ended by itself; see {}",
                dir.path().display()
            );
        }
    };
    let break_things = async {
        let mut random = fastrand::Rng::with_seed(seed);
        sleep(Duration::from_secs(20)).await;
        while began.elapsed() + CALM + Duration::from_secs(30) < lasts {
            let tell = |what: String| {
                println!("{:6.0} s  {what}", began.elapsed().as_secs_f64());
                faults
                    .lock()
                    .unwrap()
                    .push((began.elapsed().as_secs_f64(), what));
            };
            fault(&mut random, &cameras, &line, &broker, tell).await;
            sleep(Duration::from_secs(random.u64(5..20))).await;
        }
    };
    tokio::join!(watch(), break_things);
    let heard = centre.heard.lock().unwrap().clone();
    let faults = faults.into_inner().unwrap();
    std::fs::write(out, drawing(&samples, &faults)).unwrap();
    report(minutes, seed, &samples, faults.len(), &heard, &newest);
    println!("picture: {}", out.display());
}

fn report(
    minutes: f64,
    seed: u64,
    samples: &[Sample],
    faults: usize,
    heard: &Heard,
    metrics: &str,
) {
    let last = samples.last().copied().unwrap_or_default();
    let span = |of: fn(&Sample) -> f64| {
        let from = samples.len() / 5;
        let values: Vec<f64> = samples[from..]
            .iter()
            .map(of)
            .filter(|v| v.is_finite())
            .collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        format!("{least:.0} to {most:.0}, mean {mean:.1}")
    };
    let trend = |of: fn(&Sample) -> f64| {
        let points = by_minute(samples, of);
        if points.len() < 5 {
            return "too short for a slope".to_owned();
        }
        let (b, half) = slope(&points);
        format!(
            "{b:+.2} per hour (95 %: {:+.2} to {:+.2})",
            b - half,
            b + half
        )
    };
    let total =
        |name: &str| metric(metrics, name).or_else(|| metric(metrics, &format!("mingchu_{name}")));
    let issued = total("store_records_total").unwrap_or(f64::NAN);
    let missing = (1..=heard.seqs.last().copied().unwrap_or(0))
        .filter(|s| !heard.seqs.contains(s))
        .count();
    println!(
        "\n{minutes} min, seed {seed}, {CAMERAS} cameras, {faults} faults; the first fifth left out"
    );
    println!("| figure | range | slope |\n| --- | --- | --- |");
    println!(
        "| memory (RSS), MiB | {} | {} |",
        span(|s| s.rss_mib),
        trend(|s| s.rss_mib)
    );
    println!(
        "| threads | {} | {} |",
        span(|s| s.threads),
        trend(|s| s.threads)
    );
    println!(
        "| file handles | {} | {} |",
        span(|s| s.handles),
        trend(|s| s.handles)
    );
    println!(
        "| CPU, % of one core | {} | {} |",
        span(|s| s.cpu_percent),
        trend(|s| s.cpu_percent)
    );
    println!(
        "| records in the outbox | {} | at the end {} |",
        span(|s| s.outbox),
        last.outbox
    );
    println!(
        "{issued} records committed, {} different ones heard ({missing} missing before the newest), {} heard again, {} messages about findings",
        heard.seqs.len(),
        heard.repeated,
        heard.findings
    );
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut minutes, mut seed, mut out) = (None, 1, root("target/soak.svg"));
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--minutes" => minutes = args.next().and_then(|v| v.parse::<f64>().ok()),
            "--seed" => seed = args.next().and_then(|v| v.parse().ok()).unwrap_or(seed),
            "--out" => out = args.next().map_or(out, PathBuf::from),
            _ => {}
        }
    }
    let Some(minutes) = minutes else {
        println!("soak: say for how long: `make soak SOAK_MINUTES=30`");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(soak(minutes, seed, &out));
}
