//! Why not, with names: what each rule of a camera saw and lacked, as data for a report, a bus or a
//! terminal. Used wherever somebody asks; the answer is [`RuleEngine::explain`]'s.
//!
//! [`RuleEngine::explain`]: crate::rules::RuleEngine::explain
use serde::Serialize;
use uuid::Uuid;

use crate::base::ids::ClassId;
use crate::base::words::{Texts, label_beside, why};
use crate::detect::Models;
use crate::rules::{Nearest, RuleConfig, RuleState, Shortfall, Standing};

/// One rule on one camera at its newest picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// The rule's id.
    pub rule: String,
    /// Its version.
    pub version: u32,
    /// Its code.
    pub code: String,
    /// Receipt of the picture.
    pub time: String,
    /// `idle`, `open` or `cooling-down`.
    pub standing: &'static str,
    /// The finding that is open or may reopen.
    pub finding: Option<Uuid>,
    /// Whether the rule's evidence for outside business hours counts.
    pub off_hours: bool,
    /// What the scores must reach.
    pub threshold: f32,
    /// Pictures in the window.
    pub samples: usize,
    /// So many scores must reach it; null: the median.
    pub hits: Option<usize>,
    /// How long it must last, in milliseconds.
    pub dwell_ms: u64,
    /// The track that lacked least.
    pub nearest: Option<ExplainedTrack>,
    /// What it lacked, in the order in which the rule asks.
    pub lacks: Vec<Lack>,
    /// All of it in one line of English: `head-bare 0.41 is below 0.55 (median of 5)`.
    pub text: String,
    /// The same in Chinese.
    pub text_zh: String,
}

/// A track as a rule sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainedTrack {
    /// Ephemeral.
    pub track: u64,
    /// What it was last seen as.
    pub label: String,
    /// Its score then.
    pub score: f32,
    /// Left, top, right, bottom as fractions of the picture.
    #[serde(rename = "box")]
    pub rect: [f32; 4],
    /// The scores in its window, oldest first.
    pub scores: Vec<f32>,
    /// What is held against the threshold; null: too few scores.
    pub value: Option<f32>,
    /// How long it has passed, in milliseconds.
    pub dwelt_ms: u64,
}

/// One thing that was lacking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lack {
    /// A stable word, see [`Shortfall::code`].
    pub code: &'static str,
    /// In English.
    pub text: String,
    /// In Chinese.
    pub text_zh: String,
}

/// Puts the names to a state. `rules` are the engine's, `models` those whose classes they name.
pub fn explained(state: &RuleState, rules: &[RuleConfig], models: &Models) -> Explained {
    let label = |class: ClassId| models.classes()[usize::from(class.0)].label.as_str();
    named(state, &rules[usize::from(state.rule.0)], &label)
}

fn named<'m>(
    state: &RuleState,
    rule: &RuleConfig,
    label: &dyn Fn(ClassId) -> &'m str,
) -> Explained {
    let (standing, finding) = match state.standing {
        Standing::Idle => ("idle", None),
        Standing::Open { finding, .. } => ("open", Some(finding)),
        Standing::CoolingDown { finding, .. } => ("cooling-down", Some(finding)),
    };
    let text = sentence(state, label);
    Explained {
        rule: rule.id.to_string(),
        version: rule.version,
        code: rule.code.to_string(),
        time: state.stamp.received_utc.to_string(),
        standing,
        finding,
        off_hours: state.gate.off_hours,
        threshold: state.gate.threshold,
        samples: state.gate.samples,
        hits: state.gate.hits,
        dwell_ms: state.gate.dwell_ms,
        nearest: state.nearest.as_ref().map(|n| track(n, label)),
        lacks: state.lacks.iter().map(|l| lack(l, label)).collect(),
        text: text.en,
        text_zh: text.zh,
    }
}

fn track<'m>(nearest: &Nearest, label: &dyn Fn(ClassId) -> &'m str) -> ExplainedTrack {
    let r = nearest.rect;
    ExplainedTrack {
        track: nearest.track.0,
        label: label(nearest.class).to_owned(),
        score: nearest.score,
        rect: [r.x0, r.y0, r.x1, r.y1],
        scores: nearest.scores.clone(),
        value: nearest.value,
        dwelt_ms: nearest.dwelt_ms,
    }
}

fn lack<'m>(lacking: &Shortfall, label: &dyn Fn(ClassId) -> &'m str) -> Lack {
    let text = lack_text(lacking, label);
    Lack {
        code: lacking.code(),
        text: text.en,
        text_zh: text.zh,
    }
}

fn lack_text<'m>(lacking: &Shortfall, label: &dyn Fn(ClassId) -> &'m str) -> Texts {
    match lacking {
        Shortfall::OtherClass { class } => why::shown_as(label_beside(label(*class))),
        other => other.text(),
    }
}

fn sentence<'m>(state: &RuleState, label: &dyn Fn(ClassId) -> &'m str) -> Texts {
    let what = if state.lacks.is_empty() {
        why::shows_it()
    } else {
        Texts::joined(state.lacks.iter().map(|l| lack_text(l, label)))
    };
    let what = match &state.nearest {
        Some(nearest) => why::about(label_beside(label(nearest.class)), &what),
        None => what,
    };
    let seconds = |ms: u64| ms as f64 / 1000.0;
    match state.standing {
        Standing::Idle => what,
        Standing::Open { unseen_ms: 0, .. } => why::bracketed(&what, why::is_open()),
        Standing::Open { unseen_ms, .. } => {
            let unseen = why::open_unseen(format_args!("{:.1}", seconds(unseen_ms)));
            why::bracketed(&what, &unseen)
        }
        Standing::CoolingDown { left_ms, .. } => {
            let left = why::may_reopen(format_args!("{:.0}", seconds(left_ms)));
            why::bracketed(&what, &left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::geometry::NormRect;
    use crate::base::ids::{CameraIx, Name, RuleIx};
    use crate::base::time::FrameStamp;
    use crate::rules::Urgency;
    use crate::track::TrackId;

    fn rule() -> RuleConfig {
        let name = |t| Name::new(t).unwrap();
        RuleConfig {
            threshold: 0.55,
            ..RuleConfig::new(
                name("hat-wok"),
                name("ppe.hat.missing"),
                Urgency::TimeLimited,
            )
        }
    }

    fn state(lacks: Vec<Shortfall>) -> RuleState {
        RuleState {
            rule: RuleIx(0),
            camera: CameraIx(0),
            stamp: FrameStamp::default(),
            gate: rule().gate(false),
            standing: Standing::Idle,
            nearest: Some(Nearest {
                track: TrackId(7),
                class: ClassId(1),
                score: 0.5,
                rect: NormRect::clipped(0.0, 0.25, 0.5, 0.75),
                scores: vec![0.25, 0.5],
                value: Some(0.25),
                dwelt_ms: 0,
            }),
            lacks,
        }
    }

    fn label(class: ClassId) -> &'static str {
        ["head-covered", "head-bare"][usize::from(class.0)]
    }

    #[test]
    fn what_was_lacking_is_said_with_names_and_figures() {
        let low = Shortfall::LowScore {
            median: 0.41,
            threshold: 0.55,
            samples: 5,
        };
        let other = Shortfall::OtherClass { class: ClassId(0) };
        let said = named(&state(vec![low, other]), &rule(), &label);
        insta::assert_snapshot!(serde_json::to_string_pretty(&said).unwrap(), @r#"
        {
          "rule": "hat-wok",
          "version": 1,
          "code": "ppe.hat.missing",
          "time": "1970-01-01T00:00:00.000Z",
          "standing": "idle",
          "finding": null,
          "off_hours": false,
          "threshold": 0.55,
          "samples": 5,
          "hits": null,
          "dwell_ms": 3000,
          "nearest": {
            "track": 7,
            "label": "head-bare",
            "score": 0.5,
            "box": [
              0.0,
              0.25,
              0.5,
              0.75
            ],
            "scores": [
              0.25,
              0.5
            ],
            "value": 0.25,
            "dwelt_ms": 0
          },
          "lacks": [
            {
              "code": "low-score",
              "text": "0.41 is below 0.55 (median of 5)",
              "text_zh": "0.41 低于 0.55（5 帧中位数）"
            },
            {
              "code": "other-class",
              "text": "this picture shows it as head-covered",
              "text_zh": "本帧中看起来是head-covered"
            }
          ],
          "text": "head-bare 0.41 is below 0.55 (median of 5); this picture shows it as head-covered",
          "text_zh": "未戴帽的头部：0.41 低于 0.55（5 帧中位数）；本帧中看起来是head-covered"
        }
        "#);
    }

    #[test]
    fn a_finding_that_is_open_or_may_reopen_is_told_of() {
        let finding = Uuid::from_u128(5);
        let text = |standing, lacks, nearest: bool| {
            let mut state = state(lacks);
            state.standing = standing;
            state.nearest = state.nearest.filter(|_| nearest);
            named(&state, &rule(), &label).text
        };
        let open = |unseen_ms| Standing::Open { finding, unseen_ms };
        assert_eq!(
            text(open(0), vec![], true),
            "head-bare shows the violation (a finding is open)"
        );
        let nothing = || vec![Shortfall::NothingSeen { others: 0 }];
        assert_eq!(
            text(open(1500), nothing(), false),
            "nothing is seen (a finding is open, not seen for 1.5 s)"
        );
        let cooling = Standing::CoolingDown {
            finding,
            left_ms: 30_000,
        };
        assert_eq!(
            text(cooling, nothing(), false),
            "nothing is seen (a return within 30 s reopens the last finding)"
        );
    }
}
