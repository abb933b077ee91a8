//! Each fused operator against what it is lowered to, in ONNX Runtime, and the gradient of what it
//! is lowered to against central differences of the fused operator.
#![cfg(feature = "train")]

mod fused;
mod noise;

use fused::{
    B, D, Fused,
    Holds::{self, Fixed, Lengths, Lower, Places, Total, Varied},
    N, S,
};
use tla::model::{
    node::Attribute::{self, Float, Int},
    node::{node, tensor_f32, with_attribute},
    proto::{TensorProto, tensor_proto::DataType},
};

const HEAD: usize = 16;

/// Queries, keys and values of four and two heads, apart.
fn grouped(more: &[(&'static str, &[D], Holds)]) -> Fused {
    let mut inputs: Vec<(&'static str, &[D], Holds)> = vec![
        ("q", &[B, S, N(4 * HEAD)], Varied),
        ("k", &[B, S, N(2 * HEAD)], Varied),
        ("v", &[B, S, N(2 * HEAD)], Varied),
    ];
    inputs.extend_from_slice(CACHE);
    inputs.extend_from_slice(more);
    let heads = [("num_heads", Int(4)), ("kv_num_heads", Int(2))];
    Fused::new("com.microsoft", "GroupQueryAttention", &inputs, 22).with(&heads)
}

const CACHE: &[(&str, &[D], Holds)] = &[
    ("past_k", &[B, N(2), N(0), N(HEAD)], Fixed),
    ("past_v", &[B, N(2), N(0), N(HEAD)], Fixed),
    ("lengths", &[B], Lengths),
    ("total", &[], Total),
];
const ANGLES: &[(&str, &[D], Holds)] =
    &[("cos", &[N(12), N(HEAD / 2)], Fixed), ("sin", &[N(12), N(HEAD / 2)], Fixed)];

#[test]
fn grouped_query_attention_agrees_in_every_form_it_is_covered_in() {
    grouped(&[]).agrees();
    grouped(&[]).with(&[("scale", Float(0.4)), ("softcap", Float(0.5))]).agrees();
    grouped(&[]).with(&[("local_window_size", Int(3))]).agrees();
    grouped(&[]).with(&[("causal", Int(0))]).agrees();
    grouped(ANGLES).with(&[("do_rotary", Int(1))]).agrees();
    grouped(ANGLES).with(&[("do_rotary", Int(1)), ("rotary_interleaved", Int(1))]).agrees();
    let biased: [(&str, &[D], Holds); 4] =
        [("_", &[], Fixed), ("_", &[], Fixed), ("_", &[], Fixed), ("b", &[B, N(4), S, S], Fixed)];
    grouped(&biased).with(&[("softcap", Float(0.5))]).agrees();
    let mut packed: Vec<(&'static str, &[D], Holds)> =
        vec![("qkv", &[B, S, N(8 * HEAD)], Varied), ("_", &[], Fixed), ("_", &[], Fixed)];
    packed.extend_from_slice(CACHE);
    packed.extend_from_slice(ANGLES);
    let heads = [("num_heads", Int(4)), ("kv_num_heads", Int(2)), ("do_rotary", Int(1))];
    Fused::new("com.microsoft", "GroupQueryAttention", &packed, 22).with(&heads).agrees();
}

#[test]
fn grouped_query_attention_is_refused_by_name_in_other_forms() {
    grouped(&[]).with(&[("smooth_softmax", Int(1))]).refused("smooth_softmax");
    let sinks: [(&str, &[D], Holds); 5] = [
        ("_", &[], Fixed),
        ("_", &[], Fixed),
        ("_", &[], Fixed),
        ("_", &[], Fixed),
        ("sink", &[N(4)], Fixed),
    ];
    grouped(&sinks).refused("head_sink");
}

#[test]
fn multi_head_attention_agrees() {
    let apart: [(&str, &[D], Holds); 3] = [
        ("q", &[B, S, N(4 * HEAD)], Varied),
        ("k", &[B, S, N(4 * HEAD)], Varied),
        ("v", &[B, S, N(4 * HEAD)], Varied),
    ];
    let with = |more: &[(&'static str, &[D], Holds)]| {
        let inputs = [&apart[..], more].concat();
        Fused::new("com.microsoft", "MultiHeadAttention", &inputs, 22)
            .with(&[("num_heads", Int(4))])
    };
    with(&[]).agrees();
    with(&[]).with(&[("unidirectional", Int(1)), ("scale", Float(0.5))]).agrees();
    with(&[("_", &[], Fixed), ("_", &[], Fixed), ("b", &[N(1), N(4), S, S], Fixed)]).agrees();
    with(&[("bias", &[N(12 * HEAD)], Fixed)]).refused("bias");
}

#[test]
fn standard_attention_agrees_on_three_and_four_dimensions() {
    let flat: [(&str, &[D], Holds); 3] = [
        ("q", &[B, S, N(4 * HEAD)], Varied),
        ("k", &[B, S, N(2 * HEAD)], Varied),
        ("v", &[B, S, N(2 * HEAD)], Varied),
    ];
    let split: [(&str, &[D], Holds); 3] = [
        ("q", &[B, N(4), S, N(HEAD)], Varied),
        ("k", &[B, N(2), S, N(HEAD)], Varied),
        ("v", &[B, N(2), S, N(HEAD)], Varied),
    ];
    let heads = [("q_num_heads", Int(4)), ("kv_num_heads", Int(2))];
    let causal = [("is_causal", Int(1)), ("scale", Float(0.3))];
    Fused::new("", "Attention", &flat, 23).with(&heads).with(&causal).agrees();
    Fused::new("", "Attention", &split, 23).with(&causal).agrees();
    Fused::new("", "Attention", &split, 24).with(&[("softcap", Float(0.5))]).agrees();
    let masked = |mask: (&'static str, &'static [D], Holds)| {
        Fused::new("", "Attention", &[&split[..], &[mask]].concat(), 23)
    };
    masked(("mask", &[S, S], Lower)).agrees();
    masked(("mask", &[B, N(1), S, S], Lower)).with(&[("softcap", Float(0.5))]).agrees();
    masked(("mask", &[S, S], Fixed)).with(&causal).agrees();
}

#[test]
fn rotary_embeddings_agree_whole_partial_and_interleaved() {
    let x: (&str, &[D], Holds) = ("x", &[B, N(4), S, N(HEAD)], Varied);
    let flat: (&str, &[D], Holds) = ("x", &[B, S, N(4 * HEAD)], Varied);
    let rows = |n: usize| -> [(&'static str, Vec<D>, Holds); 2] {
        [("cos", vec![B, S, N(n)], Fixed), ("sin", vec![B, S, N(n)], Fixed)]
    };
    let table = |n: usize| -> [(&'static str, Vec<D>, Holds); 2] {
        [("cos", vec![N(12), N(n)], Fixed), ("sin", vec![N(12), N(n)], Fixed)]
    };
    let places: (&str, &[D], Holds) = ("positions", &[B, S], Places);
    for turned in [Int(0), Int(1)] {
        let interleaved = [("interleaved", turned)];
        let [cos, sin] = rows(HEAD / 2);
        let given = [x.clone(), (cos.0, &cos.1, Fixed), (sin.0, &sin.1, Fixed)];
        Fused::new("", "RotaryEmbedding", &given, 23).with(&interleaved).agrees();
        let [cos, sin] = table(HEAD / 4);
        let part = [flat.clone(), (cos.0, &cos.1, Fixed), (sin.0, &sin.1, Fixed), places.clone()];
        let heads = [("num_heads", Int(4)), ("rotary_embedding_dim", Int(HEAD as i64 / 2))];
        Fused::new("", "RotaryEmbedding", &part, 23).with(&heads).with(&interleaved).agrees();
        let [cos, sin] = table(HEAD / 2);
        let theirs = [flat.clone(), places.clone(), (cos.0, &cos.1, Fixed), (sin.0, &sin.1, Fixed)];
        Fused::new("com.microsoft", "RotaryEmbedding", &theirs, 22).with(&interleaved).agrees();
    }
}

#[test]
fn norms_agree() {
    let x: (&str, &[D], Holds) = ("x", &[B, S, N(24)], Varied);
    let skip: (&str, &[D], Holds) = ("skip", &[B, S, N(24)], Varied);
    let weight =
        |name: &'static str| -> (&'static str, &'static [D], Holds) { (name, &[N(24)], Varied) };
    let epsilon = [("epsilon", Float(0.01))];
    let plain = [x.clone(), weight("scale")];
    Fused::new("", "RMSNormalization", &plain, 23).with(&epsilon).agrees();
    Fused::new("", "SimplifiedLayerNormalization", &plain, 22).with(&epsilon).agrees();
    let shifted = [x.clone(), weight("scale"), weight("shift")];
    Fused::new("", "LayerNormalization", &shifted, 22).with(&epsilon).agrees();
    let theirs = |op: &str, inputs: &[(&'static str, &[D], Holds)]| {
        Fused::new("com.microsoft", op, inputs, 22).with(&epsilon).agrees();
    };
    let two = [x, skip, weight("scale")];
    theirs("SkipSimplifiedLayerNormalization", &two);
    theirs("SkipSimplifiedLayerNormalization", &[&two[..], &[weight("bias")]].concat());
    let more = [weight("shift"), weight("bias")];
    theirs("SkipLayerNormalization", &[&two[..], &more].concat());
}

#[test]
fn activations_agree() {
    let x: (&str, &[D], Holds) = ("x", &[B, S, N(24)], Varied);
    let bias: (&str, &[D], Holds) = ("bias", &[N(24)], Varied);
    let tanh = [("approximate", Attribute::Text("tanh".into()))];
    Fused::new("", "Gelu", std::slice::from_ref(&x), 22).agrees();
    Fused::new("", "Gelu", std::slice::from_ref(&x), 22).with(&tanh).agrees();
    Fused::new("com.microsoft", "Gelu", std::slice::from_ref(&x), 22).agrees();
    Fused::new("com.microsoft", "QuickGelu", std::slice::from_ref(&x), 22).agrees();
    let one = [("alpha", Float(1.0))];
    Fused::new("com.microsoft", "QuickGelu", std::slice::from_ref(&x), 22).with(&one).agrees();
    Fused::new("com.microsoft", "FastGelu", &[x.clone(), bias.clone()], 22).agrees();
    Fused::new("com.microsoft", "BiasGelu", &[x, bias], 22).agrees();
}

fn bytes(name: &str, kind: DataType, dims: &[usize], seed: usize) -> TensorProto {
    let nibbles = if matches!(kind, DataType::Uint4 | DataType::Int4) { 2 } else { 1 };
    let count = dims.iter().product::<usize>().div_ceil(nibbles);
    let byte = |k: usize| ((k + seed).wrapping_mul(2_654_435_761) >> 7) as u8;
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: Some(kind as i32),
        raw_data: Some((0..count).map(byte).collect::<Vec<u8>>().into()),
        ..TensorProto::default()
    }
}

fn scales(dims: &[usize]) -> TensorProto {
    let count = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|k: usize| 0.01 + 0.002 * (k % 7) as f32).collect();
    let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
    tensor_f32("scales", &dims, &values)
}

#[test]
fn products_with_blocks_of_four_and_eight_bits_agree() {
    const ROWS: usize = 10;
    let x = |k: usize| [("x", vec![B, S, N(k)], Varied)];
    // Even and odd numbers of blocks in a row, and a last block that is not full.
    for (columns, bits) in [(64usize, 4usize), (96, 4), (80, 4), (64, 8), (96, 8)] {
        let blocks = columns.div_ceil(32);
        let [(name, dims, held)] = x(columns);
        let product = || {
            let input = [(name, &dims[..], held.clone())];
            Fused::new("com.microsoft", "MatMulNBits", &input, 22).with(&[
                ("K", Int(columns as i64)),
                ("N", Int(ROWS as i64)),
                ("bits", Int(bits as i64)),
                ("block_size", Int(32)),
            ])
        };
        let weight = bytes("weight", DataType::Uint8, &[ROWS, blocks, 32 * bits / 8], 3);
        let names = ["weight", "scales", "zeros"];
        let flat = [weight.clone(), scales(&[ROWS * blocks])];
        product().storing(&names[..2], &flat, &[]).agrees();
        let zeros = bytes("zeros", DataType::Uint8, &[ROWS, (blocks * bits).div_ceil(8)], 5);
        let shifted = [weight, scales(&[ROWS, blocks]), zeros];
        product().storing(&names, &shifted, &[]).agrees();
    }
}

/// The runtime fuses weights of four bits into a product that quantises both sides.
#[test]
fn products_with_a_dequantised_weight_agree() {
    let rows: (&str, &[D], Holds) = ("x", &[B, S, N(64)], Varied);
    for (kind, stored, attributes) in [
        (DataType::Uint4, vec![2, 10], vec![("axis", Int(0)), ("block_size", Int(32))]),
        (DataType::Int4, vec![10], vec![("axis", Int(1))]),
        (DataType::Int8, vec![10], vec![("axis", Int(1))]),
    ] {
        let mut widen = node("DequantizeLinear", "widen", &["weight", "scales"], &["wide"]);
        for (name, value) in attributes {
            widen = with_attribute(widen, name, value);
        }
        let stored = [bytes("weight", kind, &[64, 10], 1), scales(&stored)];
        let product = Fused::new("", "MatMul", std::slice::from_ref(&rows), 22);
        product.storing(&["wide"], &stored, &[widen]).quantising().agrees();
    }
}
