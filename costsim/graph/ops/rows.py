"""Rows of a tensor in chunks: views, which lie in the memory of the whole and move nothing.

Rows are all dims but the last ones (`*k`), flattened. Every chunk has as many, but for the last, which has the rest.
"""

from __future__ import annotations

from costsim.graph.ops.register import Array, np, op


def _rows(at: int, rows: int) -> slice:
    """Which rows a chunk of so many has: the `at`-th, from 0 on, or with -1 the last."""
    return slice(at * rows, (at + 1) * rows) if at >= 0 else slice(-rows, None)


@op(
    "x[*n *k] -> y[r *k]",
    work={},
    grads={"x": "put_rows(dy)"},
    params=("at",),
    runtime=("shape",),
    view=True,
    lies_in={"y": "x"},
    torch="same",
)
def take_rows(x: Array, at: int, shape: tuple[int, ...]) -> Array:
    """y = one chunk of the rows of x."""
    return x.reshape(-1, *shape[1:])[_rows(at, shape[0])]


@op(
    "dy[r *k] -> dx[*n *k]",
    work={},
    grads={"dy": None},
    params=("at",),
    runtime=("shape",),
    view=True,
    lies_in={"dy": "dx"},
    torch="rows.put_rows",
)
def put_rows(dy: Array, at: int, shape: tuple[int, ...]) -> Array:
    """dx has dy as one chunk of its rows; the others are not there yet, and 0."""
    dx = np.zeros(shape, dy.dtype)
    dx.reshape(-1, *dy.shape[1:])[_rows(at, len(dy))] = dy
    return dx


@op(
    "a[...], b[...] -> y[...]",
    work={},
    grads={"a": "dy", "b": "dy"},
    view=True,
    lies_in={"a": "y", "b": "y"},
    torch="same",
)
def merge_rows(a: Array, b: Array) -> Array:
    """y = the rows of both: where one has them, the other is 0."""
    return a + b
