//! `--sweep RULE.KEY=LOW..HIGH[:STEP]`: what a rule would have found with other values of one key.
//!
//! Only track and rules run again, on what was recorded, so hundreds of values take seconds. Every
//! value is judged by the same events: those long enough for the rule as it is configured.
use anyhow::{Context as _, bail};
use serde::Serialize;

use super::Played;
use super::evaluate::Scene;
use super::lines::{Lines, rounded, share};
use crate::app::terminal::Tone;
use crate::app::truth::{Row, Score, Seen, Truth};
use crate::rules::RuleConfig;

/// Values in one sweep, at most: more make no better table and no better plot.
const MAX_VALUES: usize = 200;
/// Values of a sweep that names no step, about.
const USUAL_VALUES: f64 = 20.0;

/// What may be varied.
#[derive(Clone, Copy)]
pub struct Key {
    /// As in the config.
    pub name: &'static str,
    least: f64,
    most: f64,
    is_whole: bool,
    get: fn(&RuleConfig) -> f64,
    set: fn(&mut RuleConfig, f64),
}

const MOST_MS: f64 = 86_400_000.0;

const KEYS: &[Key] = &[
    Key {
        name: "threshold",
        least: 0.0,
        most: 1.0,
        is_whole: false,
        get: |r| f64::from(r.threshold),
        set: |r, v| r.threshold = v as f32,
    },
    Key {
        name: "samples",
        least: 1.0,
        most: 100.0,
        is_whole: true,
        get: |r| r.samples as f64,
        set: |r, v| r.samples = v as usize,
    },
    Key {
        name: "hits",
        least: 1.0,
        most: 100.0,
        is_whole: true,
        get: |r| r.hits.unwrap_or_default() as f64,
        set: |r, v| r.hits = Some(v as usize),
    },
    Key {
        name: "zone_samples",
        least: 1.0,
        most: 100.0,
        is_whole: true,
        get: |r| f64::from(r.zone_samples),
        set: |r, v| r.zone_samples = v as u32,
    },
    Key {
        name: "dwell_ms",
        least: 0.0,
        most: MOST_MS,
        is_whole: true,
        get: |r| r.dwell_ms as f64,
        set: |r, v| r.dwell_ms = v as u64,
    },
    Key {
        name: "clear_ms",
        least: 0.0,
        most: MOST_MS,
        is_whole: true,
        get: |r| r.clear_ms as f64,
        set: |r, v| r.clear_ms = v as u64,
    },
    Key {
        name: "cooldown_ms",
        least: 0.0,
        most: MOST_MS,
        is_whole: true,
        get: |r| r.cooldown_ms as f64,
        set: |r, v| r.cooldown_ms = v as u64,
    },
    Key {
        name: "still_ms",
        least: 0.0,
        most: MOST_MS,
        is_whole: true,
        get: |r| r.still_ms as f64,
        set: |r, v| r.still_ms = v as u64,
    },
];

/// One key of one rule, or of all rules of a code, over a range.
pub struct Sweep {
    /// As written: a rule's id, or a code.
    pub rule: String,
    /// Which key.
    pub key: Key,
    /// Rising.
    pub values: Vec<f64>,
    /// Indices of the rules that it means.
    rules: Vec<usize>,
    /// Their code.
    pub code: String,
    /// What the key is now.
    pub now: f64,
}

/// What one value gives.
pub struct Point {
    /// The value.
    pub value: f64,
    /// How the findings compare with the truth.
    pub row: Row,
}

#[derive(Serialize)]
struct PointLine<'a> {
    rule: &'a str,
    key: &'a str,
    value: f64,
    precision: Option<f64>,
    recall: Option<f64>,
    f1: f64,
    events: usize,
    found: usize,
    missed: usize,
    #[serde(rename = "false")]
    wrong: usize,
    findings: usize,
    median_delay_s: Option<f64>,
    best: bool,
}

fn number(text: &str) -> anyhow::Result<f64> {
    let value: f64 = text
        .trim()
        .parse()
        .with_context(|| format!("`{text}` is no number"))?;
    if !value.is_finite() {
        bail!("`{text}` is no number");
    }
    Ok(value)
}

impl Key {
    fn named(name: &str) -> anyhow::Result<Self> {
        let known = KEYS.iter().find(|k| k.name == name).copied();
        known.with_context(|| {
            let names: Vec<&str> = KEYS.iter().map(|k| k.name).collect();
            format!("`{name}` cannot be varied; what can: {}", names.join(", "))
        })
    }

    /// `LOW..HIGH[:STEP]` as values.
    fn values(&self, range: &str) -> anyhow::Result<Vec<f64>> {
        let (bounds, step) = match range.split_once(':') {
            Some((bounds, step)) => (bounds, Some(number(step)?)),
            None => (range, None),
        };
        let shape =
            || format!("`{range}` is no range: LOW..HIGH or LOW..HIGH:STEP, such as 0.3..0.8:0.05");
        let (low, high) = bounds.split_once("..").with_context(shape)?;
        let (low, high) = (number(low)?, number(high)?);
        if low > high {
            bail!("the range {low}..{high} is empty: write the lower value first");
        }
        if low < self.least || high > self.most {
            bail!("`{}` goes from {} to {}", self.name, self.least, self.most);
        }
        let usual = (high - low) / USUAL_VALUES;
        let usual = if self.is_whole {
            usual.ceil().max(1.0)
        } else {
            usual
        };
        let step = step.unwrap_or(usual);
        if self.is_whole && [low, high, step].iter().any(|v| v.fract() != 0.0) {
            bail!("`{}` takes whole numbers", self.name);
        }
        if high <= low {
            return Ok(vec![low]);
        }
        if step <= 0.0 {
            bail!("a step of {step} leads nowhere: it must be above 0");
        }
        // A hair more, so that 0.3 to 0.8 by 0.05 has its last value.
        let count = ((high - low) / step + 1e-6).floor() + 1.0;
        if count > MAX_VALUES as f64 {
            let least = (high - low) / (MAX_VALUES - 1) as f64;
            bail!(
                "{low}..{high} by {step} are {count} values; at most {MAX_VALUES} go: take a step of {} or more",
                if self.is_whole {
                    least.ceil()
                } else {
                    rounded(least + 5e-5)
                }
            );
        }
        let value = |i: usize| ((low + i as f64 * step) * 1e6).round() / 1e6;
        Ok((0..count as usize).map(value).collect())
    }

    /// A value beside an axis.
    pub fn tick(&self, value: f64) -> String {
        if self.is_whole {
            return format!("{value:.0}");
        }
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// A value as people read it.
    pub fn text(&self, value: f64) -> String {
        if self.is_whole {
            format!("{value:.0}")
        } else {
            format!("{value:.3}")
        }
    }
}

impl Sweep {
    /// Reads `RULE.KEY=LOW..HIGH[:STEP]`.
    ///
    /// # Errors
    /// What is wrong with it, and what there is.
    pub fn parse(text: &str, rules: &[RuleConfig]) -> anyhow::Result<Self> {
        let shape = || {
            format!(
                "--sweep {text}: expected RULE.KEY=LOW..HIGH[:STEP], such as pest.rodent.threshold=0.3..0.8:0.05"
            )
        };
        let (what, range) = text.split_once('=').with_context(shape)?;
        let (rule, key) = what.rsplit_once('.').with_context(shape)?;
        let context = || format!("--sweep {text}");
        let key = Key::named(key).with_context(context)?;
        let values = key.values(range).with_context(context)?;
        let matching = |by: fn(&RuleConfig) -> &str| -> Vec<usize> {
            (0..rules.len())
                .filter(|&i| by(&rules[i]) == rule)
                .collect()
        };
        let mut chosen = matching(|r| r.id.as_str());
        if chosen.is_empty() {
            chosen = matching(|r| r.code.as_str());
        }
        let Some(&first) = chosen.first() else {
            let names: Vec<&str> = rules.iter().map(|r| r.id.as_str()).collect();
            bail!(
                "--sweep {text}: there is no rule or code `{rule}`; there are {}",
                names.join(", ")
            );
        };
        Ok(Self {
            rule: rule.to_owned(),
            key,
            values,
            code: rules[first].code.to_string(),
            now: (key.get)(&rules[first]),
            rules: chosen,
        })
    }

    /// The scene with another value.
    fn scene(&self, scene: &Scene, value: f64) -> Scene {
        let mut other = scene.clone();
        for &rule in &self.rules {
            (self.key.set)(&mut other.rules[rule], value);
        }
        other
    }

    /// Runs every value over everything that was recorded and that the truth knows.
    pub fn run(&self, scene: &Scene, played: &[Played], truth: &Truth) -> Vec<Point> {
        let point = |&value: &f64| {
            let other = self.scene(scene, value);
            let mut score = Score::default();
            for recording in played.iter().map(|p| &p.recording) {
                let seen: Vec<Seen> = other
                    .evaluate(recording, &mut |_, _, _| {})
                    .iter()
                    .map(|f| other.seen(f))
                    .filter(|s| s.code == self.code)
                    .collect();
                let mut codes = scene.codes_of(recording.camera);
                codes.retain(|(code, _)| *code == self.code);
                if let Some(judged) = truth.judge(&recording.clip, &codes, &seen) {
                    score.add(&judged, &seen, recording.seconds());
                }
            }
            let row = score.rows().into_iter().next();
            Point {
                value,
                row: row.unwrap_or_else(|| Row::empty(&self.code)),
            }
        };
        self.values.iter().map(point).collect()
    }
}

/// The index of the best point: the highest F1, then the fewest false, then the shortest delay; of a
/// stretch of equals the middle, which small changes of the scene upset least.
pub fn best(points: &[Point]) -> usize {
    let worth = |p: &Point| {
        (
            p.row.f1(),
            std::cmp::Reverse(p.row.wrong),
            -p.row.median_delay_s.unwrap_or(f64::MAX),
        )
    };
    let is_equal = |a: &Point, b: &Point| {
        worth(a)
            .partial_cmp(&worth(b))
            .is_some_and(std::cmp::Ordering::is_eq)
    };
    let mut top = 0;
    for (i, point) in points.iter().enumerate() {
        if worth(point) > worth(&points[top]) {
            top = i;
        }
    }
    let equals = points[top..]
        .iter()
        .take_while(|p| is_equal(p, &points[top]));
    top + (equals.count().max(1) - 1) / 2
}

/// Prints the table, or one JSON line a value.
pub fn print(sweep: &Sweep, points: &[Point], lines: Lines) {
    let best = best(points);
    if lines.json {
        for (i, Point { value, row }) in points.iter().enumerate() {
            lines.object(&PointLine {
                rule: &sweep.rule,
                key: sweep.key.name,
                value: *value,
                precision: row.precision().map(rounded),
                recall: row.recall().map(rounded),
                f1: rounded(row.f1()),
                events: row.events,
                found: row.found,
                missed: row.missed,
                wrong: row.wrong,
                findings: row.findings,
                median_delay_s: row.median_delay_s,
                best: i == best,
            });
        }
        return;
    }
    let terminal = lines.terminal;
    terminal.line(format_args!(
        "{:>10} {:>10} {:>7} {:>6} {:>6} {:>7} {:>6} {:>8}",
        sweep.key.name, "precision", "recall", "F1", "found", "missed", "false", "delay s"
    ));
    let percent =
        |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{:.0} %", v * 100.0));
    for (i, Point { value, row }) in points.iter().enumerate() {
        let delay = row.median_delay_s;
        let delay = delay.map_or_else(|| "-".to_owned(), |d| format!("{d:.1}"));
        let text = format!(
            "{:>10} {:>10} {:>7} {:>6.2} {:>6} {:>7} {:>6} {:>8}{}",
            sweep.key.text(*value),
            percent(row.precision()),
            percent(row.recall()),
            row.f1(),
            row.found,
            row.missed,
            row.wrong,
            delay,
            if i == best { "  best" } else { "" },
        );
        if i == best {
            terminal.line(terminal.paint(Tone::Bold, text));
        } else {
            terminal.line(text);
        }
    }
    let row = &points[best].row;
    terminal.line(format_args!(
        "\n{} of {} is {} now. At {}: precision {}, recall {};\nin brackets where they lie with 95 % certainty, by {} events.",
        sweep.key.name,
        sweep.rule,
        sweep.key.text(sweep.now),
        sweep.key.text(points[best].value),
        share(row.precision(), row.precision_interval()),
        share(row.recall(), row.recall_interval()),
        row.events,
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::named(name).unwrap()
    }

    #[test]
    fn a_range_is_its_values_both_ends_included() {
        let values = key("threshold").values("0.3..0.8:0.1").unwrap();
        assert_eq!(values, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]);
        assert_eq!(key("samples").values("1..4").unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(key("threshold").values("0.2..0.8").unwrap().len(), 21);
        assert_eq!(key("dwell_ms").values("500..500").unwrap(), [500.0]);
    }

    #[test]
    fn a_range_that_gives_nothing_or_too_much_is_refused_with_the_reason() {
        let refused =
            |name: &str, range: &str| format!("{:#}", key(name).values(range).unwrap_err());
        assert!(refused("threshold", "0.8..0.3").contains("is empty"));
        assert!(refused("threshold", "0.3").contains("is no range"));
        assert!(refused("threshold", "0.3..x").contains("`x` is no number"));
        assert!(refused("threshold", "0.3..1.5").contains("goes from 0 to 1"));
        assert!(refused("threshold", "0.3..0.8:0").contains("leads nowhere"));
        assert!(refused("threshold", "0..1:-0.1").contains("leads nowhere"));
        assert!(refused("samples", "1..5:0.5").contains("whole numbers"));
        let many = refused("dwell_ms", "0..5000:1");
        assert!(
            many.contains("5001 values") && many.contains("at most 200"),
            "{many}"
        );
        let error = Key::named("treshold").err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("threshold, samples, hits")));
    }

    #[test]
    fn the_best_is_the_middle_of_the_widest_stretch_of_equals() {
        let point = |value, found: usize, wrong| Point {
            value,
            row: Row {
                events: 4,
                found,
                missed: 4 - found,
                wrong,
                findings: found + wrong,
                ..Row::empty("pest.rodent")
            },
        };
        let points = [
            point(0.1, 4, 3),
            point(0.2, 3, 0),
            point(0.3, 3, 0),
            point(0.4, 3, 0),
            point(0.5, 1, 0),
        ];
        assert_eq!(best(&points), 2);
    }
}
