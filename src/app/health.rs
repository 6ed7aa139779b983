//! What the site says of itself: capture's and decode's word on each camera merged into one state,
//! and the problems a person should look at.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::base::ids::CameraId;
use crate::base::time::{SharedClock, UtcMicros};
use crate::base::words::{self, Texts};
use crate::capture::{CaptureHealth, CaptureState};
use crate::decode::{DecodeHealth, PictureFault};
use crate::rules::CODE_PREFIX;
use crate::uplink::{CameraReport, CameraState, SiteState, StoreHealth};

/// The site's problems by name, published through [`SiteState::problems`]. Clones share them.
#[derive(Clone, Debug)]
pub struct Problems {
    named: std::sync::Arc<std::sync::Mutex<BTreeMap<Cow<'static, str>, Texts>>>,
    state: watch::Sender<SiteState>,
}

impl Problems {
    /// None yet.
    pub fn new(state: watch::Sender<SiteState>) -> Self {
        Self {
            named: std::sync::Arc::default(),
            state,
        }
    }

    /// There is (still) this problem.
    pub fn set(&self, name: impl Into<Cow<'static, str>>, message: Texts) {
        let name = name.into();
        self.change(|named| {
            let is_news = named.get(&name) != Some(&message);
            named.insert(name, message);
            is_news
        });
    }

    /// It is over.
    pub fn clear(&self, name: &str) {
        self.change(|named| named.remove(name).is_some());
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Cow<'static, str>, Texts>) -> bool) {
        let mut named = self
            .named
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if change(&mut named) {
            let problems: Vec<Texts> = named.values().cloned().collect();
            self.state.send_modify(|s| s.problems = problems);
        }
    }
}

/// Capture's and decode's word in one. A camera counts as online once a picture of its session has
/// been decoded: packets alone show nobody anything.
fn merged(
    capture: &CaptureHealth,
    decode: &DecodeHealth,
    clock_limit: Duration,
) -> (CameraState, Texts) {
    let detail = |state: CameraState| (state, cause_of(state, &capture.detail));
    match capture.state {
        CaptureState::Online if decode.failed => {
            (CameraState::Failed, words::camera::decoding_fails())
        }
        CaptureState::Online if decode.stalled => {
            (CameraState::NoVideo, words::camera::no_picture())
        }
        CaptureState::Online if decode.session != Some(capture.session) => {
            (CameraState::Connecting, words::camera::waits_for_key())
        }
        CaptureState::Online => {
            let picture = decode.picture.map(picture_fault);
            let clock = || clock_skew(capture.clock_ahead_ms?, clock_limit);
            picture
                .or_else(clock)
                .unwrap_or_else(|| (CameraState::Online, Texts::same(&*capture.detail)))
        }
        CaptureState::Connecting => detail(CameraState::Connecting),
        CaptureState::Unauthorised => detail(CameraState::Unauthorised),
        CaptureState::Offline => detail(CameraState::Offline),
        CaptureState::NoVideo => detail(CameraState::NoVideo),
        CaptureState::Failed => detail(CameraState::Failed),
        CaptureState::Ended => detail(CameraState::Ended),
    }
}

/// What is wrong with the pictures, in words that say what is seen and blame nobody.
fn picture_fault(fault: PictureFault) -> (CameraState, Texts) {
    match fault {
        PictureFault::Masked => (CameraState::Masked, words::camera::is_masked()),
        PictureFault::Frozen => (CameraState::Frozen, words::camera::is_frozen()),
        PictureFault::Dark => (CameraState::Dark, words::camera::is_dark()),
        PictureFault::Occluded => (CameraState::Occluded, words::camera::is_occluded()),
        PictureFault::Moved => (CameraState::Moved, words::camera::is_moved()),
        PictureFault::Defocused => (CameraState::Defocused, words::camera::is_defocused()),
    }
}

/// What is wrong with the pictures, for people.
pub fn fault_title(fault: PictureFault) -> Texts {
    words::title(&format!("{CODE_PREFIX}{}", fault.word()))
}

/// A state's word on the wire.
pub fn state_word(state: CameraState) -> String {
    let word = serde_json::to_value(state).unwrap_or_default();
    word.as_str().unwrap_or("?").to_owned()
}

/// What capture says of a state, after the state itself: the cause comes from a camera or a network
/// and is English, so in Chinese the state must say enough.
fn cause_of(state: CameraState, why: &str) -> Texts {
    if why.is_empty() {
        return Texts::default();
    }
    Texts {
        en: why.to_owned(),
        ..words::camera::because(words::state_of(&state_word(state)), why)
    }
}

fn clock_skew(ahead_ms: i64, limit: Duration) -> Option<(CameraState, Texts)> {
    let off = Duration::from_millis(ahead_ms.unsigned_abs());
    let seconds = format!("{:.0}", off.as_secs_f64());
    let detail = if ahead_ms > 0 {
        words::camera::clock_ahead(seconds)
    } else {
        words::camera::clock_behind(seconds)
    };
    (off > limit).then_some((CameraState::ClockSkew, detail))
}

/// Whether pictures come, whatever they show.
fn has_pictures(state: CameraState) -> bool {
    !matches!(
        state,
        CameraState::Connecting
            | CameraState::Unauthorised
            | CameraState::Offline
            | CameraState::NoVideo
            | CameraState::Failed
            | CameraState::Ended
    )
}

/// The report of a camera of which nothing is known yet.
pub fn first_report(id: &CameraId, now: UtcMicros) -> CameraReport {
    CameraReport {
        camera: id.to_string(),
        state: CameraState::Connecting,
        since: now,
        detail: String::new(),
        codec: None,
        width: None,
        height: None,
        fps: None,
        title: words::camera::connecting(),
        detail_zh: String::new(),
    }
}

/// The rate as worth telling: a retained message for every tenth of a picture would be noise.
fn worth_telling(old: Option<f32>, new: f32) -> bool {
    old.is_none_or(|old| (old - new).abs() >= 1.0 || (old > 0.0) != (new > 0.0))
}

/// Updates `report` and says whether that changed anything.
fn update(
    report: &mut CameraReport,
    capture: &CaptureHealth,
    decode: &DecodeHealth,
    clock: &SharedClock,
    clock_limit: Duration,
) -> bool {
    let before = report.clone();
    let (state, detail) = merged(capture, decode, clock_limit);
    if state != report.state {
        report.since = clock.utc();
    }
    report.state = state;
    report.title = words::state_of(&state_word(state));
    (report.detail, report.detail_zh) = (detail.en, detail.zh);
    report.codec = capture.info.as_ref().map(|i| i.codec.name().to_owned());
    let size = decode.size.or(capture.info.as_ref().and_then(|i| i.size));
    (report.width, report.height) = (size.map(|s| s.width_px), size.map(|s| s.height_px));
    let fps = if has_pictures(state) { decode.fps } else { 0.0 };
    if worth_telling(report.fps, fps) {
        report.fps = Some(fps.round());
    }
    *report != before
}

/// Says so among the problems while a camera's main stream is away, until its sender is gone.
pub async fn follow_main(
    camera: crate::base::ids::CameraId,
    mut capture: watch::Receiver<CaptureHealth>,
    problems: Problems,
) {
    let name = format!("main stream of {camera}");
    loop {
        let health = capture.borrow_and_update().clone();
        let word = match health.state {
            CaptureState::Unauthorised => Some(words::problem::refuses_login()),
            CaptureState::Offline | CaptureState::Failed => Some(words::problem::is_away()),
            CaptureState::NoVideo => Some(words::problem::has_no_video()),
            CaptureState::Connecting | CaptureState::Online | CaptureState::Ended => None,
        };
        match word {
            None => problems.clear(&name),
            Some(word) => {
                let message = words::problem::main_away(&camera, &word, &health.detail);
                problems.set(name.clone(), message);
            }
        }
        if capture.changed().await.is_err() {
            return;
        }
    }
}

/// Says so among the problems while the store cannot be written, and while a damaged one lies set
/// aside, until the store is closed.
pub async fn follow_store(mut store: watch::Receiver<StoreHealth>, problems: Problems) {
    const FAILING: &str = "store writes";
    let mut told: Vec<String> = Vec::new();
    loop {
        let health = store.borrow_and_update().clone();
        match health.failing {
            Some(why) => problems.set(FAILING, words::problem::store_failing(why)),
            None => problems.clear(FAILING),
        }
        for gone in told.iter().filter(|f| !health.set_aside.contains(f)) {
            problems.clear(gone);
        }
        for file in &health.set_aside {
            problems.set(file.clone(), words::problem::store_set_aside(file));
        }
        told = health.set_aside;
        if store.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps one camera's report in `state` up to date until both senders are gone.
pub async fn follow(
    id: CameraId,
    mut capture: watch::Receiver<CaptureHealth>,
    mut decode: watch::Receiver<DecodeHealth>,
    state: watch::Sender<SiteState>,
    clock: SharedClock,
    clock_limit: Duration,
) {
    let (mut capture_open, mut decode_open) = (true, true);
    while capture_open || decode_open {
        let (c, d) = (
            capture.borrow_and_update().clone(),
            *decode.borrow_and_update(),
        );
        state.send_if_modified(|s| {
            let mut reports = s.cameras.iter_mut();
            let report = reports.find(|r| r.camera == id.as_str());
            report.is_some_and(|report| update(report, &c, &d, &clock, clock_limit))
        });
        tokio::select! {
            changed = capture.changed(), if capture_open => capture_open = changed.is_ok(),
            changed = decode.changed(), if decode_open => decode_open = changed.is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::SizePx;
    use crate::base::time::{ManualClock, MonoMicros};
    use crate::rules::{Cause, DeviceFault};

    const LIMIT: Duration = Duration::from_secs(5);

    fn report() -> CameraReport {
        first_report(&CameraId::new("wok-1").unwrap(), UtcMicros(1))
    }

    #[test]
    fn a_camera_is_online_only_once_a_picture_was_decoded() {
        let clock: SharedClock = ManualClock::new(MonoMicros(0), UtcMicros(7));
        let mut capture = CaptureHealth::starting(UtcMicros(1));
        capture.state = CaptureState::Online;
        let mut decode = DecodeHealth::default();
        let mut report = report();
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::Connecting);
        assert_eq!(report.since, UtcMicros(1));
        // A picture of an earlier session shows nothing of this one.
        (decode.session, capture.session) = (Some(1), 2);
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::Connecting);
        decode.session = Some(2);
        decode.size = Some(SizePx {
            width_px: 64,
            height_px: 32,
        });
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(
            (report.state, report.since),
            (CameraState::Online, UtcMicros(7))
        );
        assert_eq!((report.width, report.height), (Some(64), Some(32)));
        decode.stalled = true;
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::NoVideo);
        decode.failed = true;
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::Failed);
    }

    #[test]
    fn what_the_pictures_show_goes_before_the_clock() {
        let clock: SharedClock = ManualClock::new(MonoMicros(0), UtcMicros(7));
        let mut capture = CaptureHealth::starting(UtcMicros(1));
        capture.state = CaptureState::Online;
        let mut decode = DecodeHealth {
            session: Some(0),
            fps: 12.0,
            ..DecodeHealth::default()
        };
        let mut report = report();
        capture.clock_ahead_ms = Some(-4999);
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::Online);
        capture.clock_ahead_ms = Some(-7100);
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::ClockSkew);
        assert_eq!(report.detail, "its clock is 7 s behind ours");
        for (fault, state) in [
            (PictureFault::Masked, CameraState::Masked),
            (PictureFault::Frozen, CameraState::Frozen),
            (PictureFault::Dark, CameraState::Dark),
            (PictureFault::Occluded, CameraState::Occluded),
            (PictureFault::Moved, CameraState::Moved),
            (PictureFault::Defocused, CameraState::Defocused),
        ] {
            decode.picture = Some(fault);
            update(&mut report, &capture, &decode, &clock, LIMIT);
            assert_eq!((report.state, report.fps), (state, Some(12.0)));
            assert!(!report.detail.is_empty());
        }
        capture.state = CaptureState::Offline;
        update(&mut report, &capture, &decode, &clock, LIMIT);
        assert_eq!(report.state, CameraState::Offline);
    }

    #[test]
    fn a_jittering_rate_is_no_news() {
        let clock: SharedClock = ManualClock::new(MonoMicros(0), UtcMicros(7));
        let mut capture = CaptureHealth::starting(UtcMicros(1));
        capture.state = CaptureState::Online;
        let size = Some(SizePx {
            width_px: 64,
            height_px: 32,
        });
        let mut report = report();
        let mut with = |fps| {
            let decode = DecodeHealth {
                session: Some(0),
                size,
                fps,
                ..DecodeHealth::default()
            };
            update(&mut report, &capture, &decode, &clock, LIMIT)
        };
        assert!(with(24.9));
        assert!(!with(25.2));
        assert!(with(12.0));
        assert!(with(0.0));
    }

    #[test]
    fn every_code_state_cause_and_fault_has_a_title() {
        let states = [
            CameraState::Online,
            CameraState::Connecting,
            CameraState::Unauthorised,
            CameraState::Offline,
            CameraState::NoVideo,
            CameraState::Frozen,
            CameraState::Occluded,
            CameraState::Dark,
            CameraState::Defocused,
            CameraState::Moved,
            CameraState::Masked,
            CameraState::ClockSkew,
            CameraState::Failed,
            CameraState::Ended,
        ];
        for state in states {
            let word = state_word(state);
            assert!(words::known_state(&word).is_some(), "{word}");
        }
        for cause in Cause::ALL {
            assert!(
                words::known_cause(cause.word()).is_some(),
                "{}",
                cause.word()
            );
        }
        for code in DeviceFault::ALL.map(DeviceFault::code) {
            assert!(words::known_title(&code).is_some(), "{code}");
        }
        for fault in PictureFault::ALL {
            assert!(!fault_title(fault).zh.is_ascii(), "{fault:?}");
        }
        for code in crate::app::config::CODES.iter().map(|c| c.code) {
            assert!(words::known_title(code).is_some(), "{code}");
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_or_was_damaged_is_a_problem_as_long_as_it_is_so() {
        let (state, mut seen) = watch::channel(SiteState::default());
        let (store, health) = watch::channel(StoreHealth::default());
        let following = tokio::spawn(follow_store(health, Problems::new(state)));
        let said = |seen: &watch::Receiver<SiteState>| {
            let problems = seen.borrow().problems.clone();
            problems.into_iter().map(|p| p.en).collect::<Vec<_>>()
        };
        store.send_replace(StoreHealth {
            failing: Some("the disk with the store is full".to_owned()),
            set_aside: vec!["store.sqlite.corrupt-7".to_owned()],
        });
        seen.wait_for(|s| s.problems.len() == 2).await.unwrap();
        let both = said(&seen);
        assert!(both[0].contains("is full"), "{both:?}");
        assert!(both[1].contains("store.sqlite.corrupt-7"), "{both:?}");
        store.send_modify(|h| h.failing = None);
        seen.wait_for(|s| s.problems.len() == 1).await.unwrap();
        store.send_modify(|h| h.set_aside.clear());
        seen.wait_for(|s| s.problems.is_empty()).await.unwrap();
        drop(store);
        following.await.unwrap();
    }

    #[test]
    fn problems_come_and_go_by_name() {
        let (state, seen) = watch::channel(SiteState::default());
        let problems = Problems::new(state);
        problems.set("b", Texts::same("two"));
        problems.set("a", Texts::same("one"));
        assert_eq!(seen.borrow().problems, ["one", "two"].map(Texts::same));
        problems.clear("b");
        assert_eq!(seen.borrow().problems, ["one"].map(Texts::same));
    }
}
