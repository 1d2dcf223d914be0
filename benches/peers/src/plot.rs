//! Lines over logarithmic axes, as SVG.

use std::fmt::Write as _;

/// A line in each panel.
pub(crate) struct Series {
    pub(crate) name: String,
    /// Chooses its colour and its marker.
    pub(crate) look: usize,
    /// For each panel, in ascending order of x. All figures are above zero.
    pub(crate) points: Vec<Vec<(f64, f64)>>,
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

/// One of the fields that lie next to one another and share the y axis.
pub(crate) struct Panel {
    pub(crate) x_axis: String,
    /// Where the x axis has labels.
    pub(crate) ticks: Vec<(f64, String)>,
}

/// The lines and what the axes say.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) y_axis: &'a str,
    pub(crate) panels: Vec<Panel>,
    pub(crate) series: Vec<Series>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 104.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 420.0;
/// Between two panels.
const GAP: f64 = 16.0;
/// The height of a line of the legend.
const LEGEND_STEP: f64 = 24.0;

/// Colours that differ on a light and on a dark background.
const COLOURS: [&str; 12] = [
    "#0969da", "#d1562f", "#2f9e44", "#9c5bd6", "#c78d00", "#0c9aa6", "#d6409f", "#7a8b1a",
    "#a0664b", "#e0525e", "#5b6fd8", "#8c959f",
];

/// From figures to places in a panel: logarithmic in both directions.
struct Scale {
    left: f64,
    right: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Scale {
    /// One for each panel.
    fn all(plot: &Plot<'_>) -> Vec<Self> {
        let points = plot.series.iter().flat_map(|series| series.points.iter().flatten());
        let (least, greatest) = bounds(points.map(|(_, y)| *y));
        // Whole powers of ten, so that each line of the grid has a round label.
        let y = (least.log10().floor(), greatest.log10().ceil());
        let count = plot.panels.iter().fold(0.0, |count, _| count + 1.0);
        let width = (RIGHT - LEFT + GAP) / count - GAP;
        let mut left = LEFT;
        let scales = plot.panels.iter().map(|panel| {
            let x = bounds(panel.ticks.iter().map(|(x, _)| *x));
            let scale = Self { left, right: left + width, x, y };
            left += width + GAP;
            scale
        });
        scales.collect()
    }

    fn x(&self, x: f64) -> f64 {
        let (first, last) = (self.x.0.log10(), self.x.1.log10());
        let span = if last > first { last - first } else { 1.0 };
        // Points keep clear of the frame.
        self.left + 24.0 + (x.log10() - first) / span * (self.right - self.left - 48.0)
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
    let scales = Scale::all(plot);
    let mut out = head(plot);
    for (panel, scale) in plot.panels.iter().zip(&scales) {
        grid(&mut out, panel, scale);
    }
    let mut legend: Vec<_> = plot.series.iter().collect();
    for series in &legend {
        for (points, scale) in series.points.iter().zip(&scales) {
            line(&mut out, series, points, scale);
        }
    }
    // In the order of the ends of the lines, so that the eye finds its way.
    let last = |series: &Series| series.points.iter().flatten().last().map_or(0.0, |(_, y)| *y);
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
    let (title, y_axis) = (escaped(plot.title), escaped(plot.y_axis));
    let down = f64::midpoint(TOP, BOTTOM);
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
  <text class=\"mid\" transform=\"translate(22 {down}) rotate(-90)\">{y_axis}</text>
"
    )
}

fn grid(out: &mut String, panel: &Panel, scale: &Scale) {
    let Scale { left, right, .. } = scale;
    let mut power = scale.y.0;
    while power <= scale.y.1 {
        let y = scale.y_of_power(power);
        add(out, format_args!("<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>"));
        // The first panel has the labels for all.
        if *left == LEFT {
            let (x, below, label) = (LEFT - 8.0, y + 4.5, thousands(10_f64.powf(power)));
            add(out, format_args!("<text class=\"end\" x=\"{x}\" y=\"{below:.1}\">{label}</text>"));
        }
        power += 1.0;
    }
    for (tick, label) in &panel.ticks {
        let (x, to, below) = (scale.x(*tick), BOTTOM + 5.0, BOTTOM + 20.0);
        add(out, format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{to}\"/>"));
        let label = escaped(label);
        add(out, format_args!("<text class=\"mid\" x=\"{x:.1}\" y=\"{below}\">{label}</text>"));
    }
    add(out, format_args!("<path class=\"axis\" d=\"M{left} {TOP}V{BOTTOM}H{right}\"/>"));
    let (across, below, x_axis) =
        (f64::midpoint(*left, *right), BOTTOM + 44.0, escaped(&panel.x_axis));
    add(out, format_args!("<text class=\"mid\" x=\"{across}\" y=\"{below}\">{x_axis}</text>"));
}

fn line(out: &mut String, series: &Series, points: &[(f64, f64)], scale: &Scale) {
    if points.is_empty() {
        return;
    }
    let places = points.iter().map(|(x, y)| (scale.x(*x), scale.y(*y)));
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
pub(crate) fn thousands(figure: f64) -> String {
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

    fn plot(panels: usize, series: Vec<Series>) -> Plot<'static> {
        let ticks = || vec![(1.0, "1".to_owned()), (64.0, "64".to_owned())];
        let panel = |_| Panel { x_axis: "threads".to_owned(), ticks: ticks() };
        let panels = (0..panels).map(panel).collect();
        Plot { title: "a < b", y_axis: "records/s", panels, series }
    }

    fn series(points: Vec<Vec<(f64, f64)>>) -> Series {
        Series { name: "a & b".to_owned(), look: 0, points, style: Style::Plain }
    }

    #[test]
    fn figures_lie_between_the_axes_and_names_are_escaped() {
        let points = vec![(1.0, 100.0), (64.0, 250_000.0)];
        let plot = plot(1, vec![series(vec![points])]);
        let svg = svg(&plot).expect("there is something to draw");
        assert!(svg.contains("a &lt; b") && svg.contains("a &amp; b"), "{svg}");
        assert!(svg.contains("1,000,000"), "the axis ends at a power of ten");
        let scale = &Scale::all(&plot)[0];
        assert_eq!(format!("{} {}", scale.y(100.0), scale.x(64.0)), "420 596");
    }

    #[test]
    fn panels_lie_next_to_one_another_under_one_scale() {
        let points = vec![vec![(1.0, 10.0)], vec![(64.0, 1000.0)]];
        let scales = Scale::all(&plot(2, vec![series(points)]));
        let [first, second] = &scales[..] else { panic!("there are two panels") };
        assert_eq!(format!("{} {}", first.left, second.right), "104 620");
        assert_eq!(format!("{}", second.left - first.right), "16");
        assert_eq!(format!("{} {}", first.y(10.0), second.y(1000.0)), "420 48");
    }

    #[test]
    fn nothing_is_drawn_without_lines() {
        assert_eq!(svg(&plot(1, Vec::new())), None);
    }
}
