"""What the pairs of tokens that meet take, measured: numbers of scores are held as a square, but only pairs exist.

The pairs are gone through query by query (or key by key, where blocks lie along queries), and packed by themselves.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from costsim.formats.format import Format
from costsim.formats.pack import pack
from costsim.formats.quantize import block_axes
from costsim.graph.graph import Graph
from costsim.graph.pairs import Pairs, queries_of, ragged_dim
from costsim.reference.numpy_ops import Array, met


def _axes(graph: Graph, name: str) -> tuple[int, int] | None:
    """The axes of queries and keys of a tensor of pairs; None of any other."""
    dims = graph.tensors[name].dims
    ragged = ragged_dim(dims)
    return None if ragged is None else (dims.index(queries_of(ragged)), dims.index(ragged))


def numbers(graph: Graph, name: str, x: Array) -> int:
    """How many numbers there are: of a tensor of pairs, those that meet."""
    pairs = graph.ragged(graph.tensors[name].dims)
    return x.size if pairs is None else x.size // (pairs.tokens * pairs.queries_number) * int(met(pairs).sum())


def _pieces(x: Array, pairs: Pairs, queries: int, keys: int, along: Sequence[int]) -> Iterator[Array]:
    """The pairs that meet, in arrays in which no block is cut."""
    by_key = queries in along
    fixed, moving = (keys, queries) if by_key else (queries, keys)
    runs = pairs.queries if by_key else pairs.keys
    for token in range(pairs.tokens if by_key else pairs.queries_number):
        cut = [slice(None)] * x.ndim
        cut[fixed], cut[moving] = slice(token, token + 1), slice(runs(token).start, runs(token).stop)
        yield x[tuple(cut)]


def bits(graph: Graph, name: str, x: Array, format: Format, axes: Sequence[int] | None) -> int:
    """The bits of a tensor of pairs, packed. Formats whose blocks are tiles over several runs are not measured."""
    places, pairs = _axes(graph, name), graph.ragged(graph.tensors[name].dims)
    assert places is not None
    assert pairs is not None
    along = block_axes(x, format, axes)
    if len(along) == x.ndim:  # flattened
        squares = np.moveaxis(x, places, (-2, -1))
        return pack(squares[..., met(pairs)].reshape(-1), format).bits
    parts = [pack(piece, format, along).bits for piece in _pieces(x, pairs, *places, along)]
    shared = sum(scale.bits for scale in format.scales if scale.of_tensor)
    return sum(parts) - (len(parts) - 1) * shared
