//! Reading a graph by names: who makes a value, who reads it, and where a weight comes from.

use super::{
    dtypes::{self, ElementType},
    integers,
    node::{self, int_attribute, ints_attribute, tensor_attribute},
    operators::{is_microsoft, is_standard},
    proto::{GraphProto, NodeProto, TensorProto, tensor_proto::DataType},
    quantised::{Quantisation, bits_of},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    rc::Rc,
};

/// Where an operand comes from, Identity, Transpose and exact casts followed.
pub(super) enum Source<'a> {
    Stored(StoredWeight<'a>),
    /// An initializer seen only through operators that are not followed.
    Computed {
        op: &'a str,
    },
    Activation,
}

/// A stored matrix as an operand.
pub(super) struct StoredWeight<'a> {
    pub tensor: &'a TensorProto,
    /// Whether Transposes on the way turn it.
    pub transposed: bool,
    /// Whether nothing else reads it.
    pub alone: bool,
    pub quantisation: Option<Quantisation>,
    /// The type in which it is multiplied.
    pub computed_in: ElementType,
}

/// A graph and those around it, as the innermost sees them.
pub(super) struct Reader<'a> {
    /// The main graph first.
    graphs: Vec<Rc<Names<'a>>>,
    embeddings: HashSet<&'a str>,
}

/// The names of one graph.
struct Names<'a> {
    inputs: HashSet<&'a str>,
    tensors: HashMap<&'a str, &'a TensorProto>,
    producers: HashMap<&'a str, &'a NodeProto>,
    readers: HashMap<&'a str, Vec<&'a NodeProto>>,
    /// In nested graphs too.
    uses: HashMap<&'a str, usize>,
}

impl<'a> Names<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        let mut uses = HashMap::new();
        count_uses(graph, &mut uses);
        let producers =
            graph.node.iter().flat_map(|n| n.output.iter().map(move |o| (o.as_str(), n))).collect();
        let mut readers = HashMap::<&str, Vec<&NodeProto>>::new();
        for node in &graph.node {
            node.input.iter().for_each(|name| readers.entry(name).or_default().push(node));
        }
        let tensors = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let inputs = graph.input.iter().map(|input| input.name()).collect();
        Self { inputs, tensors, producers, readers, uses }
    }

    fn have(&self, name: &str) -> bool {
        self.producers.contains_key(name)
            || self.tensors.contains_key(name)
            || self.inputs.contains(name)
    }
}

impl<'a> Reader<'a> {
    pub fn new(graph: &'a GraphProto) -> Self {
        let mut reader =
            Self { graphs: vec![Rc::new(Names::of(graph))], embeddings: HashSet::new() };
        let gathers = graph.node.iter().filter(|n| is_standard(n, "Gather"));
        let tables = gathers.filter_map(|n| n.input.first().map(String::as_str));
        reader.embeddings = tables
            .filter_map(|name| match reader.source(name) {
                Source::Stored(stored) => Some(stored.tensor.name()),
                _ => None,
            })
            .collect();
        reader
    }

    /// Of a graph inside the innermost, such as a branch of an If.
    pub fn inside(&self, graph: &'a GraphProto) -> Self {
        let own = Rc::new(Names::of(graph));
        let graphs = self.graphs.iter().cloned().chain([own]).collect();
        Self { graphs, embeddings: HashSet::new() }
    }

    /// The innermost graph that has a value of this name, and whether it is the main one.
    fn home(&self, name: &str) -> (&Names<'a>, bool) {
        let inner = self.graphs.get(1..).unwrap_or_default().iter().rev();
        match inner.map(Rc::as_ref).find(|graph| graph.have(name)) {
            Some(graph) => (graph, false),
            None => (&self.graphs[0], true),
        }
    }

    /// Whether a value is not one of a graph inside the main one.
    pub fn is_of_main(&self, name: &str) -> bool {
        self.home(name).1
    }

    /// The nodes that read a value in the graph that makes it, in its order.
    pub fn readers(&self, value: &str) -> &[&'a NodeProto] {
        self.home(value).0.readers.get(value).map(Vec::as_slice).unwrap_or_default()
    }

    /// The node that makes a value.
    pub fn producer(&self, value: &str) -> Option<&'a NodeProto> {
        self.home(value).0.producers.get(value).copied()
    }

    /// Whether a Gather looks up rows of this initializer.
    pub fn is_embedding(&self, initializer: &str) -> bool {
        self.embeddings.contains(initializer)
    }

    /// The initializer of this name.
    pub fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.home(name).0.tensors.get(name).copied()
    }

    /// The integers of a constant.
    pub fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let constant = || {
            let node = self.producer(name).filter(|node| is_standard(node, "Constant"))?;
            tensor_attribute(node, "value")
        };
        node::integers(self.tensor(name).or_else(constant)?)
    }

    /// Where the weight of a linear node comes from, and in which of its inputs it is.
    pub fn weight(&self, node: &'a NodeProto) -> Option<(usize, Source<'a>)> {
        if is_microsoft(node, "MatMulNBits") {
            return Some((1, self.blocks(node).map_or(Source::Activation, Source::Stored)));
        }
        if is_standard(node, "MatMulInteger") || is_microsoft(node, "DynamicQuantizeMatMul") {
            let stored = integers::weight(self, node);
            return Some((1, stored.map_or(Source::Activation, Source::Stored)));
        }
        let sources = node.input.iter().map(|name| self.source(name));
        sources.enumerate().find(|(_, source)| !matches!(source, Source::Activation))
    }

    /// How often a value is read, in branches too.
    pub fn uses(&self, name: &str) -> usize {
        self.home(name).0.uses.get(name).copied().unwrap_or(0)
    }

    /// Whether a value is read once. What a graph inside the main one reads of that is counted by
    /// [`leaves`](Self::leaves).
    pub fn alone(&self, name: &str) -> bool {
        let (graph, is_main) = self.home(name);
        (is_main && self.graphs.len() > 1) || graph.uses.get(name).is_none_or(|&n| n == 1)
    }

    /// How often a value of the main graph is read, where what its Identities, Transposes and the like
    /// make of it is read in its place.
    pub fn leaves(&self, name: &'a str) -> usize {
        let (mut leaves, mut open, mut visited) = (0, vec![name], BTreeSet::new());
        while let Some(value) = open.pop() {
            let readers = self.readers(value);
            leaves += self.uses(value).saturating_sub(readers.len());
            for node in readers {
                match node.output.first().filter(|_| self.leads_on(node, value)) {
                    // A cycle is not a model, but it must not hang us either.
                    Some(output) if visited.insert(output) => open.push(output),
                    Some(_) => {}
                    None => leaves += 1,
                }
            }
        }
        leaves
    }

    /// Whether what a node makes is the value in another form, and of nothing else.
    fn leads_on(&self, node: &'a NodeProto, value: &str) -> bool {
        let once = node.input.iter().filter(|input| *input == value).count() == 1;
        let first = node.input.first().is_some_and(|input| input == value);
        let follows = is_standard(node, "Identity")
            || (is_standard(node, "Transpose") && swaps(node))
            || self.widening(node).is_some()
            || (is_standard(node, "DequantizeLinear") && self.dequantised(node).is_some());
        once && first && follows
    }

    pub fn source(&self, operand: &'a str) -> Source<'a> {
        let (mut name, mut transposed, mut alone) = (operand, false, true);
        let mut widened = None;
        let mut visited = BTreeSet::new();
        loop {
            alone &= self.alone(name);
            if let Some(tensor) = self.tensor(name) {
                let computed_in = widened.unwrap_or_else(|| ElementType::of(tensor));
                let quantisation = None;
                let stored = StoredWeight { tensor, transposed, alone, quantisation, computed_in };
                return Source::Stored(stored);
            }
            let Some(node) = self.producer(name) else { return Source::Activation };
            // A cycle is not a model, but it must not hang us either.
            if !visited.insert(name) {
                return Source::Activation;
            }
            let Some(from) = node.input.first() else {
                return match node.op_type() {
                    "Constant" => Source::Computed { op: "Constant" },
                    _ => Source::Activation,
                };
            };
            if is_standard(node, "Transpose") && swaps(node) {
                transposed = !transposed;
            } else if let Some(to) = self.widening(node) {
                widened = widened.or(Some(to));
            } else if is_standard(node, "DequantizeLinear")
                && let Some(stored) = self.dequantised(node)
            {
                let alone = alone && stored.alone;
                return Source::Stored(StoredWeight { transposed, alone, ..stored });
            } else if !is_standard(node, "Identity") {
                let known = |i: &String| i.is_empty() || self.tensor(i).is_some();
                let computed = node.op_type() != "Gather"
                    && self.tensor(from).is_some()
                    && node.input.iter().all(known);
                return match computed {
                    true => Source::Computed { op: node.op_type() },
                    false => Source::Activation,
                };
            }
            name = from;
        }
    }

    /// The type a Cast of a stored tensor widens it to, which changes no value.
    fn widening(&self, node: &NodeProto) -> Option<ElementType> {
        let to = ElementType::from_number(int_attribute(node, "to")? as i32);
        let from = ElementType::of(self.tensor(node.input.first()?)?);
        let exact = from == to
            || (matches!(from, ElementType::F16 | ElementType::Bf16) && to == ElementType::F32);
        (is_standard(node, "Cast") && exact).then_some(to)
    }

    fn blocks(&self, node: &'a NodeProto) -> Option<StoredWeight<'a>> {
        let number = |name| usize::try_from(int_attribute(node, name)?).ok();
        let bits = number("bits").unwrap_or(4);
        let (columns, rows, block) = (number("K")?, number("N")?, number("block_size")?);
        let given = |slot: usize| node.input.get(slot).filter(|name| !name.is_empty());
        let tensor = self.tensor(given(1)?)?;
        let scales = self.tensor(given(2)?)?;
        let known = matches!(bits, 4 | 8) && block >= 16 && block.is_power_of_two();
        // A fourth constant permutes the columns.
        if !known || given(4).is_some() || tensor.data_type() != DataType::Uint8 as i32 {
            return None;
        }
        let zero_points = match given(3) {
            Some(name) => Some(self.tensor(name)?.name().to_owned()),
            None => None,
        };
        Some(StoredWeight {
            tensor,
            transposed: true,
            alone: self.alone(tensor.name()),
            computed_in: ElementType::of(scales),
            quantisation: Some(Quantisation::Blocks {
                bits,
                block,
                shape: [rows, columns],
                scales: scales.name().into(),
                zero_points,
            }),
        })
    }

    fn dequantised(&self, node: &'a NodeProto) -> Option<StoredWeight<'a>> {
        let given = |slot: usize| node.input.get(slot).filter(|name| !name.is_empty());
        let (tensor, scale) = (self.tensor(given(0)?)?, self.tensor(given(1)?)?);
        bits_of(ElementType::of(tensor))?;
        let zero_point = match given(2) {
            Some(name) => Some(self.tensor(name)?.name().to_owned()),
            None => None,
        };
        let axis = match int_attribute(node, "axis").unwrap_or(1) {
            0 | -2 => 0,
            1 | -1 => 1,
            _ => return None,
        };
        let block = usize::try_from(int_attribute(node, "block_size").unwrap_or(0)).ok()?;
        let scale_name = scale.name().to_owned();
        Some(StoredWeight {
            tensor,
            transposed: false,
            alone: self.alone(tensor.name()),
            computed_in: ElementType::of(scale),
            quantisation: Some(Quantisation::Linear { scale: scale_name, zero_point, axis, block }),
        })
    }
}

impl StoredWeight<'_> {
    /// Rows and columns as stored.
    pub fn shape(&self) -> Option<[usize; 2]> {
        if let Some(Quantisation::Blocks { shape, .. }) = &self.quantisation {
            return Some(*shape);
        }
        match dtypes::shape_of(self.tensor).ok()?[..] {
            [first, second] => Some([first, second]),
            _ => None,
        }
    }
}

/// Whether a two-dimensional Transpose swaps its sizes.
fn swaps(node: &NodeProto) -> bool {
    ints_attribute(node, "perm").is_none_or(|perm| perm == [1, 0])
}

/// How often each name is read: by nodes, by nodes of nested graphs, and as an output.
pub(crate) fn count_uses<'a>(graph: &'a GraphProto, uses: &mut HashMap<&'a str, usize>) {
    for output in &graph.output {
        *uses.entry(output.name()).or_default() += 1;
    }
    for node in &graph.node {
        for input in &node.input {
            *uses.entry(input).or_default() += 1;
        }
        for attribute in &node.attribute {
            attribute.g.iter().chain(&attribute.graphs).for_each(|g| count_uses(g, uses));
        }
    }
}
