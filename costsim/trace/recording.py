"""What PyTorch was seen to do in a step, as plain data: the calls of aten ops, and the tensors between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from costsim.trace.sizes import Size

Phase = Literal["forward", "recompute", "backward"]


class Value(NamedTuple):
    """A tensor at a point of the step. What is overwritten in place is another value from then on."""

    number: int
    shape: tuple[Size, ...]
    dtype: str  # as PyTorch names it: float32, bfloat16, int64, bool
    storage: int  # the memory in which it lies
    whole: bool = True  # whether it has each element of its memory once, so that nothing else lies there

    @property
    def is_empty(self) -> bool:
        """Whether it has no elements."""
        return any(size.number == 0 for size in self.shape)

    @property
    def is_complex(self) -> bool:
        """Whether its numbers are complex."""
        return self.dtype.startswith("complex")


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """One call of an aten op: its arguments by name, with values for tensors and sizes for symbolic numbers."""

    op: str  # such as aten.mm.default
    arguments: Mapping[str, Any]
    results: tuple[Value, ...]
    phase: Phase
    path: str  # of the module that made it, or whose backward it is
    forward: int | None = None  # the number of the call whose gradient this is part of

    def __getitem__(self, name: Any) -> Any:
        return self.arguments[name]


@dataclass(frozen=True)
class Recording:
    """A training step of a module but for the update, call by call."""

    source: str
    versions: Mapping[str, str]
    calls: tuple[Call, ...]
    parameters: Mapping[str, Value]  # those that get a gradient first
    frozen: frozenset[str]
    given: Mapping[str, Value]  # inputs and buffers
    loss: Value
    gradients: Mapping[str, Value]  # by parameter
    examples: Mapping[str, int]  # sizes of dynamic dims in the example, by name
    marks: Mapping[str, Mapping[int, str]]  # by input: names of its axes, dynamic or not
    dtype: str  # of most parameters
    counted: Mapping[str, int] = field(default_factory=dict)  # what PyTorch's own counters say of the example
