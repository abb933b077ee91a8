//! TensorBoard's `Event` as far as it is written here.
//!
//! Source: tensorboard's `compat/proto/event.proto` and `summary.proto`; the tags are theirs.

use prost::{Enumeration, Message, Oneof};

/// One entry of an event file.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// The training step.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// What it says.
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

/// What an event says.
#[derive(Clone, PartialEq, Oneof)]
pub enum What {
    /// The first entry of every file.
    #[prost(string, tag = "3")]
    FileVersion(String),
    /// Values of a step.
    #[prost(message, tag = "5")]
    Summary(Summary),
    /// A run begins or goes on.
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// A run begins or goes on: what was said of this step and later ones is void.
#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    /// Always [`Status::Start`] here.
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
}

/// The states of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Status {
    /// None was given.
    Unspecified = 0,
    /// It starts.
    Start = 1,
}

/// Values of a step.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// Each under its name.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Named>,
}

/// A value under its name.
#[derive(Clone, PartialEq, Message)]
pub struct Named {
    /// The name; TensorBoard groups by what is before the first slash.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The value.
    #[prost(oneof = "Held", tags = "2, 5")]
    pub value: Option<Held>,
}

/// A number, or the spread of several.
#[derive(Clone, PartialEq, Oneof)]
pub enum Held {
    /// A number.
    #[prost(float, tag = "2")]
    Simple(f32),
    /// The spread of several.
    #[prost(message, tag = "5")]
    Histogram(Histogram),
}

/// How several numbers are spread.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    /// The least.
    #[prost(double, tag = "1")]
    pub min: f64,
    /// The greatest.
    #[prost(double, tag = "2")]
    pub max: f64,
    /// How many.
    #[prost(double, tag = "3")]
    pub num: f64,
    /// Their sum.
    #[prost(double, tag = "4")]
    pub sum: f64,
    /// The sum of their squares.
    #[prost(double, tag = "5")]
    pub sum_squares: f64,
    /// Upper ends of the buckets; the first bucket begins at −∞.
    #[prost(double, repeated, tag = "6")]
    pub bucket_limit: Vec<f64>,
    /// How many lie in each.
    #[prost(double, repeated, tag = "7")]
    pub bucket: Vec<f64>,
}

/// Buckets of a histogram.
const BUCKETS: usize = 20;

impl Histogram {
    /// The spread of finite `values` over equal buckets; `None` if there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let (min, max) = values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        let width = (max - min) / BUCKETS as f64;
        if !width.is_finite() {
            return None;
        }
        let mut bucket = vec![0.0; BUCKETS];
        for value in values {
            let at = if width > 0.0 { ((value - min) / width) as usize } else { 0 };
            bucket[at.min(BUCKETS - 1)] += 1.0;
        }
        let mut bucket_limit: Vec<f64> = (1..=BUCKETS).map(|i| min + width * i as f64).collect();
        // Equal limits are no buckets: values that are all the same get one that holds them.
        match width > 0.0 {
            true => bucket_limit[BUCKETS - 1] = max,
            false => (bucket, bucket_limit) = (vec![values.len() as f64], vec![max]),
        }
        Some(Self {
            min,
            max,
            num: values.len() as f64,
            sum: values.iter().sum(),
            sum_squares: values.iter().map(|x| x * x).sum(),
            bucket_limit,
            bucket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_tensorboards_schema() {
        let named = Named { tag: "r".into(), value: Some(Held::Simple(1.0)) };
        let event = Event {
            wall_time: 2.0,
            step: 3,
            what: Some(What::Summary(Summary { value: vec![named] })),
        };
        // Field and wire type, then the value: 1 double, 2 varint, 5 message { 1 message { 1 string, 2 float } }.
        let expected = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x10, 3, 0x2a, 10][..],
            &[0x0a, 8, 0x0a, 1, b'r', 0x15, 0, 0, 0x80, 0x3f],
        ];
        assert_eq!(event.encode_to_vec(), expected.concat());
    }

    #[test]
    fn a_histogram_counts_every_value_once() {
        let values = [-1.0, -0.5, 0.0, 0.25, 1.0];
        let found = Histogram::of(&values).unwrap();
        assert_eq!((found.min, found.max, found.num, found.sum), (-1.0, 1.0, 5.0, -0.25));
        assert_eq!(found.bucket.iter().sum::<f64>(), 5.0);
        assert_eq!(found.bucket.len(), found.bucket_limit.len());
        assert!(found.bucket_limit.is_sorted_by(|a, b| a < b));
        let same = Histogram::of(&[0.0; 13]).unwrap();
        assert_eq!((same.bucket, same.bucket_limit), (vec![13.0], vec![0.0]));
        assert_eq!(Histogram::of(&[]), None);
    }
}
