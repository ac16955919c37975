"""A matrix in units of the scales that its blocks share."""

import math
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.elements import NEAREST, Array, How, elements, round_whole
from costsim.formats.format import Format, Scale
from costsim.formats.scales import SCALES, Shared


def _asymmetric(format: Format) -> bool:
    return any(scale.what == "zero point" for scale in format.scales)


def goals(format: Format) -> list[tuple[Scale, float]]:
    """The scales that nest, the innermost first, and the largest number that each has to bring a block's largest to."""
    found, goal = [], elements(format).largest
    if _asymmetric(format):
        goal += 0.5  # of all codes, half lie on either side of the middle
    for scale in format.scales:
        if scale.what in SCALES:
            found.append((scale, goal))
            goal *= SCALES[scale.what].largest
    return found


def _largest_of_each(matrix: Array, block: int) -> Array:
    """The largest of each `block` numbers along the last axis, and of what is left over."""
    rows, run = matrix.shape
    whole = run - run % block
    if block & (block - 1) == 0 and whole:  # by halves, which is many times faster than reducing short rows
        parts = matrix[:, :whole].reshape(rows, -1, block)
        while parts.shape[2] > 1:
            half = parts.shape[2] // 2
            parts = np.maximum(parts[:, :, :half], parts[:, :, half:])
        left = [matrix[:, whole:].max(axis=1, keepdims=True)] if whole < run else []
        return np.concatenate([parts[:, :, 0], *left], axis=1)
    return np.maximum.reduceat(matrix, np.arange(0, run, block), axis=1)


def _blocks(matrix: Array, scale: Scale) -> Array:
    """The largest of each block of a matrix (free, run), cut-off blocks too."""
    by_row = (
        matrix.max(axis=1, keepdims=True) if scale.contracted is None else _largest_of_each(matrix, scale.contracted)
    )
    if scale.free is None:
        return by_row.max(axis=0, keepdims=True)
    return by_row if scale.free == 1 else _largest_of_each(by_row.T, scale.free).T


def spread(values: Array, scale: Scale, shape: tuple[int, ...]) -> Array:
    """One number per block, repeated so that it broadcasts with the matrix."""
    if scale.free is not None and scale.free > 1:
        values = np.repeat(values, min(scale.free, shape[0]), axis=0)[: shape[0]]
    if scale.contracted is not None and scale.contracted > 1:
        values = np.repeat(values, min(scale.contracted, shape[1]), axis=1)[:, : shape[1]]
    return values


class Coded(NamedTuple):
    """A matrix in units of its scales: value = (rounded - offset) unit; and what blocks share, as in the format."""

    rounded: Array
    offset: Array | None
    unit: Array
    shared: list[Shared]

    @property
    def values(self) -> Array:
        """The numbers that the codes stand for."""
        if self.offset is None:
            return np.multiply(self.rounded, self.unit, out=self.rounded)
        values = np.subtract(self.rounded, self.offset, out=self.rounded)
        with np.errstate(over="ignore"):  # half a unit beyond the largest number
            np.multiply(values, self.unit, out=values)
        limit = np.finfo(values.dtype).max
        return np.clip(values, -limit, limit, out=values)


def _scaled(matrix: Array, format: Format, how: How, whole: tuple[float, float]) -> Coded:
    """The matrix over its units, in place, not yet rounded. `whole` are the extremes of the whole tensor."""
    asymmetric = _asymmetric(format)
    size: Array = None  # found where it is needed
    shared: list[Shared] = []
    unit: Array = np.full((1, 1), static_unit(format, whole))
    offset: Array = None
    low: Array = None
    for scale, goal in reversed(goals(format)):  # the outermost first
        if (scale.free, scale.contracted) == (None, None):
            low, high = (np.full((1, 1), extreme, matrix.dtype) for extreme in whole)
            high = high if asymmetric else np.maximum(-low, high)
        else:
            size = size if size is not None else matrix if asymmetric else np.abs(matrix)
            low, high = -_blocks(-size, scale) if asymmetric else None, _blocks(size, scale)
        if asymmetric:
            low = np.minimum(low, 0)
            high = np.maximum(high, 0).astype(np.float64) / 2 - low.astype(np.float64) / 2
        outer = unit if unit.shape == (1, 1) else _blocks(np.broadcast_to(unit, matrix.shape), scale)
        shared.insert(0, SCALES[scale.what].share(high / outer, goal, format, scale, how))
        unit = unit * spread(shared[0].values, scale, matrix.shape)
    largest = elements(format).largest
    for scale in format.scales:
        if scale.what == "microexponent":
            # A pair whose numbers are all below the shared power of two is shifted by a bit (MX; ISCA 2023, section 3).
            reaches = _blocks((np.abs(matrix) >= unit * ((largest + 1) / 2)).astype(np.int8), scale) > 0
            shared.append(Shared(np.where(reaches, 1.0, 0.5), (~reaches).astype(np.uint64)))
            unit = unit * spread(shared[-1].values, scale, matrix.shape)
        elif scale.what == "zero point":
            zero = -np.rint(low / shared[0].values) - (largest + 1)  # a code, as 0 lies between the extremes
            zero = np.clip(zero, -largest - 1, largest)  # where the scale is subnormal, and so a rough one
            shared.append(Shared(zero, zero.astype(np.int64).astype(np.uint64) & np.uint64(2**scale.bits - 1)))
            offset = spread(zero, scale, matrix.shape).astype(matrix.dtype)
    unit = in_dtype(unit, matrix.dtype)
    if how.rng is not None and format.width > 12 and any(scale.what == "scale fp32" for scale in format.scales):
        matrix = matrix.astype(np.float64)  # beside 12 bits and more, float32 keeps too little of a quotient's fraction
    np.divide(matrix, unit, out=matrix)
    return Coded(matrix, offset, unit, shared)


def in_dtype(unit: Array, dtype: Any) -> Array:
    """Units as numbers of the type worked in, and none 0: each is at least the smallest number there."""
    unit = unit.astype(dtype)
    return np.maximum(unit, np.finfo(dtype).smallest_subnormal, out=unit)


def static_unit(format: Format, whole: tuple[float, float]) -> float:
    """A power of two for the tensor that nothing stores: of fixed point, and of floating point without blocks 1."""
    if format.scales or format.family not in ("fixed", "bfp"):
        return 1.0
    largest = max(-whole[0], whole[1])
    return math.ldexp(2.0 / (elements(format).largest + 1), math.frexp(largest)[1] - 1) if largest else 1.0


def code_matrix(matrix: Array, format: Format, how: How, whole: tuple[float, float]) -> Coded:
    """The matrix in units of its scales, rounded. `whole` are the extremes of the whole tensor."""
    dtype = matrix.dtype
    scaled = _scaled(matrix, format, how, whole)
    if scaled.offset is not None:  # added to whole numbers, as ONNX has it: added to others it would round them
        rounded = round_whole(scaled.rounded, how.rng)
        rounded += scaled.offset
        scaled, how = scaled._replace(rounded=rounded), NEAREST
    return scaled._replace(rounded=elements(format).round(scaled.rounded, how).astype(dtype, copy=False))
