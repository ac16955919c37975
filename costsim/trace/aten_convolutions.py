"""Convolutions: einsum equations over the places in a patch. Patches that overlap are made first, in the same call.

Of its two sides, the small one has an element for each patch, and the large one is what patches are cut from. A
convolution makes the small side of the large one; transposed, it is the other way round. Its weight is [channels of the
small side, channels of the large side in a group, places] in both; so three products make up all that is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costsim.trace.aten_views import regrouped, size_of
from costsim.trace.pointwise import pointwise, reduction
from costsim.trace.products import Axes, product
from costsim.trace.recording import Call, Value
from costsim.trace.sizes import Size, divided, times
from costsim.trace.tensors import Held, Memory, Slot, View, slots_of
from costsim.trace.translate import aten
from costsim.trace.translator import Lettered, Translator


def _sides(call: Call, x: Value, y: Value) -> tuple[Value, Value]:
    """The small and the large one of what goes in and what comes out."""
    return (x, y) if call["transposed"] else (y, x)


def _by_group(t: Translator, view: View, axis: int, groups: int) -> View:
    """A view whose axis of channels is cut in two: groups, and the channels of one. Raises InputError."""
    size = size_of(view.axis(axis))
    cut = regrouped(view.axis(axis), (Size(groups), divided(size, Size(groups))))
    if cut is None:
        raise t.error("cuts channels into groups that do not fit how they are cut elsewhere")
    return View(view.memory, (*view.axes[:axis], *map(tuple, cut), *view.axes[axis + 1 :]))


def _patches(t: Translator, call: Call, large: Value, small: Value) -> View:
    """The large side [b, c, lengths] as [b, groups, c of one, patches, places in a patch, ...]. Raises InputError."""
    kernel, counts = call["weight"].shape[2:], small.shape[2:]
    view = t.view(large)
    if not _are_apart(call, large, small):
        return _by_group(t, _unfolded(t, call, view, kernel, counts), 1, call["groups"])
    axes = [view.axis(0), view.axis(1)]
    for number, (patches, places) in enumerate(zip(counts, kernel, strict=True), 2):
        groups = regrouped(view.axis(number), (patches, places))
        if groups is None:
            raise t.error("cuts an axis into patches that do not fit how it is cut elsewhere")
        axes += groups
    return _by_group(t, View(view.memory, tuple(map(tuple, axes))), 1, call["groups"])


def _are_apart(call: Call, large: Value, small: Value) -> bool:
    """Whether patches make up all of the large side, and none overlaps another: then they are a view of it.

    What a transposed convolution makes is summed all the same, for views cut its axes where others may want them whole.
    """
    kernel = call["weight"].shape[2:]
    sizes = zip(small.shape[2:], kernel, large.shape[2:], strict=True)
    whole = all(times(patches, places) == length for patches, places, length in sizes)
    apart = [Size(step) for step in call["stride"]] == list(kernel)
    plain = not (call["transposed"] or any(call["padding"])) and all(n == 1 for n in call["dilation"])
    return whole and apart and plain


def _ways(call: Call, axis: int, one: bool = False) -> dict[str, int]:
    """How patches lie along an axis of lengths; if there is just one, its places are patches of one place."""
    ways = {name: call[name][axis if len(call[name]) > 1 else 0] for name in ("stride", "padding", "dilation")}
    return {**ways, "stride": ways["dilation"]} if one else ways


def _stays(call: Call, number: int) -> bool:
    """Whether there is nothing to cut along an axis of lengths: each patch is one element."""
    ways = _ways(call, number)
    return call["weight"].shape[2 + number].is_one and (ways["stride"], ways["padding"]) == (1, 0)


def _changed(
    t: Translator, function: str, held: Held, old: Sequence[Slot], new: Sequence[Slot], ways: Mapping[str, int]
) -> tuple[Held, dict[int, Slot]]:
    """A tensor that has new dims where the first of some old ones was; and by slot, new or kept, its own.

    Where a new dim is cut elsewhere, a view op behind the function cuts it.
    """
    letters, order = Lettered(), list[Slot]()
    before = "".join(letters[id(slot)] for slot in held.dims())
    for slot in held.dims():
        order += new if slot is old[0] else [] if slot in old else [slot]
    if any(not slot.atoms() for slot in order) or not (old and new):
        raise t.error("has one patch of one place along an axis, which the graph does not")
    sizes = [slot.axis.itself.size for slot in order]
    whole = [t.axis((function, len(t.emitted), n, size), size) for n, size in enumerate(sizes)]
    uncut = all(len(slot.atoms()) == 1 for slot in order)
    made = Held(
        [Slot(slot.axis if uncut else axis) for slot, axis in zip(order, whole, strict=True)], held.values, held.dtype
    )
    t.emit(f"{function} {before}->{''.join(letters[id(slot)] for slot in order)}", [held], [made], None, **ways)
    if not uncut:
        made = t.reshaped(made, [Slot(slot.axis) for slot in order])
    return made, {id(slot): own for slot, own in zip(order, made.slots, strict=True)}


def _joined(t: Translator, view: View, single: Sequence[int]) -> tuple[Held, list[list[Slot]]]:
    """A tensor that lies as a view has it, with one dim for each of some axes; and its own axes."""
    held = t.straight(view, single)
    left = held.dims()
    numbers = [1 if n in single else len(view.axis(n)) for n in range(len(view.axes))]
    return held, [[left.pop(0) for _ in range(number)] for number in numbers]


def _unfolded(t: Translator, call: Call, view: View, kernel: Sequence[Size], shape: Sequence[Size]) -> View:
    """Patches that overlap, are padded or spread: a tensor that the call makes for itself, axis by axis."""
    lengths = [2 + number for number in range(len(kernel)) if not _stays(call, number)]
    held, axes = view.held, [view.axis(n) for n in range(len(view.axes))]
    if {*map(id, view.flat())} != {*map(id, held.dims())} or any(len(axes[n]) != 1 for n in lengths):
        held, axes = _joined(t, view, lengths)
    for number, (patches, places) in enumerate(zip(shape, kernel, strict=True)):
        at = 2 + 2 * number
        if 2 + number not in lengths:
            axes[at + 1 : at + 1] = [[]]
            continue
        sizes = {"patches": patches, "places": places}
        new = {tag: Slot(t.axis((tag, number), size)) for tag, size in sizes.items() if not size.is_one}
        held, moved = _changed(t, "unfold", held, axes[at], [*new.values()], _ways(call, number, patches.is_one))
        axes[at : at + 1] = [[new[tag]] if tag in new else [] for tag in sizes]
        axes = [slots_of(moved[id(slot)] for slot in axis) for axis in axes]
    return View(Memory(held), tuple(map(tuple, axes)))


def _folded(t: Translator, call: Call, made: Value) -> None:
    """Have [groups, b, patches, ..., c of a group, places, ...] of patches that overlap be summed to the large side."""
    lengths, view = len(call["weight"].shape) - 2, t.view(made)
    numbers = [(n, 2 + n, 3 + lengths + n) for n in range(lengths) if not _stays(call, n)]
    held, axes = _joined(t, view, [axis for _, *pair in numbers for axis in pair if len(view.axis(axis)) > 1])
    for number, patches, places in numbers:
        old = [*axes[patches], *axes[places]]
        new = [Slot(t.axis(("length", number), made.shape[2 + number]))]
        held, moved = _changed(t, "fold", held, old, new, _ways(call, number, not axes[patches]))
        axes[patches], axes[places] = new, []
        axes = [slots_of(moved[id(slot)] for slot in axis) for axis in axes]
    t.look(made, held, [axes[1], [*axes[0], *axes[2 + lengths]], *axes[2 : 2 + lengths]])


# --- the three products -----------------------------------------------------------------------------------------------


def _weight(t: Translator, call: Call) -> View:
    """The weight as [groups, channels of the small side in one, channels of the large side in one, places]."""
    return _by_group(t, t.view(call["weight"]), 0, call["groups"])


def _gather(t: Translator, call: Call, patches: View, made: Value) -> None:
    """The small side: patches times the weight."""
    lengths = len(call["weight"].shape) - 2
    summed = ((2, 2), *((4 + 2 * n, 3 + n) for n in range(lengths)))
    product(t, patches, _weight(t, call), Axes(((1, 0),), summed), made)
    memory, (groups, batch, *counts, channels) = t.views[made.number]
    t.views[made.number] = View(memory, (batch, (*groups, *channels), *counts))


def _scatter(t: Translator, call: Call, small: Value, made: Value) -> None:
    """The large side: each element of the small one times the weight, a patch; patches that overlap are summed."""
    lengths = len(call["weight"].shape) - 2
    product(t, _by_group(t, t.view(small), 1, call["groups"]), _weight(t, call), Axes(((1, 0),), ((2, 1),)), made)
    if not _are_apart(call, made, small):
        _folded(t, call, made)
        return
    memory, (groups, batch, *rest) = t.views[made.number]
    cut = [(*rest[n], *rest[lengths + 1 + n]) for n in range(lengths)]
    t.views[made.number] = View(memory, (batch, (*groups, *rest[lengths]), *cut))


def _weigh(t: Translator, call: Call, small: Value, patches: View, made: Value) -> None:
    """The weight's gradient: the small side times the patches of the large one."""
    summed = ((0, 0), *((3 + n, 3 + 2 * n) for n in range(len(small.shape) - 2)))
    product(t, _by_group(t, t.view(small), 1, call["groups"]), patches, Axes(((1, 1),), summed), made)
    memory, (groups, channels, *rest) = t.views[made.number]
    t.views[made.number] = View(memory, ((*groups, *channels), *rest))


@aten("unfold, einsum equation, fold, add_bias", "convolution.default")
def convolution(t: Translator, call: Call) -> None:
    """Patches times a weight, or, transposed, sums of patches; and a bias."""
    made, bias = call.results[0], call["bias"]
    small, large = _sides(call, call["input"], made)
    if call["transposed"]:
        _scatter(t, call, small, made)
    else:
        _gather(t, call, _patches(t, call, large, small), made)
    if bias is not None:
        spread = bias._replace(number=-1 - len(t.views))
        lengths = len(made.shape) - 2
        t.views[spread.number] = View(t.view(bias).memory, (t.view(bias).axes[0], *((),) * lengths))
        pointwise(t, "add", [made, spread], made)


@aten("unfold, einsum equations, fold, sum", "convolution_backward.default")
def convolution_backward(t: Translator, call: Call) -> None:
    """The gradients of input, weight and bias, as far as they are wanted."""
    x, dy, results = call["input"], call["grad_output"], list(call.results)
    small, large = _sides(call, x, dy)
    wanted = call["output_mask"]
    patches = _patches(t, call, large, small) if wanted[1] or call["transposed"] else None
    known = None if call["transposed"] else t.products.get(-1 if call.forward is None else call.forward)
    if patches and known and not _are_apart(call, large, small):
        patches.held.remade = known[0]
    if wanted[0] and call["transposed"] and patches:
        _gather(t, call, patches, results.pop(0))
    elif wanted[0]:
        _scatter(t, call, small, results.pop(0))
    if wanted[1] and patches:
        _weigh(t, call, small, patches, results.pop(0))
    if wanted[2]:
        reduction(t, "sum", dy, (0, *range(2, len(dy.shape))), results.pop(0), keep=False)
