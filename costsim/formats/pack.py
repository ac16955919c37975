"""The real bits of a tensor: codes of exactly the format's widths, for its elements and for what blocks share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from costsim.formats.blocks import Quantized, quantize_matrix, read_units, static_unit
from costsim.formats.elements import NEAREST, Array, Rounding, elements
from costsim.formats.format import Format
from costsim.formats.quantize import (
    block_axes,
    block_axes_last,
    chance,
    extremes_of,
    matrix_shape,
    quantize,
    working_dtype,
)


class Bits(NamedTuple):
    """Codes of one width, one after the other, from the lowest bit of the first byte on."""

    data: Array  # bytes
    length: int  # in bits
    width: int  # bits of a code

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


def _grouped(codes: Array, format: Format) -> Array:
    """The codes of groups of elements: numbers to the base of the codes that there are; the last group is filled up."""
    base, size = int(2 * elements(format).largest) + 1, format.together
    padded = np.zeros(format.codes(codes.size) * size, np.uint64)
    padded[: codes.size] = codes.reshape(-1)
    return padded.reshape(-1, size) @ np.uint64(base) ** np.arange(size, dtype=np.uint64)


def _ungrouped(groups: Array, format: Format, number: int) -> Array:
    """The codes of so many elements in groups."""
    base = np.uint64(2 * elements(format).largest + 1)
    powers = base ** np.arange(format.together, dtype=np.uint64)
    return (groups[:, None] // powers % base).reshape(-1)[:number]


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor as it lies in memory."""

    format: Format
    shape: tuple[int, ...]
    axes: tuple[int, ...]  # along which blocks lie
    dtype: Any  # that it is worked on in
    elements: Bits
    shared: tuple[Bits, ...]  # what blocks share, in the order of the format's scales
    unit: float = 1.0  # a static scale, which nothing stores

    @property
    def bits(self) -> int:
        """How many bits it takes, measured."""
        return self.elements.length + sum(bits.length for bits in self.shared)


def pack(x: Array, format: Format, axes: Sequence[int] | None = None, rounding: Rounding = NEAREST) -> Packed:
    """Quantize to the real bits: codes of exactly the format's widths. Arguments and errors as of `quantize`."""
    along_axes = block_axes(x, format, axes)
    if format.values != "float":
        codes = to_bits(np.asarray(x).astype(np.int64).astype(np.uint64), format.element_bits)
        return Packed(format, x.shape, along_axes, x.dtype, codes, ())
    if format.grid is not None:
        return pack(quantize(x, format.grid, axes, rounding), replace(format, grid=None), None, rounding)
    dtype, rounding = working_dtype(x, format), chance(format, rounding)
    moved, along = block_axes_last(np.asarray(x, dtype), along_axes)
    matrix = moved.reshape(matrix_shape(moved, along))
    values, unit = matrix, 1.0
    shared: tuple[Bits, ...] = ()
    if not format.scaled:
        values = quantize(matrix, format, None, rounding)
    elif x.size:
        extremes = extremes_of(x, format)
        quantized = quantize_matrix(matrix.copy(), format, rounding, extremes)
        values, unit = quantized.elements, static_unit(format, extremes)
        shared = tuple(
            to_bits(part.codes, scale.bits) for part, scale in zip(quantized.shared, format.scales, strict=True)
        )
    encoded = elements(format).encode(values)
    codes = to_bits(_grouped(encoded, format) if format.together > 1 else encoded, format.element_bits)
    return Packed(format, x.shape, along_axes, dtype, codes, shared, unit)


def unpack(packed: Packed) -> Array:
    """The numbers that the bits stand for: those of `quantize`, bit for bit."""
    format = packed.format
    if format.values != "float":
        return packed.elements.codes().astype(np.int64).astype(packed.dtype).reshape(packed.shape)
    out = np.empty(packed.shape, packed.dtype)
    if not out.size:
        return out
    moved, along = block_axes_last(out, packed.axes)
    shape = matrix_shape(moved, along)
    encoded = packed.elements.codes()
    if format.together > 1:
        encoded = _ungrouped(encoded, format, out.size)
    values = elements(format).decode(encoded).astype(packed.dtype).reshape(shape)
    free, run = shape
    codes = [
        bits.codes().reshape(scale.blocks(run, free)) for scale, bits in zip(format.scales, packed.shared, strict=True)
    ]
    unit, offset = read_units(codes, format, packed.unit, shape, packed.dtype)
    moved[...] = Quantized(values, offset, unit, []).values.reshape(moved.shape)
    return out
