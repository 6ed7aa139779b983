//! The timeline of a clip: for each rule its scores, dwell, findings and what was really there; below
//! them the objects that were followed. Long clips are cut into strips one below the other, so that
//! they stay legible on screens and on paper.
use super::sentences::time;
use super::svg::{Anchor, Scale, Svg, escape};
use crate::app::health::fault_title;
use crate::app::replay::evaluate::{Found, Scene};
use crate::app::replay::timeline::{RuleLane, Timeline, TrackLane};
use crate::base::words::{Lang, Texts, columns, label_of, report as words, title};
use crate::rules::RuleConfig;

const WIDTH: f64 = 1080.0;
/// Where time begins and ends.
const ALONG: (f64, f64) = (172.0, 1006.0);
const AXIS_HEIGHT: f64 = 30.0;
const HEALTH_HEIGHT: f64 = 18.0;
const SCORES_HEIGHT: f64 = 64.0;
const ROW: f64 = 15.0;
const TRACK: f64 = 14.0;
const MOST_TRACK_ROWS: usize = 16;
/// Points across the width, at most; more could not be told apart.
const MOST_POINTS: usize = 450;
/// A line is not drawn across a longer time without a picture of it.
const BREAK_S: f64 = 1.6;
/// A clip up to this is one strip.
const ONE_STRIP_S: f64 = 90.0;
const MOST_STRIPS: f64 = 12.0;

/// A clip with what is to be drawn of it.
pub struct Lanes<'a> {
    /// What the rules and classes are.
    pub scene: &'a Scene,
    /// What was seen.
    pub timeline: &'a Timeline,
    /// What was found.
    pub findings: &'a [Found],
    /// By rule, what is really there; `None`: nobody has said.
    pub truth: Vec<Option<Vec<(f64, f64)>>>,
    /// The clip's length.
    pub length_s: f64,
    /// What people read it in.
    pub lang: Lang,
}

/// One rule that has something to show.
struct Row<'a> {
    ix: usize,
    /// Whether nothing lasted, was found or is there: its scores are all there is to show.
    is_quiet: bool,
    rule: &'a RuleConfig,
    lane: &'a RuleLane,
}

type Span = (f64, f64);

fn meets(a: Span, b: Span) -> bool {
    a.0 <= b.1 && a.1 >= b.0
}

impl Lanes<'_> {
    fn time(&self, at_s: f64) -> Texts {
        time(at_s, self.length_s)
    }

    /// The drawings, as markup.
    pub fn markup(&self) -> String {
        let mut out = String::new();
        let mut empty: Option<Span> = None;
        let tell = |empty: &mut Option<Span>, out: &mut String| {
            if let Some((from, to)) = empty.take() {
                let said = words::nothing_to_show(self.time(from), self.time(to));
                let said = escape(said.of(self.lang));
                out.push_str(&format!("<p class=\"soft\">{said}</p>\n"));
            }
        };
        for strip in self.strips() {
            if self.is_empty(strip) {
                empty = Some((empty.map_or(strip.0, |e| e.0), strip.1));
                continue;
            }
            tell(&mut empty, &mut out);
            out.push_str(&format!(
                "<div class=\"scroll\">{}</div>\n",
                self.strip(strip)
            ));
        }
        tell(&mut empty, &mut out);
        out
    }

    fn strips(&self) -> Vec<Span> {
        const LENGTHS_S: [f64; 8] = [60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0];
        if self.length_s <= ONE_STRIP_S {
            return vec![(0.0, self.length_s.max(0.1))];
        }
        let fits = |l: &f64| self.length_s / l <= MOST_STRIPS;
        let length = LENGTHS_S.into_iter().find(fits).unwrap_or(86_400.0);
        let count = (self.length_s / length).ceil() as usize;
        let strip = |i: usize| {
            let from = i as f64 * length;
            (from, from + length)
        };
        (0..count).map(strip).collect()
    }

    fn is_empty(&self, strip: Span) -> bool {
        let tracks = self
            .timeline
            .tracks
            .iter()
            .any(|t| meets(t.span_s(), strip));
        let blind = self.timeline.blind.iter().any(|b| meets(*b, strip));
        let truth = self.truth.iter().flatten().flatten();
        let mut health = self.timeline.health.iter();
        !tracks
            && !blind
            && !health.any(|(from, to, _)| meets((*from, *to), strip))
            && self.findings.is_empty()
            && !truth.into_iter().any(|e| meets(*e, strip))
    }

    /// Rules that have something to show anywhere in the clip, so that all strips look alike.
    fn rows(&self) -> Vec<Row<'_>> {
        let rules = self
            .scene
            .rules
            .iter()
            .zip(&self.timeline.rules)
            .enumerate();
        let rows = rules.map(|(ix, (rule, lane))| {
            let events = self.truth.get(ix).and_then(Option::as_ref);
            let mut findings = self.findings.iter();
            let is_quiet = lane.dwell.iter().all(|d| d.1 <= 0.0)
                && events.is_none_or(Vec::is_empty)
                && !findings.any(|f| usize::from(f.opened().rule.0) == ix);
            Row {
                ix,
                is_quiet,
                rule,
                lane,
            }
        });
        let shows = |r: &Row<'_>| !r.is_quiet || !r.lane.scores.is_empty();
        rows.filter(shows).collect()
    }

    fn height(&self, row: &Row<'_>) -> f64 {
        let bars = match (row.is_quiet, self.truth.get(row.ix)) {
            (true, _) => 0.0,
            (false, Some(Some(_))) => 3.0,
            (false, _) => 2.0,
        };
        SCORES_HEIGHT + ROW * bars + 24.0
    }

    fn strip(&self, strip: Span) -> String {
        let along = Scale {
            values: strip,
            units: ALONG,
        };
        let rows = self.rows();
        let tracks = self.track_rows(strip);
        let tracks_top =
            AXIS_HEIGHT + HEALTH_HEIGHT + rows.iter().map(|r| self.height(r)).sum::<f64>();
        let bottom =
            tracks_top + tracks.len() as f64 * TRACK + if tracks.is_empty() { 0.0 } else { 10.0 };
        let mut svg = Svg::default();
        self.axis(&mut svg, &along, bottom);
        self.health(&mut svg, &along, AXIS_HEIGHT);
        let mut top = AXIS_HEIGHT + HEALTH_HEIGHT;
        for row in &rows {
            self.rule(&mut svg, &along, top, row);
            top += self.height(row);
        }
        self.tracks(&mut svg, &along, tracks_top, &tracks);
        for blind in self.timeline.blind.iter().filter(|b| meets(**b, strip)) {
            let (from, to) = (along.at(blind.0), along.at(blind.1));
            svg.rect(
                (from, AXIS_HEIGHT - 4.0),
                (to - from, bottom - AXIS_HEIGHT + 4.0),
                "blind",
                words::blind().of(self.lang),
            );
        }
        let about = words::timeline(self.time(strip.0), self.time(strip.1));
        svg.element((WIDTH, bottom + 6.0), about.of(self.lang))
    }

    fn axis(&self, svg: &mut Svg, along: &Scale, bottom: f64) {
        for tick in along.time_ticks(9.0) {
            let x = along.at(tick);
            svg.line((x, AXIS_HEIGHT - 6.0), (x, bottom), "grid");
            let text = if self.length_s < 120.0 {
                words::seconds(tick)
            } else {
                self.time(tick)
            };
            let text = text.of(self.lang);
            svg.text((x, AXIS_HEIGHT - 12.0), Anchor::Middle, "soft", text);
        }
    }

    fn rule(&self, svg: &mut Svg, along: &Scale, top: f64, row: &Row<'_>) {
        let (left, right) = ALONG;
        let up = Scale {
            values: (0.0, 1.0),
            units: (top + 8.0 + SCORES_HEIGHT, top + 8.0),
        };
        svg.text(
            (8.0, top + 22.0),
            Anchor::Start,
            "name",
            title(row.rule.code.as_str()).of(self.lang),
        );
        let below = row.rule.zone.as_ref().map_or_else(
            || Texts::same(row.rule.id.as_str()),
            |z| words::zone(&row.rule.id, &z.name),
        );
        svg.text(
            (8.0, top + 38.0),
            Anchor::Start,
            "small",
            &shortened(below.of(self.lang), 24),
        );
        for share in [0.0, 0.5, 1.0] {
            svg.line((left, up.at(share)), (right, up.at(share)), "grid");
            svg.text(
                (left - 6.0, up.at(share) + 4.0),
                Anchor::End,
                "small",
                &format!("{share}"),
            );
        }
        self.scores(svg, along, &up, row);
        if row.is_quiet {
            return;
        }
        let dwell_top = up.at(0.0) + 5.0;
        svg.text(
            (left - 6.0, dwell_top + 10.0),
            Anchor::End,
            "small",
            words::how_long().of(self.lang),
        );
        self.dwell(svg, along, dwell_top + 11.0, row.lane);
        let finding_top = dwell_top + ROW;
        svg.text(
            (left - 6.0, finding_top + 10.0),
            Anchor::End,
            "small",
            words::finding().of(self.lang),
        );
        let mine = self
            .findings
            .iter()
            .filter(|f| usize::from(f.opened().rule.0) == row.ix);
        for found in mine {
            self.finding(svg, along, finding_top, found);
        }
        let Some(Some(events)) = self.truth.get(row.ix) else {
            return;
        };
        let truth_top = finding_top + ROW;
        svg.text(
            (left - 6.0, truth_top + 10.0),
            Anchor::End,
            "small",
            words::really_there().of(self.lang),
        );
        for event in events.iter().filter(|e| meets(**e, along.values)) {
            let (from, to) = (along.at(event.0), along.at(event.1));
            let about = words::really_there_span(self.time(event.0), self.time(event.1));
            svg.rect(
                (from, truth_top + 2.0),
                ((to - from).max(1.5), 9.0),
                "truth",
                about.of(self.lang),
            );
        }
    }

    fn scores(&self, svg: &mut Svg, along: &Scale, up: &Scale, row: &Row<'_>) {
        for (at, score) in highest(&within(&row.lane.scores, along.values), along.values) {
            let about = words::score_at(self.time(at), format_args!("{score:.2}"));
            let point = (along.at(at), up.at(score));
            svg.dot(point, 2.6, "seen", about.of(self.lang));
        }
        let inside = |v: &&(f64, f64, f64)| v.0 >= along.values.0 && v.0 <= along.values.1;
        let values: Vec<Span> = row
            .lane
            .values
            .iter()
            .filter(inside)
            .map(|v| (v.0, v.1))
            .collect();
        for piece in pieces(&outline(&values, along.values)) {
            let points: Vec<Span> = piece
                .iter()
                .map(|(t, v)| (along.at(*t), up.at(*v)))
                .collect();
            svg.path(&points, "c0");
        }
        let least = row.rule.least_threshold();
        let y = up.at(least.into());
        svg.line((along.units.0, y), (along.units.1, y), "limit");
        if row.rule.threshold > least {
            let y = up.at(row.rule.threshold.into());
            svg.line((along.units.0, y), (along.units.1, y), "limit");
        }
        let text = words::asked(format_args!("{least:.2}"));
        svg.text(
            (along.units.1 + 6.0, y + 4.0),
            Anchor::Start,
            "small",
            text.of(self.lang),
        );
    }

    fn finding(&self, svg: &mut Svg, along: &Scale, top: f64, found: &Found) {
        let seconds = |at| self.scene.seconds(at);
        let opened = found.opened();
        let first = seconds(opened.first_seen);
        let last = seconds(found.last_seen);
        for (i, (from, to)) in found.spans().into_iter().enumerate() {
            let from = if i == 0 { first } else { seconds(from) };
            let to = to.map_or(self.length_s, seconds);
            if !meets((from, to), along.values) {
                continue;
            }
            let rule = &self.scene.rules[usize::from(opened.rule.0)];
            let about = words::open_until(title(rule.code.as_str()), self.time(to));
            let about = about.of(self.lang);
            let (x0, x1) = (along.at(from), along.at(to));
            svg.rect((x0, top + 4.0), ((x1 - x0).max(1.5), 5.0), "tail", about);
            let seen_to = along.at(last.min(to));
            if seen_to > x0 {
                svg.rect((x0, top + 1.0), (seen_to - x0, 11.0), "open", about);
            }
        }
        let told = seconds(opened.stamp.received_utc);
        if told >= along.values.0 && told <= along.values.1 {
            let x = along.at(told);
            let about = words::told_span(self.time(told));
            let corners = [(x - 5.0, top - 6.0), (x + 5.0, top - 6.0), (x, top + 1.0)];
            svg.area(&corners, "open", about.of(self.lang));
        }
    }

    /// Objects in rows, so that none overlaps another of its row; those that rules ask for first.
    fn track_rows(&self, strip: Span) -> Vec<Vec<&TrackLane>> {
        let asked = |t: &TrackLane| {
            t.parts.iter().any(|p| {
                let mut rules = self.scene.rules.iter();
                rules.any(|r| r.classes.iter().any(|c| c.0 == p.2))
            })
        };
        let here = self
            .timeline
            .tracks
            .iter()
            .filter(|t| meets(t.span_s(), strip));
        let (first, then): (Vec<_>, Vec<_>) = here.partition(|t| asked(t));
        let least_gap_s = (strip.1 - strip.0) / 200.0;
        let mut rows: Vec<Vec<&TrackLane>> = Vec::new();
        for track in first.into_iter().chain(then) {
            let is_free = |row: &Vec<&TrackLane>| {
                row.iter().all(|other| {
                    let (a, b) = (other.span_s(), track.span_s());
                    b.0 > a.1 + least_gap_s || b.1 + least_gap_s < a.0
                })
            };
            match rows.iter().position(is_free) {
                Some(row) => rows[row].push(track),
                None if rows.len() < MOST_TRACK_ROWS => rows.push(vec![track]),
                None => {}
            }
        }
        rows
    }

    fn tracks(&self, svg: &mut Svg, along: &Scale, top: f64, rows: &[Vec<&TrackLane>]) {
        if rows.is_empty() {
            return;
        }
        svg.text(
            (8.0, top + 16.0),
            Anchor::Start,
            "name",
            words::objects().of(self.lang),
        );
        for (i, row) in rows.iter().enumerate() {
            let y = top + 6.0 + i as f64 * TRACK;
            for track in row {
                for &(from, to, class) in &track.parts {
                    if !meets((from, to), along.values) {
                        continue;
                    }
                    let label = self.scene.classes.get(usize::from(class));
                    let label = label_of(label.map_or("?", |c| c.label.as_str()));
                    let (x0, x1) = (along.at(from), along.at(to));
                    let about = words::object(
                        &label,
                        track.id.0,
                        self.time(from),
                        self.time(to),
                        format_args!("{:.2}", track.best_score),
                    );
                    let about = about.of(self.lang);
                    let class = format!("f{}", class % 6);
                    svg.rect((x0, y), ((x1 - x0).max(2.0), TRACK - 3.0), &class, about);
                    let label = label.of(self.lang);
                    if x1 - x0 > columns(label) as f64 * 6.2 + 8.0 {
                        svg.text((x0 + 4.0, y + 8.8), Anchor::Start, "in", label);
                    }
                }
            }
        }
    }

    /// What the camera showed: well, wrongly, or nothing.
    fn health(&self, svg: &mut Svg, along: &Scale, top: f64) {
        let (left, right) = ALONG;
        let title = words::health();
        svg.text(
            (8.0, top + 10.0),
            Anchor::Start,
            "name",
            title.of(self.lang),
        );
        let clip_end = along.at(self.length_s).min(right);
        let well = words::all_well();
        svg.rect(
            (left, top + 5.0),
            (clip_end - left, 3.0),
            "well",
            well.of(self.lang),
        );
        let spans = self.timeline.health.iter();
        for (from, to, fault) in spans.filter(|(from, to, _)| meets((*from, *to), along.values)) {
            let (x0, x1) = (along.at(*from).max(left), along.at(*to).min(right));
            let what = fault_title(*fault);
            let about = words::picture_was(&what, self.time(*from), self.time(*to));
            let size = ((x1 - x0).max(2.0), 11.0);
            svg.rect((x0, top + 1.0), size, "health", about.of(self.lang));
            let what = what.of(self.lang);
            if x1 - x0 > columns(what) as f64 * 6.2 + 8.0 {
                svg.text((x0 + 4.0, top + 9.8), Anchor::Start, "in", what);
            }
        }
    }

    fn dwell(&self, svg: &mut Svg, along: &Scale, base: f64, lane: &RuleLane) {
        let shares = within(&lane.dwell, along.values);
        for piece in pieces(&outline(&shares, along.values)) {
            let (Some(first), Some(last)) = (piece.first(), piece.last()) else {
                continue;
            };
            if piece.iter().all(|p| p.1 <= 0.0) {
                continue;
            }
            let mut corners: Vec<Span> = piece
                .iter()
                .map(|(t, share)| (along.at(*t), base - share * 10.0))
                .collect();
            corners.push((along.at(last.0), base));
            corners.push((along.at(first.0), base));
            svg.area(&corners, "dwell", words::key_dwell().of(self.lang));
        }
    }
}

fn within(points: &[Span], strip: Span) -> Vec<Span> {
    let inside = |p: &&Span| p.0 >= strip.0 && p.0 <= strip.1;
    points.iter().filter(inside).copied().collect()
}

/// Which of [`MOST_POINTS`] columns a moment is in.
fn column(at: f64, strip: Span) -> usize {
    ((at - strip.0) / (strip.1 - strip.0).max(1e-9) * MOST_POINTS as f64) as usize
}

/// The highest point of each column.
fn highest(points: &[Span], strip: Span) -> Vec<Span> {
    let mut kept: Vec<Span> = Vec::new();
    for &point in points {
        match kept.last_mut() {
            Some(last) if column(last.0, strip) == column(point.0, strip) => {
                if point.1 > last.1 {
                    *last = point;
                }
            }
            _ => kept.push(point),
        }
    }
    kept
}

/// The lowest and the highest point of each column, in order of time: a line through them looks as one
/// through all.
fn outline(points: &[Span], strip: Span) -> Vec<Span> {
    let mut kept = Vec::new();
    for group in points.chunk_by(|a, b| column(a.0, strip) == column(b.0, strip)) {
        let by = |a: &&Span, b: &&Span| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (group.iter().min_by(by), group.iter().max_by(by)) else {
            continue;
        };
        let mut pair = vec![*low, *high];
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair.dedup();
        kept.extend(pair);
    }
    kept
}

/// Runs of points without a long gap.
fn pieces(points: &[Span]) -> Vec<&[Span]> {
    points.chunk_by(|a, b| b.0 - a.0 <= BREAK_S).collect()
}

/// At most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_extremes() {
        let strip = (0.0, 1000.0);
        let points: Vec<Span> = (0..10_000)
            .map(|i| (f64::from(i) / 10.0, if i == 5003 { 0.9 } else { 0.2 }))
            .collect();
        let high = highest(&points, strip);
        assert!(high.len() <= MOST_POINTS + 1 && high.iter().any(|p| p.1 > 0.8));
        let line = outline(&points, strip);
        assert!(line.len() <= 2 * MOST_POINTS + 2 && line.iter().any(|p| p.1 > 0.8));
        assert!(line.windows(2).all(|w| w[0].0 <= w[1].0));
    }

    #[test]
    fn a_line_breaks_where_nothing_was_seen() {
        let points = [(0.0, 1.0), (1.0, 1.0), (9.0, 1.0), (9.5, 1.0)];
        let lengths: Vec<usize> = pieces(&points).iter().map(|p| p.len()).collect();
        assert_eq!(lengths, [2, 2]);
    }
}
