//! The command line: what may be typed, and which command answers.
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::logging::{self, LogFormat};
use super::terminal::Terminal;
use super::{capacity, check, demo, detect, probe, replay, run, schema, tail, verify};
use crate::base::heap;
use crate::base::secret::Secret;
use crate::base::time::UtcMicros;
use crate::base::words::{Lang, UnknownLang};
use crate::capture::Transport;
use crate::evidence::Head;

/// Watches kitchen cameras, recognises food-safety violations, and gets every finding to the county
/// centre.
#[derive(Debug, Parser)]
#[command(name = "mingchu", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    /// What the log on standard error looks like. MINGCHU_LOG sets its levels (mingchu=debug).
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
    /// The language that tail, demo, replay and its report speak to people: zh or en. Without it the
    /// locale's (LC_ALL, LC_MESSAGES, LANG).
    #[arg(long, global = true, value_name = "LANG", value_parser = lang)]
    lang: Option<Lang>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
First steps:
  mingchu demo                                see the whole chain work, with nothing configured
  mingchu probe rtsp://192.168.1.64/stream1   what a camera sends, and the config stanza for it
  mingchu check /etc/mingchu/site.toml        every mistake in a config at once
  mingchu capacity kitchen.mp4                how many such cameras this box carries, measured here
  mingchu run --config /etc/mingchu/site.toml the daemon
  mingchu tail --broker mqtt://centre.example what arrives at the centre

Exit codes: 0 done, 64 command line, 65 not a video, or evidence that is broken, 69 not reachable, 70 a fault of ours,
73 cannot write, 77 login refused, 78 config, model or runtime library.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of a site.
    Run(RunArgs),
    /// Check a config file and the models it names: all mistakes at once, with line and remedy.
    Check(CheckArgs),
    /// Look at one camera or clip: codec, size, rate, GOP, clock, quirks, and the config stanza.
    Probe(ProbeArgs),
    /// Follow what sites publish, as an operator at the centre sees it.
    Tail(TailArgs),
    /// What the models see in pictures, as the daemon would see them.
    Detect(DetectArgs),
    /// What the daemon would find in recorded clips, the same each time, beside what is to be found.
    Replay(ReplayArgs),
    /// Whether evidence is what the site signed: a bundle, or a whole chain. Needs nothing but the files.
    Verify(VerifyArgs),
    /// A camera, a broker and the daemon in one, with no config: the main job, live.
    Demo(DemoArgs),
    /// How many cameras this box carries, found by trying; or what one camera's CPU time goes to.
    #[command(after_help = CAPACITY_HELP)]
    Capacity(CapacityArgs),
    /// The wire contract: JSON Schemas of all that is sent and read over MQTT.
    Schema(SchemaArgs),
}

#[derive(Debug, Args)]
struct CapacityArgs {
    /// What each camera shows: a clip of the kitchen at a busy time, as the camera sends it (H.264 or H.265;
    /// two minutes of it are played). Without one the demo's, or where that is not, one that is made: without
    /// people, so a kitchen costs more.
    #[arg(value_name = "CLIP")]
    clips: Vec<PathBuf>,
    /// Pictures of each camera that are looked at in a second: its analyse_fps.
    #[arg(long, value_name = "N", default_value_t = 4.0, value_parser = analyse_fps)]
    fps: f32,
    /// A model card (TOML file) instead of the shipped ones; can be given again.
    #[arg(long, value_name = "CARD")]
    models: Vec<PathBuf>,
    /// How long each number of cameras is measured once it runs steadily; with --profile, how much of
    /// each clip is played.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Most cameras that are tried.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    most: u16,
    /// 95 of 100 pictures must be looked at within so many milliseconds of their arrival.
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    p95_ms: u32,
    /// What the CPU time of one camera goes to, stage by stage, for each CLIP.
    #[arg(long, conflicts_with_all = ["most", "p95_ms"])]
    profile: bool,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

const CAPACITY_HELP: &str = "\
The built-in cameras play the clip over RTSP, each from another place on, to the daemon's own pipeline: capture,
decoding, models, tracks and rules. A number of cameras fits if no picture is dropped or replaced and 95 of 100 are
looked at in time. Every camera is decoded in full (late_decode off), as it is while something moves before it: a box
must carry its cameras at the busiest hour, and a still scene costs a fraction. The numbers are doubled until one does not fit, then what lies between is halved; Ctrl-C ends it.
Takes a minute or two, and all of the box: do not run it beside a daemon.

The built-in cameras run on a thread of their own, whose CPU time is counted apart (camera_cores) and is not in `box`;
they still need it, so a box carries rather more real cameras than found here. Evidence, store and uplink are not run:
they work when something is found, not with each picture.

--json: cameras (how many fit), verdict (exactly; at_least: --most fits; none: not even one; interrupted), plan_for
(four fifths of it), limit (what is in the way of more: kind is cores, threads, other_programs or turns; stage, words,
advice), other_programs (a warning), clip, models, cores, detect_workers (the most), and trials, of each: cameras, fits, why
(silent_cameras, units_dropped, frames_replaced, latency, rate, errors), latency_ms (from a picture's last byte to its
detections at track and rules), analysed_per_s, sampled_per_s (with those in which nothing moved), received_per_s,
box_cpu (of all cores, 0 to 1), workers (threads that ran the models), used_cores, camera_cores, other_cores, stages (cores of all its threads, busiest: of one).

--profile --json: clips, of each: clip, moving (share of the sampled pictures), analysed_per_s, total_ms and stages in
milliseconds of one core for each second of a camera. The stages from decode to rules run alone on one thread and
are timed there; receive is the session's thread of a live run; everything_else is the process's CPU time in that
live run less all others, so it can be below zero by noise. live has its threads, as a check.";

fn analyse_fps(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(fps) if (0.1..=30.0).contains(&fps) => Ok(fps),
        _ => Err("a number from 0.1 to 30 is needed".to_owned()),
    }
}

#[derive(Debug, Args)]
struct SchemaArgs {
    /// One of them (finding, command, command.mute …); without it, all in one object by name.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The site's config file.
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The config file.
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// The problems as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// One bundle's folder, an evidence folder, or a state directory.
    #[arg(value_name = "BUNDLE|DIR")]
    path: PathBuf,
    /// The site's public key (site.pub), as you have it from the site and not from this folder.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Also say whether the chain holds this entry, which the centre has from a coverage report
    /// (`evidence_head`): a chain that was cut off or rolled back is whole otherwise.
    #[arg(long, value_name = "NUMBER:SHA256")]
    head: Option<Head>,
    /// What was found as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ProbeArgs {
    /// rtsp://host/path or rtsp://host:port/path without a login, or a clip.
    #[arg(value_name = "URL")]
    target: String,
    /// User name, if the camera asks for one.
    #[arg(long)]
    username: Option<String>,
    /// File that holds the password, and nothing else.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// RTP over UDP instead of inside the RTSP connection.
    #[arg(long)]
    udp: bool,
    /// How long to watch.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TailArgs {
    /// The broker: mqtt://host (port 1883) or mqtts://host (port 8883), or with another port.
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    broker: Option<String>,
    /// Take broker, login and TLS from a site's config file, and show that site only.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// User name at the broker.
    #[arg(long, conflicts_with = "config")]
    username: Option<String>,
    /// File that holds the password, and nothing else.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// PEM file of the authorities for mqtts.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    ca_file: Option<PathBuf>,
    /// Only this region (county code).
    #[arg(long, conflicts_with = "config")]
    region: Option<String>,
    /// Only this site.
    #[arg(long, conflicts_with = "config")]
    site: Option<String>,
    /// Show telemetry too.
    #[arg(long)]
    telemetry: bool,
    /// One JSON object a line: {"topic":…,"retain":…,"payload":…}.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Your own camera (rtsp://…) or clip instead of the one made at set-up.
    #[arg(long, value_name = "URL|FILE")]
    source: Option<String>,
    /// User name of your own camera.
    #[arg(long, requires = "source")]
    username: Option<String>,
    /// File that holds its password.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// End with a summary after so many seconds; without it, at Ctrl-C.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
}

#[derive(Debug, Args)]
struct DetectArgs {
    /// JPEG, PNG, BMP or WebP files.
    #[arg(value_name = "PICTURE")]
    pictures: Vec<PathBuf>,
    /// A file that names more pictures, one a line, relative to itself.
    #[arg(long, value_name = "FILE")]
    list: Vec<PathBuf>,
    /// Model cards (TOML files); without it, those that are shipped.
    #[arg(long, value_name = "CARD", num_args = 1..)]
    models: Vec<PathBuf>,
    /// Least score that is shown: 0.01 with --json, for measuring; otherwise 0.2.
    #[arg(long, value_name = "0..1", value_parser = share)]
    min_score: Option<f32>,
    /// Folder for copies of the pictures with boxes and names of what reaches its threshold; without
    /// it `detected` in the current folder, or, with --json, none.
    #[arg(long, value_name = "FOLDER")]
    annotate: Option<PathBuf>,
    /// Look at large pictures in pieces of full resolution too, as the daemon does where something
    /// moves: finds small things, takes longer.
    #[arg(long)]
    tiles: bool,
    /// Classify this head (hair or hat, down to the collar; corners as fractions of the picture)
    /// and look for nothing else.
    #[arg(long, value_name = "X1,Y1,X2,Y2", value_parser = head_box, allow_hyphen_values = true)]
    head_box: Option<[f32; 4]>,
    /// One JSON object a line for each picture.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// Clips, H.264 or H.265, or what --save kept of some (*.jsonl). CLIP@CAMERA takes the rules and
    /// the sampling of that camera of the config.
    #[arg(value_name = "CLIP", required = true)]
    clips: Vec<PathBuf>,
    /// The site's config, whose models, rules and sampling count; without it the shipped models and
    /// a rule for each code they can see.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Camera of the config whose rules and sampling count; without it the first.
    #[arg(long, value_name = "ID", requires = "config")]
    camera: Option<String>,
    /// A model card (TOML file) instead of the others; can be given again.
    #[arg(long, value_name = "CARD")]
    models: Vec<PathBuf>,
    /// The moment at which each clip begins, for rules that ask the time of day
    /// (2026-11-24T11:30:00+08:00).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    begins: Option<UtcMicros>,
    /// What is to be found: JSON lines, one a clip: {"clip", "events": [{"code", "start_s", "end_s"}]}.
    /// Gives a table of what was found, missed and false.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Clips at a time; without it one per core. The findings are the same.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
    /// Keep what the models saw, to replay it in no time (FILE.jsonl).
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Vary a key of a rule, `RULE.KEY=LOW..HIGH[:STEP]`, such as `pest.rodent.threshold=0.3..0.8:0.05`: a
    /// table of precision, recall and delay for each value. RULE is a rule's id or a code.
    #[arg(long, value_name = "SWEEP", requires = "truth")]
    sweep: Option<String>,
    /// A plot of the sweep (FILE.svg or FILE.html).
    #[arg(long, value_name = "FILE", requires = "sweep")]
    plot: Option<PathBuf>,
    /// A report for people: timelines, findings and why, near misses (FILE.html, one file).
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Why not: what each rule lacked at a moment of the clips, in seconds from their beginning; without
    /// one, what came nearest to a finding, and with --truth why events were missed.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "all", value_parser = moment_of_clip, conflicts_with = "sweep")]
    explain: Option<replay::Explain>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    fn options(&self) -> replay::ReplayOptions {
        replay::ReplayOptions {
            inputs: self.clips.clone(),
            config: self.config.clone(),
            camera: self.camera.clone(),
            models: self.models.clone(),
            begins: self.begins,
            truth: self.truth.clone(),
            jobs: self.jobs.map(usize::from),
            save: self.save.clone(),
            sweep: self.sweep.clone(),
            plot: self.plot.clone(),
            report: self.report.clone(),
            explain: self.explain,
            json: self.json,
        }
    }
}

fn lang(text: &str) -> Result<Lang, String> {
    text.parse().map_err(|e: UnknownLang| e.to_string())
}

fn moment_of_clip(text: &str) -> Result<replay::Explain, String> {
    match text.parse() {
        _ if text == "all" => Ok(replay::Explain::All),
        Ok(at_s) if (0.0..1e9).contains(&at_s) => Ok(replay::Explain::At { at_s }),
        _ => Err("seconds from the clip's beginning are needed, such as 12.5".to_owned()),
    }
}

fn moment(text: &str) -> Result<UtcMicros, String> {
    let time: Result<jiff::Timestamp, _> = text.parse();
    time.map(|t| UtcMicros(t.as_microsecond())).map_err(|_| {
        "a time with its offset from UTC is needed: 2026-11-24T11:30:00+08:00".to_owned()
    })
}

fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(v) if (0.0..=1.0).contains(&v) => Ok(v),
        _ => Err("a number from 0 to 1 is needed".to_owned()),
    }
}

/// `x1,y1,x2,y2`, as fractions; may reach a little beyond the picture.
fn head_box(text: &str) -> Result<[f32; 4], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|v| v.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[x0, y0, x1, y1])
            if x0 < x1 && y0 < y1 && [x0, y0, x1, y1].iter().all(|v| (-2.0..=3.0).contains(v)) =>
        {
            Ok([x0, y0, x1, y1])
        }
        _ => Err("four numbers are needed, left,top,right,bottom as fractions of the picture: 0.4,0.1,0.6,0.5".to_owned()),
    }
}

fn login(
    username: Option<String>,
    password_file: Option<&PathBuf>,
) -> Result<Option<(String, Secret)>, Failure> {
    let Some(username) = username else {
        return Ok(None);
    };
    let password = match password_file {
        None => Secret::new(""),
        Some(path) => Secret::read(path).map_err(|e| {
            let reason = anyhow::anyhow!("--password-file {}: {e}", path.display());
            Failure::new(ExitCode::Usage, reason)
        })?,
    };
    Ok(Some((username, password)))
}

impl DetectArgs {
    fn options(&self) -> detect::DetectOptions {
        // `--models a.toml picture.jpg` reads as it looks: what follows and is no card is a picture.
        let is_card = |path: &&PathBuf| path.extension().is_some_and(|e| e == "toml");
        let (cards, pictures): (Vec<&PathBuf>, _) = self.models.iter().partition(is_card);
        detect::DetectOptions {
            pictures: pictures
                .into_iter()
                .chain(&self.pictures)
                .cloned()
                .collect(),
            lists: self.list.clone(),
            models: cards.into_iter().cloned().collect(),
            min_score: self.min_score.unwrap_or(if self.json { 0.01 } else { 0.2 }),
            annotate: match (&self.annotate, self.json) {
                (None, false) => Some(PathBuf::from("detected")),
                (folder, _) => folder.clone(),
            },
            tiles: self.tiles,
            head_box: self.head_box,
            json: self.json,
        }
    }
}

/// Parses the command line and runs what it asks for. Help and usage errors end the process here.
///
/// # Errors
/// [`Failure`] with the exit code.
pub fn main() -> Outcome {
    heap::settle();
    let cli = Cli::try_parse().unwrap_or_else(|e| {
        let code = if e.use_stderr() {
            ExitCode::Usage as i32
        } else {
            0
        };
        // Nothing is left to tell if the terminal is gone.
        drop(e.print());
        std::process::exit(code);
    });
    let quiet = !matches!(cli.command, Command::Run(_));
    logging::start(cli.log_format, quiet);
    // A named provider: rustls refuses to choose when a process holds several. A second call in one
    // process is no error, the first provider stays.
    drop(rustls::crypto::ring::default_provider().install_default());
    let locale = || Lang::of_locale(|name| std::env::var(name).ok());
    let terminal = Terminal::new(cli.lang.unwrap_or_else(locale));
    match &cli.command {
        Command::Check(args) => return check::run(&args.config, args.json, terminal),
        Command::Detect(args) => return detect::run(&args.options(), terminal),
        Command::Replay(args) => return replay::run(&args.options(), terminal),
        Command::Verify(args) => {
            let options = verify::VerifyOptions {
                path: args.path.clone(),
                key: args.key.clone(),
                head: args.head.clone(),
                json: args.json,
            };
            return verify::run(&options, terminal);
        }
        Command::Schema(args) => return schema::run(args.name.as_deref(), terminal),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("tokio")
        .enable_all()
        .build()
        .or_exit(ExitCode::Internal)?;
    runtime.block_on(async {
        match cli.command {
            Command::Check(_)
            | Command::Detect(_)
            | Command::Replay(_)
            | Command::Schema(_)
            | Command::Verify(_) => {
                unreachable!("answered above")
            }
            Command::Run(args) => run::run(&args.config).await,
            Command::Probe(args) => {
                let login = login(args.username, args.password_file.as_ref())?;
                let options = probe::ProbeOptions {
                    target: args.target,
                    login,
                    password_file: args.password_file,
                    transport: if args.udp {
                        Transport::Udp
                    } else {
                        Transport::Tcp
                    },
                    duration: Duration::from_secs(args.seconds),
                    json: args.json,
                };
                probe::run(options, terminal).await
            }
            Command::Tail(args) => {
                let options = tail::TailOptions {
                    config: args.config,
                    broker: args.broker,
                    login: login(args.username, args.password_file.as_ref())?,
                    ca_file: args.ca_file,
                    region: args.region,
                    site: args.site,
                    telemetry: args.telemetry,
                    json: args.json,
                };
                tail::run(options, terminal).await
            }
            Command::Capacity(args) => {
                let options = capacity::CapacityOptions {
                    clips: args.clips,
                    fps: args.fps,
                    models: args.models,
                    measure: Duration::from_secs(args.seconds),
                    most: usize::from(args.most),
                    p95_ms: args.p95_ms,
                    profile: args.profile,
                    json: args.json,
                };
                Box::pin(capacity::run(options, terminal)).await
            }
            Command::Demo(args) => {
                let options = demo::DemoOptions {
                    source: args.source,
                    login: login(args.username, args.password_file.as_ref())?,
                    duration: args.seconds.map(Duration::from_secs),
                };
                Box::pin(demo::run(options, terminal)).await
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
