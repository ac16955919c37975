"""One op in NumPy: the function of its row in the op table, or, for a contraction, a batch of matrix products.

`torch_kernels` is next door: the same ops in PyTorch.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import expand
from costsim.graph.pairs import Pairs, pairs_of, queries_of

Array = np.ndarray[Any, Any]


@cache
def _as_matmul(equation: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, int, int, int]]:
    """How to turn an einsum equation of two operands into a batch of matrix products.

    The axes of x in the order (batch, rows, summed), those of w as (batch, summed, columns), those of the result
    (batch, rows, columns) in the order that the equation wants, and how many there are of each.
    """
    operands, y = equation.split("->")
    x, w = operands.split(",")
    batch = [letter for letter in x if letter in w and letter in y]
    summed = [letter for letter in x if letter in w and letter not in y]
    rows = [letter for letter in x if letter not in w]
    columns = [letter for letter in w if letter not in x]
    made = batch + rows + columns
    return (
        tuple(x.index(letter) for letter in batch + rows + summed),
        tuple(w.index(letter) for letter in batch + summed + columns),
        tuple(made.index(letter) for letter in y),
        (len(batch), len(rows), len(summed), len(columns)),
    )


def contract(equation: str, x: Array, w: Array) -> tuple[Array, int]:
    """A contraction by matrix products (BLAS), and the multiplications done: the sizes of what matmul was given.

    Sums are made in the dtype of the operands.
    """
    x_axes, w_axes, y_axes, (batch, rows, summed, _) = _as_matmul(equation)
    x, w = x.transpose(x_axes), w.transpose(w_axes)
    stack, m, n = x.shape[:batch], x.shape[batch : batch + rows], w.shape[batch + summed :]
    a = x.reshape(math.prod(stack), math.prod(m), -1)
    b = w.reshape(math.prod(stack), -1, math.prod(n))
    y = np.matmul(a, b)
    products = a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
    return y.reshape(*stack, *m, *n).transpose(y_axes), products


def met(pairs: Pairs) -> Array:
    """Whether query (first axis) and key meet, from the keys of each query."""
    meets = np.zeros((pairs.queries_number, pairs.tokens), bool)
    for query in range(pairs.queries_number):
        keys = pairs.keys(query)
        meets[query, keys.start : keys.stop] = True
    return meets


def runtime(graph: Graph, op: Op, step: int, key: Any, rank: int = 0) -> dict[str, Any]:
    """The arguments that an op's kind takes from whoever runs it; `key` is what dropout is drawn by.

    `rank` is that of who runs it, on the axis of an op that has one, else in the ring of those that share a sequence.
    """
    given: dict[str, Callable[[], Any]] = {
        "shape": lambda: graph.shape(op.outputs[0]),
        "step": lambda: step,
        "key": lambda: key,
        "rank": lambda: rank,
        "met": lambda: met(replace(graph.pairs[op.params["pairs"]], rank=rank)),
    }
    return {name: given[name]() for name in op.kind.runtime}


def _contract_pairs(graph: Graph, op: Op, pairs: Pairs, x: Array, w: Array) -> tuple[Array, int]:
    """A contraction over pairs that meet, query by query: what a kernel does that skips all others. They stay 0."""
    terms = [operand.pattern for operand in (*op.kind.inputs, *op.kind.outputs)]
    keys = next(letter for letter, dims in op.env.items() if any(map(pairs_of, dims)))
    dim = queries_of(op.env[keys][0])
    queries = next(letter for letter, dims in op.env.items() if dims == (dim,))
    y = np.zeros(graph.shape(op.outputs[0]), np.result_type(x, w))
    products = 0
    for query in range(pairs.queries_number):
        run = pairs.keys(query)
        cuts = {queries: slice(query, query + 1), keys: slice(run.start, run.stop)}
        of_x, of_w, of_y = (tuple(cuts.get(letter, slice(None)) for letter in term) for term in terms)
        part, n = contract(op.kind.name, x[of_x], w[of_w])
        y[of_y] += part
        products += n
    return y, products


def run_op(
    graph: Graph, op: Op, inputs: Sequence[Array | None], *, seed: int, step: int, micro: int, rank: int = 0
) -> tuple[tuple[Array, ...], int]:
    """The results of one op, in the order of its outputs, and the multiplications that a matrix product took."""
    if op.kind.is_contraction and all(x is not None and x.dtype != object for x in inputs):
        x, w = inputs
        if (pairs := graph.ragged(expand(op.kind.work[0][0], op.env))) is not None:
            y, products = _contract_pairs(graph, op, replace(pairs, rank=rank), x, w)  # type: ignore[arg-type]
        else:
            y, products = contract(op.kind.name, x, w)  # type: ignore[arg-type]
        return (y,), products
    given = runtime(graph, op, step, (seed, step, micro, zlib.crc32(op.original.encode())), rank)
    results = op.kind.run(*inputs, **op.params, **given)
    return (results if isinstance(results, tuple) else (results,)), 0
