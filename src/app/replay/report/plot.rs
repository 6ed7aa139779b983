//! A sweep as a drawing: precision, recall and F1 over the value, and precision over recall.
use super::page::{DRAWING, page};
use super::svg::{Anchor, Scale, Svg, escape};
use crate::app::replay::sweep::{Point, Sweep, best};
use crate::base::words::{Lang, Texts, plot as words};

const SIZE: (f64, f64) = (1040.0, 430.0);
/// Top and bottom of both charts.
const ROWS: (f64, f64) = (70.0, 360.0);
/// Left and right of the chart over the value.
const OVER_VALUE: (f64, f64) = (60.0, 560.0);
/// Left and right of the chart over recall.
const OVER_RECALL: (f64, f64) = (700.0, 990.0);

/// The drawing as an element of a page.
pub fn element(sweep: &Sweep, points: &[Point], lang: Lang) -> String {
    drawing(sweep, points, lang).element(SIZE, title(sweep).of(lang))
}

/// The drawing as a file: a page or, by `is_svg`, a drawing.
pub fn file(sweep: &Sweep, points: &[Point], is_svg: bool, lang: Lang) -> String {
    if is_svg {
        return drawing(sweep, points, lang).file(SIZE, DRAWING);
    }
    let title = title(sweep);
    let title = title.of(lang);
    let body = format!(
        "<h1>{}</h1>\n<div class=\"scroll\">{}</div>\n",
        escape(title),
        element(sweep, points, lang)
    );
    page(lang, title, &body)
}

/// What was varied.
pub fn title(sweep: &Sweep) -> Texts {
    words::title(sweep.key.name, &sweep.rule)
}

fn drawing(sweep: &Sweep, points: &[Point], lang: Lang) -> Svg {
    let mut svg = Svg::default();
    over_value(&mut svg, sweep, points, lang);
    over_recall(&mut svg, sweep, points, lang);
    svg
}

fn percent_rows(svg: &mut Svg, columns: (f64, f64)) -> Scale {
    let up = Scale {
        values: (0.0, 1.0),
        units: (ROWS.1, ROWS.0),
    };
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let y = up.at(share);
        svg.line((columns.0, y), (columns.1, y), "grid");
        let text = format!("{:.0} %", share * 100.0);
        svg.text((columns.0 - 8.0, y + 4.0), Anchor::End, "soft", &text);
    }
    up
}

/// What a point gives of one series.
type Of = fn(&Point) -> Option<f64>;

fn over_value(svg: &mut Svg, sweep: &Sweep, points: &[Point], lang: Lang) {
    let (left, right) = OVER_VALUE;
    let up = percent_rows(svg, OVER_VALUE);
    let (first, last) = (points[0].value, points[points.len() - 1].value);
    let along = Scale {
        values: (first, last),
        units: (left, right),
    };
    for tick in along.ticks(7.0) {
        let x = along.at(tick);
        svg.line((x, ROWS.1), (x, ROWS.1 + 5.0), "edge");
        let text = sweep.key.tick(tick);
        svg.text((x, ROWS.1 + 20.0), Anchor::Middle, "soft", &text);
    }
    svg.text(
        (left, 26.0),
        Anchor::Start,
        "head",
        words::each_value(sweep.key.name).of(lang),
    );
    svg.text(
        (f64::midpoint(left, right), ROWS.1 + 42.0),
        Anchor::Middle,
        "soft",
        title(sweep).of(lang),
    );
    let best = best(points);
    let x = along.at(points[best].value);
    if (first..=last).contains(&sweep.now) {
        svg.line(
            (along.at(sweep.now), ROWS.0),
            (along.at(sweep.now), ROWS.1),
            "now",
        );
    }
    svg.line((x, ROWS.0), (x, ROWS.1), "best");
    let values = (
        sweep.key.text(points[best].value),
        sweep.key.text(sweep.now),
    );
    let note = words::note(values.0, values.1);
    svg.text((left, 44.0), Anchor::Start, "small", note.of(lang));
    recall_band(svg, &along, &up, points, lang);
    let series: [(Of, &str, Texts); 3] = [
        (|p| p.row.precision(), "1", words::precision()),
        (|p| p.row.recall(), "0", words::recall()),
        (|p| Some(p.row.f1()), "2", words::f1()),
    ];
    let mut labels: Vec<(f64, &str, Texts)> = Vec::new();
    for (of, colour, name) in series {
        let drawn: Vec<(f64, f64)> = points
            .iter()
            .filter_map(|p| of(p).map(|v| (along.at(p.value), up.at(v))))
            .collect();
        svg.path(&drawn, &format!("c{colour}"));
        for (point, (x, y)) in points.iter().filter(|p| of(p).is_some()).zip(&drawn) {
            let share = format!("{:.0}", of(point).unwrap_or_default() * 100.0);
            let value = sweep.key.text(point.value);
            let about = words::value_at(sweep.key.name, value, &name, share);
            svg.dot((*x, *y), 2.8, &format!("f{colour}"), about.of(lang));
        }
        if let Some((_, y)) = drawn.last() {
            labels.push((*y, colour, name));
        }
    }
    // Names at the right end, pushed apart where lines end together.
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let count = labels.len();
    let mut least = 0.0;
    for (i, (y, colour, name)) in labels.into_iter().enumerate() {
        let most = ROWS.1 - 15.0 * (count - 1 - i) as f64;
        let y = f64::max(y, least).min(most);
        least = y + 15.0;
        let class = format!("t{colour}");
        svg.text((right + 8.0, y + 4.0), Anchor::Start, &class, name.of(lang));
    }
}

fn recall_band(svg: &mut Svg, along: &Scale, up: &Scale, points: &[Point], lang: Lang) {
    let ends: Vec<(f64, (f64, f64))> = points
        .iter()
        .filter_map(|p| p.row.recall_interval().map(|b| (along.at(p.value), b)))
        .collect();
    let below = ends.iter().map(|(x, b)| (*x, up.at(b.0)));
    let above = ends.iter().rev().map(|(x, b)| (*x, up.at(b.1)));
    let corners: Vec<(f64, f64)> = below.chain(above).collect();
    svg.area(&corners, "band", words::band().of(lang));
}

fn over_recall(svg: &mut Svg, sweep: &Sweep, points: &[Point], lang: Lang) {
    let (left, right) = OVER_RECALL;
    let up = percent_rows(svg, OVER_RECALL);
    let along = Scale {
        values: (0.0, 1.0),
        units: (left, right),
    };
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let x = along.at(share);
        svg.line((x, ROWS.1), (x, ROWS.1 + 5.0), "edge");
        let text = format!("{:.0} %", share * 100.0);
        svg.text((x, ROWS.1 + 20.0), Anchor::Middle, "soft", &text);
    }
    svg.text(
        (left, 26.0),
        Anchor::Start,
        "head",
        words::right_and_complete().of(lang),
    );
    svg.text((left, 44.0), Anchor::Start, "small", words::up().of(lang));
    svg.text(
        (f64::midpoint(left, right), ROWS.1 + 42.0),
        Anchor::Middle,
        "soft",
        words::across().of(lang),
    );
    let place = |p: &Point| {
        let (precision, recall) = (p.row.precision()?, p.row.recall()?);
        Some((along.at(recall), up.at(precision)))
    };
    let drawn: Vec<(f64, f64)> = points.iter().filter_map(place).collect();
    svg.path(&drawn, "c0");
    for point in points {
        if let Some(at) = place(point) {
            let about = words::place(sweep.key.name, sweep.key.text(point.value));
            svg.dot(at, 3.2, "f0", about.of(lang));
        }
    }
    let best = &points[best(points)];
    if let Some((x, y)) = place(best) {
        svg.dot((x, y), 6.0, "ring", words::is_best().of(lang));
        let text = words::best(sweep.key.text(best.value));
        let (anchor, x) = if x > f64::midpoint(left, right) {
            (Anchor::End, x - 10.0)
        } else {
            (Anchor::Start, x + 10.0)
        };
        svg.text((x, y + 18.0), anchor, "small", text.of(lang));
    }
}
