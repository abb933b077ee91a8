//! Accuracy one can believe: intervals and paired comparison.

pub mod answers;
pub mod interval;
pub mod paired;
pub mod pass_at;
pub mod report;
