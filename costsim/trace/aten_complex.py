"""Aten ops of complex numbers, which the graph has as pairs: views of them have an axis of 2 behind all others."""

from __future__ import annotations

from costsim.trace.pointwise import pointwise
from costsim.trace.recording import Call
from costsim.trace.translate import aten
from costsim.trace.translator import Translator


@aten("polar", "polar.default")
def polar(t: Translator, call: Call) -> None:
    """Complex numbers of a length and an angle."""
    pointwise(t, "polar", [call["abs"], call["angle"]], call.results[0])


@aten("nothing: the same memory", "view_as_complex.default", "view_as_real.default")
def same(t: Translator, call: Call) -> None:
    """Pairs as numbers, or numbers as pairs."""
    t.views[call.results[0].number] = t.view(call["self"])


@aten("conj", "_conj.default")
def conj(t: Translator, call: Call) -> None:
    """The conjugate. PyTorch makes it when it is copied, the graph at once; such a copy is the same then."""
    pointwise(t, "conj", [call["self"]], call.results[0])
    t.resolved.add(call.results[0].number)
