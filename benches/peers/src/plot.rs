//! Lines over logarithmic axes, as SVG.

use std::fmt::Write as _;

/// One line.
pub(crate) struct Series {
    pub(crate) name: String,
    /// Chooses its colour and its marker.
    pub(crate) look: usize,
    /// In ascending order of x. All figures are above zero.
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) style: Style,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// What the others are to be compared with.
    Strong,
    Plain,
    /// Something that is not the same as what the others do.
    Dashed,
    /// What cannot be reached.
    Dotted,
}

/// The lines and what the axes say.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x_axis: &'a str,
    pub(crate) y_axis: &'a str,
    /// Where the x axis has labels.
    pub(crate) ticks: Vec<u32>,
    pub(crate) series: Vec<Series>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 104.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 420.0;
/// The height of a line of the legend.
const LEGEND_STEP: f64 = 24.0;

/// Colours that differ on a light and on a dark background.
const COLOURS: [&str; 12] = [
    "#0969da", "#d1562f", "#2f9e44", "#9c5bd6", "#c78d00", "#0c9aa6", "#d6409f", "#7a8b1a",
    "#a0664b", "#e0525e", "#5b6fd8", "#8c959f",
];

/// From figures to places: logarithmic in both directions.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    fn new(plot: &Plot<'_>) -> Self {
        let ticks = plot.ticks.iter().map(|tick| f64::from(*tick));
        let points = || plot.series.iter().flat_map(|series| &series.points);
        let (least, greatest) = bounds(points().map(|(_, y)| *y));
        // Whole powers of ten, so that each line of the grid has a round label.
        Self { x: bounds(ticks), y: (least.log10().floor(), greatest.log10().ceil()) }
    }

    fn x(&self, x: f64) -> f64 {
        let (first, last) = (self.x.0.log10(), self.x.1.log10());
        let span = if last > first { last - first } else { 1.0 };
        // Points keep clear of the frame.
        LEFT + 24.0 + (x.log10() - first) / span * (RIGHT - LEFT - 48.0)
    }

    fn y(&self, y: f64) -> f64 {
        self.y_of_power(y.log10())
    }

    fn y_of_power(&self, power: f64) -> f64 {
        let (first, last) = self.y;
        let span = if last > first { last - first } else { 1.0 };
        BOTTOM - (power - first) / span * (BOTTOM - TOP)
    }
}

fn bounds(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let extended =
        |(least, greatest): (f64, f64), figure: f64| (least.min(figure), greatest.max(figure));
    let (least, greatest) = figures.fold((f64::INFINITY, 0.0), extended);
    if least.is_finite() { (least, greatest) } else { (1.0, 10.0) }
}

/// Draws it; `None` if there is nothing to draw.
pub(crate) fn svg(plot: &Plot<'_>) -> Option<String> {
    if plot.series.is_empty() {
        return None;
    }
    let scale = Scale::new(plot);
    let mut out = head(plot);
    grid(&mut out, plot, &scale);
    let mut legend: Vec<_> = plot.series.iter().collect();
    for series in &legend {
        line(&mut out, series, &scale);
    }
    // In the order of the ends of the lines, so that the eye finds its way.
    let last = |series: &Series| series.points.last().map_or(0.0, |(_, y)| *y);
    legend.sort_by(|a, b| last(b).total_cmp(&last(a)));
    for (place, series) in (0_u8..).zip(legend) {
        let y = TOP + 10.0 + f64::from(place) * LEGEND_STEP;
        let (from, to) = (RIGHT + 16.0, RIGHT + 46.0);
        let (class, colour) = (class(series.style), COLOURS[series.look % COLOURS.len()]);
        add(
            &mut out,
            format_args!("<path class=\"{class}\" stroke=\"{colour}\" d=\"M{from} {y}H{to}\"/>"),
        );
        marker(&mut out, series.look, f64::midpoint(from, to), y);
        let (x, y) = (to + 8.0, y + 4.5);
        add(&mut out, format_args!("<text x=\"{x}\" y=\"{y}\">{}</text>", escaped(&series.name)));
    }
    out.push_str("</svg>\n");
    Some(out)
}

fn head(plot: &Plot<'_>) -> String {
    let Plot { title, x_axis, y_axis, .. } = plot;
    let (title, x_axis, y_axis) = (escaped(title), escaped(x_axis), escaped(y_axis));
    let (across, down) = (f64::midpoint(LEFT, RIGHT), f64::midpoint(TOP, BOTTOM));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{title}\">
  <style>
    text {{ font: 13px system-ui, sans-serif; fill: #24292f; }}
    .title {{ font-weight: 600; font-size: 15px; }}
    .mid {{ text-anchor: middle; }}
    .end {{ text-anchor: end; }}
    .grid {{ stroke: #d0d7de; fill: none; }}
    .axis {{ stroke: #57606a; fill: none; }}
    .line {{ stroke-width: 1.8; fill: none; }}
    .strong {{ stroke-width: 3.5; }}
    .dashed {{ stroke-dasharray: 6 4; }}
    .dotted {{ stroke-dasharray: 2 4; stroke-width: 2.5; }}
    @media (prefers-color-scheme: dark) {{
      text {{ fill: #e6edf3; }}
      .grid {{ stroke: #30363d; }}
      .axis {{ stroke: #b1bac4; }}
    }}
  </style>
  <text class=\"title\" x=\"{LEFT}\" y=\"26\">{title}</text>
  <text class=\"mid\" x=\"{across}\" y=\"{}\">{x_axis}</text>
  <text class=\"mid\" transform=\"translate(22 {down}) rotate(-90)\">{y_axis}</text>
",
        BOTTOM + 44.0
    )
}

fn grid(out: &mut String, plot: &Plot<'_>, scale: &Scale) {
    let mut power = scale.y.0;
    while power <= scale.y.1 {
        let y = scale.y_of_power(power);
        add(out, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>"));
        let (x, below, label) = (LEFT - 8.0, y + 4.5, thousands(10_f64.powf(power)));
        add(out, format_args!("<text class=\"end\" x=\"{x}\" y=\"{below:.1}\">{label}</text>"));
        power += 1.0;
    }
    for tick in &plot.ticks {
        let (x, to, below) = (scale.x(f64::from(*tick)), BOTTOM + 5.0, BOTTOM + 20.0);
        add(out, format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{to}\"/>"));
        let label = thousands(f64::from(*tick));
        add(out, format_args!("<text class=\"mid\" x=\"{x:.1}\" y=\"{below}\">{label}</text>"));
    }
    add(out, format_args!("<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>"));
}

fn line(out: &mut String, series: &Series, scale: &Scale) {
    let places = series.points.iter().map(|(x, y)| (scale.x(*x), scale.y(*y)));
    let places: Vec<_> = places.collect();
    let path: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let (class, colour) = (class(series.style), COLOURS[series.look % COLOURS.len()]);
    let path = path.join("L");
    add(out, format_args!("<path class=\"{class}\" stroke=\"{colour}\" d=\"M{path}\"/>"));
    for (x, y) in places {
        marker(out, series.look, x, y);
    }
}

/// Colours alone do not tell lines apart for everybody.
fn marker(out: &mut String, look: usize, x: f64, y: f64) {
    let colour = COLOURS[look % COLOURS.len()];
    let path = match look % 4 {
        0 => "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0z",
        1 => "M-4 -4H4V4H-4z",
        2 => "M0 -5L5 4H-5z",
        _ => "M0 -5.5L5.5 0L0 5.5L-5.5 0z",
    };
    let place = format_args!("translate({x:.1} {y:.1})").to_string();
    add(out, format_args!("<path fill=\"{colour}\" transform=\"{place}\" d=\"{path}\"/>"));
}

fn class(style: Style) -> &'static str {
    match style {
        Style::Strong => "line strong",
        Style::Plain => "line",
        Style::Dashed => "line dashed",
        Style::Dotted => "line dotted",
    }
}

fn add(out: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(out, "  {element}").expect("a string takes text");
}

/// A whole number with commas.
fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(series: Vec<Series>) -> Plot<'static> {
        Plot { title: "a < b", x_axis: "threads", y_axis: "records/s", ticks: vec![1, 64], series }
    }

    #[test]
    fn figures_lie_between_the_axes_and_names_are_escaped() {
        let points = vec![(1.0, 100.0), (64.0, 250_000.0)];
        let series = Series { name: "a & b".to_owned(), look: 0, points, style: Style::Plain };
        let svg = svg(&plot(vec![series])).expect("there is something to draw");
        assert!(svg.contains("a &lt; b") && svg.contains("a &amp; b"), "{svg}");
        assert!(svg.contains("1,000,000"), "the axis ends at a power of ten");
        let scale = Scale { x: (1.0, 64.0), y: (2.0, 6.0) };
        assert_eq!(format!("{} {}", scale.y(100.0), scale.x(64.0)), "420 596");
    }

    #[test]
    fn nothing_is_drawn_without_lines() {
        assert_eq!(svg(&plot(Vec::new())), None);
    }
}
