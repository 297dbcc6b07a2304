"""What depends on what in an ONNX graph whose nodes are in topological order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import GraphProto, NodeProto


def reads(node: NodeProto) -> Iterator[str]:
    """Every tensor that a node reads, also from inside its loops and branches."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            made = {value.name for value in (*graph.input, *graph.initializer)}
            made |= {name for inner in graph.node for name in inner.output}
            yield from (name for inner in graph.node for name in reads(inner) if name not in made)


def depending(graph: GraphProto, sources: Iterable[str]) -> set[str]:
    """All tensors that depend on one of the sources, themselves included."""
    found = set(sources)
    for node in graph.node:
        if not found.isdisjoint(reads(node)):
            found.update(node.output)
    return found
