//! The plot of latency against offered load: an SVG written by hand, both axes logarithmic.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::bench::Sample;
use crate::report::{median, number};
use crate::scenario::sweep::KINDS;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// One for each kind; readable without telling red from green.
const COLORS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// One line: offered load and milliseconds.
struct Series {
    name: String,
    color: &'static str,
    is_dashed: bool,
    points: Vec<(f64, f64)>,
}

/// The SVG; `None` without a sweep. `side` is which binaries.
pub fn svg(samples: &[Sample], side: usize, title: &str) -> Option<String> {
    let series: Vec<Series> = KINDS
        .iter()
        .zip(COLORS)
        .flat_map(|(kind, color)| {
            [("p50", "p50_us", true), ("p99", "p99_us", false)].map(|(name, figure, is_dashed)| Series {
                name: format!("{} {name}", kind.name()),
                color,
                is_dashed,
                points: points(samples, side, kind.name(), figure),
            })
        })
        .filter(|series| !series.points.is_empty())
        .collect();
    let of = |part: fn(&(f64, f64)) -> f64| series.iter().flat_map(|series| &series.points).map(part).collect::<Vec<_>>();
    let (across, up) = (Axis::over(&of(|point| point.0))?, Axis::over(&of(|point| point.1))?);
    Some(draw(&series, &across, &up, title))
}

/// The medians of the rounds, by rate.
fn points(samples: &[Sample], side: usize, kind: &str, figure: &str) -> Vec<(f64, f64)> {
    let mut by_rate: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.scenario == "sweep" && sample.side == side) {
        let rate = sample.row.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' ')?.strip_suffix("/s")?.parse().ok());
        if let (Some(rate), Some(value)) = (rate, sample.figures.get(figure)) {
            by_rate.entry(rate).or_default().push(value / 1e3);
        }
    }
    by_rate.into_iter().filter_map(|(rate, values)| Some((rate as f64, median(values)?))).filter(|point| point.1 > 0.0).collect()
}

/// A logarithmic axis over whole powers of ten.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn over(values: &[f64]) -> Option<Self> {
        let least = values.iter().copied().min_by(f64::total_cmp)?;
        let most = values.iter().copied().max_by(f64::total_cmp)?;
        let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        Some(Self { from, to: to.max(from + 1) })
    }

    /// From 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    /// 1, 2 and 5 of each power.
    fn marks(&self) -> Vec<f64> {
        let powers = (self.from..self.to).flat_map(|power| [1.0, 2.0, 5.0].map(|part| part * 10f64.powi(power)));
        powers.chain([10f64.powi(self.to)]).collect()
    }
}

fn draw(series: &[Series], across: &Axis, up: &Axis, title: &str) -> String {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    for mark in across.marks() {
        let x = across.x(mark);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#e4e4e4\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            axis_number(mark)
        );
    }
    for mark in up.marks() {
        let y = up.y(mark);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e4e4e4\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            axis_number(mark)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">messages offered per second</text>",
        (LEFT + right) / 2.0,
        HEIGHT - 12.0
    );
    let _ = writeln!(
        svg,
        "<text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">milliseconds from the planned moment to the answer</text>",
        (TOP + bottom) / 2.0
    );
    for (index, Series { name, color, is_dashed, points }) in series.iter().enumerate() {
        let dash = if *is_dashed { " stroke-dasharray=\"5 4\"" } else { "" };
        let line: Vec<String> = points.iter().map(|(rate, time)| format!("{:.1},{:.1}", across.x(*rate), up.y(*time))).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{dash}/>", line.join(" "));
        let y = TOP + 14.0 + 20.0 * index as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{} {y}h28\" stroke=\"{color}\" stroke-width=\"2\"{dash}/><text x=\"{}\" y=\"{}\">{}</text>",
            right + 14.0,
            right + 48.0,
            y + 4.0,
            escape(name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn axis_number(value: f64) -> String {
    if value >= 999.5 { number(value) } else { format!("{value}") }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Figures;

    fn sample(row: &str, p50: f64, p99: f64) -> Sample {
        let figures = Figures::from([("p50_us", p50), ("p99_us", p99)]);
        Sample { scenario: "sweep", row: row.to_owned(), side: 0, round: 0, is_disturbed: false, figures }
    }

    #[test]
    fn every_line_has_its_points() {
        let samples = [
            sample("redis+process 500/s", 300.0, 900.0),
            sample("redis+process 750/s", 400.0, 2_000.0),
            sample("memory+process 500/s", 90.0, 200.0),
        ];
        let svg = svg(&samples, 0, "a < b").unwrap();
        assert_eq!(svg.matches("<polyline").count(), 4, "{svg}");
        assert!(svg.contains("a &lt; b") && svg.contains("redis+process p99"), "{svg}");
        assert!(super::svg(&samples, 1, "").is_none(), "another side was not measured");
        assert!(super::svg(&[], 0, "").is_none());
    }

    #[test]
    fn axes_are_logarithmic() {
        let axis = Axis::over(&[0.2, 30.0]).unwrap();
        assert_eq!((axis.from, axis.to), (-1, 2));
        assert!((axis.share(10f64.powf(0.5)) - 0.5).abs() < 1e-9);
        assert_eq!(axis.marks().len(), 10);
    }
}
