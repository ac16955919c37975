"""Commented starting files, made of the schema of a file and an example: every field explained, most of them left out.

`# text` explains the field under it. `#field: value` is a field that is left out, with its default, or an example of a
section. What a kind of section has is explained where the first of the kind stands.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from costsim.inputs.section import MAX_INTEGER

_WIDTH = 100  # of a line of comments

JsonSchema = Mapping[str, Any]
Example = Mapping[str, Any]


def starting_text(schema: JsonSchema, given: Example, offered: Mapping[str, Example]) -> str:
    """The text of a file that has the fields `given`; `offered` are examples of fields left out, by kind of section.

    `schema` is the file's JSON schema, with a description for each field; a kind of section is its title there.
    """
    return "\n".join(_Writer(schema.get("$defs", {}), offered).section(schema, given)) + "\n"


class _Writer:
    """What a file's text is made with: the schemas of its sections, and those that were explained already."""

    def __init__(self, definitions: Mapping[str, JsonSchema], offered: Mapping[str, Example]) -> None:
        self.definitions, self.offered = definitions, offered
        self.explained: list[JsonSchema] = []

    def section(self, schema: JsonSchema, given: Example) -> list[str]:
        """The lines of a section: its fields, and, of the first of its kind, what each means and all others."""
        first, offered = schema not in self.explained, self.offered.get(schema["title"], {})
        self.explained.append(schema)
        lines: list[str] = []
        for name, value in given.items():
            field = schema["properties"][name]
            lines += _explanation(field) if first else []
            lines += self.field(name, field, value)
        for name, field in schema["properties"].items() if first else ():
            if name not in given:
                example = offered.get(name, field.get("default"))
                lines += _explanation(field) + [f"#{line}" for line in self.field(name, field, example)]
        return lines

    def field(self, name: str, field: JsonSchema, value: Any) -> list[str]:
        """The lines of one field."""
        section = self.section_of(field)
        if section is not None and isinstance(value, Mapping):
            full = value or {key: part["default"] for key, part in section["properties"].items() if "default" in part}
            return [f"{name}:", *_indented(self.section(section, full))]
        if section is not None and value and not isinstance(value, str):
            items = [_item(self.section(section, item)) for item in value if item]
            if items:
                return [f"{name}:", *_indented([line for item in items for line in item])]
        return [f"{name}: {_spelled(value)}"]

    def section_of(self, field: JsonSchema) -> JsonSchema | None:
        """The section that a field is, may be, or lists; None for plain values."""
        if "properties" in field:
            return field
        if "$ref" in field:
            return self.definitions[field["$ref"].rpartition("/")[2]]
        parts = [*field.get("anyOf", ()), *([field["items"]] if "items" in field else [])]
        return next((section for part in parts if (section := self.section_of(part))), None)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _item(lines: Sequence[str]) -> list[str]:
    """The lines of a section as an item of a list: the dash stands before its first field."""
    at = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [f"{'- ' if i == at else '  '}{line}" for i, line in enumerate(lines)]


def _spelled(value: Any) -> str:
    """A value as YAML has it, in one line."""
    import yaml

    plain = _plain(value)
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


# --- what is said of a field ------------------------------------------------------------------------------------------


def _explanation(field: JsonSchema) -> list[str]:
    """The comment above a field: what it means, and which values it may have."""
    allowed = _allowed(field)
    text = field["description"] + (f" ({allowed})" if allowed else "")
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)]


def _allowed(field: JsonSchema) -> str:
    """Which values a field may have, in words; nothing for what can only be a section."""
    if "anyOf" in field:
        return ", or ".join(_allowed(part) or "fields" for part in field["anyOf"])
    if "enum" in field:
        return f"one of {', '.join(map(str, field['enum']))}"
    if "const" in field:
        return str(field["const"])
    kind = field.get("type")
    if kind == "array":
        words = _allowed(field["items"]) if "items" in field else ""
        return f"a list; each: {words}" if words else "a list"
    return {
        "boolean": "true or false",
        "integer": f"a whole number{_limits(field)}",
        "number": f"a number{_limits(field)}",
        "string": "lower-case letters, digits, dots and hyphens" if "pattern" in field else "text",
        "null": "null",
    }.get(str(kind), "")


_LIMITS = (
    ("minimum", "from {} on"),
    ("exclusiveMinimum", "above {}"),
    ("maximum", "up to {}"),
    ("exclusiveMaximum", "below {}"),
)


def _limits(field: JsonSchema) -> str:
    """The limits of a number; nothing of the largest size that files can have."""
    parts = [words.format(f"{field[key]:g}") for key, words in _LIMITS if field.get(key, MAX_INTEGER) != MAX_INTEGER]
    return "".join(f" {part}" for part in parts)
