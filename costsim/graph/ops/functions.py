"""The functions of pointwise equations: of each element, of several that line up, reductions, and of whole arrays."""

from __future__ import annotations

import math

from costsim.graph.ops.pointwise import function, lined_up
from costsim.graph.ops.register import Array, np

Terms = tuple[str, ...]
Shape = tuple[int, ...]


# --- of each element --------------------------------------------------------------------------------------------------


@function({})
def copy(x: Array, /) -> Array:
    """y = x in memory of its own, in another order of dims or repeated along new ones."""
    return x.copy()


@function({})
def neg(x: Array, /) -> Array:
    """y = -x."""
    return -x


@function({})
def abs_(x: Array, /) -> Array:
    """y = |x|."""
    return abs(x)


@function({})
def sign(x: Array, /) -> Array:
    """y = -1, 0 or 1."""
    return np.sign(x)


@function({})
def ceil(x: Array, /) -> Array:
    """y = the least whole number that is not less than x."""
    return np.ceil(x)


@function({"exp": 1})
def exp(x: Array, /) -> Array:
    """y = exp x."""
    return np.exp(x)


@function({"log": 1})
def log(x: Array, /) -> Array:
    """y = log x, minus infinity of 0."""
    with np.errstate(divide="ignore"):
        return np.log(x)


@function({"sqrt": 1})
def sqrt(x: Array, /) -> Array:
    """y = the square root of x."""
    return np.sqrt(x)


@function({"div": 1})
def reciprocal(x: Array, /) -> Array:
    """y = 1 / x."""
    return 1 / x


@function({"sin": 1})
def sin(x: Array, /) -> Array:
    """y = sin x."""
    return np.sin(x)


@function({"cos": 1})
def cos(x: Array, /) -> Array:
    """y = cos x."""
    return np.cos(x)


@function({"exp": 1, "add": 1, "div": 1})
def sigmoid(x: Array, /) -> Array:
    """y = 1 / (1 + exp(-x))."""
    return 1 / (np.exp(-x) + 1)


@function({"mul": 1})
def power(x: Array, /, *, exponent: float) -> Array:
    """y = x to a fixed exponent, counted as one multiplication; squares and cubes have rows of their own."""
    return x**exponent


@function({"div": 1})
def divide(x: Array, /, *, by: float) -> Array:
    """y = x / by."""
    return x / by


@function({"add": 1})
def subtract_from(x: Array, /, *, number: float) -> Array:
    """y = number - x."""
    return number - x


@function({"cmp": 2})
def clamp(x: Array, /, *, low: float, high: float) -> Array:
    """y = x within these bounds."""
    return np.minimum(np.maximum(x, low), high)


@function({"cmp": 1})
def not_(x: Array, /) -> Array:
    """y = whether x is 0."""
    return x == 0


@function({"convert": 1})
def to_float(x: Array, /) -> Array:
    """y = x as a floating-point number."""
    return x.astype(np.float64)


@function({"convert": 1})
def to_index(x: Array, /) -> Array:
    """y = x as a whole number; of infinity, any."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.int64)


@function({"convert": 1})
def to_mask(x: Array, /) -> Array:
    """y = whether x is not 0."""
    return x != 0


# --- of several -------------------------------------------------------------------------------------------------------


@function({"add": 1})
def add(a: Array, b: Array, /) -> Array:
    """y = a + b."""
    return a + b


@function({"add": 1})
def sub(a: Array, b: Array, /) -> Array:
    """y = a - b."""
    return a - b


@function({"mul": 1})
def mul(a: Array, b: Array, /) -> Array:
    """y = a b."""
    return a * b


@function({"div": 1})
def div(a: Array, b: Array, /) -> Array:
    """y = a / b."""
    return a / b


@function({"mul": 1})
def raised(a: Array, b: Array, /) -> Array:
    """y = a to the power b, counted as one multiplication."""
    return a**b


@function({"cmp": 1})
def maximum(a: Array, b: Array, /) -> Array:
    """y = the larger."""
    return np.maximum(a, b)


@function({"cmp": 1})
def minimum(a: Array, b: Array, /) -> Array:
    """y = the smaller."""
    return np.minimum(a, b)


@function({"cmp": 1})
def compare(a: Array, b: Array, /, *, how: str) -> Array:
    """y = whether a and b compare so: eq, ne, lt, le, gt or ge."""
    return getattr(np, _COMPARISONS[how])(a, b)


@function({"cmp": 1})
def compare_with(x: Array, /, *, how: str, number: float) -> Array:
    """y = whether x and a number compare so."""
    return getattr(np, _COMPARISONS[how])(x, number)


_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


@function({"cmp": 1})
def and_(a: Array, b: Array, /) -> Array:
    """y = whether both hold."""
    return np.logical_and(a, b)


@function({"cmp": 1})
def or_(a: Array, b: Array, /) -> Array:
    """y = whether one of both holds."""
    return np.logical_or(a, b)


@function({"cmp": 1})
def where(condition: Array, a: Array, b: Array, /) -> Array:
    """y = a where the condition holds, else b."""
    return np.where(condition, a, b)


@function({"cmp": 1})
def fill(x: Array, mask: Array, /, *, value: float) -> Array:
    """y = a fixed value where the mask holds, else x: masked_fill."""
    return np.where(mask, value, x).astype(x.dtype)


@function({"mul": 2, "add": 1})
def sigmoid_grad(dy: Array, y: Array, /) -> Array:
    """dx = dy y (1 - y)."""
    return dy * (y * (1 - y))


@function({"exp": 1, "log": 1, "mul": 1, "add": 5, "cmp": 1})
def logistic_loss(logits: Array, targets: Array, /) -> Array:
    """y = max(z, 0) - z t + log(1 + exp(-|z|)): binary_cross_entropy_with_logits of each element."""
    floor = np.maximum(logits, 0)
    return np.log(np.exp(logits - floor - floor) + 1) + floor - logits * targets


@function({"div": 1}, whole=True)
def divide_by_count(x: Array, /, *, terms: Terms, shape: Shape) -> Array:
    """y = x / how many elements y has: the gradient of a mean."""
    return np.broadcast_to(lined_up(x, terms[0], terms[-1]), shape) / math.prod(shape)


# --- reductions -------------------------------------------------------------------------------------------------------


@function({"add": 1})
def sum_(x: Array, /, *, axes: tuple[int, ...]) -> Array:
    """y = the sum over the indices that it lacks."""
    return np.add.reduce(x, axis=axes, initial=0)


@function({"add": 1})
def mean_of(x: Array, /, *, axes: tuple[int, ...]) -> Array:
    """y = the mean over the indices that it lacks; its division counts nothing beside the sum."""
    return np.add.reduce(x, axis=axes, initial=0) / max(1, np.prod([x.shape[axis] for axis in axes], dtype=int))


@function({"cmp": 1})
def largest(x: Array, /, *, axes: tuple[int, ...]) -> Array:
    """y = the largest over the indices that it lacks."""
    return np.maximum.reduce(x, axis=axes)


@function({"cmp": 1})
def place_of_largest(x: Array, /, *, axes: tuple[int, ...]) -> Array:
    """y = where the largest is over the indices that it lacks, counted through; of equal ones the first."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    return x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), -1).argmax(-1)


@function({"cmp": 1})
def any_(x: Array, /, *, axes: tuple[int, ...]) -> Array:
    """y = whether one holds over the indices that it lacks."""
    return np.logical_or.reduce(x, axis=axes)


@function({"cmp": 1})
def all_(x: Array, /, *, axes: tuple[int, ...]) -> Array:
    """y = whether all hold over the indices that it lacks."""
    return np.logical_and.reduce(x, axis=axes)


# --- of whole arrays --------------------------------------------------------------------------------------------------


def _along(x: Array, term: str, other: str) -> tuple[Array, int]:
    """An array with all dims that another term has not, which lie side by side, as one axis; and that axis."""
    before = next((i for i, (a, b) in enumerate(zip(term, other, strict=False)) if a != b), min(len(term), len(other)))
    behind = next((i for i, (a, b) in enumerate(zip(term[::-1], other[::-1], strict=False)) if a != b), len(other))
    behind = min(behind, len(term) - before, len(other) - before)
    return x.reshape(*x.shape[:before], -1, *x.shape[len(term) - behind :]), before


def _stretch(axis: int, rank: int, start: int, step: int, size: int) -> tuple[slice, ...]:
    """So many elements along an axis, the first at `start`."""
    return (*(slice(None),) * axis, slice(start, start + step * size, step), *(slice(None),) * (rank - axis - 1))


@function({}, whole=True, view=True)
def permute(x: Array, /, *, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x with its dims in another order, in the same memory."""
    return x.transpose([terms[0].index(index) for index in terms[1]])


@function({}, whole=True, view=True)
def reshape(x: Array, /, *, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x cut into other dims, in the same memory."""
    return x.reshape(shape)


@function({}, whole=True, view=True)
def slice_(x: Array, /, *, start: int, step: int, terms: Terms, shape: Shape) -> Array:
    """y = a stretch of x along the dims that it has not, in the same memory; of one element where y has none there."""
    x, axis = _along(x, *terms)
    size = math.prod(shape) // max(1, math.prod(x.shape[:axis] + x.shape[axis + 1 :]))
    return x[_stretch(axis, x.ndim, start % x.shape[axis], step, size)].reshape(shape)


@function({}, whole=True, view=True)
def put(x: Array, part: Array, /, *, start: int, terms: Terms, shape: Shape) -> Array:
    """y = x, with a stretch along the dims that change as the part has it, which was written in its place."""
    y, axis = _along(x.copy(), *terms[:2])
    part, _ = _along(part, *terms[1::-1])
    y[_stretch(axis, y.ndim, start % y.shape[axis], 1, part.shape[axis])] = part
    return y.reshape(shape)


@function({}, whole=True)
def slice_grad(dy: Array, /, *, start: int, step: int, terms: Terms, shape: Shape) -> Array:
    """dx = dy in its stretch, and 0 elsewhere: written whole."""
    dy, axis = _along(dy, *terms)
    dx, _ = _along(np.zeros(shape, dy.dtype), *terms[::-1])
    dx[_stretch(axis, dy.ndim, start % dx.shape[axis], step, dy.shape[axis])] = dy
    return dx.reshape(shape)


@function({}, whole=True)
def concat(*x: Array, terms: Terms, shape: Shape) -> Array:
    """y = all of x one after another along the dims that change."""
    cut = [_along(part, term, terms[-1]) for part, term in zip(x, terms, strict=False)]
    return np.concatenate([part for part, _ in cut], axis=cut[0][1]).reshape(shape)


@function({}, whole=True)
def pad(x: Array, /, *, before: int, value: float, terms: Terms, shape: Shape) -> Array:
    """y = x with a value before and behind it along the dims that change; less than 0 before cuts x off there."""
    x, axis = _along(x, *terms)
    y, _ = _along(np.full(shape, value, x.dtype), *terms[::-1])
    size = min(x.shape[axis] + min(0, before), y.shape[axis] - max(0, before))
    taken = x[_stretch(axis, x.ndim, max(0, -before), 1, size)]
    y[_stretch(axis, x.ndim, max(0, before), 1, size)] = taken
    return y.reshape(shape)


@function({}, whole=True)
def full(*, value: float, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = a value everywhere."""
    return np.full(shape, value)


@function({}, whole=True)
def arange(*, start: int, step: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = start, start + step, and so on."""
    return start + step * np.arange(math.prod(shape)).reshape(shape)


@function({"cmp": 1}, whole=True)
def tril(x: Array, /, *, diagonal: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x, and 0 above a diagonal of the last two dims."""
    return np.tril(x, diagonal)


@function({"cmp": 1}, whole=True)
def triu(x: Array, /, *, diagonal: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = x, and 0 below a diagonal of the last two dims."""
    return np.triu(x, diagonal)


@function({"add": 1}, whole=True)
def cumsum(x: Array, /, *, axis: int, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = sums of x up to each place along an axis."""
    return np.cumsum(x, axis)
