//! Leaving out what no output needs.

use std::collections::HashSet;

use super::shared_prompt::composable;
use crate::model::proto::GraphProto;

/// Drops the nodes no output depends on, and the constants only they read: a runtime would run and
/// hold them. A graph with graphs inside stays, because those read tensors without naming them.
pub fn prune(graph: &mut GraphProto) {
    if !composable(graph) {
        return;
    }
    let outputs: Vec<String> = graph.output.iter().map(|o| o.name().to_owned()).collect();
    let mut kept: HashSet<String> = outputs.into_iter().collect();
    let mut nodes = std::mem::take(&mut graph.node);
    nodes.reverse();
    nodes.retain(|node| {
        let wanted = node.output.iter().any(|o| kept.contains(o));
        if wanted {
            kept.extend(node.input.iter().filter(|i| !i.is_empty()).cloned());
        }
        wanted
    });
    nodes.reverse();
    graph.node = nodes;
    graph.initializer.retain(|t| kept.contains(t.name()));
}
