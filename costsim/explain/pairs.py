"""Pairs of tokens that meet in attention, counted one by one: the second way to what `graph` has in closed forms."""

import math

from costsim.graph.graph import Graph
from costsim.graph.kinds import Dims
from costsim.graph.pairs import base_of, pairs_of, ragged_dim


def keys_met(graph: Graph, ragged: str) -> list[int]:
    """By query: how many keys it meets along a ragged dim."""
    pairs = graph.pairs[pairs_of(ragged)]
    return [len(pairs.keys(query)) for query in range(pairs.tokens)]


def run_lengths(graph: Graph, dims: Dims, axes: tuple[int, ...]) -> list[int]:
    """The lengths of the runs along some axes of a tensor: one for each token where they differ, else one for all."""
    along, ragged = {dims[axis] for axis in axes}, ragged_dim(dims)
    sides = {ragged, base_of(ragged)} & along if ragged is not None else set()
    rest = math.prod(graph.size(dims[axis]) for axis in axes if dims[axis] not in sides)
    if ragged is None or not sides:
        return [rest]
    if len(sides) == 2:
        return [rest * sum(keys_met(graph, ragged))]
    pairs = graph.pairs[pairs_of(ragged)]
    met = pairs.keys if ragged in sides else pairs.queries
    return [rest * len(met(token)) for token in range(pairs.tokens)]
