"""Random numbers to run a graph on: weights as trainers start them, and data."""

import math
from typing import Any

import numpy as np

from costsim.graph.graph import Graph
from costsim.reference.numpy_ops import Array

_TABLE_AXIS = {"embed": 0, "pick_distances": -1, "pick_distances_of_keys": -1}  # by kind: along which ids look up
_OF_ONE_PLUS = {"rms_norm_1p", "convert"}  # what reads the weight of a norm that scales by 1 + weight


def _centre(graph: Graph, name: str) -> float:
    """The mean of a vector's elements: 1 for the factors of norms, 0 for those that 1 is added to, and for biases."""
    readers = {op.kind.name for op, _ in graph.readers.get(name, ())}
    return 1.0 if name.endswith("norm.weight") and readers.isdisjoint(_OF_ONE_PLUS) else 0.0


def draw_weights(graph: Graph, rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Array]:
    """Weights as trainers start them: matrices normal by their fan-in, factors of norms near 1, biases near 0."""
    weights = {}
    for tensor in graph.tensors.values():
        if tensor.role == "weight" and tensor.alias is None and tensor.name not in graph.viewed:
            shape = graph.shape(tensor.name)
            spread = 1 / math.sqrt(max(1, math.prod(shape[:-1]))) if len(shape) > 1 else 0.1
            centre = _centre(graph, tensor.name) if len(shape) == 1 else 0.0
            weights[tensor.name] = rng.normal(centre, spread, shape).astype(dtype)
    return weights


def _bound(graph: Graph, name: str) -> int:
    """Below what ids or labels must be, by the op that reads them."""
    for op, _ in graph.readers[name]:
        if op.kind.name in _TABLE_AXIS:
            return graph.shape(op.inputs[0])[_TABLE_AXIS[op.kind.name]]
        if op.kind.input_names[:2] == ("logits", "labels"):
            return graph.shape(op.inputs[0])[-1]
        if op.kind.input_names[:2] == ("logits", "targets"):
            return 2
        if graph.tensors[op.outputs[0]].values == "index":  # a view, or ids moved about
            return _bound(graph, op.outputs[0])
    return 1


def _show_a_key(graph: Graph, keep: Array) -> None:
    """Have each sequence keep its first key, and each query a key that it meets: softmax of nothing is no number."""
    keep[..., 0] = True
    for pairs in graph.pairs.values():
        if keep.ndim == 2 and pairs.tokens == keep.shape[1]:
            for query in range(pairs.tokens):
                keys = pairs.keys(query)
                keep[~keep[:, keys.start : keys.stop].any(axis=1), query] = True


def draw_batch(graph: Graph, rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Array]:
    """Random data for one micro-batch; padding masks leave each query a key."""
    batch: dict[str, Array] = {}
    for tensor in graph.tensors.values():
        if tensor.role != "data" or tensor.name in graph.producer:
            continue
        shape = graph.shape(tensor.name)
        if tensor.values == "index":
            batch[tensor.name] = rng.integers(0, _bound(graph, tensor.name), shape)
        elif tensor.values == "mask":
            batch[tensor.name] = rng.random(shape) < 0.8
            _show_a_key(graph, batch[tensor.name])
        else:
            batch[tensor.name] = rng.normal(size=shape).astype(dtype)
    return batch
