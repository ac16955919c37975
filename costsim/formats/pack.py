"""The real bits of a tensor: codes of exactly the format's widths, scales, zero points."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.blocks import Coded, code_matrix, goals, in_dtype, spread, static_unit
from costsim.formats.elements import NEAREST, Array, How, elements
from costsim.formats.format import Format
from costsim.formats.quantize import blocks_last, extremes, matrix_shape, quantize, working_dtype
from costsim.formats.scales import SCALES

# --- the real bits ----------------------------------------------------------------------------------------------------


class Bits(NamedTuple):
    """Codes of some width, one after the other, in bytes; `length` is in bits."""

    data: Array
    length: int
    width: int

    def codes(self) -> Array:
        """The codes again, unsigned."""
        if self.width in (8, 16, 32, 64):
            return self.data.view(f"<u{self.width // 8}").astype(np.uint64)
        bits = np.unpackbits(self.data, count=self.length, bitorder="little").reshape(-1, self.width)
        return bits.astype(np.uint64) @ (np.uint64(1) << np.arange(self.width, dtype=np.uint64))


def to_bits(codes: Array, width: int) -> Bits:
    """Codes as bits, each in exactly `width` of them."""
    codes = np.ascontiguousarray(codes).reshape(-1)
    if width in (8, 16, 32, 64):
        data = codes.astype(f"<u{width // 8}").view(np.uint8)
        return Bits(data, 8 * data.size, width)
    bits = (codes[:, None] >> np.arange(width, dtype=np.uint64)) & np.uint64(1)
    return Bits(np.packbits(bits.astype(np.uint8), bitorder="little"), bits.size, width)


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as it lies in memory: the codes of its elements, and those of what its blocks share.

    `unit` is a static scale, which nothing stores; `dtype` is what it is worked on in.
    """

    format: Format
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    dtype: Any
    elements: Bits
    shared: tuple[Bits, ...]
    unit: float = 1.0

    @property
    def bits(self) -> int:
        """How many bits it takes, measured."""
        return self.elements.length + sum(bits.length for bits in self.shared)


def pack(x: Array, format: Format, axes: Sequence[int] | None = None, how: How = NEAREST) -> Packed:
    """Quantize to the real bits: codes of exactly the format's widths. Arguments and errors as of `quantize`."""
    lies = None if axes is None else tuple(axes)
    if format.values != "float":
        codes = to_bits(np.asarray(x).astype(np.int64).astype(np.uint64), format.element_bits)
        return Packed(format, x.shape, lies, x.dtype, codes, ())
    if format.grid is not None:
        return pack(quantize(x, format.grid, axes, how), replace(format, grid=None), None, how)
    dtype = working_dtype(x, format)
    moved, along = blocks_last(np.asarray(x, dtype), axes)
    matrix = moved.reshape(matrix_shape(moved, along))
    if format.family == "float" and not format.scales:
        rounded, shared, unit = quantize(matrix, format, None, how), [], 1.0
    elif x.size:
        whole = extremes(x, format)
        coded = code_matrix(matrix.copy(), format, how, whole)
        rounded, shared, unit = coded.rounded, coded.shared, static_unit(format, whole)
    else:
        rounded, shared, unit = matrix, [], 1.0
    parts = tuple(to_bits(its.codes, scale.bits) for its, scale in zip(shared, format.scales, strict=False))
    return Packed(
        format, x.shape, lies, dtype, to_bits(elements(format).encode(rounded), format.element_bits), parts, unit
    )


def unpack(packed: Packed) -> Array:
    """The numbers that the bits stand for: those of `quantize`, bit for bit."""
    format = packed.format
    if format.values != "float":
        return packed.elements.codes().astype(np.int64).astype(packed.dtype).reshape(packed.shape)
    out = np.empty(packed.shape, packed.dtype)
    moved, along = blocks_last(out, packed.axes)
    matrix = matrix_shape(moved, along)
    rounded = elements(format).decode(packed.elements.codes()).astype(packed.dtype).reshape(matrix)
    if not out.size:
        return out
    stored = [
        (scale, bits.codes().reshape(scale.blocks(*reversed(matrix))))
        for scale, bits in zip(format.scales, packed.shared, strict=True)
    ]
    goal_of = dict(goals(format))
    unit: Array = np.full((1, 1), packed.unit)
    offset: Array | None = None
    for scale, codes in reversed(stored):
        if scale in goal_of:
            unit = unit * spread(SCALES[scale.what].read(codes, goal_of[scale], format, scale), scale, matrix)
    for scale, codes in stored:
        if scale.what == "microexponent":
            unit = unit * spread(np.where(codes > 0, 0.5, 1.0), scale, matrix)
        elif scale.what == "zero point":
            high = 2 ** (scale.bits - 1) - 1
            zero = codes.astype(np.int64) - ((codes > high).astype(np.int64) << scale.bits)
            offset = spread(zero.astype(packed.dtype), scale, matrix)
    values = Coded(rounded, offset, in_dtype(unit, packed.dtype), []).values
    moved[...] = values.reshape(moved.shape)
    return out
