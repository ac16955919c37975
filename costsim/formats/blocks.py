"""A matrix (free, run) in units of the scales that its blocks share, and back.

Every format is one scheme: blocks share scales, elements are rounded in units of them. How the elements are rounded is
in elements.py, how one scale is taken in scales.py; how a tensor becomes a matrix is in quantize.py.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.elements import NEAREST, Array, Rounding, elements, round_to_integers
from costsim.formats.format import Format, Scale
from costsim.formats.scales import (
    MICROEXPONENT,
    SCALES,
    ZERO_POINT,
    Shared,
    read_microexponents,
    read_zero_points,
    share_microexponents,
    share_zero_points,
)

Extremes = tuple[float, float]  # the least and the largest number of a whole tensor


class Quantized(NamedTuple):
    """A matrix in units of its scales: value = (elements - offset) unit."""

    elements: Array
    offset: Array | None  # zero points
    unit: Array
    shared: list[Shared]  # what blocks share, in the order of the format's scales

    @property
    def values(self) -> Array:
        """The numbers that the codes stand for, in place of the elements."""
        if self.offset is None:
            return np.multiply(self.elements, self.unit, out=self.elements)
        values = np.subtract(self.elements, self.offset, out=self.elements)
        with np.errstate(over="ignore"):  # half a unit beyond the largest number
            np.multiply(values, self.unit, out=values)
        limit = np.finfo(values.dtype).max
        return np.clip(values, -limit, limit, out=values)


# --- one number a block -----------------------------------------------------------------------------------------------


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


def _per_block(matrix: Array, scale: Scale) -> Array:
    """The largest of each block of a matrix, cut-off blocks too."""
    by_row = (
        matrix.max(axis=1, keepdims=True) if scale.contracted is None else _largest_of_each(matrix, scale.contracted)
    )
    if scale.free is None:
        return by_row.max(axis=0, keepdims=True)
    return by_row if scale.free == 1 else _largest_of_each(by_row.T, scale.free).T


def _per_element(values: Array, scale: Scale, shape: tuple[int, ...]) -> Array:
    """One number a block, repeated so that it broadcasts with the matrix."""
    if scale.free is not None and scale.free > 1:
        values = np.repeat(values, min(scale.free, shape[0]), axis=0)[: shape[0]]
    if scale.contracted is not None and scale.contracted > 1:
        values = np.repeat(values, min(scale.contracted, shape[1]), axis=1)[:, : shape[1]]
    return values


# --- units ------------------------------------------------------------------------------------------------------------


def _has_zero_points(format: Format) -> bool:
    return any(scale.kind == ZERO_POINT for scale in format.scales)


def _targets(format: Format) -> list[tuple[Scale, float]]:
    """The scales that multiply, the innermost first, and what each has to bring the largest of a block to."""
    target = elements(format).largest
    if _has_zero_points(format):
        target += 0.5  # of all codes, half lie on either side of the middle
    targets = []
    for scale in format.scales:
        if scale.kind in SCALES:
            targets.append((scale, target))
            target *= SCALES[scale.kind].largest
    return targets


def static_unit(format: Format, extremes: Extremes) -> float:
    """A power of two for the tensor that nothing stores, where whole numbers have no scale; else 1."""
    if format.scales or not format.whole:
        return 1.0
    largest = max(-extremes[0], extremes[1])
    return math.ldexp(2.0 / (elements(format).largest + 1), math.frexp(largest)[1] - 1) if largest else 1.0


def _units_in(dtype: Any, unit: Array) -> Array:
    """Units as numbers of the type worked in, and none 0: each is at least the smallest number there."""
    unit = unit.astype(dtype)
    return np.maximum(unit, np.finfo(dtype).smallest_subnormal, out=unit)


def _ends(matrix: Array, scale: Scale, extremes: Extremes) -> tuple[Array, Array]:
    """The lowest and the highest number of each block, 0 among them."""
    if scale.of_tensor:
        low, high = (np.full((1, 1), extreme, matrix.dtype) for extreme in extremes)
    else:
        low, high = -_per_block(-matrix, scale), _per_block(matrix, scale)
    return np.minimum(low, 0), np.maximum(high, 0)


def _share(
    matrix: Array, format: Format, rounding: Rounding, extremes: Extremes
) -> tuple[Array, Array | None, list[Shared]]:
    """The unit of each element, its zero point if it has one, and what blocks share, in the format's order."""
    two_sided, targets = _has_zero_points(format), _targets(format)
    sizes: Array = None if two_sided or all(scale.of_tensor for scale, _ in targets) else np.abs(matrix)
    unit: Array = np.full((1, 1), static_unit(format, extremes))
    offset = lowest = None
    shared: list[Shared] = []
    for scale, target in reversed(targets):  # the outermost first
        if two_sided:
            lowest, highest = _ends(matrix, scale, extremes)
            reach = highest.astype(np.float64) / 2 - lowest.astype(np.float64) / 2
        elif scale.of_tensor:
            reach = np.full((1, 1), max(-extremes[0], extremes[1]), matrix.dtype)
        else:
            reach = _per_block(sizes, scale)
        outer = unit if unit.shape == (1, 1) else _per_block(np.broadcast_to(unit, matrix.shape), scale)
        shared.insert(0, SCALES[scale.kind].share(reach / outer, target, format, scale, rounding))
        unit = unit * _per_element(shared[0].values, scale, matrix.shape)
    for scale in format.scales:
        if scale.kind == MICROEXPONENT:
            half = unit * ((elements(format).largest + 1) / 2)
            shared.append(share_microexponents(_per_block((sizes >= half).astype(np.int8), scale) > 0))
            unit = unit * _per_element(shared[-1].values, scale, matrix.shape)
        elif scale.kind == ZERO_POINT:
            shared.append(share_zero_points(lowest, shared[0].values, scale))
            offset = _per_element(shared[-1].values, scale, matrix.shape).astype(matrix.dtype)
    return _units_in(matrix.dtype, unit), offset, shared


def read_units(
    codes: Sequence[Array], format: Format, static: float, shape: tuple[int, int], dtype: Any
) -> tuple[Array, Array | None]:
    """The unit of each element and its zero point if it has one, from the codes of what blocks share."""
    targets = dict(_targets(format))
    stored = list(zip(format.scales, codes, strict=True))
    unit: Array = np.full((1, 1), static)
    offset = None
    for scale, code in reversed(stored):  # the outermost first, as they were taken
        if scale in targets:
            values = SCALES[scale.kind].read(code, targets[scale], format, scale)
            unit = unit * _per_element(values, scale, shape)
    for scale, code in stored:
        if scale.kind == MICROEXPONENT:
            unit = unit * _per_element(read_microexponents(code), scale, shape)
        elif scale.kind == ZERO_POINT:
            offset = _per_element(read_zero_points(code, scale).astype(dtype), scale, shape)
    return _units_in(dtype, unit), offset


# --- matrices ---------------------------------------------------------------------------------------------------------


def quantize_matrix(matrix: Array, format: Format, rounding: Rounding, extremes: Extremes) -> Quantized:
    """The matrix in units of its scales, rounded; it is overwritten. `extremes` are those of the whole tensor."""
    dtype = matrix.dtype
    unit, offset, shared = _share(matrix, format, rounding, extremes)
    divides = any(scale.kind in SCALES and not SCALES[scale.kind].power for scale in format.scales)
    if rounding.rng is not None and format.width > 12 and divides:
        matrix = matrix.astype(np.float64)  # beside 12 bits and more, float32 keeps too little of a quotient's fraction
    np.divide(matrix, unit, out=matrix)
    if offset is not None:  # added to whole numbers, as ONNX has it: added to others it would round them
        matrix = round_to_integers(matrix, rounding.rng)
        matrix += offset
        rounding = NEAREST
    return Quantized(elements(format).round(matrix, rounding).astype(dtype, copy=False), offset, unit, shared)
