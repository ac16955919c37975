"""Tensors of the graph that is being made, and views of them: what PyTorch's tensors are in its terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from costsim.names import Gemm, Values
from costsim.trace.axes import Axis
from costsim.trace.recording import Call, Value


class Slot:
    """A dim of a tensor, or of a view that repeats a tensor along it. It is cut where its axis is."""

    __slots__ = ("axis", "parts")

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self.parts: list[Slot] = []

    def atoms(self) -> list[Slot]:
        """The slots of the axes that its axis is cut into."""
        axis = self.axis.itself
        if self.parts or axis.parts:
            self.parts = self.parts or [Slot(part) for part in axis.parts]
            return [atom for part in self.parts for atom in part.atoms()]
        return [] if axis.size.is_one else [self]


def slots_of(slots: Iterable[Slot]) -> list[Slot]:
    """The atoms of several slots, one after another."""
    return [atom for slot in slots for atom in slot.atoms()]


@dataclass(eq=False)
class Held:
    """A tensor of the graph."""

    slots: Sequence[Slot]
    values: Values
    dtype: str
    name: str = ""
    layer: str = ""
    role: str = ""  # of what is given; others have that of their phase
    remade: Held | None = None  # the forward tensor that it has once more

    def dims(self) -> list[Slot]:
        """Its dims, in the order in which they lie in memory."""
        return slots_of(self.slots)


@dataclass(eq=False)
class Memory:
    """What views look at: the tensor that is there by now, None before anything is written."""

    held: Held | None
    cut: bool = False  # whether parts of it have been taken as tensors of their own
    part: Part | None = None  # of which other it is a part
    written: list[Written] = field(default_factory=list)  # parts of it, before it is whole


class View(NamedTuple):
    """A PyTorch tensor: for each of its axes the dims of a tensor, or slots of its own along which that repeats."""

    memory: Memory
    axes: tuple[tuple[Slot, ...], ...]

    @property
    def held(self) -> Held:
        """The tensor that it looks at."""
        assert self.memory.held is not None
        return self.memory.held

    def axis(self, number: int) -> list[Slot]:
        """The atoms of one axis."""
        return slots_of(self.axes[number])

    def flat(self) -> list[Slot]:
        """The atoms of all axes."""
        return [atom for number in range(len(self.axes)) for atom in self.axis(number)]


class Part(NamedTuple):
    """A stretch of a view along one axis; along none where it is another part, or the view in another shape."""

    of: View
    seen: Held | None  # what was there when it was taken
    axis: int | None = None
    start: int = 0
    value: Value | None = None  # the view, where nothing is there yet

    @property
    def is_stale(self) -> bool:
        """Whether something has been written there since."""
        above = self.of.memory
        return above.held is not self.seen or (above.part is not None and above.part.is_stale)


class Written(NamedTuple):
    """What is written into a stretch of memory in which nothing was: where that begins and ends along an axis."""

    start: int
    end: int
    axis: int
    view: View


@dataclass(eq=False)
class Emitted:
    """An op of the graph."""

    kind: str
    inputs: list[Held]
    outputs: list[Held]
    call: Call
    params: dict[str, Any] = field(default_factory=dict)
    gemm: Gemm | None = None
    name: str = ""
    layer: str = ""
    recomputes: Emitted | None = None


_INDEX = ("int64", "int32", "int16", "int8", "uint8")


def values_of(value: Value) -> Values:
    """What sort of numbers a PyTorch tensor holds."""
    return "mask" if value.dtype == "bool" else "index" if value.dtype in _INDEX else "float"
