"""One pass over the calls of a recording: the tensors so far, views of them, and ops appended.

Views are resolved here: an op reads the tensor itself, in its own order of dims.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

from costsim.errors import InputError
from costsim.names import Gemm
from costsim.trace.axes import Axis, UnalignedError, align
from costsim.trace.recording import Recording, Value
from costsim.trace.sizes import Size, times
from costsim.trace.tensors import Emitted, Held, Memory, Part, Slot, View, slots_of, values_of

_LETTERS = string.ascii_lowercase + string.ascii_uppercase


class Lettered:
    """Letters of an equation, one for each index."""

    def __init__(self) -> None:
        self.letters: dict[Any, str] = {}

    def __getitem__(self, index: Any) -> str:
        return self.letters.setdefault(index, _LETTERS[len(self.letters)])

    @staticmethod
    def word(number: int) -> str:
        """The first so many letters."""
        return _LETTERS[:number]


class Translator:
    """One pass over the calls of a recording."""

    def __init__(self, recording: Recording, axes: dict[Any, Axis]) -> None:
        self.recording, self.known = recording, axes
        self.emitted: list[Emitted] = []
        self.views: dict[int, View] = {}  # by number of the value
        self.memories: dict[int, Memory] = {}  # by storage
        self.products: dict[int, tuple[Held, Held]] = {}  # by number of the forward call: the operands
        self.resolved: set[int] = set()  # numbers of conjugates, which are made before PyTorch makes them
        self.at = -1  # number of the call
        self.given: dict[str, Held] = {}

    # --- tensors ------------------------------------------------------------------------------------------------------

    def axis(self, tag: Any, size: Size) -> Axis:
        """An axis that this call brings; the same one in each pass."""
        return self.known.setdefault((self.at, tag), Axis(size))

    def fresh(self, value: Value, tag: str = "") -> list[list[Slot]]:
        """New slots for the axes of a value."""
        return [[Slot(self.axis((tag, i), size))] for i, size in enumerate(value.shape)]

    def invented(self, value: Value, **changes: Any) -> Value:
        """A value like another, with memory of its own, which no call of PyTorch's has."""
        return value._replace(number=-1 - len(self.views), storage=-1 - len(self.memories), **changes)

    def give(self, name: str, value: Value, role: str) -> Held:
        """A tensor from outside."""
        axes = self.fresh(value, name)
        held = self.given[name] = Held(
            slots_of(slot for axis in axes for slot in axis), values_of(value), value.dtype, name, role=role
        )
        self.look(value, held, axes)
        return held

    def look(self, value: Value, held: Held, axes: Sequence[Sequence[Slot]]) -> None:
        """Have a value be a view of a tensor that has just been made, in memory of its own."""
        memory = self.memories[value.storage] = Memory(held)
        self.views[value.number] = View(memory, tuple(map(tuple, axes)))

    def reserve(self, value: Value, axes: Sequence[Sequence[Slot]]) -> None:
        """Have a value be memory in which nothing is yet."""
        memory = self.memories[value.storage] = Memory(None)
        self.views[value.number] = View(memory, tuple(map(tuple, axes)))

    def part(self, value: Value, part: Part, held: Held | None, axes: Sequence[Sequence[Slot]]) -> None:
        """Have a value be a tensor that is a part of another's memory; None where nothing is in that yet."""
        part.of.memory.cut = True
        self.views[value.number] = View(Memory(held, True, part), tuple(map(tuple, axes)))

    def is_empty(self, value: Value) -> bool:
        """Whether a value is memory in which nothing is yet."""
        view = self.views.get(value.number)
        return view is not None and view.memory.held is None

    def reserve_part(self, value: Value, of: Value, axis: int, start: int) -> None:
        """Have a value be a stretch of memory in which nothing is yet."""
        whole = self.views[of.number]
        axes = list(whole.axes)
        axes[axis] = (Slot(self.axis("stretch", value.shape[axis])),)
        self.part(value, Part(whole, None, axis, start, of), None, axes)

    def view(self, value: Any) -> View:
        """What a value is. Raises InputError for one that no call has made."""
        view = self.views.get(value.number) if isinstance(value, Value) else None
        if view is None or view.memory.held is None:
            raise self.error(
                "reads numbers that the trace does not know: a constant made outside of the module's call?"
            )
        if view.memory.part is not None and view.memory.part.is_stale:
            raise self.error("reads a part of a tensor that was overwritten after the part was taken; take it again")
        return view

    def error(self, message: str) -> InputError:
        """The error for the call at hand."""
        call = self.recording.calls[self.at]
        where = f"module {call.path}" if call.path else "the outermost module"
        return InputError(f"{self.recording.source}: {where}: {call.op} {message}")

    def align(self, left: Iterable[Slot], right: Iterable[Slot]) -> None:
        """Have two runs of slots be the same axes. Raises InputError."""
        try:
            align([slot.axis for slot in left], [slot.axis for slot in right])
        except UnalignedError:
            raise self.error("reads tensors whose axes were cut in ways that do not fit together") from None

    def write(self, value: Value, held: Held, axes: Sequence[Sequence[Slot]]) -> None:
        """Have a value be a tensor that was just made; if its call overwrites memory, so is what else looks there."""
        call = self.recording.calls[self.at]
        if not call.op.split(".")[1].endswith("_") or value not in call.results:
            self.look(value, held, axes)
            return
        memory = self.memories[value.storage]
        if not value.whole or memory.cut:
            raise self.error("overwrites a part of a tensor, or one that has parts; write it without the view")
        before = memory.held
        if before is not None:
            if [s.axis.itself for s in before.dims()] != [s.axis.itself for s in held.dims()]:
                raise self.error("overwrites a tensor in another order of dims; write it out of place")
            order = {id(new): old for new, old in zip(held.dims(), before.dims(), strict=True)}
            axes = [[order[id(slot)] for slot in slots_of(axis)] for axis in axes]
            held.slots = before.slots
        memory.held = held
        self.views[value.number] = View(memory, tuple(map(tuple, axes)))

    # --- ops ----------------------------------------------------------------------------------------------------------

    def emit(
        self, kind: str, inputs: Sequence[Held], outputs: Sequence[Held], gemm: Gemm | None = None, /, **params: Any
    ) -> Emitted:
        """Append an op."""
        op = Emitted(kind, list(inputs), list(outputs), self.recording.calls[self.at], params, gemm)
        self.emitted.append(op)
        return op

    def made(self, value: Value, slots: Iterable[Slot]) -> Held:
        """A tensor with dims like these, of the sort that a value has."""
        return Held([Slot(slot.axis) for slot in slots], values_of(value), value.dtype)

    def result(self, value: Value, axes: Sequence[Sequence[Slot]]) -> Held:
        """A new tensor for a value whose dims lie in the order of its axes, which are like these."""
        own = [[Slot(slot.axis) for slot in axis] for axis in axes]
        held = Held([slot for axis in own for slot in axis], values_of(value), value.dtype)
        self.look(value, held, own)
        return held

    def straight(self, view: View, single: Sequence[int] = ()) -> Held:
        """A tensor with the dims of a view in the view's order, by a view op or a copy where it is not the tensor.

        The axes in `single` become one dim each.
        """
        flat, dims, held = view.flat(), view.held.dims(), view.held
        if list(map(id, flat)) != list(map(id, dims)):
            held = self.moved("permute" if set(map(id, flat)) == set(map(id, dims)) else "copy", held, flat)
        numbers = [number % len(view.axes) for number in single]
        if all(len(view.axis(number)) == 1 for number in numbers):
            return held
        if any(not view.axis(number) for number in numbers):
            raise self.error("works along an axis of one element, which the graph does not have")
        return self._joined(view, held, numbers)

    def _joined(self, view: View, held: Held, numbers: Sequence[int]) -> Held:
        """A view op of a tensor that lies as a view has it, with one dim for each of some axes of the view."""
        letters, joined, before = Lettered(), list[Slot](), ""
        left = held.dims()
        for number in range(len(view.axes)):
            part, left = left[: len(view.axis(number))], left[len(view.axis(number)) :]
            before += "".join(letters[id(slot)] for slot in part)
            if number in numbers and len(part) > 1:
                size = reduce(times, (slot.axis.itself.size for slot in part))
                part = [Slot(self.axis(("joined", len(self.emitted), number), size))]
            joined += part
        after = "".join(letters[id(slot)] for slot in joined)
        made = Held([Slot(slot.axis) for slot in joined], held.values, held.dtype)
        self.emit(f"reshape {before}->{after}", [held], [made])
        return made

    def moved(self, function: str, held: Held, order: Sequence[Slot]) -> Held:
        """A permutation or a copy of a tensor, with its dims, and others along which it is repeated, in this order."""
        letters = Lettered()
        before = "".join(letters[id(slot)] for slot in held.dims())
        after = "".join(letters[id(slot)] for slot in order)
        made = Held([Slot(slot.axis) for slot in order], held.values, held.dtype)
        self.emit(f"{function} {before}->{after}", [held], [made])
        return made

    def reshaped(self, held: Held, slots: Sequence[Slot]) -> Held:
        """A view op of a tensor with other dims, of these slots."""
        letters = Lettered()
        made = Held(slots, held.values, held.dtype)
        before, after = ("".join(letters[id(slot)] for slot in each.dims()) for each in (held, made))
        self.emit(f"reshape {before}->{after}", [held], [made])
        return made
