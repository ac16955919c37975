"""Figures of the HTML report: plots as inline SVG, with names of their own and words for who cannot see them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple
from xml.etree import ElementTree

from costsim.plots import svg
from costsim.plots.style import drawable
from costsim.run.simulate import Result

MOST_PANELS = 6  # of rooflines and timelines, a panel for each policy (and device)
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_POINTS_PER_PIXEL = 0.75


class PageFigure(NamedTuple):
    """A figure: its place on the page, its SVG element, its words."""

    name: str
    svg: str
    title: str
    caption: str


def _short(numbers: str) -> str:
    """Coordinates with two decimals, which is a hundredth of a pixel."""
    return _NUMBER.sub(lambda its: f"{float(its[0]):.2f}".rstrip("0").rstrip("."), numbers)


def _renamed(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Names that something refers to get a prefix, others go: several figures are in one page."""
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
    """The names that clip paths and uses refer to."""
    found = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == _HREF:
                found.add(value[1:])
            elif value.startswith("url(#"):
                found.add(value[5:-1])
    return found


def inline(text: str, prefix: str, label: str) -> str:
    """An SVG file as an element for a page: no style, no metadata, names of its own, a label for screen readers."""
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
    return ElementTree.tostring(root, encoding="unicode")


def _few(result: Result, most: int) -> tuple[Result, str]:
    """The result with at most so many policies, and which are left out: the baseline and those with published figures
    come first, those that do not run on a device last."""
    if len(result.policies) <= most:
        return result, ""
    said = {policy.name for policy in (result.job.baseline, *result.job.published_policies)}
    lacks = {name for (name, _), its in result.spent.items() if its.unsupported}
    ranked = sorted(result.policies, key=lambda its: (its.policy.name not in said, its.policy.name in lacks))
    chosen = {its.policy.name for its in ranked[:most]}
    left = [its.policy.name for its in result.policies if its.policy.name not in chosen]
    shown = tuple(its for its in result.policies if its.policy.name in chosen)
    return replace(result, policies=shown), f" Left out here: {', '.join(left)}."


def _planned(result: Result) -> Iterator[tuple[str, Result, str, str]]:
    """Which plots the page has: kind, what is drawn, title, caption."""
    base = result.job.convention.baseline
    yield (
        "comparison", result, "How many times less than the baseline",
        f"Bars to the right of 1 take less than {base}, bars to the left more. Open circles: figures that a paper "
        "states. The numbers are in the tables of policies and devices.",
    )  # fmt: skip
    yield (
        "breakdown", result, "What makes up arithmetic, DRAM traffic and memory",
        "Arithmetic and DRAM traffic of the run by phase of a step, peak memory by component. The numbers are in the "
        "tables by phase and of memory.",
    )  # fmt: skip
    if any(its.policy.file.levels and len(its.phases) > 1 for its in result.policies):
        yield (
            "schedule", result, "Levels over training",
            f"Bits per level over the steps, and what has been spent by then as a share of all that {base} spends.",
        )  # fmt: skip
    if result.job.hardware:
        devices = result.job.hardware[:MOST_PANELS]
        shown, left = _few(result, max(1, MOST_PANELS // len(devices)))
        more = [device.name for device in result.job.hardware[len(devices) :]]
        left += f" Left out here: {', '.join(more)}." if more else ""
        drawn = replace(shown, job=replace(shown.job, hardware=devices))
        yield (
            "roofline", drawn, "Kernels under the roofs of devices",
            f"A dot for each sort of kernel: arithmetic intensity and the performance that it reaches.{left}",
        )  # fmt: skip
    shown, left = _few(result, MOST_PANELS // 2)
    yield (
        "timeline", shown, "Memory over a step",
        f"Live bytes by component while each kernel of a step runs, one after another.{left}",
    )  # fmt: skip


def figures(result: Result) -> dict[str, PageFigure]:
    """The page's figures, by the kind of plot that each is."""
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has fonts of its own
        for kind, drawn, title, caption in _planned(drawable(result)):
            label = f"{title}: a figure of {', '.join(its.policy.name for its in drawn.policies)}. {caption}"
            found[kind] = PageFigure(kind, inline(svg(drawn, kind), f"figure-{kind}", label), title, caption)
    return found
