//! The report's sentences, for readers who never saw a config file. Facts only: what was seen and what
//! was asked for, never whose fault it is.
use crate::app::replay::evaluate::{Found, Scene};
use crate::app::replay::lines::median;
use crate::rules::{CloseReason, FindingChange, RuleConfig};

/// What a code means.
pub fn title(code: &str) -> &str {
    match code {
        "ppe.hat.missing" => "No hat",
        "ppe.mask.missing" => "No mask",
        "act.smoking" => "Smoking",
        "pest.rodent" => "Rat or mouse",
        other => other,
    }
}

/// A moment of a clip: seconds in a short one, minutes and seconds in a long one.
pub fn time(at_s: f64, length_s: f64) -> String {
    if length_s < 120.0 {
        return format!("{at_s:.1} s");
    }
    let whole = at_s.max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if length_s < 3600.0 {
        format!("{minutes}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    }
}

/// `3 findings`, `1 finding`.
pub fn count(n: usize, one: &str, many: &str) -> String {
    let word = if n == 1 { one } else { many };
    format!("{n} {word}")
}

/// Why a finding opened.
pub fn because(scene: &Scene, change: &FindingChange) -> String {
    let gate = &change.gate;
    let what = change
        .objects
        .first()
        .map_or("it", |o| scene.label(o.class));
    let dwell = match gate.dwell_ms {
        0 => String::new(),
        ms => format!(" for at least {:.1} s", ms as f64 / 1000.0),
    };
    let (asked, newest) = (gate.threshold, change.scores.len());
    let scores = match gate.hits {
        Some(hits) => {
            format!("with {hits} or more of the newest {newest} scores at {asked:.2} or above")
        }
        None => format!(
            "with a score of {:.2}, where {asked:.2} is asked (middle of the newest {newest})",
            median(&change.scores)
        ),
    };
    let hours = if gate.off_hours {
        ", outside business hours, when less is asked"
    } else {
        ""
    };
    format!("{what} was seen{dwell} {scores}{hours}")
}

/// How a finding ended, as far as the clip shows.
pub fn ending(scene: &Scene, found: &Found, rule: &RuleConfig, length_s: f64) -> String {
    let newest = found.newest();
    let Some(closed) = newest.closed_at else {
        return "still open when the clip ended".to_owned();
    };
    let at = time(scene.seconds(closed), length_s);
    match newest.reason {
        Some(CloseReason::Still) => {
            format!("closed at {at}: what was seen has not moved and is taken for a thing")
        }
        Some(CloseReason::OffSchedule) => format!("closed at {at}: the rule's hours were over"),
        Some(CloseReason::Clear) | None => format!(
            "closed at {at}: not seen for {:.0} s",
            rule.clear_ms as f64 / 1000.0
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fit_the_length_of_the_clip() {
        assert_eq!(time(12.34, 60.0), "12.3 s");
        assert_eq!(time(75.0, 600.0), "1:15");
        assert_eq!(time(3675.0, 7200.0), "1:01:15");
    }
}
