//! What the report says of a finding, for readers who never saw a config file. Facts only: what was
//! seen and what was asked for, never whose fault it is.
use crate::app::replay::evaluate::{Found, Scene};
use crate::app::replay::lines::median;
use crate::base::words::{Texts, label_of, report as words};
use crate::rules::{CloseReason, FindingChange, RuleConfig};

/// A moment of a clip: seconds in a short one, minutes and seconds in a long one.
pub fn time(at_s: f64, length_s: f64) -> Texts {
    if length_s < 120.0 {
        return words::seconds(format_args!("{at_s:.1}"));
    }
    let whole = at_s.max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    Texts::same(if length_s < 3600.0 {
        format!("{minutes}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    })
}

/// From one moment to another.
pub fn span(from_s: f64, to_s: f64, length_s: f64) -> Texts {
    let (from, to) = (time(from_s, length_s), time(to_s, length_s));
    if from == to {
        from
    } else {
        words::span(&from, &to)
    }
}

/// How long something is, roughly.
pub fn length(seconds: f64) -> Texts {
    if seconds < 120.0 {
        words::seconds(format_args!("{seconds:.0}"))
    } else {
        words::minutes(format_args!("{:.0}", seconds / 60.0))
    }
}

/// Why a finding opened.
pub fn because(scene: &Scene, change: &FindingChange) -> Texts {
    let gate = &change.gate;
    let first = change.objects.first();
    let what = first.map_or_else(words::it, |o| label_of(scene.label(o.class)));
    let dwell = match gate.dwell_ms {
        0 => Texts::default(),
        ms => words::at_least(format_args!("{:.1}", ms as f64 / 1000.0)),
    };
    let (asked, newest) = (format!("{:.2}", gate.threshold), change.scores.len());
    let scores = match gate.hits {
        Some(hits) => words::by_hits(hits, newest, asked),
        None => words::by_median(format_args!("{:.2}", median(&change.scores)), asked, newest),
    };
    let hours = if gate.off_hours {
        words::less_asked()
    } else {
        Texts::default()
    };
    words::because(&what, &dwell, &scores, &hours)
}

/// How a finding ended, as far as the clip shows.
pub fn ending(scene: &Scene, found: &Found, rule: &RuleConfig, length_s: f64) -> Texts {
    let newest = found.newest();
    let Some(closed) = newest.closed_at else {
        return words::still_open();
    };
    let at = time(scene.seconds(closed), length_s);
    match newest.reason {
        Some(CloseReason::Still) => words::closed_still(&at),
        Some(CloseReason::OffSchedule) => words::closed_hours(&at),
        Some(CloseReason::Clear) | None => {
            words::closed_clear(&at, format_args!("{:.0}", rule.clear_ms as f64 / 1000.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fit_the_length_of_the_clip() {
        assert_eq!(time(12.34, 60.0).en, "12.3 s");
        assert_eq!(time(12.34, 60.0).zh, "12.3 秒");
        assert_eq!(time(75.0, 600.0).en, "1:15");
        assert_eq!(time(3675.0, 7200.0).en, "1:01:15");
    }
}
