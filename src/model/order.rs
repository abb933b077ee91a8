//! Whether the nodes of a graph can be computed at all: none needs what is made of it.

use super::{
    ModelError, OnnxModel,
    proto::{GraphProto, NodeProto},
};
use std::collections::{HashMap, HashSet};

/// Refuses a graph that leads round.
pub(super) fn refuse_cycle(model: &OnnxModel) -> Result<(), ModelError> {
    let nodes = &model.graph().node;
    let mut makers = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        let made = node.output.iter().filter(|name| !name.is_empty());
        makers.extend(made.map(|name| (name.as_str(), index)));
    }
    let needs: Vec<Vec<(&str, usize)>> = nodes
        .iter()
        .map(|node| read(node).into_iter().filter_map(|v| Some((v, *makers.get(v)?))).collect())
        .collect();
    let Some((reader, value)) = round(&needs) else { return Ok(()) };
    let node = match nodes.get(reader).map(NodeProto::name) {
        None | Some("") => format!("number {reader}, unnamed"),
        Some(name) => name.into(),
    };
    Err(ModelError::LeadsRound { path: model.path.clone(), node, value: value.into() })
}

/// All values that a node reads, in the graphs it holds too, but for those that these make.
fn read(node: &NodeProto) -> Vec<&str> {
    let inside = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
    let inputs = node.input.iter().map(String::as_str).filter(|name| !name.is_empty());
    inputs.chain(inside.flat_map(read_inside)).collect()
}

fn read_inside(graph: &GraphProto) -> Vec<&str> {
    let made = graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str));
    let given = graph.input.iter().map(|input| input.name());
    let stored = graph.initializer.iter().map(|tensor| tensor.name());
    let own: HashSet<&str> = made.chain(given).chain(stored).collect();
    let outputs = graph.output.iter().map(|output| output.name());
    let read = graph.node.iter().flat_map(read).chain(outputs);
    read.filter(|name| !own.contains(name)).collect()
}

/// On a way that leads round, the first node that reads what it or a node behind it makes, and that
/// value; `needs` are the values that each node reads, and who makes them.
fn round<'a>(needs: &[Vec<(&'a str, usize)>]) -> Option<(usize, &'a str)> {
    let mut open: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut readers = vec![Vec::new(); needs.len()];
    for (reader, values) in needs.iter().enumerate() {
        values.iter().for_each(|&(_, maker)| readers[maker].push(reader));
    }
    let mut ready: Vec<usize> = (0..needs.len()).filter(|&node| open[node] == 0).collect();
    while let Some(node) = ready.pop() {
        for &reader in &readers[node] {
            open[reader] -= 1;
            if open[reader] == 0 {
                ready.push(reader);
            }
        }
    }
    // Each of the rest needs another of the rest, so that whoever follows them comes round.
    let mut node = open.iter().position(|&left| left > 0)?;
    let (mut way, mut seen) = (Vec::new(), HashMap::new());
    while !seen.contains_key(&node) {
        seen.insert(node, way.len());
        let &(value, maker) = needs[node].iter().find(|(_, maker)| open[*maker] > 0)?;
        way.push((node, value, maker));
        node = maker;
    }
    let back = way.get(*seen.get(&node)?..)?.iter().filter(|(reader, _, maker)| maker >= reader);
    back.min().map(|&(reader, value, _)| (reader, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_leads_round_is_found_at_the_node_that_reads_ahead() {
        assert_eq!(round(&[vec![], vec![("a", 0)], vec![("b", 1), ("a", 0)]]), None);
        assert_eq!(round(&[vec![("b", 1)], vec![]]), None, "out of order alone");
        assert_eq!(round(&[vec![("own", 0)]]), Some((0, "own")));
        let led =
            [vec![], vec![("a", 0), ("d", 3)], vec![("b", 1)], vec![("c", 2)], vec![("d", 3)]];
        assert_eq!(round(&led), Some((1, "d")));
    }
}
