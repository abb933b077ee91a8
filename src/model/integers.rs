//! Products of integers as dynamic quantisation makes them: the activations are quantised when the
//! model runs, the weight is stored.
//!
//! `MatMulInteger` gives integers, so its floats come two nodes later:
//! `Mul(Cast(MatMulInteger(q, W, …)), Mul(s, scale))`, where q and s are `DynamicQuantizeLinear`'s.
//! `DynamicQuantizeMatMul` is all of this in one node.

use super::{
    dtypes::ElementType,
    operators::{is_microsoft, is_standard},
    proto::NodeProto,
    quantised::{Quantisation, bits_of},
    reader::{Reader, StoredWeight},
};

/// What is multiplied, in floats, and the node that makes the product in floats.
pub(super) struct Ends<'a> {
    pub input: &'a str,
    pub product: &'a NodeProto,
}

/// The floats around a `MatMulInteger`; `None` if what is around it is something else.
pub(super) fn ends<'a>(reader: &Reader<'a>, node: &'a NodeProto) -> Option<Ends<'a>> {
    around(reader, node).map(|(ends, _)| ends)
}

/// The weight of such a node.
pub(super) fn weight<'a>(reader: &Reader<'a>, node: &'a NodeProto) -> Option<StoredWeight<'a>> {
    let given = |slot: usize| node.input.get(slot).filter(|name| !name.is_empty());
    let (scale, zero) = match is_microsoft(node, "DynamicQuantizeMatMul") {
        true => (given(2)?.as_str(), given(3)),
        false => (around(reader, node)?.1, given(3)),
    };
    let (tensor, scale) = (reader.tensor(given(1)?)?, reader.tensor(scale)?);
    bits_of(ElementType::of(tensor)).filter(|(bits, _)| *bits == 8)?;
    let zero_point = match zero {
        Some(name) => Some(reader.tensor(name)?.name().to_owned()),
        None => None,
    };
    Some(StoredWeight {
        tensor,
        transposed: false,
        alone: reader.alone(tensor.name()),
        computed_in: ElementType::of(scale),
        quantisation: Some(Quantisation::Linear {
            scale: scale.name().into(),
            zero_point,
            axis: 1,
            block: 0,
        }),
    })
}

/// The ends of a `MatMulInteger` and the name of its weight's scale.
fn around<'a>(reader: &Reader<'a>, node: &'a NodeProto) -> Option<(Ends<'a>, &'a str)> {
    let quantised = reader.producer(node.input.first()?)?;
    let quantises = is_standard(quantised, "DynamicQuantizeLinear")
        && quantised.output.first() == node.input.first()
        && quantised.output.get(2) == node.input.get(2);
    let cast = follower(reader, node).filter(|next| is_standard(next, "Cast"))?;
    let product = follower(reader, cast).filter(|next| is_standard(next, "Mul"))?;
    let scales = other(product, cast.output.first()?)?;
    let scales = reader.producer(scales).filter(|made| is_standard(made, "Mul"))?;
    let scale = other(scales, quantised.output.get(1)?)?;
    reader.tensor(scale)?;
    let input = quantised.input.first()?;
    quantises.then_some((Ends { input, product }, scale))
}

/// The only reader of what a node makes.
fn follower<'a>(reader: &Reader<'a>, node: &NodeProto) -> Option<&'a NodeProto> {
    match reader.readers(node.output.first()?) {
        [only] => Some(only),
        _ => None,
    }
}

/// The other of two inputs.
fn other<'a>(node: &'a NodeProto, known: &str) -> Option<&'a str> {
    match &node.input[..] {
        [a, b] if a == known => Some(b),
        [a, b] if b == known => Some(a),
        _ => None,
    }
}
