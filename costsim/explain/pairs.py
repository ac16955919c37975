"""Pairs of tokens that meet in attention, counted one by one: the second way to what `graph` has in closed forms."""

import math

from costsim.graph.graph import Graph
from costsim.graph.kinds import Dims
from costsim.graph.pairs import pairs_of, queries_of, ragged_dim


def keys_met(graph: Graph, ragged: str) -> list[int]:
    """By query: how many keys it meets along a ragged dim."""
    pairs = graph.pairs[pairs_of(ragged)]
    return [len(pairs.keys(query)) for query in range(pairs.queries_number)]


def run_lengths(graph: Graph, dims: Dims, axes: tuple[int, ...]) -> list[int]:
    """The lengths of the runs along some axes of a tensor: one for each token where they differ, else one for all."""
    along, ragged = {dims[axis] for axis in axes}, ragged_dim(dims)
    sides = {ragged, queries_of(ragged)} & along if ragged is not None else set()
    rest = math.prod(graph.size(dims[axis]) for axis in axes if dims[axis] not in sides)
    if ragged is None or not sides:
        return [rest]
    if len(sides) == 2:
        return [rest * sum(keys_met(graph, ragged))]
    pairs = graph.pairs[pairs_of(ragged)]
    if ragged in sides:
        return [rest * len(pairs.keys(query)) for query in range(pairs.queries_number)]
    return [rest * len(queries) for key in range(pairs.tokens) if (queries := pairs.queries(key))]
