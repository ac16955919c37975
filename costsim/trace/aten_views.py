"""Aten ops that look at the same memory in another way: no op at all, or a view of a part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from costsim.trace.recording import Call, Value
from costsim.trace.sizes import ONE, Size, common, divided, times
from costsim.trace.tensors import Held, Part, Slot, View, slots_of
from costsim.trace.translate import aten
from costsim.trace.translator import Lettered, Translator


def regrouped(flat: Sequence[Slot], shape: Sequence[Size]) -> list[list[Slot]] | None:
    """The slots in groups of these sizes, cut where that takes it; None if they cannot be."""
    queue, groups = list(flat), list[list[Slot]]()
    for size in shape:
        group: list[Slot] = []
        while not size.is_one:
            axis = queue[0].axis.itself
            shared = common(size, axis.size)
            if shared.is_one:
                return None
            if shared != axis.size:
                axis.cut(shared)
                queue[:1] = queue[0].atoms()
                continue
            group.append(queue.pop(0))
            size = divided(size, shared)
        groups.append(group)
    return groups


@aten("nothing: the same memory", "view.default", "_unsafe_view.default", "reshape.default", "_reshape_alias.default")
def view(t: Translator, call: Call) -> None:
    """Other axes, the outermost first; where they do not fit those that are known, a view op."""
    made, source = call.results[0], t.view(call["self"])
    groups = regrouped(source.flat(), made.shape)
    if groups is not None:
        t.views[made.number] = View(source.memory, tuple(map(tuple, groups)))
        return
    held = t.straight(source)
    axes = t.fresh(made)
    result = t.reshaped(held, slots_of(slot for axis in axes for slot in axis))
    t.part(made, Part(source, source.held), result, axes)


@aten("nothing: the same memory", "detach.default", "alias.default", "lift_fresh.default", "lift.default")
def same(t: Translator, call: Call) -> None:
    """The same tensor."""
    t.views[call.results[0].number] = t.view(call["self"])


def _reordered(t: Translator, call: Call, order: Sequence[int]) -> None:
    source = t.view(call["self"])
    t.views[call.results[0].number] = View(source.memory, tuple(source.axes[axis] for axis in order))


@aten("nothing: the same memory", "t.default", "transpose.int", "permute.default", "numpy_T.default")
def transpose(t: Translator, call: Call) -> None:
    """Axes in another order."""
    order = list(range(len(call["self"].shape)))
    if "dims" in call.arguments:
        order = [axis % len(order) for axis in call["dims"]]
    elif len(order) > 1:
        a, b = (call["dim0"], call["dim1"]) if "dim0" in call.arguments else (0, 1)
        order[a], order[b] = order[b], order[a]
    _reordered(t, call, order)


@aten("nothing: the same memory", "unsqueeze.default")
def unsqueeze(t: Translator, call: Call) -> None:
    """One more axis, of one element."""
    source, at = t.view(call["self"]), call["dim"] % (len(call["self"].shape) + 1)
    t.views[call.results[0].number] = View(source.memory, (*source.axes[:at], (), *source.axes[at:]))


@aten("nothing: the same memory", "squeeze.default", "squeeze.dim", "squeeze.dims")
def squeeze(t: Translator, call: Call) -> None:
    """Without axes of one element."""
    source, shape = t.view(call["self"]), call["self"].shape
    dims = call.arguments.get("dim", range(len(shape)))
    gone = {axis % len(shape) for axis in ((dims,) if isinstance(dims, int) else dims)} if shape else set()
    kept = [axes for number, axes in enumerate(source.axes) if number not in gone or not shape[number].is_one]
    t.views[call.results[0].number] = View(source.memory, tuple(kept))


@aten("nothing: the same memory", "expand.default")
def expand(t: Translator, call: Call) -> None:
    """Repeated along axes of one element, and along new ones."""
    source, made = t.view(call["self"]), call.results[0]
    new = len(made.shape) - len(source.axes)
    axes: list[tuple[Slot, ...]] = []
    for number, size in enumerate(made.shape):
        old = source.axes[number - new] if number >= new else ()
        repeated = not size.is_one and not slots_of(old)
        axes.append((Slot(t.axis(("expand", number), size)),) if repeated else old)
    t.views[made.number] = View(source.memory, tuple(axes))


# --- parts ------------------------------------------------------------------------------------------------------------


def _cut_out(t: Translator, source: View, made: Value, axis: int, start: int, step: int = 1, keep: bool = True) -> None:
    """Have a value be a stretch of a view along one axis, which it loses unless it is kept."""
    if keep and made.shape[axis] == size_of(source.axis(axis)):
        t.views[made.number] = source
        return
    kept, repeated = _told_apart(source)
    if not repeated[axis]:  # what is repeated along other axes is so in the stretch
        source = View(source.memory, kept)
    held, part = t.straight(source), Part(source, source.held, axis if keep and step == 1 else None, start)
    axes = [[Slot(slot.axis) for slot in source.axis(number)] for number in range(len(source.axes))]
    axes[axis] = [Slot(t.axis(("stretch", made.number), made.shape[axis]))] if keep else []
    result = Held([slot for each in axes for slot in each], held.values, held.dtype)
    t.emit(f"slice {'->'.join(changed(source, axis, axes[axis]))}", [held], [result], start=start, step=step)
    if not repeated[axis]:
        axes = [each or again for each, again in zip(axes, repeated, strict=True)]
    t.part(made, part, result, axes if keep else [*axes[:axis], *axes[axis + 1 :]])


def _told_apart(view: View) -> tuple[tuple[tuple[Slot, ...], ...], list[list[Slot]]]:
    """By axis of a view: the slots that are dims of its tensor, and those along which that repeats."""
    own = set(map(id, view.held.dims()))
    axes = [view.axis(number) for number in range(len(view.axes))]
    kept = tuple(tuple(slot for slot in axis if id(slot) in own) for axis in axes)
    return kept, [[slot for slot in axis if id(slot) not in own] for axis in axes]


def size_of(slots: Sequence[Slot]) -> Size:
    """How many elements some slots have together."""
    return reduce(times, (slot.axis.itself.size for slot in slots), ONE)


def changed(view: View, axis: int, slots: Sequence[Slot]) -> tuple[str, str]:
    """The terms of a view, its dims in its order, and of what it becomes with other slots in place of one axis."""
    letters = Lettered()
    terms = [["".join(letters[id(slot)] for slot in view.axis(number)) for number in range(len(view.axes))]] * 2
    terms[1] = [*terms[0][:axis], "".join(letters[id(slot)] for slot in slots_of(slots)), *terms[0][axis + 1 :]]
    return "".join(terms[0]), "".join(terms[1])


@aten("slice", "slice.Tensor", "narrow.default")
def slice_(t: Translator, call: Call) -> None:
    """A stretch along one axis, in the same memory."""
    start, made = call["start"] or 0, call.results[0]
    length, whole = (value.shape[call["dim"]] for value in (made, call["self"]))
    if (
        not isinstance(start, int) and call["end"] == whole and not length.names
    ):  # the last ones, however many there are
        start = -length.number
    if t.is_empty(call["self"]):
        t.reserve_part(made, call["self"], call["dim"] % len(made.shape), _number(t, start))
        return
    source = t.view(call["self"])
    axis = call["dim"] % len(source.axes)
    _cut_out(t, source, made, axis, _number(t, start), call.arguments.get("step", 1))


def _number(t: Translator, start: object) -> int:
    if not isinstance(start, int):
        raise t.error("starts where a dynamic size says; mark that dim static")
    return start


@aten("slice", "split.Tensor", "split_with_sizes.default", "chunk.default")
def split(t: Translator, call: Call) -> None:
    """Stretches one after another, in the same memory."""
    source = t.view(call["self"])
    axis = call["dim"] % len(source.axes)
    start = Size(0)
    for made in call.results:
        if start.names:
            raise t.error("starts where a dynamic size says; mark that dim static")
        _cut_out(t, source, made, axis, start.number)
        start = Size(start.number + made.shape[axis].number, made.shape[axis].names)


@aten("slice", "select.int")
def select(t: Translator, call: Call) -> None:
    """One place along an axis, in the same memory."""
    source = t.view(call["self"])
    axis, at = call["dim"] % len(source.axes), _number(t, call["index"])
    if call["self"].shape[axis].is_one:
        axes = tuple(a for number, a in enumerate(source.axes) if number != axis)
        t.views[call.results[0].number] = View(source.memory, axes)
        return
    _cut_out(t, source, call.results[0], axis, at, keep=False)


@aten("slice", "unbind.int")
def unbind(t: Translator, call: Call) -> None:
    """Each place along an axis, in the same memory."""
    source = t.view(call["self"])
    for at, made in enumerate(call.results):
        _cut_out(t, source, made, call["dim"] % len(source.axes), at, keep=False)


# --- gradients of parts: written whole --------------------------------------------------------------------------------


def zeros(t: Translator, call: Call) -> None:
    """Zeros, of the shape of the result."""
    made = call.results[0]
    held = t.result(made, t.fresh(made))
    t.emit(f"full ->{Lettered.word(len(held.dims()))}", [], [held], value=0.0)


@aten("slice_grad", "slice_backward.default")
def slice_backward(t: Translator, call: Call) -> None:
    """The gradient in its stretch, 0 elsewhere."""
    if call["grad_output"].is_empty:
        zeros(t, call)
        return
    source = t.view(call["grad_output"])
    if (
        call["grad_output"].shape == call.results[0].shape
    ):  # of all there is: eager mode, which knows sizes, has no call
        t.views[call.results[0].number] = source
        return
    axis = call["dim"] % len(source.axes)
    _put(t, source, call.results[0], axis, "slice_grad", start=_number(t, call["start"] or 0), step=call["step"])


@aten("slice_grad", "select_backward.default")
def select_backward(t: Translator, call: Call) -> None:
    """The gradient in its place, 0 elsewhere."""
    source, made = t.view(call["grad_output"]), call.results[0]
    axis = call["dim"] % len(made.shape)
    source = View(source.memory, (*source.axes[:axis], (), *source.axes[axis:]))
    _put(t, source, made, axis, "slice_grad", start=_number(t, call["index"]), step=1)


@aten("pad", "constant_pad_nd.default")
def pad(t: Translator, call: Call) -> None:
    """A value before and behind, axis by axis from the last one."""
    pads, rank = call["pad"], len(call["self"].shape)
    padded = [at for at in range(len(pads) // 2) if pads[2 * at] != 0 or pads[2 * at + 1] != 0]
    if len(padded) > 1:
        raise t.error("pads several axes at once")
    at = padded[0] if padded else 0
    before = _number(t, pads[2 * at])
    _put(t, t.view(call["self"]), call.results[0], rank - 1 - at, "pad", before=before, value=call["value"])


def _put(t: Translator, source: View, made: Value, axis: int, kind: str, **params: float) -> None:
    """A tensor within a larger one along an axis."""
    held = t.straight(source)
    axes = [source.axis(number) for number in range(len(source.axes))]
    axes[axis] = [Slot(t.axis(("whole", axis), made.shape[axis]))]
    t.emit(f"{kind} {'->'.join(changed(source, axis, axes[axis]))}", [held], [t.result(made, axes)], **params)


@aten("concat", "cat.default")
def cat(t: Translator, call: Call) -> None:
    """Tensors one after another along an axis, in memory of their own."""
    views = [t.view(value) for value in call["tensors"] if not value.is_empty]
    concat(t, views, call["dim"] % len(call.results[0].shape), call.results[0])


@aten("concat", "stack.default")
def stack(t: Translator, call: Call) -> None:
    """Tensors beside each other along a new axis, in memory of their own."""
    axis = call["dim"] % len(call.results[0].shape)
    views = [t.view(value) for value in call["tensors"]]
    concat(t, [View(v.memory, (*v.axes[:axis], (), *v.axes[axis:])) for v in views], axis, call.results[0])


def concat(t: Translator, views: Sequence[View], axis: int, made: Value) -> None:
    """Append what puts views one after another along an axis."""
    for number in range(len(made.shape)):
        for other in views[1:] if number != axis else ():
            t.align(views[0].axes[number], other.axes[number])
    helds = [t.straight(view) for view in views]
    axes = [views[0].axis(number) for number in range(len(made.shape))]
    axes[axis] = [Slot(t.axis("together", made.shape[axis]))]
    letters = Lettered()

    def term(of: int, own: Sequence[Sequence[Slot]]) -> str:
        numbers = [len(slots_of(slots)) for slots in own]
        return "".join(letters[n, of if n == axis else 0, k] for n, number in enumerate(numbers) for k in range(number))

    terms = [term(of, view.axes) for of, view in enumerate(views, 1)]
    t.emit(f"concat {','.join(terms)}->{term(0, axes)}", helds, [t.result(made, axes)])


@aten("copy", "repeat.default")
def repeat(t: Translator, call: Call) -> None:
    """All of it again and again along axes, in memory of its own."""
    source, made = t.view(call["self"]), call.results[0]
    new = len(made.shape) - len(source.axes)
    axes: list[list[Slot]] = []
    for number, size in enumerate(made.shape):
        old = source.axis(number - new) if number >= new else []
        again = divided(size, size_of(old))
        axes.append(old if again.is_one else [Slot(t.axis(("repeat", number), again)), *old])
    held = t.moved("copy", source.held, [slot for axis in axes for slot in axis])
    left = held.dims()
    t.look(made, held, [[left.pop(0) for _ in axis] for axis in axes])
