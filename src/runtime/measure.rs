//! Running a probe graph twice to measure shapes.

use std::path::Path;

use super::{RuntimeError, Session, SessionOptions, Tensor};
use crate::{
    autodiff::shapes::{Measured, Shapes},
    model::proto::ModelProto,
};

/// Runs `probe` (see `autodiff::probe`) on two sets of inputs and records what each of `names`,
/// its outputs in order, looked like.
///
/// # Errors
/// If the runtime refuses or fails the probe.
pub fn measure(
    probe: &ModelProto,
    path: &Path,
    names: &[String],
    feeds: [&[(String, Tensor)]; 2],
    options: SessionOptions,
) -> Result<Shapes, RuntimeError> {
    let mut session = Session::load("the shape probe", probe, path, options)?;
    let mut run = |feeds: &[(String, Tensor)]| {
        let borrowed: Vec<_> = feeds.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        session.run(&borrowed)
    };
    let (first, second) = (run(feeds[0])?, run(feeds[1])?);
    let mut shapes = Shapes::default();
    for ((name, a), b) in names.iter().zip(&first).zip(&second) {
        let dims = |t: &Tensor| t.dims().iter().map(|d| *d as i64).collect();
        let measured = Measured { kind: a.kind(), first: dims(a), second: dims(b) };
        shapes.insert(name, measured);
    }
    Ok(shapes)
}
