"""Aten ops that ask for memory, or write into it: into all of a tensor, or into a stretch of it.

Stretches that are written into memory in which nothing is yet are a `concat`, once they make up all of it. What is
written into a tensor that is there is a tensor of its own in that place, and `put` says what the whole is from then on.
"""

from __future__ import annotations

from itertools import pairwise

from costsim.trace.aten_views import concat
from costsim.trace.pointwise import pointwise
from costsim.trace.recording import Call
from costsim.trace.tensors import Held, Memory, Part, Slot, View, Written, slots_of, values_of
from costsim.trace.translate import aten
from costsim.trace.translator import Lettered, Translator

_EMPTY = ("empty.memory_format", "empty_like.default", "new_empty.default", "new_empty_strided.default")


@aten("nothing: memory", *_EMPTY)
def empty(t: Translator, call: Call) -> None:
    """Memory, in which nothing is yet."""
    made = call.results[0]
    like = call.arguments.get("self") if call.op == "aten.empty_like.default" else None
    view = t.view(like) if like is not None else None
    axes = t.fresh(made) if view is None else [[Slot(s.axis) for s in view.axis(n)] for n in range(len(view.axes))]
    t.reserve(made, axes)


@aten("copy, convert; into a stretch: concat, put", "copy_.default")
def copy_(t: Translator, call: Call) -> None:
    """Overwrite a tensor, or a stretch of one, with another."""
    source, into, made = call["src"], call["self"], call.results[0]
    part = None if into.whole else t.views[into.number].memory.part
    if part is not None and part.value is not None and part.of.memory.held is None and source.dtype == into.dtype:
        _gather(t, call, part)
        return
    before, after = values_of(source), values_of(into)
    function = "copy" if source.dtype == into.dtype else "convert" if before == after else f"to_{after}"
    if part is None:
        pointwise(t, function, [source], made)
        return
    stretch = t.invented(made)
    pointwise(t, function, [source], stretch)
    _put(t, call, part, t.view(stretch))


def _gather(t: Translator, call: Call, part: Part) -> None:
    """Have a stretch of memory be a view, and the whole a `concat` as soon as there are all of its stretches."""
    axis, target, source = part.axis, t.views[call["self"].number], t.view(call["src"])
    assert axis is not None
    assert part.value is not None
    axes = ((),) * (len(target.axes) - len(source.axes)) + source.axes
    axes = tuple(own if slots_of(own) else tuple(there) for own, there in zip(axes, target.axes, strict=True))
    for own, there in zip(axes, target.axes, strict=True):
        t.align(there, own)
    view, size = View(source.memory, axes), call.results[0].shape[axis]
    t.views[call.results[0].number] = view
    written = part.of.memory.written
    written.append(Written(part.start, part.start + size.number, axis, view))
    written.sort(key=lambda each: each.start)
    in_row = all(a.end == b.start and a.axis == b.axis for a, b in pairwise(written))
    if written[0].start == 0 and in_row and written[-1].end == part.value.shape[axis].number:
        concat(t, [each.view for each in written], axis, part.value)


def _put(t: Translator, call: Call, part: Part, written: View) -> None:
    """Have a stretch of a tensor be what is written there, and the tensor what it is with that."""
    memory, axis = part.of.memory, part.axis
    if axis is None or memory.held is None or memory.part is not None or part.is_stale:
        raise t.error("overwrites a part of a tensor, which the graph cannot say; write it without the view")
    for number, (own, there) in enumerate(zip(written.axes, part.of.axes, strict=True)):
        if number != axis:
            t.align(there, own)
    letters, stretches = Lettered(), dict[int, list[Slot]]()  # of the stretch, by slot of the whole
    for number in range(len(written.axes)):
        dims, own_dims = part.of.axis(number), written.axis(number)
        pairs = [(dims[0], own_dims)] if number == axis else zip(dims, ([slot] for slot in own_dims), strict=True)
        stretches |= {id(dim): slots for dim, slots in pairs}
    whole = memory.held.dims()
    order = [slot for dim in whole for slot in stretches.get(id(dim), ())]
    held, axes = written.held, written.axes
    if list(map(id, order)) != list(map(id, held.dims())):
        held = t.moved("permute", held, order)
        moved = dict(zip(map(id, order), held.dims(), strict=True))
        axes = tuple(tuple(moved[id(slot)] for slot in slots_of(own)) for own in axes)
    of = {id(slot): dim for dim in whole if dim not in part.of.axis(axis) for slot in stretches[id(dim)]}
    terms = "".join(letters[id(dim)] for dim in whole), "".join(letters[id(of.get(id(slot), slot))] for slot in order)
    made = Held(memory.held.slots, memory.held.values, memory.held.dtype)
    t.emit(f"put {terms[0]},{terms[1]}->{terms[0]}", [memory.held, held], [made], start=part.start)
    memory.held = made
    t.views[call.results[0].number] = View(Memory(held, True, part._replace(seen=made)), axes)
