"""Figures of the HTML report: plots as inline SVG, with ids of their own and a label for readers who cannot see."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from costsim.plots import svg
from costsim.plots.style import drawable
from costsim.run.simulate import Result

MOST_PANELS = 6  # of rooflines and timelines, a panel for each policy (and device)
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_POINTS_PER_PIXEL = 0.75


class PageFigure(NamedTuple):
    """A figure of the page: an SVG element, and the words under it."""

    svg: Markup
    title: str
    caption: str


def _short(numbers: str) -> str:
    """Coordinates with two decimals, which is a hundredth of a pixel."""
    return _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), numbers)


def _renamed(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Ids in use get a prefix, others go, for several figures are in one page; coordinates become short."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            if value in used:
                element.set(key, f"{prefix}-{value}")
            else:
                del element.attrib[key]
        elif key == _HREF:
            del element.attrib[key]
            element.set("href", f"#{prefix}-{value[1:]}")
        elif value.startswith("url(#"):
            element.set(key, f"url(#{prefix}-{value[5:]}")
        elif key in ("d", "x", "y", "transform"):
            element.set(key, _short(value))


def _used(root: ElementTree.Element) -> set[str]:
    """The ids that clip paths and `use` elements refer to."""
    ids = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == _HREF:
                ids.add(value[1:])
            elif value.startswith("url(#"):
                ids.add(value[5:-1])
    return ids


def inline(text: str, prefix: str, label: str) -> Markup:
    """An SVG file as an element for a page: no style, no metadata, ids with a prefix, a label for screen readers."""
    root = ElementTree.fromstring(text)
    used = _used(root)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.tail = None  # lines and indents
        element.text = element.text if (element.text or "").strip() else None
        _renamed(element, prefix, used)
    width = float(root.attrib["width"].removesuffix("pt")) / _POINTS_PER_PIXEL
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label, "style": f"max-width:{width:.0f}px"}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _few(result: Result, most: int) -> tuple[Result, list[str]]:
    """The result with at most so many policies, and the names of those left out.

    The baseline and policies with published figures come first, those that do not run on a device last.
    """
    names = [counted.policy.name for counted in result.policies]
    first = {policy.name for policy in (result.job.baseline, *result.job.published_policies)}
    unsupported = {name for (name, _), spent in result.spent.items() if spent.unsupported}
    chosen = set(sorted(names, key=lambda name: (name not in first, name in unsupported))[:most])
    shown = tuple(counted for counted in result.policies if counted.policy.name in chosen)
    return replace(result, policies=shown), [name for name in names if name not in chosen]


def _left_out(names: Sequence[str]) -> str:
    return f" Left out here: {', '.join(names)}." if names else ""


class _Plan(NamedTuple):
    """A plot that the page has: the kind, the result to draw, and the words under it."""

    kind: str
    result: Result
    title: str
    caption: str


def _plans(result: Result) -> Iterator[_Plan]:
    base = result.job.convention.baseline
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


def figures(result: Result) -> dict[str, PageFigure]:
    """The figures of the page, by the kind of plot."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has fonts of its own
        return {plan.kind: _figure(plan) for plan in _plans(drawable(result))}


def _figure(plan: _Plan) -> PageFigure:
    policies = ", ".join(counted.policy.name for counted in plan.result.policies)
    label = f"{plan.title}: a figure of {policies}. {plan.caption}"
    return PageFigure(inline(svg(plan.result, plan.kind), f"figure-{plan.kind}", label), plan.title, plan.caption)
