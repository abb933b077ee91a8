//! Scaled dot-product attention in standard operators.

use super::emitter::Emitter;
use crate::model::{node::Attribute, proto::tensor_proto::DataType};

/// Below any score, and finite: a row that may see nothing must not become NaN.
const MASKED: f32 = -1e30;

/// What restricts or shifts the scores beside the order of the tokens.
pub(super) enum Mask {
    /// True where a key may be seen.
    Allowed(String),
    /// Added to the scores; of the given type.
    Added(String, DataType),
}

/// One attention over `[batch, heads, length, size]`.
pub(super) struct Attention {
    /// Query heads.
    pub(super) heads: i64,
    /// Key and value heads; query head h reads number h · `shared` / `heads`.
    pub(super) shared: i64,
    /// Size of a query and key head.
    pub(super) size: i64,
    /// Size of a value head.
    pub(super) value_size: i64,
    /// Type of queries, keys and values.
    pub(super) kind: DataType,
    /// Multiplies the scores.
    pub(super) scale: f32,
    /// Bounds the scores smoothly, before the mask; 0 does not.
    pub(super) softcap: f32,
    /// Whether a token sees only itself and those before it.
    pub(super) causal: bool,
    /// How many keys a token sees, itself included.
    pub(super) window: Option<i64>,
    /// Which keys may be seen at all: truth values, `[batch, 1, 1, keys]`. Every token sees one.
    pub(super) seen: Option<String>,
    /// More restrictions.
    pub(super) mask: Option<Mask>,
}

impl Attention {
    /// `softmax(q·kᵀ·scale)·v`. Query heads that share a key head are laid out as more rows of
    /// it, so neither keys nor values are repeated.
    pub(super) fn emit(&self, e: &mut Emitter<'_>, q: &str, k: &str, v: &str) -> String {
        let scale = e.number(self.scale, self.kind);
        let mut rows = e.emit("Mul", &[q, &scale]);
        if self.grouped() {
            rows = e.reshape(&rows, &[0, self.shared, -1, self.size]);
        }
        let keys = e.transpose(k, &[0, 1, 3, 2]);
        let mut scores = e.emit("MatMul", &[&rows, &keys]);
        let across = e.size(k, 2);
        if self.grouped() {
            scores = regroup(e, &scores, self.heads, &across);
        }
        scores = e.cast(&scores, self.kind, DataType::Float);
        if self.softcap != 0.0 {
            let cap = e.number(self.softcap, DataType::Float);
            let small = e.emit("Div", &[&scores, &cap]);
            let bounded = e.emit("Tanh", &[&small]);
            scores = e.emit("Mul", &[&bounded, &cap]);
        }
        let mut allowed = self.order(e, q, k);
        if let Some(seen) = &self.seen {
            allowed = Some(both(e, allowed, seen.clone()));
        }
        let mut gaps = false;
        match &self.mask {
            Some(Mask::Added(mask, kind)) => {
                let wide = e.cast(mask, *kind, DataType::Float);
                let lowest = e.number(MASKED, DataType::Float);
                let bias = e.emit("Max", &[&wide, &lowest]);
                scores = e.emit("Add", &[&scores, &bias]);
            }
            Some(Mask::Allowed(mask)) => {
                gaps = true;
                allowed = Some(both(e, allowed, mask.clone()));
            }
            None => {}
        }
        if let Some(allowed) = &allowed {
            let lowest = e.number(MASKED, DataType::Float);
            scores = e.emit("Where", &[allowed, &scores, &lowest]);
        }
        let mut shares = e.emit_with("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        if let Some(allowed) = allowed.filter(|_| gaps) {
            let nothing = e.number(0.0, DataType::Float);
            shares = e.emit("Where", &[&allowed, &shares, &nothing]);
        }
        shares = e.cast(&shares, DataType::Float, self.kind);
        if self.grouped() {
            shares = regroup(e, &shares, self.shared, &across);
        }
        let seen = e.emit("MatMul", &[&shares, v]);
        match self.grouped() {
            true => e.reshape(&seen, &[0, self.heads, -1, self.value_size]),
            false => seen,
        }
    }

    fn grouped(&self) -> bool {
        self.heads != self.shared
    }

    /// Which key places a query place may see by its order, `[length, keys]`. Queries are the last
    /// of the keys.
    fn order(&self, e: &mut Emitter<'_>, q: &str, k: &str) -> Option<String> {
        if !self.causal && self.window.is_none() {
            return None;
        }
        let (mut from, to) = (e.places(q, 2), e.places(k, 2));
        if e.past.is_some() {
            let (keys, queries) = (e.size(k, 2), e.size(q, 2));
            let before = e.emit("Sub", &[&keys, &queries]);
            from = e.emit("Add", &[&from, &before]);
        }
        let from = e.unsqueeze(&from, 1);
        let to = e.unsqueeze(&to, 0);
        let earlier = self.causal.then(|| e.emit("LessOrEqual", &[&to, &from]));
        let Some(window) = self.window else { return earlier };
        let window = e.integer(window);
        let beyond = e.emit("Sub", &[&from, &window]);
        let near = e.emit("Greater", &[&to, &beyond]);
        Some(both(e, earlier, near))
    }
}

fn both(e: &mut Emitter<'_>, a: Option<String>, b: String) -> String {
    match a {
        Some(a) => e.emit("And", &[&a, &b]),
        None => b,
    }
}

/// The same scores under another number of heads; `across` is the number of keys.
fn regroup(e: &mut Emitter<'_>, scores: &str, heads: i64, across: &str) -> String {
    let front = e.list(&[0, heads, -1]);
    let shape = e.concat(&[&front, across], 0);
    e.emit("Reshape", &[scores, &shape])
}

/// `[batch, length, heads · size]` → `[batch, heads, length, size]`.
pub(super) fn heads(e: &mut Emitter<'_>, x: &str, count: i64, size: i64) -> String {
    let split = e.reshape(x, &[0, 0, count, size]);
    e.transpose(&split, &[0, 2, 1, 3])
}

/// `[batch, heads, length, size]` → `[batch, length, heads · size]`.
pub(super) fn unheads(e: &mut Emitter<'_>, x: &str, width: i64) -> String {
    let aside = e.transpose(x, &[0, 2, 1, 3]);
    e.reshape(&aside, &[0, 0, width])
}
