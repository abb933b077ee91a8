//! The tensors of a model that are no initializers of its main graph: constants of nodes, and
//! whatever subgraphs, functions and training graphs hold.

use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// All of them, in the order of the file.
pub(super) fn of(model: &ModelProto) -> impl Iterator<Item = &TensorProto> {
    let main = model.graph.iter().flat_map(|graph| {
        graph
            .sparse_initializer
            .iter()
            .flat_map(|s| s.values.iter().chain(&s.indices))
            .chain(nodes(&graph.node))
    });
    let functions = model
        .functions
        .iter()
        .flat_map(|f| nodes(&f.node).chain(f.attribute_proto.iter().flat_map(attribute)));
    let training = model
        .training_info
        .iter()
        .flat_map(|info| info.initialization.iter().chain(&info.algorithm).flat_map(graph));
    main.chain(functions).chain(training)
}

fn nodes(nodes: &[NodeProto]) -> impl Iterator<Item = &TensorProto> {
    nodes.iter().flat_map(|node| node.attribute.iter().flat_map(attribute))
}

/// Nesting ends where protobuf's decoder ends it, 100 messages deep.
fn attribute(attribute: &AttributeProto) -> Box<dyn Iterator<Item = &TensorProto> + '_> {
    let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
    let graphs = attribute.g.iter().chain(&attribute.graphs);
    Box::new(
        attribute
            .t
            .iter()
            .chain(&attribute.tensors)
            .chain(sparse.flat_map(|s| s.values.iter().chain(&s.indices)))
            .chain(graphs.flat_map(graph)),
    )
}

fn graph(graph: &GraphProto) -> impl Iterator<Item = &TensorProto> {
    let sparse = graph.sparse_initializer.iter();
    graph
        .initializer
        .iter()
        .chain(sparse.flat_map(|s| s.values.iter().chain(&s.indices)))
        .chain(nodes(&graph.node))
}
