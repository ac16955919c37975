"""Convolutions: einsum equations over the places in a patch. Patches that overlap are made first, in the same call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costsim.trace.aten_views import regrouped
from costsim.trace.pointwise import pointwise, reduction
from costsim.trace.products import Axes, product
from costsim.trace.recording import Call, Value
from costsim.trace.sizes import Size, times
from costsim.trace.tensors import Held, Memory, Slot, View
from costsim.trace.translate import aten
from costsim.trace.translator import Lettered, Translator


def _patches(t: Translator, call: Call, x: Value, weight: Value, shape: Sequence[Size]) -> View:
    """The input [b, c, lengths] as [b, c, patches, places in a patch, ...]. Raises InputError for grouped channels."""
    kernel = weight.shape[2:]
    if call["transposed"] or call["groups"] != 1:
        raise t.error("is transposed, or of groups of channels; the graph has neither")
    view = t.view(x)
    if not _are_apart(call, x.shape[2:], kernel, shape):
        return _unfolded(t, call, view, kernel, shape)
    axes = [view.axis(0), view.axis(1)]
    for number, (patches, places) in enumerate(zip(shape, kernel, strict=True), 2):
        groups = regrouped(view.axis(number), (patches, places))
        if groups is None:
            raise t.error("cuts an axis into patches that do not fit how it is cut elsewhere")
        axes += groups
    return View(view.memory, tuple(map(tuple, axes)))


def _are_apart(call: Call, lengths: Sequence[Size], kernel: Sequence[Size], shape: Sequence[Size]) -> bool:
    """Whether patches make up all of the input, and none overlaps another: then they are a view of it."""
    whole = all(times(n, size) == length for n, size, length in zip(shape, kernel, lengths, strict=True))
    apart = [Size(step) for step in call["stride"]] == list(kernel)
    return whole and apart and not any(call["padding"]) and all(n == 1 for n in call["dilation"])


def _ways(call: Call, axis: int) -> dict[str, int]:
    """How patches lie along an axis of lengths."""
    return {name: call[name][axis if len(call[name]) > 1 else 0] for name in ("stride", "padding", "dilation")}


def _changed(
    t: Translator, function: str, held: Held, old: Sequence[Slot], new: Sequence[Slot], ways: Mapping[str, int]
) -> tuple[Held, dict[int, Slot]]:
    """A tensor that has new dims where the first of some old ones was; and by slot, new or kept, its own."""
    letters, order = Lettered(), list[Slot]()
    before = "".join(letters[id(slot)] for slot in held.dims())
    for slot in held.dims():
        order += new if slot is old[0] else [] if slot in old else [slot]
    made = Held([Slot(slot.axis) for slot in order], held.values, held.dtype)
    if len(made.dims()) != len(order):
        raise t.error(
            "has patches that overlap or are padded, and just one along an axis, or a number that is cut elsewhere"
        )
    t.emit(f"{function} {before}->{''.join(letters[id(slot)] for slot in order)}", [held], [made], None, **ways)
    return made, {id(slot): own for slot, own in zip(order, made.dims(), strict=True)}


def _unfolded(t: Translator, call: Call, view: View, kernel: Sequence[Size], shape: Sequence[Size]) -> View:
    """Patches that overlap, are padded or spread: a tensor that the call makes for itself, axis by axis."""
    lengths = range(2, 2 + len(kernel))
    held, axes = view.held, [view.axis(n) for n in range(len(view.axes))]
    if {*map(id, view.flat())} != {*map(id, held.dims())} or any(len(axes[n]) != 1 for n in lengths):
        held = t.straight(view, lengths)
        batch = len(axes[0])
        channels = len(held.dims()) - batch - len(kernel)
        axes = [held.dims()[:batch], held.dims()[batch : batch + channels]]
        axes += [[slot] for slot in held.dims()[batch + channels :]]
    for number, (patches, places) in enumerate(zip(shape, kernel, strict=True)):
        at = 2 + 2 * number
        new = [Slot(t.axis(("patches", number), patches)), Slot(t.axis(("places", number), places))]
        held, moved = _changed(t, "unfold", held, axes[at], new, _ways(call, number))
        axes[at : at + 1] = [[slot] for slot in new]
        axes = [[moved[id(slot)] for slot in axis] for axis in axes]
    return View(Memory(held), tuple(map(tuple, axes)))


def _folded(t: Translator, call: Call, made: Value) -> None:
    """Have the gradient [b, patches, ..., c, places, ...] of patches that overlap be summed to that of the input."""
    lengths, view = len(call["weight"].shape) - 2, t.view(made)
    held, axes = view.held, [view.axis(n) for n in range(len(view.axes))]
    for number in range(lengths):
        old = [*axes[1 + number], *axes[2 + lengths + number]]
        new = [Slot(t.axis(("length", number), made.shape[2 + number]))]
        held, moved = _changed(t, "fold", held, old, new, _ways(call, number))
        axes[1 + number], axes[2 + lengths + number] = new, []
        axes = [[moved[id(slot)] for slot in axis] for axis in axes]
    t.look(made, held, [axes[0], axes[1 + lengths], *axes[1 : 1 + lengths]])


@aten("unfold, einsum equation, add_bias", "convolution.default")
def convolution(t: Translator, call: Call) -> None:
    """Patches times a weight [outputs, c, places], and a bias."""
    made, weight, bias = call.results[0], call["weight"], call["bias"]
    lengths = len(weight.shape) - 2
    patches = _patches(t, call, call["input"], weight, made.shape[2:])
    summed = ((1, 1), *((3 + 2 * n, 2 + n) for n in range(lengths)))
    product(t, patches, t.view(weight), Axes((), summed), made)
    of = t.views[made.number]
    t.views[made.number] = View(of.memory, (of.axes[0], of.axes[-1], *of.axes[1:-1]))
    if bias is not None:
        spread = bias._replace(number=-1 - len(t.views))
        t.views[spread.number] = View(t.view(bias).memory, (t.view(bias).axes[0], *((),) * lengths))
        pointwise(t, "add", [made, spread], made)


@aten("unfold, einsum equations, fold, sum", "convolution_backward.default")
def convolution_backward(t: Translator, call: Call) -> None:
    """The gradients of input, weight and bias, as far as they are wanted."""
    dy, weight, results = call["grad_output"], call["weight"], list(call.results)
    wanted, lengths = call["output_mask"], len(weight.shape) - 2
    apart = _are_apart(call, call["input"].shape[2:], weight.shape[2:], dy.shape[2:])
    if wanted[0]:
        made = results.pop(0)
        product(t, t.view(dy), t.view(weight), Axes((), ((1, 0),)), made)
        if not apart:
            _folded(t, call, made)
        else:
            batch, *rest = t.views[made.number].axes
            cut = [(*rest[n], *rest[lengths + 1 + n]) for n in range(lengths)]
            t.views[made.number] = View(t.views[made.number].memory, (batch, rest[lengths], *cut))
    if wanted[1]:
        patches = _patches(t, call, call["input"], weight, dy.shape[2:])
        if not apart and call.forward in t.products:
            patches.held.remade = t.products[call.forward][0]
        summed = ((0, 0), *((2 + n, 2 + 2 * n) for n in range(lengths)))
        product(t, t.view(dy), patches, Axes((), summed), results.pop(0))
    if wanted[2]:
        reduction(t, "sum", dy, (0, *range(2, 2 + lengths)), results.pop(0), keep=False)
