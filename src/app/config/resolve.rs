//! Rules against the loaded models: which classes a label means, and which threshold counts.
use std::path::Path;

use super::RuleDraft;
use super::problem::Problem;
use super::section::{Located, did_you_mean};
use crate::base::ids::ClassId;
use crate::detect::Models;
use crate::rules::RuleConfig;

/// A problem for every label that no model knows.
pub fn check_labels(file: &Path, labels: &[Located<String>], models: &Models) -> Vec<Problem> {
    let known = || models.classes().iter().map(|c| c.label.as_str());
    let unknown = labels.iter().filter(|l| models.class(&l.value).is_none());
    unknown
        .map(|label| {
            let remedy = did_you_mean(&label.value, known()).unwrap_or_else(|| {
                format!(
                    "labels of the models: {}",
                    known().collect::<Vec<_>>().join(", ")
                )
            });
            Problem {
                file: file.display().to_string(),
                line: label.place.line,
                column: label.place.column,
                key: label.place.key.clone(),
                message: format!("no model knows the label `{}`", label.value),
                remedy,
            }
        })
        .collect()
}

/// The rules with their classes; labels that no model knows are left out, see [`check_labels`]. A
/// rule without `threshold` takes the highest operating point of its labels: never below what the
/// cards measured.
pub fn resolve_rules(drafts: &[RuleDraft], models: &Models) -> Vec<RuleConfig> {
    let resolve = |draft: &RuleDraft| {
        let mut rule = draft.config.clone();
        rule.classes = draft
            .labels
            .iter()
            .filter_map(|l| models.class(&l.value))
            .collect();
        rule.threshold = draft
            .threshold
            .unwrap_or_else(|| operating_point(&rule.classes, models));
        rule
    };
    drafts.iter().map(resolve).collect()
}

/// The highest threshold that the models' cards give `classes`.
pub fn operating_point(classes: &[ClassId], models: &Models) -> f32 {
    let points = classes
        .iter()
        .map(|c| models.classes()[usize::from(c.0)].threshold);
    points.fold(0.0, f32::max)
}
