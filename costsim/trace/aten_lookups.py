"""Aten ops that look up places in tensors: rows of tables, and any others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from costsim.trace.aten_pointwise import largest
from costsim.trace.aten_views import changed
from costsim.trace.recording import Call, Value
from costsim.trace.tensors import Held, Slot, View, slots_of, values_of
from costsim.trace.translate import aten
from costsim.trace.translator import Lettered, Translator

T = TypeVar("T")
_LAST = (-1,)


@aten("embed", "embedding.default")
def embedding(t: Translator, call: Call) -> None:
    """Rows of a table."""
    table, ids = t.view(call["weight"]), t.view(call["indices"])
    made = call.results[0]
    axes = [*(ids.axis(number) for number in range(len(ids.axes))), table.axis(1)]
    inputs = [t.straight(table, (0, 1)), t.straight(ids)]
    t.emit("embed", inputs, [t.result(made, axes)])


@aten("embed_grad", "embedding_dense_backward.default")
def embedding_backward(t: Translator, call: Call) -> None:
    """A dense gradient of the table."""
    dy, ids, made = t.view(call["grad_output"]), t.view(call["indices"]), call.results[0]
    for a, b in zip(dy.axes, ids.axes, strict=False):
        t.align(a, b)
    inputs = [t.straight(dy, _LAST), t.straight(ids)]
    rows = [Slot(t.axis("rows", made.shape[0]))]
    t.emit("embed_grad", inputs, [t.result(made, [rows, dy.axis(-1 + len(dy.axes))])])


# --- any places -------------------------------------------------------------------------------------------------------


class _Places(NamedTuple):
    """Tensors of places along axes of another tensor that lie side by side, and how they line up."""

    numbers: list[int]  # of these axes
    views: list[View]
    lined: list[list[Slot]]  # the axes of all of them together

    def result(self, axes: Sequence[Sequence[Slot]]) -> list[Sequence[Slot]]:
        """The axes of what is looked up in a tensor with these axes."""
        return self._among(axes, self.lined)

    def _among(self, axes: Sequence[T], lined: Sequence[T]) -> list[T]:
        return [*axes[: self.numbers[0]], *lined, *axes[self.numbers[-1] + 1 :]]

    def terms(self, axes: Sequence[Sequence[Slot]]) -> tuple[str, list[str], str]:
        """Of the equation: the terms of the tensor that is looked up in, of the places, and of the result."""
        letters = Lettered()
        of = [[("axis", n, k) for k in range(len(axis))] for n, axis in enumerate(axes)]
        for number in self.numbers:
            of[number] = [("gone", number, 0)]
        lined = [[("place", n, k) for k in range(len(axis))] for n, axis in enumerate(self.lined)]
        every = [of, *(_own(view, lined) for view in self.views), self._among(of, lined)]
        texts = ["".join(letters[key] for part in parts for key in part) for parts in every]
        return texts[0], texts[1:-1], texts[-1]


def _own(view: View, lined: Sequence[list[tuple[str, int, int]]]) -> list[list[tuple[str, int, int]]]:
    """The indices of a tensor of places, by axis, of those that all have together."""
    behind = len(lined) - len(view.axes)
    return [lined[behind + n] if view.axis(n) else [] for n in range(len(view.axes))]


def _places(t: Translator, call: Call) -> _Places:
    """The tensors of places that a call gives. Raises InputError."""
    if "index" in call.arguments:
        places = {call["dim"] % len(call["self"].shape): call["index"]}
    else:
        places = {number: value for number, value in enumerate(call["indices"]) if value is not None}
    numbers = sorted(places)
    if any(value.dtype == "bool" for value in places.values()):
        raise t.error("looks up where a mask holds: how many places that are depends on numbers")
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise t.error("looks up along axes that are not side by side")
    views = [t.view(places[number]) for number in numbers]
    rank = max(len(view.axes) for view in views)
    lined: list[list[Slot]] = []
    for axis in range(rank):
        there = [view.axes[axis - rank] for view in views if len(view.axes) >= rank - axis]
        there = [slots for slots in there if slots_of(slots)]
        for other in there[1:]:
            t.align(there[0], other)
        lined.append(slots_of(there[0]) if there else [])
    return _Places(numbers, views, lined)


@aten("embed, index", "index.Tensor", "index_select.default")
def index(t: Translator, call: Call) -> None:
    """Places along some axes, by tensors that line up; rows of a table are `embed`."""
    x, made, places = t.view(call["self"]), call.results[0], _places(t, call)
    axes = [x.axis(number) for number in range(len(x.axes))]
    inputs = [t.straight(x, single=places.numbers), *(t.straight(view) for view in places.views)]
    if places.numbers == [0] and [len(axis) for axis in axes] == [1, 1]:
        t.emit("embed", inputs, [t.result(made, places.result(axes))])
        return
    of, own, result = places.terms(axes)
    t.emit(f"index {','.join((of, *own))}->{result}", inputs, [t.result(made, places.result(axes))])


@aten("index_put", "index_put.default", "_unsafe_index_put.default")
def index_put(t: Translator, call: Call) -> None:
    """Values added at places along some axes."""
    if not call["accumulate"]:
        raise t.error("overwrites places; the graph adds only")
    x, places, values = t.view(call["self"]), _places(t, call), t.view(call["values"])
    axes = [x.axis(number) for number in range(len(x.axes))]
    for own, other in zip(values.axes, places.result(x.axes), strict=True):
        t.align(own, other)
    inputs = [t.straight(x, single=places.numbers), t.straight(values), *(t.straight(view) for view in places.views)]
    of, own_terms, result = places.terms(axes)
    t.emit(f"index_put {','.join((of, result, *own_terms))}->{of}", inputs, [t.result(call.results[0], axes)])


def _single(t: Translator, view: View, axis: int) -> Held:
    """A tensor that lies as a view has it, with one dim along an axis, or none where that has one element."""
    return t.straight(view, single=(axis,) if view.axis(axis) else ())


@aten("take_along", "gather.default")
def gather(t: Translator, call: Call) -> None:
    """A place along an axis, for each element."""
    x, places, made = t.view(call["self"]), t.view(call["index"]), call.results[0]
    axis = call["dim"] % len(x.axes)
    for number in range(len(x.axes)):
        if number != axis and places.axis(number):
            t.align(x.axes[number], places.axes[number])
    inputs = [_single(t, view, axis) for view in (x, places)]
    axes = [places.axis(number) for number in range(len(places.axes))]
    before, after = changed(places, axis, [Slot(t.axis("of", call["self"].shape[axis]))])
    at = sum(map(len, axes[:axis]))
    t.emit(f"take_along {after},{before}->{before}", inputs, [t.result(made, axes)], axis=at)


def _along(kind: str, t: Translator, call: Call, src: Value) -> None:
    """Values that are put at places along an axis of a tensor, a place for each. Raises InputError."""
    x, places, values = map(t.view, (call["self"], call["index"], src))
    axis, made = call["dim"] % len(x.axes), call.results[0]
    if call["index"].shape != src.shape:
        raise t.error("takes a part of the values; slice them before")
    for number in range(len(x.axes)):
        if places.axis(number):
            t.align(places.axes[number], values.axes[number])
            if number != axis:
                t.align(x.axes[number], places.axes[number])
    inputs = [_single(t, view, axis) for view in (x, places, values)]
    whole = [Slot(t.axis("whole", made.shape[axis]))]
    before, after = changed(places, axis, whole)
    axes = [[Slot(slot.axis) for slot in x.axis(number)] for number in range(len(x.axes))]
    uncut = [*axes[:axis], whole if len(axes[axis]) > 1 else axes[axis], *axes[axis + 1 :]]
    held = Held(slots_of(slot for own in uncut for slot in own), values_of(made), made.dtype)
    at = sum(map(len, axes[:axis]))
    t.emit(f"{kind} {after},{before},{before}->{after}", inputs, [held], axis=at)
    if len(axes[axis]) > 1:  # it is cut elsewhere
        held = t.reshaped(held, slots_of(slot for own in axes for slot in own))
    t.write(made, held, axes)


@aten("put_along", "scatter.src")
def scatter(t: Translator, call: Call) -> None:
    """Values written at places along an axis."""
    _along("put_along", t, call, call["src"])


@aten("full, put_along", "scatter_.value", "scatter.value")
def scatter_value(t: Translator, call: Call) -> None:
    """A value written at places along an axis."""
    places = call["index"]
    filled = t.invented(call["self"], shape=places.shape)
    view = t.view(places)
    held = t.result(filled, [view.axis(number) for number in range(len(view.axes))])
    t.emit(f"full ->{Lettered.word(len(held.dims()))}", [], [held], value=float(call["value"]))
    _along("put_along", t, call, filled)


@aten("add_along", "scatter_add.default")
def scatter_add(t: Translator, call: Call) -> None:
    """Values added at places along an axis."""
    _along("add_along", t, call, call["src"])


@aten("top_k, pick; of one: largest, place_of_largest", "topk.default")
def topk(t: Translator, call: Call) -> None:
    """The largest along the last axis, and their places."""
    x, (values, places) = t.view(call["self"]), call.results
    if not call["largest"] or call["dim"] % len(x.axes) != len(x.axes) - 1:
        raise t.error("takes the least, or works along another axis than the last; negate, or transpose before")
    if values.shape[-1].is_one:
        largest(t, call["self"], -1, call.results, keep=True)
        return
    axes = [*(x.axis(number) for number in range(len(x.axes) - 1)), [Slot(t.axis("chosen", values.shape[-1]))]]
    held = t.straight(x, _LAST)
    at = t.result(places, axes)
    t.emit("top_k", [held], [at])
    t.emit("pick", [held, at], [t.result(values, axes)])
