//! Shapes and types of tensors, as seen in two runs at different sizes.

use std::collections::HashMap;

use super::AutodiffError;
use crate::model::proto::tensor_proto::DataType;

/// What two runs showed of one tensor. Dimensions that differ between the runs vary with the
/// batch or the length; those that agree are fixed, provided the two runs share no size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Element type.
    pub kind: DataType,
    /// Dimensions in the first run.
    pub first: Vec<i64>,
    /// Dimensions in the second run.
    pub second: Vec<i64>,
}

impl Measured {
    /// A tensor whose dimensions never change.
    pub fn constant(kind: DataType, dims: &[i64]) -> Self {
        Self { kind, first: dims.to_vec(), second: dims.to_vec() }
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.first.len()
    }

    /// The size of dimension `axis`, if it does not vary.
    pub fn fixed(&self, axis: usize) -> Option<i64> {
        let (a, b) = (self.first.get(axis)?, self.second.get(axis)?);
        (a == b).then_some(*a)
    }

    /// An axis as written in a model, counted from the front.
    pub fn axis(&self, axis: i64) -> Option<usize> {
        let rank = i64::try_from(self.rank()).ok()?;
        let from_front = if axis < 0 { axis.checked_add(rank)? } else { axis };
        usize::try_from(from_front).ok().filter(|a| *a < self.rank())
    }
}

/// The measured tensors of a graph, by name.
#[derive(Debug, Clone, Default)]
pub struct Shapes(HashMap<String, Measured>);

impl Shapes {
    /// Records what the two runs showed of `tensor`.
    pub fn insert(&mut self, tensor: &str, measured: Measured) {
        self.0.insert(tensor.to_owned(), measured);
    }

    /// What is known of `tensor`.
    ///
    /// # Errors
    /// If it was not measured.
    pub fn get(&self, tensor: &str) -> Result<&Measured, AutodiffError> {
        self.0.get(tensor).ok_or_else(|| AutodiffError::NotMeasured(tensor.to_owned()))
    }
}
