#![allow(dead_code, reason = "each test program uses a part of it")]
//! The plain exports with their linear layers in other forms, and what must hold of each.

use crate::logits::{Tokens, apart, root};
use ndarray::Array2;
use prost::bytes::Bytes;
use std::path::PathBuf;
use tempfile::TempDir;
use tla::{
    format::{Header, ModuleId},
    model::{
        OnnxModel, Targets, find_targets,
        node::{Attribute, node, tensor_f32, tensor_i64, with_attribute},
        proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
        stage_model, write_model,
    },
    surgery::{Addend, OnnxMerge, graft, merge, rebuild_from},
};

pub const V: [f32; 13] = [0.3, -0.2, 0.25, 0.1, -0.35, 0.2, 0.15, -0.3, 0.4, 0.05, -0.1, 0.3, 0.2];

pub fn adapter() -> Header {
    Header { seed: 5, scale: 0.5, ..Header::default() }
}

pub fn plain(name: &str) -> OnnxModel {
    OnnxModel::load(&root().join("fixtures/exports/optimum-fp32").join(name)).unwrap()
}

/// A model in a folder, with what its architecture's tokens need.
pub struct Place {
    pub folder: TempDir,
    pub model: OnnxModel,
    pub targets: Targets,
    pub tokens: Tokens,
}

impl Place {
    pub fn new(name: &str, change: impl FnOnce(&OnnxModel, &Targets, &mut GraphProto)) -> Self {
        let base = plain(name);
        let mut proto = base.inlined().unwrap();
        change(&base, &find_targets(&base).unwrap(), proto.graph.as_mut().unwrap());
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.onnx");
        let made = OnnxModel::from_proto(proto.clone(), path.clone()).unwrap();
        write_model(&made, &proto, &path.with_file_name("new.onnx")).unwrap();
        std::fs::rename(path.with_file_name("new.onnx"), &path).unwrap();
        let model = OnnxModel::load(&path).unwrap();
        let targets = find_targets(&model).unwrap();
        Self { folder, model, targets, tokens: Tokens::of(base.folder()) }
    }

    pub fn write(&self, proto: &tla::model::proto::ModelProto, name: &str) -> PathBuf {
        let out = self.folder.path().join(name);
        write_model(&self.model, proto, &out).unwrap();
        out
    }

    pub fn base(&self) -> Vec<f32> {
        self.tokens.logits(&self.model.path)
    }

    /// Logits at v = 0, by default, and with one vector for each row, the last of them zero.
    pub fn grafted(&self, header: &Header) -> [Vec<f32>; 3] {
        let grafted = graft(&self.model, &self.targets, header, &V, 2).unwrap();
        let out = self.write(&grafted.proto, "grafted.onnx");
        let zero = vec![0.0; V.len()];
        let mut runs = self.tokens.grafted(&out, &[&[&zero], &[&V[..], &V[..], &zero]]);
        let by_row = runs.remove(2);
        [runs.remove(1), runs.remove(0), by_row]
    }

    pub fn merged(&self, header: &Header) -> Vec<f32> {
        let factors = rebuild_from(&self.model, &self.targets, header, &V, 2).unwrap();
        let merged = merge(&self.model, &self.targets, header, &factors, 2).unwrap();
        self.tokens.logits(&self.write(&merged.proto, "merged.onnx"))
    }

    /// On grids that are fitted to the merged weights.
    pub fn fitted(&self, header: &Header) -> Vec<f32> {
        let factors = rebuild_from(&self.model, &self.targets, header, &V, 2).unwrap();
        let addends = [Addend::whole(header, &factors)];
        let merge = OnnxMerge::new(&self.model, &self.targets, &addends, 2).unwrap();
        let mut merge = merge.with_fitted_grids().unwrap();
        let (proto, out) = (merge.proto().clone(), self.folder.path().join("fitted.onnx"));
        stage_model(&self.model, &proto, &out, &mut merge).unwrap().1.place().unwrap();
        self.tokens.logits(&out)
    }

    pub fn apart(&self, a: &[f32], b: &[f32]) -> f32 {
        apart(a, b, &self.tokens.mask)
    }

    /// Grafted at zero it is the base to the bit; by default, row by row, it is what is expected.
    pub fn check_graft(&self, header: &Header, expected: &[f32], near: f32) {
        let [at_zero, default, by_row] = self.grafted(header);
        let base = self.base();
        assert_eq!(self.apart(&at_zero, &base), 0.0);
        let gap = self.apart(&default, expected);
        assert!(gap < near, "the default is {gap:e} from what is expected");
        assert!(self.apart(&default, &base) > 20.0 * near);
        let last = base.len() * 2 / 3;
        assert!(self.apart(&by_row[..last], &default[..last]) < 1e-5);
        assert!(self.apart(&by_row[last..], &base[last..]) < 1e-5);
    }
}

pub fn replaced(graph: &mut GraphProto, index: usize, nodes: Vec<NodeProto>) {
    graph.node.splice(index..=index, nodes);
}

/// Every linear layer as torch exports one of two dimensions: `Gemm` with the weight as the checkpoint
/// has it, and zeros as bias.
pub fn as_gemm(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto, turned: bool) {
    let mut sites: Vec<_> =
        targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD).collect();
    sites.sort_by_key(|t| std::cmp::Reverse(t.node.as_ref().unwrap().index));
    for target in sites {
        let site = target.node.as_ref().unwrap();
        let old = graph.node[site.index].clone();
        let weight = base.weight(target).unwrap();
        let (rows, cols) = (target.rows as i64, target.cols as i64);
        let name = |part: &str| format!("{}.{part}", old.name());
        let stored = if turned { weight.t().to_owned() } else { weight };
        let shape = if turned { [cols, rows] } else { [rows, cols] };
        let values: Vec<f32> = stored.iter().copied().collect();
        graph.initializer.push(tensor_f32(&name("w"), &shape, &values));
        graph.initializer.push(tensor_f32(&name("b"), &[rows], &vec![0.0; rows as usize]));
        graph.initializer.push(tensor_i64(&name("flat"), &[2], &[-1, cols]));
        graph.initializer.push(tensor_i64(&name("two"), &[2], &[0, 1]));
        graph.initializer.push(tensor_i64(&name("rows"), &[1], &[rows]));
        let of =
            |op: &str, part: &str, inputs: &[&str]| node(op, &name(part), inputs, &[&name(part)]);
        let gemm = node(
            "Gemm",
            &old.name().replace("MatMul", "Gemm"),
            &[&name("x"), &name("w"), &name("b")],
            &[&name("y")],
        );
        let flag = |n, key: &str, on| with_attribute(n, key, Attribute::Int(i64::from(on)));
        let gemm = flag(gemm, "transB", !turned);
        let gemm = with_attribute(gemm, "alpha", Attribute::Float(1.0));
        let gemm = with_attribute(gemm, "beta", Attribute::Float(1.0));
        let concat = of("Concat", "to", &[&name("leading"), &name("rows")]);
        let nodes = vec![
            of("Reshape", "x", &[&old.input[0], &name("flat")]),
            gemm,
            of("Shape", "shape", &[&old.input[0]]),
            of("Gather", "leading", &[&name("shape"), &name("two")]),
            flag(concat, "axis", false),
            node("Reshape", &name("back"), &[&name("y"), &name("to")], &[&old.output[0]]),
        ];
        replaced(graph, site.index, nodes);
    }
}

pub fn bytes(name: &str, dims: &[i64], kind: DataType, raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.into(),
        data_type: Some(kind as i32),
        raw_data: Some(Bytes::from(raw)),
        ..TensorProto::default()
    }
}

/// Eight bits of each column of `[in, out]`, its scales, and what they stand for.
pub fn quantised(weight: &Array2<f32>) -> (Vec<i8>, Vec<f32>) {
    quantised_within(weight, 127.0)
}

fn quantised_within(weight: &Array2<f32>, most: f32) -> (Vec<i8>, Vec<f32>) {
    let scale = |row: ndarray::ArrayView1<f32>| row.iter().fold(0f32, |a, x| a.max(x.abs())) / most;
    let scales: Vec<f32> = weight.rows().into_iter().map(scale).collect();
    let turned = weight.t();
    let values = turned.indexed_iter().map(|((_, out), w)| (w / scales[out]).round() as i8);
    (values.collect(), scales)
}

/// Every linear layer as ONNX Runtime's dynamic quantisation leaves it.
pub fn as_integers(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto) {
    as_integers_within(base, targets, graph, 127.0);
}

/// The same, no integer of a size beyond `most`.
pub fn as_integers_within(base: &OnnxModel, targets: &Targets, graph: &mut GraphProto, most: f32) {
    let mut sites: Vec<_> =
        targets.targets.iter().filter(|t| t.module != ModuleId::LM_HEAD).collect();
    sites.sort_by_key(|t| std::cmp::Reverse(t.node.as_ref().unwrap().index));
    for target in sites {
        let site = target.node.as_ref().unwrap();
        let old = graph.node[site.index].clone();
        let name = |part: &str| format!("{}_{part}", old.name());
        let (values, scales) = quantised_within(&base.weight(target).unwrap(), most);
        let shape = [target.cols as i64, target.rows as i64];
        let raw = values.iter().map(|&q| q as u8).collect();
        graph.initializer.push(bytes(&name("q"), &shape, DataType::Int8, raw));
        graph.initializer.push(tensor_f32(&name("s"), &[shape[1]], &scales));
        graph.initializer.push(bytes(
            &name("z"),
            &[shape[1]],
            DataType::Int8,
            vec![0; target.rows],
        ));
        let [x, xs, xz] = ["x", "xs", "xz"].map(name);
        let cast = node("Cast", &name("cast"), &[&name("i")], &[&name("f")]);
        let nodes = vec![
            node("DynamicQuantizeLinear", &name("quantize"), &[&old.input[0]], &[&x, &xs, &xz]),
            node("Mul", &name("scales_mul"), &[&xs, &name("s")], &[&name("scales")]),
            node(
                "MatMulInteger",
                &name("quant"),
                &[&x, &name("q"), &xz, &name("z")],
                &[&name("i")],
            ),
            with_attribute(cast, "to", Attribute::Int(DataType::Float as i64)),
            node("Mul", &name("out"), &[&name("f"), &name("scales")], &[&old.output[0]]),
        ];
        replaced(graph, site.index, nodes);
    }
}
