"""Axes of traced tensors, found out by what is done with them: which are one and the same, and which are products.

PyTorch tells sizes of axes only. An axis of 768 that is looked at as 12 x 64 somewhere is two dims everywhere: so views
need no op of their own, and a matrix product is the einsum equation that a person would write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from costsim.trace.sizes import Size, common, divided


class UnalignedError(Exception):
    """Two shapes that no way to cut axes into products makes one."""


class Axis:
    """An axis: joined with others that turned out to be the same, or cut into several, the outermost first."""

    __slots__ = ("_same", "hints", "parts", "size")

    def __init__(self, size: Size) -> None:
        self.size = size
        self.parts: tuple[Axis, ...] = ()
        self.hints: list[str] = []  # names that it may have, the best first
        self._same: Axis | None = None

    @property
    def itself(self) -> Axis:
        """The one of all the same axes that stands for them."""
        axis = self
        while axis._same is not None:
            axis = axis._same
        if axis is not self:
            self._same = axis
        return axis

    def atoms(self) -> list[Axis]:
        """The axes that it is cut into, as far as it is; none for an axis of one element."""
        axis = self.itself
        if axis.parts:
            return [atom for part in axis.parts for atom in part.atoms()]
        return [] if axis.size.is_one else [axis]

    def cut(self, outer: Size) -> tuple[Axis, Axis]:
        """An axis that is not cut yet into one of that size and the rest."""
        parts = Axis(outer), Axis(divided(self.size, outer))
        self.parts = parts
        return parts

    def join(self, other: Axis) -> None:
        """Make two axes of one size, both not cut, the same."""
        a, b = self.itself, other.itself
        if a is not b:
            b._same = a
            a.hints += b.hints


def atoms_of(axes: Iterable[Axis]) -> list[Axis]:
    """The atoms of several axes, one after another."""
    return [atom for axis in axes for atom in axis.atoms()]


def align(left: Sequence[Axis], right: Sequence[Axis]) -> None:
    """Make two runs of axes the same, cutting those that have to be. Raises UnalignedError."""
    a, b = atoms_of(left), atoms_of(right)
    while a and b:
        x, y = a.pop(0).itself, b.pop(0).itself
        if x.parts or y.parts:  # cut meanwhile: the same axis stands twice
            a[:0], b[:0] = x.atoms(), y.atoms()
            continue
        if x is y:
            continue
        if x.size == y.size:
            x.join(y)
            continue
        shared = common(x.size, y.size)
        if shared.is_one:
            raise UnalignedError
        a[:0] = [x] if x.size == shared else x.cut(shared)
        b[:0] = [y] if y.size == shared else y.cut(shared)
    if a or b:
        raise UnalignedError
