//! What a rule means by its code alone: the labels and times that hold for most kitchens, so that
//! `id` and `code` are a whole rule. Chosen on recorded clips; `models/README.md` has the table.
use crate::base::ids::Name;
use crate::rules::{OffHours, RuleConfig, Urgency, When};

/// Defaults of a violation code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeDefaults {
    /// The code.
    pub code: &'static str,
    /// How soon it must be acted on.
    pub urgency: Urgency,
    /// Labels that count as the violation.
    pub labels: &'static [&'static str],
    /// See [`RuleConfig::samples`].
    pub samples: usize,
    /// See [`RuleConfig::hits`]; holds only together with `samples` above.
    pub hits: Option<usize>,
    /// See [`RuleConfig::dwell_ms`].
    pub dwell_ms: u64,
    /// See [`RuleConfig::still_ms`].
    pub still_ms: u64,
    /// See [`OffHours::factor`]; 1: nothing changes outside business hours.
    pub off_hours_factor: f32,
}

/// The codes whose labels the shipped models give.
pub const CODES: &[CodeDefaults] = &[
    CodeDefaults {
        code: "ppe.mask.missing",
        urgency: Urgency::TimeLimited,
        labels: &["face-bare", "face-chin"],
        samples: 5,
        hits: None,
        dwell_ms: 3000,
        still_ms: 0,
        off_hours_factor: 1.0,
    },
    CodeDefaults {
        code: "ppe.hat.missing",
        urgency: Urgency::TimeLimited,
        labels: &["head-bare"],
        samples: 5,
        hits: None,
        dwell_ms: 3000,
        still_ms: 0,
        off_hours_factor: 1.0,
    },
    CodeDefaults {
        code: "act.smoking",
        urgency: Urgency::TimeLimited,
        labels: &["smoking", "cigarette"],
        // A cigarette is hidden by the hand in most pictures.
        samples: 3,
        hits: Some(2),
        dwell_ms: 2000,
        still_ms: 0,
        off_hours_factor: 1.0,
    },
    // A rat crosses a floor in two seconds.
    CodeDefaults {
        code: "pest.rodent",
        urgency: Urgency::Immediate,
        labels: &["rat"],
        samples: 3,
        hits: None,
        dwell_ms: 400,
        // A trapped rat is told long before, and one that was seen to run is never a thing.
        still_ms: 60_000,
        // At night nobody is there to be taken for one, and most of them come then.
        off_hours_factor: 0.8,
    },
];

/// Defaults of `code`, if the shipped models can see it.
pub fn defaults_of(code: &str) -> Option<&'static CodeDefaults> {
    CODES.iter().find(|c| c.code == code)
}

/// A rule of `code` as it is without any other key; without cameras, classes and threshold. `business`:
/// the site's business hours, if it has said.
pub fn rule_of(id: Name, code: Name, business: Option<&When>) -> RuleConfig {
    let urgency = urgency_of(code.as_str());
    let known = defaults_of(code.as_str());
    let rule = RuleConfig::new(id, code, urgency);
    let Some(known) = known else { return rule };
    RuleConfig {
        samples: known.samples,
        hits: known.hits,
        dwell_ms: known.dwell_ms,
        still_ms: known.still_ms,
        off_hours: off_hours(business, known.off_hours_factor),
        ..rule
    }
}

/// What changes outside business hours; nothing, if nobody knows when that is or it makes no
/// difference.
pub fn off_hours(business: Option<&When>, factor: f32) -> Option<OffHours> {
    let business = business.filter(|_| factor < 1.0)?.clone();
    Some(OffHours { business, factor })
}

/// How soon a violation must be acted on where the config does not say.
pub fn urgency_of(code: &str) -> Urgency {
    match defaults_of(code) {
        Some(known) => known.urgency,
        None if code.starts_with("pest.rodent") || code.starts_with("fire.") => Urgency::Immediate,
        None if code.starts_with("env.") => Urgency::Routine,
        None => Urgency::TimeLimited,
    }
}

#[cfg(test)]
mod tests;
