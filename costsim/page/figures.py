"""Figures of the HTML report: which plots the page has, of what, with the words under them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from costsim.page.inline import inline
from costsim.plots import svg, svg_of
from costsim.plots.style import drawable
from costsim.run.simulate import Result

if TYPE_CHECKING:
    from costsim.results.survey import Survey

MOST_PANELS = 6  # of rooflines and timelines, a panel for each policy (and device)


class PageFigure(NamedTuple):
    """A figure of the page: an SVG element, and the words under it."""

    svg: Markup
    title: str
    caption: str


def _few(result: Result, most: int) -> tuple[Result, list[str]]:
    """The result with at most so many policies, and the labels of those left out.

    The baseline and policies with published figures come first, those that do not run on a device last.
    """
    names = [counted.policy.name for counted in result.policies]
    first = {policy.name for policy in (result.job.baseline, *result.job.published_policies)}
    unsupported = {name for (name, _), spent in result.spent.items() if spent.unsupported}
    chosen = set(sorted(names, key=lambda name: (name not in first, name in unsupported))[:most])
    shown = tuple(counted for counted in result.policies if counted.policy.name in chosen)
    left_out = [each.policy.label for each in result.policies if each.policy.name not in chosen]
    return replace(result, policies=shown), left_out


def _left_out(names: Sequence[str]) -> str:
    return f" Left out here: {', '.join(names)}." if names else ""


class _Plan(NamedTuple):
    """A plot that the page has: the kind, the result to draw, and the words under it."""

    kind: str
    result: Result
    title: str
    caption: str


def _plans(result: Result) -> Iterator[_Plan]:
    base = result.baseline.policy.label
    yield _Plan(
        "comparison", result, "How many times less than the baseline",
        f"Bars to the right of 1 take less than {base}, bars to the left more. Open circles: figures that a paper "
        "states. The numbers are in the tables of policies and devices.",
    )  # fmt: skip
    yield _Plan(
        "breakdown", result, "What makes up arithmetic, DRAM traffic and memory",
        "Arithmetic and DRAM traffic of the run by phase of a step, peak memory by component. The numbers are in the "
        "tables by phase and of memory.",
    )  # fmt: skip
    if any(counted.policy.file.levels and len(counted.phases) > 1 for counted in result.policies):
        yield _Plan(
            "schedule", result, "Levels over training",
            f"Bits per level over the steps, and what has been spent by then as a share of all that {base} spends.",
        )  # fmt: skip
    if result.job.hardware:
        yield _roofline(result)
    few, others = _few(result, MOST_PANELS // 2)
    yield _Plan(
        "timeline", few, "Memory over a step",
        f"Live bytes by component while each kernel of a step runs, one after another.{_left_out(others)}",
    )  # fmt: skip


def _roofline(result: Result) -> _Plan:
    devices, others = result.job.hardware[:MOST_PANELS], result.job.hardware[MOST_PANELS:]
    few, policies = _few(result, max(1, MOST_PANELS // len(devices)))
    left_out = _left_out(policies) + _left_out([device.name for device in others])
    return _Plan(
        "roofline", replace(few, job=replace(few.job, hardware=devices)), "Kernels under the roofs of devices",
        f"A dot for each sort of kernel: arithmetic intensity and the performance that it reaches.{left_out}",
    )  # fmt: skip


def figures(result: Result, recipes: Survey | None = None) -> dict[str, PageFigure]:
    """The figures of the page, by the kind of plot; that of recipes, if there is a survey of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has fonts of its own
        made = {plan.kind: _figure(plan) for plan in _plans(drawable(result))}
        return made if recipes is None else {**made, "recipes": _of_recipes(recipes)}


def _of_recipes(recipes: Survey) -> PageFigure:
    from costsim.plots.survey import survey  # few pages have them

    noise = " Recipes are in the order of the noise that they make." if recipes.with_noise else ""
    title = "What the field's recipes would take"
    caption = (
        f"Bars to the right of 1 take less than {recipes.baseline}, bars to the left more; markers tell how well a "
        f"source backs the formats.{noise} The numbers are in the table of recipes."
    )
    drawing = inline(
        svg_of(partial(survey, recipes)),
        "figure-recipes",
        f"{title}: a figure of {len(recipes.records)} recipes. {caption}",
    )
    return PageFigure(drawing, title, caption)


def _figure(plan: _Plan) -> PageFigure:
    policies = ", ".join(counted.policy.label for counted in plan.result.policies)
    label = f"{plan.title}: a figure of {policies}. {plan.caption}"
    return PageFigure(inline(svg(plan.result, plan.kind), f"figure-{plan.kind}", label), plan.title, plan.caption)
