//! `mingchu probe URL`: what a camera sends, what is odd about it, and what to write into the config.
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::blocking::on_thread;
use super::config::toml_text;
use super::exit::{ExitCode, Failure, OrExit as _, Outcome};
use super::terminal::{Terminal, Tone};
use crate::base::secret::Secret;
use crate::base::time::{Clock as _, SharedClock, SystemClock};
use crate::capture::{
    CaptureConfig, CaptureError, Codec, FileOpener, Pace, RtspHosts, RtspOpener, SourceOpener,
    SourceUnit, Transport,
};
use crate::decode::{Clips, DecodeError, Decoder, LONGEST_GOP};

/// Units that are decoded to see what that costs.
const DECODED_UNITS: usize = 250;

/// What to probe and how.
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    /// `rtsp://…` or a file.
    pub target: String,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// Where the password came from, for the stanza.
    pub password_file: Option<PathBuf>,
    /// How RTP comes.
    pub transport: Transport,
    /// How long to watch.
    pub duration: Duration,
    /// JSON instead of text.
    pub json: bool,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was probed, without credentials.
    pub target: String,
    /// `h264` or `h265`.
    pub codec: String,
    /// Pixels.
    pub width_px: u32,
    /// Pixels.
    pub height_px: u32,
    /// Pictures per second, by the camera's timestamps.
    pub fps: f64,
    /// Pictures from one key unit to the next: median.
    pub gop_units: Option<usize>,
    /// The same in seconds.
    pub gop_seconds: Option<f64>,
    /// Thousand bits per second.
    pub kbit_per_s: f64,
    /// Milliseconds from asking to the first picture.
    pub first_unit_ms: u64,
    /// How far the camera's clock is ahead of this machine's, in milliseconds, from RTCP.
    pub clock_ahead_ms: Option<i64>,
    /// How much faster the camera's timestamps run than this machine's clock, in parts per million.
    pub clock_drift_ppm: Option<f64>,
    /// RTP packets lost while watching.
    pub packets_lost: u64,
    /// Pictures that decoded, and milliseconds of one core for each.
    pub decoded: usize,
    /// See `decoded`.
    pub decode_ms: Option<f64>,
    /// What the camera calls its software.
    pub tool: Option<String>,
    /// What is odd, each with what it means for us.
    pub quirks: Vec<String>,
}

fn clip_path(target: &str) -> PathBuf {
    PathBuf::from(target.strip_prefix("file:").unwrap_or(target))
}

/// Opens the source that `options` names.
fn opener(options: &ProbeOptions, clock: &SharedClock) -> Result<Arc<dyn SourceOpener>, Failure> {
    let usage = |why: String| Failure::new(ExitCode::Usage, anyhow::anyhow!(why));
    if !options.target.contains("://") {
        return Ok(Arc::new(FileOpener {
            path: clip_path(&options.target),
            pace: Pace::Fastest,
            repeat: false,
            container: Arc::new(Clips),
            clock: clock.clone(),
        }));
    }
    let url = Url::parse(&options.target)
        .map_err(|e| usage(format!("`{}` is no URL: {e}", options.target)))?;
    if url.scheme() != "rtsp" {
        let scheme = url.scheme();
        return Err(usage(format!(
            "`{scheme}://` is not supported: give rtsp://host/path or a file"
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            "take the login out of the URL: it would show in process lists and logs. Give --username and --password-file instead".to_owned(),
        ));
    }
    Ok(Arc::new(RtspOpener {
        url,
        login: options.login.clone(),
        transport: options.transport,
        step_timeout: CaptureConfig::STEP_TIMEOUT,
        silence: CaptureConfig::SILENCE,
        hosts: RtspHosts::default(),
        clock: clock.clone(),
    }))
}

/// Exit code of a capture error.
fn code_of(e: &CaptureError) -> ExitCode {
    match e {
        CaptureError::Unauthorised { .. } => ExitCode::NoPermission,
        CaptureError::NoVideo(_) | CaptureError::TooLarge(_) | CaptureError::File { .. } => {
            ExitCode::Data
        }
        CaptureError::Panicked => ExitCode::Internal,
        _ => ExitCode::Unavailable,
    }
}

/// What to do about a capture error, for people.
fn remedy(e: &CaptureError) -> &'static str {
    match e {
        CaptureError::Unauthorised { .. } => {
            "Check --username and --password-file; some cameras have a separate user for RTSP."
        }
        CaptureError::Unreachable(_) => {
            "Check the address and port, the cable, and that RTSP is switched on in the camera."
        }
        CaptureError::Timeout { .. } => {
            "Something accepts the connection and does not speak RTSP, or the camera is overloaded."
        }
        CaptureError::Silent(_) => {
            "The session plays but sends nothing: try --transport udp, or another stream path."
        }
        CaptureError::NoVideo(_) => {
            "Check the path of the URL, or switch the stream to H.264 or H.265."
        }
        CaptureError::File { .. } => "Give an MP4, MKV or TS file with an H.264 or H.265 track.",
        CaptureError::Busy { .. } => {
            "Close other viewers of the camera, or wait a minute until it has forgotten an old session."
        }
        CaptureError::TooLarge(_) => {
            "Set a smaller picture size in the camera, or probe the URL of its sub stream."
        }
        CaptureError::Panicked => "Please report this with the log and the camera's model.",
        CaptureError::Ended | CaptureError::Protocol(_) | CaptureError::Flood(_) => {
            "Try another stream path, and update the camera's firmware."
        }
    }
}

/// Runs the command.
///
/// # Errors
/// The camera cannot be reached, refuses, or sends no video.
pub async fn run(options: ProbeOptions, terminal: Terminal) -> Outcome {
    let report = probe(&options).await?;
    if options.json {
        terminal.line(serde_json::to_string_pretty(&report).or_exit(ExitCode::Internal)?);
    } else {
        terminal.line(render(&report, &options, terminal));
    }
    Ok(())
}

/// Watches the source for `options.duration` and reports.
///
/// # Errors
/// As [`run`].
pub async fn probe(options: &ProbeOptions) -> Result<Report, Failure> {
    let clock = SystemClock::shared();
    let failed = |e: CaptureError| {
        let (code, remedy) = (code_of(&e), remedy(&e));
        Failure::new(code, anyhow::anyhow!("{}: {e}. {remedy}", options.target))
    };
    let asked = clock.mono();
    let mut source = opener(options, &clock)?.open().await.map_err(failed)?;
    let mut units: Vec<SourceUnit> = Vec::new();
    let mut first_unit_ms = 0;
    let mut ended = None;
    let live = options.target.contains("://");
    let watch = async {
        loop {
            match source.next().await {
                Ok(Some(unit)) => {
                    if units.is_empty() {
                        first_unit_ms = clock.mono().ms_since(asked);
                    }
                    let span = units
                        .first()
                        .map_or(0, |f| unit.pts.0.saturating_sub(f.pts.0));
                    units.push(unit);
                    // A file plays as fast as it can: watch the same stretch of it.
                    if !live && span >= options.duration.as_millis() as i64 * 90 {
                        return;
                    }
                }
                Ok(None) => return,
                Err(e) => {
                    ended = Some(e);
                    return;
                }
            }
        }
    };
    // Running out of time is how a live probe ends.
    drop(tokio::time::timeout(options.duration, watch).await);
    if units.is_empty() {
        let silent = CaptureError::Silent(options.duration);
        return Err(failed(ended.unwrap_or(silent)));
    }
    let info = source.info();
    let ahead_ms = source.clock_ahead_us().map(|us| us / 1000);
    source.close().await;

    let mut report = Report {
        target: options.target.clone(),
        codec: info.codec.name().to_owned(),
        first_unit_ms,
        clock_ahead_ms: ahead_ms,
        tool: info.tool.clone(),
        packets_lost: units.iter().map(|u| u64::from(u.packets_lost)).sum(),
        ..Report::default()
    };
    if let Some(size) = info.size {
        (report.width_px, report.height_px) = (size.width_px, size.height_px);
    } else {
        report.quirks.push(
            "the description carries no parameter sets: the first picture shows the size only"
                .to_owned(),
        );
    }
    measure(&mut report, &units, live);
    let codec = info.codec;
    let sample: Vec<SourceUnit> = units
        .iter()
        .skip_while(|u| !u.is_key)
        .take(DECODED_UNITS)
        .cloned()
        .collect();
    let decoded = on_thread("decode", move || decode_sample(codec, &sample)).await;
    match decoded.or_exit(ExitCode::Internal)? {
        Ok(Decoded { pictures: 0, .. }) => report.quirks.push(
            "no key picture came while watching: nothing could be decoded. Watch longer, and shorten the camera's I-frame interval".to_owned(),
        ),
        Ok(Decoded { pictures, ms_each, size_px }) => {
            (report.decoded, report.decode_ms) = (pictures, Some(ms_each));
            if let Some((w, h)) = size_px {
                (report.width_px, report.height_px) = (w, h);
            }
        }
        Err(e) => report.quirks.push(format!("the pictures do not decode: {e}")),
    }
    if let Some(e) = ended {
        report
            .quirks
            .push(format!("the session broke off while watching: {e}"));
    }
    Ok(report)
}

/// What decoding the sample gave.
struct Decoded {
    pictures: usize,
    ms_each: f64,
    size_px: Option<(u32, u32)>,
}

fn decode_sample(codec: Codec, units: &[SourceUnit]) -> Result<Decoded, DecodeError> {
    let mut decoder = Decoder::new(codec)?;
    let began = SystemClock.mono();
    let (mut pictures, mut size) = (0, None);
    for (tag, unit) in units.iter().enumerate() {
        decoder.send(&unit.data, tag as i64)?;
        while let Some(p) = decoder.picture()? {
            pictures += 1;
            size = Some((p.size.width_px, p.size.height_px));
        }
    }
    let ms = SystemClock.mono().since(began).as_secs_f64() * 1000.0;
    let ms_each = ms / f64::from(pictures.max(1) as u32);
    Ok(Decoded {
        pictures,
        ms_each,
        size_px: size,
    })
}

fn measure(report: &mut Report, units: &[SourceUnit], live: bool) {
    let pts = |u: &SourceUnit| u.pts.0;
    let (lowest, highest) = units
        .iter()
        .map(pts)
        .fold((i64::MAX, i64::MIN), |(a, b), p| (a.min(p), b.max(p)));
    let span_s = highest.saturating_sub(lowest) as f64 / 90_000.0;
    let bytes: usize = units.iter().map(|u| u.data.len()).sum();
    if span_s > 0.0 {
        report.fps = (units.len() - 1) as f64 / span_s;
        report.kbit_per_s = bytes as f64 * 8.0 / 1000.0 / span_s;
    }
    let keys: Vec<usize> = (0..units.len()).filter(|&i| units[i].is_key).collect();
    let mut gops: Vec<usize> = keys.windows(2).map(|w| w[1] - w[0]).collect();
    gops.sort_unstable();
    report.gop_units = gops.get(gops.len() / 2).copied();
    report.gop_seconds = report.gop_units.map(|n| n as f64 / report.fps.max(0.001));
    let quirks = &mut report.quirks;
    if units.windows(2).any(|w| w[1].pts < w[0].pts) {
        if units.iter().any(|u| u.is_disposable) || !live {
            quirks.push("pictures come out of order (B-frames): more delay and more decoding; switch them off in the camera if you can".to_owned());
        } else {
            quirks.push("timestamps step backward".to_owned());
        }
    }
    if units.windows(2).any(|w| w[1].pts == w[0].pts) {
        quirks.push("some pictures have equal timestamps".to_owned());
    }
    if report.packets_lost > 0 {
        quirks.push(format!(
            "{} RTP packets were lost: pictures are dropped up to the next key picture; prefer TCP and a wired line",
            report.packets_lost
        ));
    }
    match report.gop_seconds {
        Some(s) if s > 5.0 => quirks.push(format!(
            "key pictures are {s:.0} s apart: after any loss the camera is blind that long; set the I-frame interval to 2 s"
        )),
        Some(s) if s > LONGEST_GOP.as_secs_f64() => quirks.push(format!(
            "key pictures are {s:.1} s apart: a still scene is decoded in full, not by its key pictures alone; set the I-frame interval to 2 s"
        )),
        None if span_s > 5.0 => quirks.push(
            "fewer than two key pictures while watching: watch longer with --seconds, or set the I-frame interval to 2 s".to_owned(),
        ),
        _ => {}
    }
    if report.clock_ahead_ms.is_some_and(|ms| ms.abs() > 2000) {
        quirks.push("the camera's clock is off by more than 2 s: set it to NTP (findings use this machine's clock)".to_owned());
    }
    let (Some(first), Some(last)) = (units.first(), units.last()) else {
        return;
    };
    let wall_s = last.received.since(first.received).as_secs_f64();
    if live && wall_s > 3.0 {
        let media_s = (last.pts.0.saturating_sub(first.pts.0)) as f64 / 90_000.0;
        report.clock_drift_ppm = Some((media_s / wall_s - 1.0) * 1e6);
        if (media_s / wall_s - 1.0).abs() > 0.05 {
            quirks.push(format!(
                "{media_s:.1} s of video came in {wall_s:.1} s: the camera's timestamps or its line are wrong"
            ));
        }
    }
}

/// The stanza to paste.
fn stanza(report: &Report, options: &ProbeOptions) -> String {
    let mut s = String::from("[[camera]]\nid = \"camera-1\"\n");
    let live = options.target.contains("://");
    let url = if live {
        options.target.clone()
    } else {
        // A path in a config is relative to the config's folder, not to this one.
        let path = clip_path(&options.target);
        format!("file:{}", path.canonicalize().unwrap_or(path).display())
    };
    let mut put = |line: std::fmt::Arguments<'_>| {
        let _infallible = s.write_fmt(line);
        s.push('\n');
    };
    put(format_args!("url = {}", toml_text(&url)));
    if let Some((user, _)) = &options.login {
        put(format_args!("username = {}", toml_text(user)));
        let file = options
            .password_file
            .clone()
            .unwrap_or_else(|| "camera-1.password".into());
        put(format_args!(
            "password_file = {}",
            toml_text(&file.display().to_string())
        ));
    }
    if options.transport == Transport::Udp {
        put(format_args!("transport = \"udp\""));
    }
    put(format_args!(
        "analyse_fps = {:.1}",
        report.fps.clamp(0.1, 4.0)
    ));
    s
}

fn render(r: &Report, options: &ProbeOptions, t: Terminal) -> String {
    let mut s = String::new();
    let mut row = |name: &str, value: String| {
        let _infallible = writeln!(s, "{:<12} {value}", t.paint(Tone::Faint, name));
    };
    row("camera", t.paint(Tone::Bold, &r.target));
    row(
        "codec",
        format!("{}, {}x{}", r.codec, r.width_px, r.height_px),
    );
    row(
        "rate",
        format!("{:.2} pictures/s, {:.0} kbit/s", r.fps, r.kbit_per_s),
    );
    row(
        "gop",
        match (r.gop_units, r.gop_seconds) {
            (Some(n), Some(secs)) => format!("{n} pictures, {secs:.1} s"),
            _ => "not seen twice while watching".to_owned(),
        },
    );
    let clock = match (r.clock_ahead_ms, r.clock_drift_ppm) {
        (Some(ahead), drift) => {
            let side = if ahead < 0 { "behind" } else { "ahead" };
            let drift = drift.map_or(String::new(), |d| format!(", drifts {d:.0} ppm"));
            format!("{} ms {side}{drift}", ahead.abs())
        }
        (None, Some(drift)) => format!("not told by the camera; drifts {drift:.0} ppm"),
        (None, None) => "not told by the camera".to_owned(),
    };
    row("clock", clock);
    row(
        "first",
        format!("{} ms to the first picture", r.first_unit_ms),
    );
    if let Some(ms) = r.decode_ms {
        let share = ms * r.fps / 10.0;
        row(
            "decode",
            format!("{ms:.2} ms a picture here, {share:.1} % of a core at this rate"),
        );
    }
    if let Some(tool) = &r.tool {
        row("software", tool.clone());
    }
    if r.quirks.is_empty() {
        row("quirks", t.paint(Tone::Good, "none"));
    }
    for q in &r.quirks {
        row("quirk", t.paint(Tone::Warn, q));
    }
    s.push('\n');
    s.push_str(&stanza(r, options));
    s
}
