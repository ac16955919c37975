"""From a recording to ops of costsim's table: each aten op by the function in `aten_*` that its name has in ATEN.

What is done with axes shows what they are only as it goes, so the calls are gone through until nothing new turns up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costsim.errors import InputError
from costsim.trace.axes import Axis
from costsim.trace.recording import Call, Recording, Value
from costsim.trace.translator import Translator

Handler = Callable[[Translator, Call], None]
ATEN: dict[str, tuple[Handler, str]] = {}  # by name of the aten op: what maps it, and to what, in words

_MOST_PASSES = 20
# Ops that do with complex numbers, which are pairs in the graph, what they do with others.
_COMPLEX = ("polar", "view_as_complex", "view_as_real", "_conj", "clone", "mul", "unsqueeze", "detach")


def aten(becomes: str, *names: str) -> Callable[[Handler], Handler]:
    """Have a function translate aten ops of these names (without `aten.`); `becomes` says to what."""

    def register(handler: Handler) -> Handler:
        for name in names:
            ATEN[f"aten.{name}"] = (handler, becomes)
        return handler

    return register


def translate(recording: Recording) -> Translator:
    """The ops of a recording. Raises InputError for an aten op that has no mapping, and for what cannot be said."""
    missing: dict[str, str] = {}
    for call in recording.calls:
        if call.op not in ATEN:
            missing.setdefault(call.op, call.path)
    if missing:
        raise InputError(
            *(
                f"{recording.source}: module {path or '(outermost)'}: {op} has no mapping; see costsim list ops --aten"
                for op, path in missing.items()
            )
        )
    for call in recording.calls:
        there = (*call.results, *(x for x in call.arguments.values() if isinstance(x, Value)))
        if any(x.is_complex for x in there) and call.op.split(".")[1] not in _COMPLEX:
            place = call.path or "(outermost)"
            raise InputError(f"{recording.source}: module {place}: {call.op} has no mapping for complex numbers")
    axes: dict[Any, Axis] = {}
    before = -1
    for _ in range(_MOST_PASSES):
        made = _pass(recording, axes)
        dims = sum(len(held.dims()) for op in made.emitted for held in op.outputs)
        if dims == before:
            return made
        before = dims
    raise InputError(
        f"{recording.source}: axes are cut again and again; is a tensor viewed in shapes that do not divide?"
    )


def _pass(recording: Recording, axes: dict[Any, Axis]) -> Translator:
    made = Translator(recording, axes)
    for name, value in recording.parameters.items():
        made.give(name, value, "weight")
    for name, value in recording.given.items():
        made.give(name, value, "data")
    for number, call in enumerate(recording.calls):
        made.at = number
        if not all(value.is_empty for value in call.results):  # what has no elements takes nothing
            ATEN[call.op][0](made, call)
    return made
