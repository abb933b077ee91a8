//! Layer norms: with or without the mean, with or without a residual sum in front.

use super::emitter::{Emitter, input, required};
use crate::{
    autodiff::{AutodiffError, backward::form},
    model::{
        node::{float_attribute, int_attribute},
        proto::{NodeProto, tensor_proto::DataType},
    },
};

const EPSILON: f32 = 1e-5;
const SKIP_EPSILON: f32 = 1e-12;

/// `x / √(mean x² + ε) · scale`, with or without subtracting the mean first.
struct Norm {
    centred: bool,
    epsilon: f32,
    axes: Vec<i64>,
}

/// RMSNormalization and ONNX Runtime's SimplifiedLayerNormalization.
pub(super) fn root_mean_square(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    plain(e, node, false)
}

/// LayerNormalization.
pub(super) fn layer(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    plain(e, node, true)
}

fn plain(e: &mut Emitter<'_>, node: &NodeProto, centred: bool) -> Result<(), AutodiffError> {
    e.only_outputs(node, &[0])?;
    let x = required(node, 0)?;
    let measured = e.measured(x)?;
    let axis = int_attribute(node, "axis").unwrap_or(-1);
    let first = measured.axis(axis).ok_or_else(|| form(node, format!("axis {axis}")))?;
    let epsilon = float_attribute(node, "epsilon").unwrap_or(EPSILON);
    let axes = (first..measured.rank()).map(|k| k as i64).collect();
    let norm = Norm { centred, epsilon, axes };
    let shift = if centred { input(node, 2) } else { None };
    let y = norm.emit(e, x, measured.kind, required(node, 1)?, shift)?;
    e.output(node, 0, &y);
    Ok(())
}

/// SkipSimplifiedLayerNormalization: the norm of a sum, and the sum.
pub(super) fn skip_root_mean_square(
    e: &mut Emitter<'_>,
    node: &NodeProto,
) -> Result<(), AutodiffError> {
    skip(e, node, None, input(node, 3), false)
}

/// SkipLayerNormalization: the norm of a sum, and the sum.
pub(super) fn skip_layer(e: &mut Emitter<'_>, node: &NodeProto) -> Result<(), AutodiffError> {
    skip(e, node, input(node, 3), input(node, 4), true)
}

fn skip(
    e: &mut Emitter<'_>,
    node: &NodeProto,
    shift: Option<&str>,
    bias: Option<&str>,
    centred: bool,
) -> Result<(), AutodiffError> {
    e.only_outputs(node, &[0, 3])?;
    let x = required(node, 0)?;
    let measured = e.measured(x)?;
    let last = measured.rank().checked_sub(1).ok_or_else(|| form(node, "a scalar input"))?;
    let mut sum = e.emit("Add", &[x, required(node, 1)?]);
    if let Some(bias) = bias {
        sum = e.emit("Add", &[&sum, bias]);
    }
    let epsilon = float_attribute(node, "epsilon").unwrap_or(SKIP_EPSILON);
    let norm = Norm { centred, epsilon, axes: vec![last as i64] };
    let y = norm.emit(e, &sum, measured.kind, required(node, 2)?, shift)?;
    e.output(node, 0, &y);
    e.output(node, 3, &sum);
    Ok(())
}

impl Norm {
    /// Statistics in float32 whatever the type of `x`, scaling in the type of `scale`.
    fn emit(
        &self,
        e: &mut Emitter<'_>,
        x: &str,
        kind: DataType,
        scale: &str,
        shift: Option<&str>,
    ) -> Result<String, AutodiffError> {
        let axes = e.list(&self.axes);
        let mut wide = e.cast(x, kind, DataType::Float);
        if self.centred {
            let mean = e.emit("ReduceMean", &[&wide, &axes]);
            wide = e.emit("Sub", &[&wide, &mean]);
        }
        let square = e.emit("Mul", &[&wide, &wide]);
        let mean = e.emit("ReduceMean", &[&square, &axes]);
        let epsilon = e.number(self.epsilon, DataType::Float);
        let kept = e.emit("Add", &[&mean, &epsilon]);
        let root = e.emit("Sqrt", &[&kept]);
        let unit = e.emit("Div", &[&wide, &root]);
        let unit = e.cast(&unit, DataType::Float, e.measured(scale)?.kind);
        let scaled = e.emit("Mul", &[&unit, scale]);
        Ok(match shift {
            Some(shift) => e.emit("Add", &[&scaled, shift]),
            None => scaled,
        })
    }
}
