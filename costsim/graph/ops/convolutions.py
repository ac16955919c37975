"""Patches of a sequence, which may overlap: a convolution is a product of them and of a weight, an einsum equation."""

from __future__ import annotations

from collections.abc import Iterator

from costsim.graph.ops.pointwise import function
from costsim.graph.ops.register import Array, np, op


def _rows(
    patches: int, rows: int, places: int, stride: int, padding: int, dilation: int = 1
) -> Iterator[tuple[Array, Array]]:
    """By place in a patch: the patches in which it is no padding, and their rows there."""
    for place in range(places):
        at = np.arange(patches) * stride + place * dilation - padding
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


# --- along any axis, of traced graphs: an equation says which index becomes those of patches and of places ------------


def _split(whole: str, cut: str) -> tuple[int, int, int]:
    """The axis of a term that another lacks, and the two axes of the other that it becomes: of patches, of places."""
    patches, places = (i for i, index in enumerate(cut) if index not in whole)
    return next(i for i, index in enumerate(whole) if index not in cut), patches, places


def _with_places(cut: str, whole: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """A term that has patches, and its shape, with an index of places behind; of one if it has none."""
    one = sum(index not in whole for index in cut) == 1
    return (f"{cut}.", (*shape, 1)) if one else (cut, shape)


@function({}, whole=True)
def unfold_(
    x: Array, /, *, stride: int, padding: int, dilation: int, terms: tuple[str, str], shape: tuple[int, ...]
) -> Array:
    """y = the patches of x along the dim that it has not, which may overlap; of one place without a dim more."""
    whole, (cut, shape_of_all) = terms[0], _with_places(terms[1], terms[0], shape)
    y = np.zeros(shape_of_all, x.dtype)
    axis, patches, places = _split(whole, cut)
    rows = _rows(y.shape[patches], x.shape[axis], y.shape[places], stride, padding, dilation)
    others = [index for index in whole if index in cut]
    for place, (there, at) in enumerate(rows):
        taken = x.transpose([axis, *map(whole.index, others)])[at]
        y.transpose([patches, places, *map(cut.index, others)])[there, place] = taken
    return y.reshape(shape)


@function({"add": 1}, whole=True, over="dy")
def fold_(
    dy: Array, /, *, stride: int, padding: int, dilation: int, terms: tuple[str, str], shape: tuple[int, ...]
) -> Array:
    """dx = the sum of each row's gradients in all patches that have it: the gradient of `unfold`."""
    dx, whole = np.zeros(shape, dy.dtype), terms[1]
    cut, shape_of_all = _with_places(terms[0], whole, dy.shape)
    dy = dy.reshape(shape_of_all)
    axis, patches, places = _split(whole, cut)
    rows = _rows(dy.shape[patches], shape[axis], dy.shape[places], stride, padding, dilation)
    others = [index for index in whole if index in cut]
    for place, (there, at) in enumerate(rows):
        taken = dy.transpose([patches, places, *map(cut.index, others)])[there, place]
        dx.transpose([axis, *map(whole.index, others)])[at] += taken
    return dx
