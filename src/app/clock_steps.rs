//! Steps of the site's own clock → notices that the centre keeps.
//!
//! Findings, coverage and evidence carry the times of the clock they were recorded by. A step moves
//! none of them, so whoever compares times across one must be able to see that there was one, and of how
//! much. Pure: the caller says when the clock was stepped and commits what comes of it.
//!
//! # Bounds
//! The first step is told at once. Those that follow within [`TOGETHER`] are told together when it is
//! over: a clock that two programs set by turns must not fill the outbox.
use std::time::Duration;

use serde::Serialize;

use super::notice::notice;
use crate::base::time::{MonoMicros, UtcMicros};
use crate::base::words::{Texts, notice as words};
use crate::uplink::Change;

/// Steps within this time after a notice are told in one.
pub const TOGETHER: Duration = Duration::from_secs(60);

/// What there is to tell; the notice's `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Steps {
    count: u32,
    by_ms: i64,
    from: UtcMicros,
    to: UtcMicros,
}

#[derive(Serialize)]
struct Data {
    by_ms: i64,
    steps: u32,
    from: String,
    to: String,
    while_stopped: bool,
}

/// What of the clock's steps has been told.
#[derive(Clone, Debug, Default)]
pub struct ClockSteps {
    told: Option<MonoMicros>,
    waiting: Option<Steps>,
}

impl ClockSteps {
    /// Time has passed: perhaps with a step of `by_ms` to `utc`, forward above 0. What to commit.
    pub fn look(&mut self, by_ms: Option<i64>, at: MonoMicros, utc: UtcMicros) -> Option<Change> {
        if let Some(by_ms) = by_ms {
            let from = UtcMicros(utc.0.saturating_sub(by_ms.saturating_mul(1000)));
            let steps = self.waiting.get_or_insert(Steps {
                count: 0,
                by_ms: 0,
                from,
                to: utc,
            });
            steps.count = steps.count.saturating_add(1);
            steps.by_ms = steps.by_ms.saturating_add(by_ms);
            steps.to = utc;
        }
        if self.told.is_some_and(|told| at.since(told) < TOGETHER) {
            return None;
        }
        let change = self.rest()?;
        self.told = Some(at);
        Some(change)
    }

    /// What has not been told yet: the site stops.
    pub fn rest(&mut self) -> Option<Change> {
        self.waiting.take().map(|steps| steps.notice(false))
    }
}

/// The site starts at `utc`, and what it wrote down last is `by_ms` (below 0) later than that.
pub fn while_stopped(by_ms: i64, utc: UtcMicros) -> Change {
    let steps = Steps {
        count: 1,
        by_ms,
        from: UtcMicros(utc.0.saturating_sub(by_ms.saturating_mul(1000))),
        to: utc,
    };
    steps.notice(true)
}

impl Steps {
    fn notice(self, while_stopped: bool) -> Change {
        let Self {
            count,
            by_ms,
            from,
            to,
        } = self;
        let side = if by_ms < 0 {
            words::back()
        } else {
            words::forward()
        };
        let by = in_words(by_ms.unsigned_abs());
        let what = match (while_stopped, count) {
            // How long the site was stopped only the clock could tell.
            (true, _) => words::went(&side, &by),
            (false, 1) => words::stepped(&side, &by),
            (false, _) => words::stepped_often(count, &side, &by),
        };
        let text = words::clock_stepped(&what, from, to);
        let data = Data {
            by_ms,
            steps: count,
            from: from.to_string(),
            to: to.to_string(),
            while_stopped,
        };
        notice("clock.step", to, text, &data)
    }
}

fn in_words(ms: u64) -> Texts {
    let (minutes, seconds) = (ms / 60_000, (ms % 60_000) as f64 / 1000.0);
    let (days, hours) = (minutes / 1440, minutes / 60 % 24);
    let whole = format!("{seconds:.0}");
    match (days, hours, minutes % 60) {
        (0, 0, 0) => words::seconds(format_args!("{seconds:.1}")),
        (0, 0, minutes) => words::minutes(minutes, whole),
        (0, hours, minutes) => words::hours(hours, minutes, whole),
        (days, hours, minutes) => words::days(days, hours, minutes, whole),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::{Notice, RecordBody};

    /// 2026-11-24T03:00:00Z
    const T: UtcMicros = UtcMicros(1_795_489_200_000_000);

    fn at(s: u64) -> MonoMicros {
        MonoMicros(s * 1_000_000)
    }

    fn told(change: Option<Change>) -> Option<Notice> {
        match change? {
            Change::Record(RecordBody::Notice(notice)) => Some(*notice),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_step_is_told_with_how_much_and_in_which_direction() {
        let mut steps = ClockSteps::default();
        assert_eq!(told(steps.look(None, at(1), T)), None);
        let notice = told(steps.look(Some(-86_400_000), at(2), T)).unwrap();
        assert_eq!((notice.kind.as_str(), notice.at), ("clock.step", T));
        assert_eq!(
            notice.text,
            "the site's clock was stepped back by 1 d 0 h 0 min 0 s, from 2026-11-25T03:00:00.000Z to \
             2026-11-24T03:00:00.000Z; findings, coverage and evidence recorded before are kept with \
             the times they have"
        );
        assert_eq!(notice.data["by_ms"], -86_400_000);
        assert_eq!(notice.data["while_stopped"], false);
        assert_eq!(in_words(2_500).en, "2.5 s");
        assert_eq!(in_words(3_720_000).zh, "1 小时 2 分 0 秒");
    }

    #[test]
    fn a_clock_that_is_set_to_and_fro_gives_one_notice_a_minute() {
        let mut steps = ClockSteps::default();
        let mut notices = Vec::new();
        for s in 0..130 {
            let by_ms = if s % 2 == 0 { 5_000 } else { -3_000 };
            notices.extend(told(steps.look(Some(by_ms), at(s), T)));
        }
        assert!(told(steps.rest()).is_some_and(|n| n.data["steps"] == 9));
        assert!(told(steps.rest()).is_none());
        let counts: Vec<_> = notices.iter().map(|n| n.data["steps"].as_u64()).collect();
        assert_eq!(counts, [Some(1), Some(60), Some(60)]);
        assert_eq!(notices[1].data["by_ms"], 30 * 2_000);
    }
}
