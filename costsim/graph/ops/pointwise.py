"""Ops on elements that line up in any order, by an equation of indices: `mul bhqk,qk->bhqk`, `sum bsd->d`.

Each function is one row here, for all equations, as a product of matrices is one einsum for all. An operand that lacks
an index of the result is repeated along it; an index that the result lacks is reduced over. These are the ops of traced
graphs, which bring their own backward, so functions have no gradients. Work is said at each point of all indices;
conventions are those of `register`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

from costsim.errors import nearest
from costsim.graph.kinds import Kind, Operand
from costsim.graph.ops.register import Array, np


class Function(NamedTuple):
    """What is done with elements that line up, or (`whole`) with arrays as they are."""

    run: Callable[..., Any]
    operands: tuple[str, ...]  # one name, starred, stands for any number of them
    params: tuple[str, ...]
    work: Mapping[str, int]
    whole: bool
    view: bool  # the result, and operands but the first, lie in the memory of that
    over: str = ""  # the operand at whose points work is done, if it is not at all indices
    picks: bool = False  # of its first operand, reads an element for each of the result


FUNCTIONS: dict[str, Function] = {}


def function(
    work: Mapping[str, int], *, whole: bool = False, view: bool = False, over: str = "", picks: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a function. Operands are its positional arguments, params those after the star.

    One that reduces takes `axes` last; one of whole arrays takes the terms of its equation and the shape of the result.
    """

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        arguments = inspect.signature(run).parameters.values()
        operands = tuple(
            f"*{a.name}" if a.kind is a.VAR_POSITIONAL else a.name
            for a in arguments
            if a.kind in (a.POSITIONAL_ONLY, a.VAR_POSITIONAL)
        )
        params = tuple(
            a.name for a in arguments if a.kind is a.KEYWORD_ONLY and a.name not in ("axes", "terms", "shape")
        )
        FUNCTIONS[run.__name__.removesuffix("_")] = Function(run, operands, params, work, whole, view, over, picks)
        return run

    return register


def lined_up(x: Array, term: str, indices: str) -> Array:
    """An array with an axis for each index, in this order: of one element where it has none."""
    order = [term.index(index) for index in indices if index in term]
    return x.transpose(order).reshape([x.shape[term.index(i)] if i in term else 1 for i in indices])


def _run(called: Function, terms: tuple[str, ...], *operands: Array, shape: tuple[int, ...], **params: Any) -> Array:
    """A function on elements that line up."""
    y = terms[-1]
    reduced = "".join(dict.fromkeys(index for term in terms[:-1] for index in term if index not in y))
    lined = [lined_up(x, term, y + reduced) for x, term in zip(operands, terms[:-1], strict=True)]
    if "axes" in inspect.signature(called.run).parameters:
        params["axes"] = tuple(range(len(y), len(y) + len(reduced)))
    made = called.run(*lined, **params)
    return made if np.shape(made) == shape else np.broadcast_to(made, shape).copy()


def _names(operands: tuple[str, ...], number: int) -> tuple[str, ...]:
    """The names of so many operands."""
    if operands[-1:] and operands[-1].startswith("*"):
        fixed = operands[:-1]
        return fixed + tuple(f"{operands[-1][1:]}{i}" for i in range(number - len(fixed)))
    return operands


@cache
def pointwise(text: str) -> Kind:
    """The kind of a function and an equation. Raises ValueError for a text that is none."""
    match = re.fullmatch(r"(\w+) ([a-zA-Z,]*)->([a-zA-Z]*)", text)
    called = FUNCTIONS.get(match[1]) if match else None
    if match is None or called is None:
        raise ValueError(f"unknown op kind {text!r}{nearest(text.partition(' ')[0], FUNCTIONS)}")
    given = tuple(match[2].split(",")) if called.operands else ()
    names = _names(called.operands, len(given))
    if len(names) != len(given) or any(len(set(term)) != len(term) for term in (*given, match[3])):
        raise ValueError(f"{text}: {match[1]} takes {len(called.operands)} operands, no index twice in one")
    terms = (*given, match[3])
    points = match[3] if called.whole else "".join(dict.fromkeys(match[3] + "".join(given)))
    if called.over:
        points = given[called.operands.index(called.over)]
    run = partial(called.run, terms=terms) if called.whole else partial(_run, called, terms)
    return Kind(
        name=text,
        inputs=tuple(Operand(name, tuple(term)) for name, term in zip(names, given, strict=True)),
        outputs=(Operand("y", tuple(match[3])),),
        work=((tuple(points), dict(called.work)),) if called.work else (),
        grads=(),
        run=run,
        torch=f"pointwise.{match[1]}",
        params=called.params,
        runtime=("shape",),
        touches={names[0]: tuple(match[3])} if called.picks else None,
        view=called.view,
        lies_in=dict.fromkeys((*names[1:], "y"), names[0]) if called.view else None,
    )
