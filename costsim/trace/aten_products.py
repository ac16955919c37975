"""Aten ops that multiply matrices: einsum equations."""

from __future__ import annotations

from costsim.trace.pointwise import pointwise, scaled
from costsim.trace.products import BATCHED, MATRIX, Axes, product
from costsim.trace.recording import Call, Value
from costsim.trace.translate import aten
from costsim.trace.translator import Translator


@aten("einsum equation", "mm.default")
def mm(t: Translator, call: Call) -> None:
    """A product of two matrices."""
    product(t, t.view(call["self"]), t.view(call["mat2"]), MATRIX, call.results[0])


@aten("einsum equation", "bmm.default")
def bmm(t: Translator, call: Call) -> None:
    """A batch of products."""
    product(t, t.view(call["self"]), t.view(call["mat2"]), BATCHED, call.results[0])


@aten("einsum equation, add_bias", "addmm.default")
def addmm(t: Translator, call: Call) -> None:
    """A product of two matrices, and a bias."""
    made = call.results[0]
    product(t, t.view(call["mat1"]), t.view(call["mat2"]), MATRIX, made)
    _plus(t, call, made)


@aten("einsum equation, add", "baddbmm.default")
def baddbmm(t: Translator, call: Call) -> None:
    """A batch of products, and what is added to it."""
    made = call.results[0]
    product(t, t.view(call["batch1"]), t.view(call["batch2"]), BATCHED, made)
    _plus(t, call, made)


def _plus(t: Translator, call: Call, made: Value) -> None:
    """Scale the product and what is added as the call says, and add both."""
    product, bias = made, call["self"]
    if call["alpha"] != 1:
        product = scaled(t, product, call["alpha"])
    if call["beta"] == 0:
        t.views[made.number] = t.view(product)
        return
    if call["beta"] != 1:
        bias = scaled(t, bias, call["beta"])
    pointwise(t, "add", [product, bias], made)


@aten("einsum equation", "mv.default")
def mv(t: Translator, call: Call) -> None:
    """A matrix times a vector."""
    product(t, t.view(call["self"]), t.view(call["vec"]), Axes((), ((1, 0),)), call.results[0])


@aten("einsum equation", "dot.default")
def dot(t: Translator, call: Call) -> None:
    """A vector times a vector."""
    product(t, t.view(call["self"]), t.view(call["tensor"]), Axes((), ((0, 0),)), call.results[0])
