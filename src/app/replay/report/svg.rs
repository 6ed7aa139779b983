//! Pictures as text: just enough SVG for the report and the plot. All text is escaped here; colours
//! are classes that `page` defines, so that light, dark and paper each have their own.
/// `text` without what HTML and SVG would take for markup.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No XML parser takes them, not even as references.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Which end of a text is at its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// A drawing under way, in user units that are about pixels.
#[derive(Debug, Default)]
pub struct Svg {
    body: String,
}

impl Svg {
    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        self.push(format_args!(
            r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            from.0, from.1, to.0, to.1
        ));
    }

    /// A rectangle that says `about` when pointed at.
    pub fn rect(&mut self, corner: (f64, f64), size: (f64, f64), class: &str, about: &str) {
        let (width, height) = (size.0.max(0.0), size.1.max(0.0));
        self.push(format_args!(
            r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}">{}</rect>"#,
            corner.0,
            corner.1,
            title(about)
        ));
    }

    /// A dot that says `about` when pointed at.
    pub fn dot(&mut self, middle: (f64, f64), radius: f64, class: &str, about: &str) {
        self.push(format_args!(
            r#"<circle class="{class}" cx="{:.1}" cy="{:.1}" r="{radius:.1}">{}</circle>"#,
            middle.0,
            middle.1,
            title(about)
        ));
    }

    /// A line through points; fewer than two are none.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        if points.len() < 2 {
            return;
        }
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            d.push_str(&format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' }));
        }
        self.push(format_args!(r#"<path class="{class}" d="{d}"/>"#));
    }

    /// An area with corners.
    pub fn area(&mut self, corners: &[(f64, f64)], class: &str, about: &str) {
        let mut points = String::new();
        for (x, y) in corners {
            points.push_str(&format!("{x:.1},{y:.1} "));
        }
        self.push(format_args!(
            r#"<polygon class="{class}" points="{}">{}</polygon>"#,
            points.trim_end(),
            title(about)
        ));
    }

    /// Text in one line.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.push(format_args!(
            r#"<text class="{class}" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            at.0,
            at.1,
            escape(text)
        ));
    }

    /// The drawing as an element of a page.
    pub fn element(self, size: (f64, f64), about: &str) -> String {
        let (width, height) = size;
        format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            escape(about),
            self.body
        )
    }

    /// The drawing as a file of its own.
    pub fn file(self, size: (f64, f64), style: &str) -> String {
        let (width, height) = size;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\">\n<style>{style}</style>\n<rect class=\"paper\" width=\"{width:.0}\" height=\"{height:.0}\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        self.body.push_str(&format!("{element}\n"));
    }
}

fn title(about: &str) -> String {
    if about.is_empty() {
        String::new()
    } else {
        format!("<title>{}</title>", escape(about))
    }
}

/// Values along an axis to units along a drawing.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Lowest and highest value.
    pub values: (f64, f64),
    /// Where those are drawn.
    pub units: (f64, f64),
}

impl Scale {
    /// Where `value` is drawn.
    pub fn at(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.5
        };
        self.units.0 + share.clamp(0.0, 1.0) * (self.units.1 - self.units.0)
    }

    /// Round values along the axis, about `count`, in steps of 1, 2 or 5 times a power of ten.
    pub fn ticks(&self, count: f64) -> Vec<f64> {
        let (low, high) = self.values;
        let rough = (high - low) / count.max(1.0);
        if !rough.is_finite() || rough <= 0.0 {
            return vec![low];
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|s| s * power)
            .find(|s| *s >= rough * 0.999)
            .unwrap_or(rough);
        ticks(low, high, step)
    }

    /// Round times along the axis, about `count`, in steps that a clock has.
    pub fn time_ticks(&self, count: f64) -> Vec<f64> {
        const STEPS_S: [f64; 16] = [
            0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0,
            7200.0, 14_400.0,
        ];
        let (low, high) = self.values;
        let rough = (high - low) / count.max(1.0);
        let step = STEPS_S.into_iter().find(|s| *s >= rough);
        ticks(low, high, step.unwrap_or(43_200.0))
    }
}

fn ticks(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_become_markup() {
        assert_eq!(
            escape("<script>\"a\" & 'b'\u{0}</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;\u{fffd}&lt;/script&gt;"
        );
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let scale = |low, high| Scale {
            values: (low, high),
            units: (0.0, 100.0),
        };
        let rounded =
            |v: Vec<f64>| -> Vec<f64> { v.iter().map(|t| (t * 1e6).round() / 1e6).collect() };
        assert_eq!(
            rounded(scale(0.3, 0.8).ticks(5.0)),
            [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
        );
        assert_eq!(
            scale(0.0, 90.0).time_ticks(6.0),
            [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0]
        );
        assert_eq!(scale(5.0, 5.0).ticks(5.0), [5.0]);
        assert!((scale(0.0, 10.0).at(2.5) - 25.0).abs() < 1e-9);
    }
}
