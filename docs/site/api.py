"""docs/api.md, made of the docstrings and signatures of the names in `costsim`: `python docs/site/api.py` writes it."""

import inspect
import re
from pathlib import Path

import costsim
from costsim.api import Plots
from costsim.arguments import Convention, Looks

PAGE = Path(__file__).parent.parent / "api.md"
_HEAD = """\
# What does each name in Python take and give?

All of `costsim`, name by name; [how to use it](python.md) comes first. This page is made of the docstrings.
"""


def text_of(thing: object) -> str:
    """A docstring as Markdown: its paragraphs, and indented lines as code."""
    paragraphs = (inspect.getdoc(thing) or "").split("\n\n")
    return "\n\n".join(part if not part.startswith("    ") else f"```python\n{part}\n```" for part in paragraphs)


def call_of(name: str, function: object) -> str:
    """A call with its parameters, their types and defaults."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    text = str(signature.replace(parameters=kept)).replace("'", "").replace("pd.DataFrame", "DataFrame")
    text = re.sub(r"\b(?:simulate|names|frame)\.(\w+)", r"\1", text)
    text = re.sub(r"\*\*(\w+): Unpack\[(\w+)\]", r"**\1: \2", text)
    return f"`{name}{text}`"


def members_of(kind: type) -> list[str]:
    """Methods and properties of a class, a paragraph each, in the order of the file."""
    parts = []
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            parts.append(f"### {kind.__name__}.{name}\n\n{text_of(member.fget)}")
        elif inspect.isfunction(member):
            parts.append(f"### {kind.__name__}.{name}\n\n{call_of(name, member)}\n\n{text_of(member)}")
    return parts


def page() -> str:
    """The text of the page."""
    things = {name: getattr(costsim, name) for name in costsim.__all__} | {"Plots": Plots}
    functions = [name for name in things if not inspect.isclass(things[name])]
    classes = [name for name in things if name not in functions]
    parts = [_HEAD.rstrip()]
    for name in sorted(functions):
        parts.append(f"## costsim.{name}\n\n{call_of(name, things[name])}\n\n{text_of(things[name])}")
    for kind in (Convention, Looks):
        options = "\n".join(f"- `{name}`: `{its.__forward_arg__}`" for name, its in kind.__annotations__.items())
        parts.append(f"## {kind.__name__}\n\n{text_of(kind)}\n\n{options}")
    for name in sorted(classes):
        parts += [f"## {name}\n\n{text_of(things[name])}", *members_of(things[name])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
