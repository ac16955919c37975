"""Patches of a sequence, which may overlap: a convolution is a product of them and of a weight, an einsum equation."""

from __future__ import annotations

from collections.abc import Iterator

from costsim.graph.ops.register import Array, np, op


def _rows(patches: int, rows: int, places: int, stride: int, padding: int) -> Iterator[tuple[Array, Array]]:
    """By place in a patch: the patches in which it is no padding, and their rows there."""
    for place in range(places):
        at = np.arange(patches) * stride + place - padding
        there = np.flatnonzero((at >= 0) & (at < rows))
        yield there, at[there]


@op(
    "x[b t c] -> y[b u k c]",
    work={},
    grads={"x": "fold(dy)"},
    params=("stride", "padding"),
    runtime=("shape",),
    torch="convolutions.unfold",
)
def unfold(x: Array, stride: int, padding: int, shape: tuple[int, ...]) -> Array:
    """y[b u k c] = x[b, stride u + k - padding, c], 0 outside of x: row k of patch u."""
    y = np.zeros(shape, x.dtype)
    for place, (there, at) in enumerate(_rows(shape[1], x.shape[1], shape[2], stride, padding)):
        y[:, there, place] = x[:, at]
    return y


@op(
    "dy[b u k c] -> dx[b t c]",
    work={"b u k c": {"add": 1}},
    grads={"dy": None},
    params=("stride", "padding"),
    runtime=("shape",),
    torch="convolutions.fold",
)
def fold(dy: Array, stride: int, padding: int, shape: tuple[int, ...]) -> Array:
    """dx = the sum of a row's gradients in all patches that have it. What falls on padding is counted as added, too."""
    dx = np.zeros(shape, dy.dtype)
    for place, (there, at) in enumerate(_rows(dy.shape[1], shape[1], dy.shape[2], stride, padding)):
        dx[:, at] += dy[:, there, place]
    return dx
