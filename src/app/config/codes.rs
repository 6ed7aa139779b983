//! What a rule means by its code alone: the labels and times that hold for most kitchens, so that
//! `id` and `code` are a whole rule. Chosen on recorded clips; `models/README.md` has the table.
use crate::rules::Urgency;

/// Defaults of a violation code.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CodeDefaults {
    /// The code.
    pub code: &'static str,
    /// How soon it must be acted on.
    pub urgency: Urgency,
    /// Labels that count as the violation.
    pub labels: &'static [&'static str],
    /// See [`crate::rules::RuleConfig::samples`].
    pub samples: usize,
    /// See [`crate::rules::RuleConfig::dwell_ms`].
    pub dwell_ms: u64,
}

/// The codes whose labels the shipped models give.
pub const CODES: &[CodeDefaults] = &[
    CodeDefaults {
        code: "ppe.mask.missing",
        urgency: Urgency::TimeLimited,
        labels: &["face-bare", "face-chin"],
        samples: 5,
        dwell_ms: 3000,
    },
    CodeDefaults {
        code: "ppe.hat.missing",
        urgency: Urgency::TimeLimited,
        labels: &["head-bare"],
        samples: 5,
        dwell_ms: 3000,
    },
    CodeDefaults {
        code: "act.smoking",
        urgency: Urgency::TimeLimited,
        labels: &["smoking", "cigarette"],
        samples: 5,
        dwell_ms: 2000,
    },
    // A rat crosses a floor in two seconds.
    CodeDefaults {
        code: "pest.rodent",
        urgency: Urgency::Immediate,
        labels: &["rat"],
        samples: 3,
        dwell_ms: 400,
    },
];

/// Defaults of `code`, if the shipped models can see it.
pub fn defaults_of(code: &str) -> Option<&'static CodeDefaults> {
    CODES.iter().find(|c| c.code == code)
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
