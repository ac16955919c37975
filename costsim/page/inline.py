"""An SVG file as an element of a page: ids of its own, short coordinates, a label for readers who cannot see."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_POINTS_PER_PIXEL = 0.75
_LEAST = 0.95  # of its width: in a narrower window a figure scrolls, since its smallest letters have 7 points


def _short(numbers: str) -> str:
    """Coordinates with two decimals, which is a hundredth of a pixel."""
    return _NUMBER.sub(lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), numbers)


def _renamed(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Give ids in use a prefix, as one page has several figures; drop other ids; shorten coordinates."""
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
    root.attrib |= {
        "role": "img",
        "aria-label": label,
        "style": f"max-width:{width:.0f}px;min-width:{_LEAST * width:.0f}px",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))
