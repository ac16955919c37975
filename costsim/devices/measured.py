"""Kernels that were measured on a device, each kind by itself: what one takes by its size.

One run of a kernel takes its launch, its MACs at the pace of its kind, and its traffic at the pace of its kind, after
each other: whatever overlaps in the kernel is in what was measured. Measured is fp32; other formats take the part of
the traffic that their bits are of fp32's, and MACs the part that their multiplier's rate says. A quantize kernel was
measured in its format, from fp32, and takes what it took there.
"""

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import expand
from costsim.names import Values
from costsim.policy.assign import UNRULED_FORMAT, Copy

_MEASURED = "fp32"  # the format of numbers in what was measured; ids and masks are as no rule changes them
ANY_PRODUCT = "product"  # the kind that stands for products of matrices without one of their own
QUANTIZE = "quantize "  # and the name of a format: the kinds of quantize kernels


class Pace(NamedTuple):
    """What one run of an op takes on a device where its kind was measured."""

    launch_s: float
    mac_s: float  # a MAC in fp32
    bit_s: float  # a bit of traffic, operations on elements included
    spread: float  # how far a time may be off, as a part of it


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """How long kernels of one kind took, in seconds."""

    launch_s: float
    mac_s: float  # a MAC; 0 where there are none
    element_s: tuple[float, ...]  # of a product: an element of each operand, then of the result
    sizes: tuple[tuple[int, float], ...]  # of others: elements of all operands and results, rising; beyond the launch
    spread: float

    def memory_s(self, elements: Sequence[int]) -> float:
        """Seconds of a run beside its launch and MACs, by the elements of each operand and result.

        Between measured sizes straight, beyond them in proportion.
        """
        if self.element_s:
            return sum(n * each for n, each in zip(elements, self.element_s, strict=True))
        total = sum(elements)
        above = bisect_left(self.sizes, (total, 0.0))
        if above in (0, len(self.sizes)):
            size, seconds = self.sizes[min(above, len(self.sizes) - 1)]
            return seconds * total / size
        (less, low), (more, high) = self.sizes[above - 1], self.sizes[above]
        return low + (high - low) * (total - less) / (more - less)

    def seconds(self, macs: int, elements: Sequence[int]) -> float:
        """Seconds of a run in fp32, by its MACs and the elements of each operand and result."""
        return self.launch_s + self.mac_s * macs + self.memory_s(elements)

    def pace(self, elements: Sequence[int], bits: int) -> Pace:
        """What one run takes, by the elements of each operand and result, and by how many bits they were in fp32."""
        return Pace(self.launch_s, self.mac_s, self.memory_s(elements) / bits if bits else 0.0, self.spread)


@cache
def _bits(values: Values) -> int:
    return parse_format(UNRULED_FORMAT.get(values, _MEASURED)).element_bits


def bits_of(graph: Graph, op: Op, elements: Sequence[int]) -> int:
    """The bits of all operands and results of an op, as it was measured; `elements` are `elements_of` it."""
    each = zip(elements, (*op.inputs, *op.outputs), strict=True)
    return sum(number * _bits(graph.tensors[name].values) for number, name in each)


def elements_of(graph: Graph, op: Op) -> tuple[int, ...]:
    """The elements of each operand of an op, as far as it reads them, then of each result."""
    read = [
        graph.elements(graph.tensors[name].dims if pattern is None else expand(pattern, op.env))
        for name, pattern in zip(op.inputs, op.kind.touched, strict=True)
    ]
    return (*read, *(graph.elements(graph.tensors[name].dims) for name in op.outputs))


def is_product(kind: str) -> bool:
    """Whether a kind is that of products of matrices: an equation, or the one that stands for all."""
    return kind == ANY_PRODUCT or re.fullmatch(r"[a-z]*,[a-z]*->[a-z]*", kind) is not None


def measured_kind(op: Op, kernels: Mapping[str, KernelTimes]) -> KernelTimes | None:
    """The times that stand for an op: those of its kind, else of any product if it is one; None: not measured."""
    return kernels.get(op.kind.name) or (kernels.get(ANY_PRODUCT) if op.kind.is_contraction else None)


# --- quantize kernels -------------------------------------------------------------------------------------------------


@cache
def format_made(kind: str) -> Format | None:
    """The format that quantize kernels of a kind make; None: it is no such kind. Raises InputError for no format."""
    return parse_format(kind.removeprefix(QUANTIZE)) if kind.startswith(QUANTIZE) else None


@cache
def _rounding(format: Format) -> object:
    """What a quantize kernel's work hangs on besides the width: how elements are coded, what blocks share, chance."""
    shared = tuple((scale.kind, scale.contracted, scale.free) for scale in format.scales)
    return format.family, shared, format.flat, format.stochastic, format.grid and _rounding(format.grid)


def measured_cast(copy: Copy, kernels: Mapping[str, KernelTimes]) -> KernelTimes | None:
    """The times that stand for the quantize kernel that makes a copy.

    Those of its format, else of the one nearest in width among those that numbers are rounded to in the same way; None:
    not measured, or it transforms on its way, which no measured one does.
    """
    if copy.transform is not None:
        return None
    made, rounding, alike = copy.format, _rounding(copy.format), []
    for kind, times in kernels.items():
        other = format_made(kind)
        if other is not None and _rounding(other) == rounding:
            alike.append((other != made, abs(other.element_bits - made.element_bits), kind, times))
    return min(alike)[-1] if alike else None
