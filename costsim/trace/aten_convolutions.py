"""Convolutions whose patches do not overlap, as of patch embeddings: einsum equations over the places in a patch."""

from __future__ import annotations

from collections.abc import Sequence

from costsim.trace.aten_views import regrouped
from costsim.trace.pointwise import pointwise, reduction
from costsim.trace.products import Axes, product
from costsim.trace.recording import Call, Value
from costsim.trace.sizes import Size, times
from costsim.trace.tensors import View
from costsim.trace.translate import aten
from costsim.trace.translator import Translator


def _patches(t: Translator, call: Call, x: Value, weight: Value, shape: Sequence[Size]) -> View:
    """The input [b, c, lengths] as [b, c, patches, places in a patch, ...]. Raises InputError if patches overlap."""
    kernel = weight.shape[2:]
    whole = all(times(n, size) == length for n, size, length in zip(shape, kernel, x.shape[2:], strict=True))
    apart = [Size(step) for step in call["stride"]] == list(kernel) and not any(call["padding"])
    if not (whole and apart) or call["transposed"] or call["groups"] != 1 or any(n != 1 for n in call["dilation"]):
        raise t.error("has patches that overlap, are padded, spread or grouped; the graph has none of these")
    view = t.view(x)
    axes = [view.axis(0), view.axis(1)]
    for number, (patches, places) in enumerate(zip(shape, kernel, strict=True), 2):
        groups = regrouped(view.axis(number), (patches, places))
        if groups is None:
            raise t.error("cuts an axis into patches that do not fit how it is cut elsewhere")
        axes += groups
    return View(view.memory, tuple(map(tuple, axes)))


@aten("einsum equation, add_bias", "convolution.default")
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


@aten("einsum equations, sum", "convolution_backward.default")
def convolution_backward(t: Translator, call: Call) -> None:
    """The gradients of input, weight and bias, as far as they are wanted."""
    dy, weight, results = call["grad_output"], call["weight"], list(call.results)
    wanted, lengths = call["output_mask"], len(weight.shape) - 2
    patches = _patches(t, call, call["input"], weight, dy.shape[2:])
    if wanted[0]:
        made = results.pop(0)
        product(t, t.view(dy), t.view(weight), Axes((), ((1, 0),)), made)
        batch, *rest = t.views[made.number].axes
        cut = [(*rest[n], *rest[lengths + 1 + n]) for n in range(lengths)]
        t.views[made.number] = View(t.views[made.number].memory, (batch, rest[lengths], *cut))
    if wanted[1]:
        summed = ((0, 0), *((2 + n, 2 + 2 * n) for n in range(lengths)))
        product(t, t.view(dy), patches, Axes((), summed), results.pop(0))
    if wanted[2]:
        reduction(t, "sum", dy, (0, *range(2, 2 + lengths)), results.pop(0), keep=False)
