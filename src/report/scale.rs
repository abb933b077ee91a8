//! From values to places in a drawing.

/// A range of values on a range of pixels, with the values to mark on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    /// Round values within the range, rising.
    pub ticks: Vec<f64>,
}

/// As many marks as fit without crowding.
const TICKS: f64 = 4.0;

impl Scale {
    /// A scale on which all `values` lie, its ends at marks; `from` and `to` are where they are drawn.
    pub fn around(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = values
            .into_iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // A curve that stays close to zero is drawn from zero.
        if low > 0.0 && low < 0.4 * high {
            low = 0.0;
        }
        if high - low <= 1e-12 * high.abs().max(low.abs()) {
            let room = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / TICKS);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        // At most a few: the range is some five steps.
        let ticks: Vec<f64> =
            (0..=(last - first) as usize).map(|i| (first + i as f64) * step).collect();
        Self { low: first * step, high: last * step, from, to, ticks }
    }

    /// A scale of whole numbers from `low` to `high`, its ends there.
    pub fn of_steps(low: u64, high: u64, from: f64, to: f64) -> Self {
        let span = high.saturating_sub(low).max(1) as f64;
        let step = round_step(span / 6.0).max(1.0);
        let (low, high) = (low as f64, low as f64 + span);
        let first = (low / step).ceil();
        let count = ((high / step).floor() - first).max(0.0) as usize;
        let ticks = (0..=count).map(|i| (first + i as f64) * step).collect();
        Self { low, high, from, to, ticks }
    }

    /// Where a value is drawn.
    pub fn at(&self, value: f64) -> f64 {
        let share = (value - self.low) / (self.high - self.low);
        self.from + share * (self.to - self.from)
    }
}

/// 1, 2 or 5 times a power of ten, not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let found =
        [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|step| *step >= least * (1.0 - 1e-9));
    found.unwrap_or(10.0 * power)
}

/// A number as people write it, with about three digits that count.
pub fn figure(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e6).contains(&size) {
        let text = format!("{x:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return format!("{digits}e{power}").replace('-', "−");
    }
    let digits = (2 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{x:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    grouped(text).replace('-', "−")
}

/// Thousands apart, by narrow spaces.
fn grouped(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let (sign, digits) = whole.split_at(usize::from(whole.starts_with('-')));
    if digits.len() <= 4 {
        return text.to_owned();
    }
    let mut found = sign.to_owned();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            found.push('\u{202f}');
        }
        found.push(digit);
    }
    found + rest
}

/// A time as people write it.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0 if seconds < 1e-3 => "< 1 ms".to_owned(),
        0..=9 => format!("{} s", figure(seconds)),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_all_values_lie_between_them() {
        for values in [[0.521, 0.776], [-0.4, 0.9], [3e-6, 4.1e-6], [0.0, 24.0], [1e9, 2e9]] {
            let scale = Scale::around(values, 100.0, 0.0);
            let ticks = &scale.ticks;
            assert!((2..=7).contains(&ticks.len()), "{ticks:?}");
            assert!(ticks[0] <= values[0] && *ticks.last().unwrap() >= values[1], "{ticks:?}");
            assert!(values.iter().all(|x| (0.0..=100.0).contains(&scale.at(*x))));
        }
        assert_eq!(Scale::around([0.52, 0.93], 0.0, 1.0).ticks.len(), 4);
    }

    #[test]
    fn no_value_one_value_and_equal_values_have_a_scale_too() {
        for values in [&[][..], &[0.0], &[0.03, 0.03], &[-2.0]] {
            let scale = Scale::around(values.iter().copied(), 0.0, 1.0);
            assert!(values.iter().all(|x| (0.0..=1.0).contains(&scale.at(*x))), "{values:?}");
        }
        assert_eq!(Scale::of_steps(1, 1, 0.0, 10.0).at(1.0), 0.0);
        assert_eq!(Scale::of_steps(1, 60, 0.0, 10.0).ticks, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
    }

    #[test]
    fn figures_are_short_and_exact_enough() {
        let cases = [
            (0.0, "0"),
            (0.914, "0.914"),
            (0.03, "0.03"),
            (12.0, "12"),
            (-0.5, "−0.5"),
            (2014.0, "2014"),
            (123456.0, "123\u{202f}456"),
            (3.93e-6, "3.93e−6"),
            (1e-5, "1e−5"),
            (1.5e-5, "1.5e−5"),
            (10.489583, "10.5"),
            (999.96, "1000"),
        ];
        for (x, text) in cases {
            assert_eq!(figure(x), text);
        }
        assert_eq!(duration(3.9e-4), "< 1 ms");
        assert_eq!(duration(0.351), "0.351 s");
        assert_eq!(duration(75.2), "75 s");
        assert_eq!(duration(605.0), "10 min 05 s");
        assert_eq!(duration(7260.0), "2 h 01 min");
    }
}
