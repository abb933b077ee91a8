//! Curves over the steps of a run, as SVG.

use super::{
    markup::{Markup, element, of_class},
    scale::{Scale, figure},
};

/// One curve.
pub struct Curve {
    /// Its class in the style sheet.
    pub class: &'static str,
    /// What it is called.
    pub name: String,
    /// Step and value, by rising step.
    pub points: Vec<(u64, f64)>,
}

/// A step that is marked by an upright line.
pub struct Mark {
    /// The step.
    pub step: u64,
    /// What happened there.
    pub what: String,
}

/// Size of a drawing in its own units.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// From left to right.
    pub width: f64,
    /// From top to bottom.
    pub height: f64,
}

/// Room for the numbers at the left, and for those below.
const LEFT: f64 = 50.0;
const BELOW: f64 = 24.0;
/// Room for a line's thickness at the other sides.
const EDGE: f64 = 10.0;
/// With more points than this the lowest and highest of every few are drawn.
pub const MOST_POINTS: usize = 1200;

/// Draws `curves` over the steps `first` to `last`. The points are in the drawing's attributes, for
/// the script that shows them under the pointer.
pub fn chart(
    label: &str,
    curves: &[Curve],
    marks: &[Mark],
    steps: (u64, u64),
    size: Size,
) -> Markup {
    let (right, bottom) = (size.width - EDGE, size.height - BELOW);
    let x = Scale::of_steps(steps.0, steps.1, LEFT, right);
    let y = Scale::around(curves.iter().flat_map(|c| c.points.iter().map(|p| p.1)), bottom, EDGE);
    let mut parts = Vec::new();
    for tick in &y.ticks {
        let at = round(y.at(*tick));
        parts.push(line("grid", (LEFT, at), (right, at)));
        parts.push(text("tick left", (LEFT - 8.0, at + 4.0), &figure(*tick)));
    }
    for tick in &x.ticks {
        parts.push(text("tick below", (round(x.at(*tick)), size.height - 6.0), &figure(*tick)));
    }
    parts.push(text("tick left", (LEFT - 8.0, size.height - 6.0), "step"));
    for mark in marks {
        let at = round(x.at(mark.step as f64));
        let title = element("title", &[], Markup::text(&mark.what));
        parts.push(of_class(
            "g",
            "mark",
            Markup::all([title, line("mark", (at, EDGE), (at, bottom))]),
        ));
    }
    for curve in curves {
        let drawn = thinned(&curve.points);
        let places: Vec<(f64, f64)> = drawn
            .iter()
            .map(|(step, value)| (round(x.at(*step as f64)), round(y.at(*value))))
            .collect();
        let list = |value: fn(&(u64, f64)) -> String| {
            drawn.iter().map(value).collect::<Vec<_>>().join(" ")
        };
        let points = places.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ");
        parts.push(element(
            "polyline",
            &[
                ("class", &format_args!("curve {}", curve.class)),
                ("points", &points),
                ("data-name", &curve.name),
                ("data-steps", &list(|p| p.0.to_string())),
                ("data-values", &list(|p| p.1.to_string())),
            ],
            Markup::default(),
        ));
        // A line through one point is no line.
        if let [(x, y)] = places[..] {
            parts.push(element(
                "circle",
                &[
                    ("class", &format_args!("dot {}", curve.class)),
                    ("cx", &x),
                    ("cy", &y),
                    ("r", &3),
                ],
                Markup::default(),
            ));
        }
    }
    element(
        "svg",
        &[
            ("class", &"chart"),
            ("viewBox", &format_args!("0 0 {} {}", size.width, size.height)),
            ("role", &"img"),
            ("aria-label", &label),
            ("data-left", &LEFT),
            ("data-right", &right),
            ("data-top", &EDGE),
            ("data-bottom", &bottom),
            ("data-first", &steps.0),
            ("data-last", &steps.1.max(steps.0 + 1)),
        ],
        Markup::all(parts),
    )
}

/// The lowest and highest point of every few, in order, where there are too many to see.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let few = points.len().div_ceil(MOST_POINTS / 2);
    points
        .chunks(few)
        .flat_map(|chunk| {
            let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
            let low = chunk.iter().min_by(by_value);
            let high = chunk.iter().max_by(by_value);
            let mut pair: Vec<(u64, f64)> = low.into_iter().chain(high).copied().collect();
            pair.sort_by_key(|point| point.0);
            pair.dedup();
            pair
        })
        .collect()
}

/// A straight line.
pub fn line(class: &'static str, from: (f64, f64), to: (f64, f64)) -> Markup {
    element(
        "line",
        &[("class", &class), ("x1", &from.0), ("y1", &from.1), ("x2", &to.0), ("y2", &to.1)],
        Markup::default(),
    )
}

/// A word in a drawing.
pub fn text(class: &'static str, at: (f64, f64), text: &str) -> Markup {
    element("text", &[("class", &class), ("x", &at.0), ("y", &at.1)], Markup::text(text))
}

/// Tenths of a unit are finer than the eye.
fn round(place: f64) -> f64 {
    (10.0 * place).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { width: 500.0, height: 180.0 };

    fn drawn(points: Vec<(u64, f64)>, marks: &[Mark]) -> String {
        let last = points.last().map_or(1, |p| p.0);
        let curve = Curve { class: "one", name: "reward".into(), points };
        chart("Reward", &[curve], marks, (1, last), SIZE).into_string()
    }

    #[test]
    fn every_step_is_a_point_within_the_drawing_and_its_value_is_there_to_read() {
        let points: Vec<(u64, f64)> = (1..=60).map(|i| (i, (i as f64).sin())).collect();
        let svg = drawn(points.clone(), &[Mark { step: 30, what: "<restored>".into() }]);
        let tree = roxmltree::Document::parse(&svg).unwrap();
        let curve = tree.descendants().find(|n| n.has_tag_name("polyline")).unwrap();
        let places: Vec<(f64, f64)> = curve
            .attribute("points")
            .unwrap()
            .split(' ')
            .map(|p| p.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(places.len(), 60);
        assert!(places.is_sorted_by(|a, b| a.0 < b.0));
        assert!(
            places.iter().all(|(x, y)| (LEFT..=490.0).contains(x) && (EDGE..=156.0).contains(y))
        );
        let highest = (0..60).max_by(|a, b| points[*a].1.total_cmp(&points[*b].1)).unwrap();
        assert!(places.iter().all(|place| place.1 >= places[highest].1));
        let values: Vec<f64> = curve
            .attribute("data-values")
            .unwrap()
            .split(' ')
            .map(|v| v.parse().unwrap())
            .collect();
        assert_eq!(values, points.iter().map(|p| p.1).collect::<Vec<_>>());
        let title = tree.descendants().find(|n| n.has_tag_name("title")).unwrap();
        assert_eq!(title.text(), Some("<restored>"));
    }

    #[test]
    fn a_long_run_is_thinned_and_keeps_its_peaks() {
        let mut points: Vec<(u64, f64)> = (1..=100_000).map(|i| (i, 0.5)).collect();
        points[77_777].1 = 9.0;
        points[33_333].1 = -9.0;
        let found = thinned(&points);
        assert!(found.len() <= MOST_POINTS, "{}", found.len());
        assert!(found.contains(&(77_778, 9.0)) && found.contains(&(33_334, -9.0)));
        assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn one_step_is_a_dot() {
        assert!(drawn(vec![(1, 0.5)], &[]).contains("<circle"));
        roxmltree::Document::parse(&drawn(Vec::new(), &[])).unwrap();
    }
}
