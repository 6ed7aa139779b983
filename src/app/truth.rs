//! What is to be seen in recorded clips, and how findings compare with it.
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// A finding may be told this long after its event ended: dwell and median look back.
const LATE_S: f64 = 2.0;
/// And may begin this much before: truths are made by eye.
const EARLY_S: f64 = 1.0;

/// Which words of a truth mean the violation of a code.
const MEANS: &[(&str, &[&str])] = &[
    ("ppe.mask.missing", &["face-bare", "face-chin"]),
    ("ppe.hat.missing", &["head-bare"]),
    ("act.smoking", &["smoking"]),
    ("pest.rodent", &["rodent"]),
];

#[derive(Clone, Debug, Deserialize)]
struct Event {
    code: String,
    start_s: f64,
    end_s: f64,
}

/// One line of a truth file.
#[derive(Clone, Debug, Deserialize)]
struct ClipTruth {
    #[serde(rename = "clip")]
    name: String,
    #[serde(default)]
    not_judged: Vec<String>,
    events: Vec<Event>,
}

/// A truth file: JSON lines, one a clip.
#[derive(Clone, Debug)]
pub struct Truth {
    clips: Vec<ClipTruth>,
}

/// A finding as far as it is compared, in seconds from the clip's beginning.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its code.
    pub code: String,
    /// The first picture of it.
    pub first_seen_s: f64,
    /// When it was told.
    pub opened_s: f64,
    /// The newest picture of it.
    pub last_seen_s: f64,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// Which clip.
    pub clip: String,
    /// Which code.
    pub code: String,
    /// `found`, `missed`, `short` (an event that is over before the rule's dwell) or `false` (a
    /// finding without an event).
    pub outcome: String,
    /// Of the event; of the finding if there is no event.
    pub start_s: f64,
    /// The same.
    pub end_s: f64,
    /// From the event's begin to the finding.
    pub delay_s: Option<f64>,
}

impl Truth {
    /// Reads a truth file.
    ///
    /// # Errors
    /// It cannot be read, or a line of it is none; the line is named.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("--truth {name}"))?;
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty());
        let clips = lines.map(|(i, line)| {
            serde_json::from_str(line).with_context(|| {
                format!("--truth {name}, line {}: expected {{\"clip\": …, \"events\": [{{\"code\", \"start_s\", \"end_s\"}}]}}", i + 1)
            })
        });
        Ok(Self {
            clips: clips.collect::<anyhow::Result<_>>()?,
        })
    }

    /// When `code` is to be seen in a clip; `None`: the truth does not know the clip or does not judge
    /// the code.
    pub fn events(&self, clip: &str, code: &str) -> Option<Vec<(f64, f64)>> {
        let truth = self.clips.iter().find(|c| c.name == clip)?;
        let (_, words) = MEANS.iter().find(|(c, _)| *c == code)?;
        let is_judged = |w: &str| !truth.not_judged.iter().any(|n| n == w);
        words
            .iter()
            .all(|w| is_judged(w))
            .then(|| merged(&truth.events, words))
    }

    /// Compares a clip's findings, for each of `codes` (with its dwell in seconds) that the truth
    /// judges. `None`: the truth does not know the clip.
    pub fn judge(&self, clip: &str, codes: &[(&str, f64)], seen: &[Seen]) -> Option<Vec<Judged>> {
        if !self.clips.iter().any(|c| c.name == clip) {
            return None;
        }
        let mut judged = Vec::new();
        for &(code, dwell_s) in codes {
            let Some(events) = self.events(clip, code) else {
                continue;
            };
            let one = |outcome: &str, start_s, end_s, delay_s| Judged {
                clip: clip.to_owned(),
                code: code.to_owned(),
                outcome: outcome.to_owned(),
                start_s,
                end_s,
                delay_s,
            };
            let mine: Vec<&Seen> = seen.iter().filter(|s| s.code == code).collect();
            let spans = |s: &Seen, e: &(f64, f64)| {
                s.first_seen_s <= e.1 + EARLY_S && s.last_seen_s >= e.0 - EARLY_S
            };
            let begins = |s: &Seen, e: &(f64, f64)| spans(s, e) && s.opened_s >= e.0 - EARLY_S;
            // What opened with an event may go on into the next; what opened with none is false,
            // whatever comes later.
            let genuine = |s: &Seen| events.iter().any(|e| begins(s, e));
            let meets = |s: &Seen, e: &(f64, f64)| begins(s, e) || (genuine(s) && spans(s, e));
            for event in &events {
                // One finding may go on over several events: a gap shorter than its clear time.
                let told = mine.iter().filter(|s| meets(s, event));
                let first = told.map(|s| s.opened_s).min_by(f64::total_cmp);
                let in_time = first.filter(|at| *at <= event.1 + LATE_S || *at < event.0);
                judged.push(match in_time {
                    Some(at) => one("found", event.0, event.1, Some((at - event.0).max(0.0))),
                    None if event.1 - event.0 < dwell_s + 0.5 => {
                        one("short", event.0, event.1, None)
                    }
                    None => one("missed", event.0, event.1, None),
                });
            }
            for s in mine.iter().filter(|s| !genuine(s)) {
                judged.push(one("false", s.first_seen_s, s.last_seen_s, None));
            }
        }
        Some(judged)
    }
}

/// The events of some words, those that touch or overlap as one.
fn merged(events: &[Event], words: &[&str]) -> Vec<(f64, f64)> {
    let mine = events.iter().filter(|e| words.contains(&e.code.as_str()));
    let mut spans: Vec<(f64, f64)> = mine.map(|e| (e.start_s, e.end_s)).collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut out: Vec<(f64, f64)> = Vec::new();
    for span in spans {
        match out.last_mut() {
            Some(last) if span.0 <= last.1 + 0.5 => last.1 = last.1.max(span.1),
            _ => out.push(span),
        }
    }
    out
}

/// All clips together.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Clips that were compared.
    pub clips: usize,
    /// Their length.
    pub seconds: f64,
    by_code: BTreeMap<String, (Vec<Judged>, usize)>,
}

/// One code over all clips.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The code.
    pub code: String,
    /// Events long enough to be found.
    pub events: usize,
    /// Of those, found.
    pub found: usize,
    /// Of those, missed.
    pub missed: usize,
    /// Findings without an event.
    pub wrong: usize,
    /// Findings with an event and without one.
    pub findings: usize,
    /// From an event's begin to its finding.
    pub median_delay_s: Option<f64>,
}

/// Where a share lies with 95 % certainty when `hits` of `of` were seen (Wilson 1927).
fn wilson(hits: usize, of: usize) -> Option<(f64, f64)> {
    const Z: f64 = 1.96;
    if of == 0 {
        return None;
    }
    let (n, p) = (of as f64, hits as f64 / of as f64);
    let scale = 1.0 + Z * Z / n;
    let middle = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(((middle - half).max(0.0), (middle + half).min(1.0)))
}

fn ratio(hits: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| hits as f64 / of as f64)
}

impl Row {
    /// Nothing to be found, and nothing found.
    pub fn empty(code: &str) -> Self {
        Self {
            code: code.to_owned(),
            events: 0,
            found: 0,
            missed: 0,
            wrong: 0,
            findings: 0,
            median_delay_s: None,
        }
    }

    /// Of the events, the share that was found; `None` without events.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.found, self.events)
    }

    /// Where recall lies with 95 % certainty.
    pub fn recall_interval(&self) -> Option<(f64, f64)> {
        wilson(self.found, self.events)
    }

    /// Of the findings, the share that has an event; `None` without findings.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.findings.saturating_sub(self.wrong), self.findings)
    }

    /// Where precision lies with 95 % certainty.
    pub fn precision_interval(&self) -> Option<(f64, f64)> {
        wilson(self.findings.saturating_sub(self.wrong), self.findings)
    }

    /// Harmonic mean of both; 0 if nothing was found.
    pub fn f1(&self) -> f64 {
        match (self.precision(), self.recall()) {
            (Some(p), Some(r)) if p + r > 0.0 => 2.0 * p * r / (p + r),
            _ => 0.0,
        }
    }
}

impl Score {
    /// Adds a clip of `seconds`, with what was seen in it and how that was judged.
    pub fn add(&mut self, judged: &[Judged], seen: &[Seen], seconds: f64) {
        self.clips += 1;
        self.seconds += seconds;
        for (i, one) in judged.iter().enumerate() {
            let (all, findings) = self.by_code.entry(one.code.clone()).or_default();
            all.push(one.clone());
            // A code that has findings has a judgement, if it is judged at all.
            if !judged[..i].iter().any(|j| j.code == one.code) {
                *findings += seen.iter().filter(|s| s.code == one.code).count();
            }
        }
    }

    /// By code.
    pub fn rows(&self) -> Vec<Row> {
        let row = |(code, (all, findings)): (&String, &(Vec<Judged>, usize))| {
            let count = |outcome: &str| all.iter().filter(|j| j.outcome == outcome).count();
            let mut delays: Vec<f64> = all.iter().filter_map(|j| j.delay_s).collect();
            delays.sort_by(f64::total_cmp);
            let (found, missed) = (count("found"), count("missed"));
            Row {
                code: code.clone(),
                events: found + missed,
                found,
                missed,
                wrong: count("false"),
                findings: *findings,
                median_delay_s: delays.get(delays.len().saturating_sub(1) / 2).copied(),
            }
        };
        self.by_code.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = r#"{"clip": "a.mp4", "not_judged": ["smoking"], "events": [
        {"code": "face-bare", "start_s": 2.0, "end_s": 8.0},
        {"code": "face-bare", "start_s": 8.2, "end_s": 9.0},
        {"code": "face-bare", "start_s": 30.0, "end_s": 31.0},
        {"code": "rodent", "start_s": 4.0, "end_s": 20.0}]}"#;

    fn truth() -> Truth {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("truth.jsonl");
        std::fs::write(&path, TRUTH.replace('\n', "")).unwrap();
        Truth::load(&path).unwrap()
    }

    fn seen(code: &str, first: f64, opened: f64, last: f64) -> Seen {
        Seen {
            code: code.to_owned(),
            first_seen_s: first,
            opened_s: opened,
            last_seen_s: last,
        }
    }

    fn outcomes(findings: &[Seen]) -> Vec<(String, String)> {
        let codes = [
            ("ppe.mask.missing", 3.0),
            ("act.smoking", 2.0),
            ("pest.rodent", 0.5),
        ];
        let judged = truth().judge("a.mp4", &codes, findings).unwrap();
        judged.into_iter().map(|j| (j.code, j.outcome)).collect()
    }

    #[test]
    fn events_are_found_missed_too_short_or_not_there() {
        let mask = "ppe.mask.missing";
        let got = outcomes(&[
            seen(mask, 2.2, 5.2, 8.9),
            seen(mask, 15.0, 18.0, 19.0),
            seen("act.smoking", 1.0, 2.0, 3.0),
        ]);
        let want = [
            (mask, "found"),
            (mask, "short"),
            (mask, "false"),
            ("pest.rodent", "missed"),
        ];
        assert_eq!(got, want.map(|(c, o)| (c.to_owned(), o.to_owned())));
    }

    #[test]
    fn a_finding_that_goes_on_finds_the_next_event_unless_it_began_with_none() {
        let two = Truth {
            clips: vec![
                serde_json::from_str(
                    r#"{"clip": "two.mp4", "events": [
                        {"code": "rodent", "start_s": 4.0, "end_s": 9.0},
                        {"code": "rodent", "start_s": 11.0, "end_s": 15.0}]}"#,
                )
                .unwrap(),
            ],
        };
        let outcomes = |first_seen_s, opened_s, last_seen_s| -> Vec<String> {
            let seen = seen("pest.rodent", first_seen_s, opened_s, last_seen_s);
            let judged = two.judge("two.mp4", &[("pest.rodent", 0.4)], &[seen]);
            judged.unwrap().into_iter().map(|j| j.outcome).collect()
        };
        assert_eq!(outcomes(4.5, 5.0, 14.8), ["found", "found"]);
        assert_eq!(outcomes(4.5, 5.0, 8.0), ["found", "missed"]);
        assert_eq!(outcomes(0.5, 1.0, 14.8), ["missed", "missed", "false"]);
    }

    #[test]
    fn a_finding_long_after_its_event_has_missed_it() {
        let got = outcomes(&[seen("pest.rodent", 19.5, 23.0, 23.0)]);
        assert!(
            got.contains(&("pest.rodent".to_owned(), "missed".to_owned())),
            "{got:?}"
        );
    }

    #[test]
    fn rows_count_what_was_judged() {
        let mut score = Score::default();
        let findings = [
            seen("pest.rodent", 4.5, 5.5, 19.0),
            seen("pest.rodent", 30.0, 31.0, 32.0),
        ];
        let judged = truth().judge("a.mp4", &[("pest.rodent", 0.5)], &findings);
        score.add(&judged.unwrap(), &findings, 40.0);
        let rows = score.rows();
        let row = &rows[0];
        assert_eq!((row.events, row.found, row.wrong), (1, 1, 1));
        assert_eq!((row.findings, row.precision()), (2, Some(0.5)));
        assert_eq!((row.recall(), row.median_delay_s), (Some(1.0), Some(1.5)));
        assert!((row.f1() - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_share_of_few_is_uncertain() {
        // Wilson's interval as R's prop.test(7, 9, correct = FALSE) gives it.
        let (low, high) = wilson(7, 9).unwrap();
        assert!(
            (low - 0.4526).abs() < 1e-3 && (high - 0.9368).abs() < 1e-3,
            "{low} {high}"
        );
        let (low, high) = wilson(0, 3).unwrap();
        assert!(
            low.abs() < 1e-9 && (high - 0.5615).abs() < 1e-3,
            "{low} {high}"
        );
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("truth.jsonl");
        std::fs::write(&path, format!("{}\nnonsense\n", TRUTH.replace('\n', ""))).unwrap();
        let error = format!("{:#}", Truth::load(&path).unwrap_err());
        assert!(error.contains("truth.jsonl, line 2"), "{error}");
    }
}
