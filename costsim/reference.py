"""Runs a graph in NumPy: the same ops in the same order as the cost model counts them, on real numbers.

This is the seed of the full reference: no quantizers yet, every tensor is held in one floating dtype.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from costsim.graph import Graph, Op

Array = np.ndarray[Any, Any]
Values = dict[str, Array]


def run_op(graph: Graph, op: Op, values: Mapping[str, Array], *, seed: int, step: int, micro: int) -> tuple[Array, ...]:
    """The results of one op on the values of its inputs, in the order of its outputs."""
    runtime = {
        "shape": graph.shape(op.outputs[0]),
        "step": step,
        "key": (seed, step, micro, zlib.crc32(op.name.encode())),
    }
    given = {name: runtime[name] for name in op.kind.runtime}
    result = op.kind.run(*[values.get(name) for name in op.inputs], **op.params, **given)
    return result if isinstance(result, tuple) else (result,)


def execute(
    graph: Graph, weights: Mapping[str, Array], batches: Iterable[Mapping[str, Array]], *, seed: int = 0, step: int = 1
) -> Values:
    """Run one training step: forward and backward once per micro-batch in `batches`, then the update.

    `weights` holds weights and states by name, each batch the data tensors. Returns every tensor (of the last
    micro-batch, where there are several). Missing states start at 0, the gradient of the loss is 1.
    Raises KeyError for a missing tensor, ValueError if the number of batches is not the graph's.
    """
    values: Values = dict(weights)
    dtype = np.result_type(*weights.values()) if weights else np.float32
    for tensor in graph.tensors.values():
        if tensor.role == "state" and tensor.alias is None and tensor.name not in graph.producer:
            values.setdefault(tensor.name, np.zeros(graph.shape(tensor.name), dtype))
        if tensor.role == "gradient" and tensor.name not in graph.producer:
            values[tensor.name] = np.ones(graph.shape(tensor.name), dtype)
    done = 0
    for micro, batch in enumerate(batches):
        values.update(batch)
        for op in graph.ops:
            if op.phase == "update":
                continue
            results = run_op(graph, op, values, seed=seed, step=step, micro=micro)
            values.update(zip(op.outputs, results, strict=True))
            for name in op.outputs:
                if (alias := graph.tensors[name].alias) is not None:
                    values[alias] = values[name]
        done += 1
    if done != graph.micro_batches:
        raise ValueError(f"the graph takes {graph.micro_batches} micro-batches, got {done}")
    for op in graph.ops:
        if op.phase == "update":
            results = run_op(graph, op, values, seed=seed, step=step, micro=0)
            values.update(zip(op.outputs, results, strict=True))
    return values
