"""Functions of pointwise equations on complex numbers, which are pairs of real ones along the last index."""

from __future__ import annotations

from costsim.graph.ops.pointwise import function, lined_up
from costsim.graph.ops.register import Array, np

Terms = tuple[str, ...]
Shape = tuple[int, ...]


@function({"cos": 1, "sin": 1, "mul": 2}, whole=True, over="angle")
def polar(length: Array, angle: Array, /, *, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = length (cos angle, sin angle): torch.polar."""
    pair = np.stack([np.cos(angle), np.sin(angle)], -1)
    return lined_up(length, terms[0], terms[-1]) * lined_up(pair, terms[1] + terms[-1][-1], terms[-1])


@function({"mul": 2, "add": 1}, whole=True)
def complex_mul(a: Array, b: Array, /, *, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = a b: of each of a pair two products and their sum."""
    a, b = (lined_up(x, term, terms[-1]) for x, term in zip((a, b), terms, strict=False))
    return np.stack([a[..., 0] * b[..., 0] - a[..., 1] * b[..., 1], a[..., 0] * b[..., 1] + a[..., 1] * b[..., 0]], -1)


@function({}, whole=True)
def conj(x: Array, /, *, terms: Terms, shape: Shape) -> Array:  # noqa: ARG001
    """y = the conjugate: the second of each pair negated."""
    x = lined_up(x, terms[0], terms[-1])
    return np.stack([x[..., 0], -x[..., 1]], -1)
