"""Arguments of the Python interface: types of those that calls share, and errors that speak of them, not of options."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypedDict, TypeVar

from costsim.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from costsim.names import Law, Scope, Traffic
    from costsim.policy.policy import Policy

P = ParamSpec("P")
T = TypeVar("T")
Kind = TypeVar("Kind", bound=type)


class Convention(TypedDict, total=False):
    """What is counted and how, as options of `Workload.run` and its siblings; None is the workload's own.

    `baseline`: the policy that ratios compare with. `law`: what a MAC costs. `traffic`: the model of DRAM traffic.
    `scope`: which ops count. `bits`: a CSV file of widths per layer or tensor. `overlap`: whether arithmetic and DRAM
    traffic take place at the same time. `buffer_bytes`: on chip, for traffic tiled.
    """

    baseline: str | Policy | None
    law: Law | None
    traffic: Traffic | None
    scope: Scope | None
    bits: str | None
    overlap: bool
    buffer_bytes: int | None


class Looks(TypedDict, total=False):
    """How a figure is to look, as options of all that draw.

    `style`: "paper" (84 mm, without a title) or "slide". `width`: a length such as "84mm". `font_size`: points.
    `title`: whether there is one. `ax`: one of `figure.subplots()` in whose place it is drawn, as wide as that; the
    axis stays for a title of yours, without ticks.
    """

    style: str | None
    width: str | None
    font_size: float | None
    title: bool | None
    ax: Axes | None


# Arguments that are not named like their option.
ARGUMENTS = {
    "activations": "memory()",
    "assert": "by()",
    "assumption": "assumptions",
    "at-least": "budgets",
    "at-most": "budgets",
    "batch": "batches",
    "group": "groups",
    "no-noise": "noise",
    "no-overlap": "overlap",
    "out": "path",
    "policy": "policies",
    "set": "fields",
    "sweep": "fields",
}
_CHOICES = ("device", "engine", "law", "scope", "traffic")  # options with a word of a list after them
_WITH_VALUE = rf"--({'|'.join(_CHOICES)}) ([a-z-]+)"


def as_arguments(text: str) -> str:
    """A message with arguments in place of options: `--policy NAME` is policies=NAME, `--law bops` is law='bops'."""

    def argument(option: str) -> str:
        return ARGUMENTS.get(option, option.replace("-", "_"))

    text = re.sub(
        r"costsim run WORKLOAD --(policy|hardware) (\S+)",
        lambda m: f"load(WORKLOAD).run({argument(m[1])}=['{m[2]}'])",
        text,
    )
    text = re.sub(r"costsim run (\S+)$", r"costsim.load('\1')", text)
    text = re.sub(_WITH_VALUE, lambda m: f"{argument(m[1])}={m[2]!r}", text)
    text = re.sub(r"--([a-z][a-z-]*) (?=['A-Z])", lambda m: f"{argument(m[1])}=", text)
    return re.sub(r"--([a-z][a-z-]*)", lambda m: argument(m[1]), text)


def speaking(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose InputErrors speak of arguments."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            error.faults = [fault._replace(text=as_arguments(fault.text)) for fault in error.faults]
            raise

    return call


def speaks(kind: Kind) -> Kind:
    """The class, with all its public methods and properties `speaking`."""
    for name, member in list(vars(kind).items()):
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            assert member.fget
            setattr(kind, name, property(speaking(member.fget)))
        elif callable(member):
            setattr(kind, name, speaking(member))
    return kind
