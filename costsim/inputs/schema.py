"""Sections of files checked: pydantic finds what is wrong, and here it becomes one clear error with all of it.

pydantic is imported where there is something to check, and ends here: all else reads sections as plain data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from costsim.errors import MAX_FAULTS, Fault, InputError, nearest, one_line, refuse
from costsim.inputs.document import MAX_ITEMS, Document, Unreadable, Where, unreadable
from costsim.inputs.other_names import meant
from costsim.inputs.section import Clash, Section

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Checked = TypeVar("Checked", bound=Section)

# pydantic's complaints in our words; braces are filled from their context.
_WORDS = {
    "int_type": "expected an integer",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "dict_type": "expected fields (`name: value`)",
    "greater_than_equal": "expected at least {ge}",
    "greater_than": "expected more than {gt}",
    "less_than_equal": "expected at most {le}",
    "less_than": "expected less than {lt}",
    "too_short": "expected at least {min_length} item",
    "too_long": "expected at most {max_length} items",
    "string_too_long": "expected at most {max_length} characters",
    "string_pattern_mismatch": "expected lower-case letters, digits, dots and hyphens",
    "finite_number": "expected a finite number",
}


def _spell(value: Any) -> str:
    """A value as a YAML file spells it."""
    if isinstance(value, dict):
        return "fields"
    if isinstance(value, tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing (null)"
    return str(value).lower() if isinstance(value, bool) else one_line(repr(value))


def _message(error: Any) -> str:
    """One of pydantic's errors as one of ours."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    got = _spell(value)
    if kind == "missing":
        return "missing"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"]) or re.findall(r"\d+", context["expected"])
        return f"expected one of {', '.join(allowed)}, got {got}{nearest(value, allowed, most=0)}"
    if kind == "tuple_type" and type(value) in (str, int):
        return f"expected a list, got {got}; write [{got}]"
    if kind in _WORDS:
        return f"{_WORDS[kind].format(**context)}, got {got}"
    text = str(error["msg"])
    return text if kind == "value_error" else f"{text[0].lower()}{text[1:]}, got {got}"


def validate(section: type[Checked], document: Document, at: tuple[str, ...] = ()) -> Checked:
    """The part of a document at `at` as a checked section. Raises InputError for all that is wrong, in file order."""
    part, errors = read(section, document, at)
    refuse(errors)
    return part


@cache
def _adapter_of(section: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(section)


def _adapter(section: type[Section]) -> TypeAdapter[Any]:
    return _adapter_of(section)  # type: ignore[arg-type]  # mypy takes the hash of an instance for that of its class


def read(section: type[Checked], document: Document, at: tuple[str, ...] = ()) -> tuple[Checked, list[InputError]]:
    """The part of a document at `at` as a section, and the error for all that is wrong with it, if anything is.

    Then the section has only the fields that are right, at any depth, to check more of it; others raise UnreadError.
    """
    data: Any = document.data
    for key in at:
        data = data[key]
    if document.shipped:
        return section.of(data), []
    from pydantic import ValidationError

    try:
        return _adapter(section).validate_python(data), []
    except ValidationError as failure:
        errors = [error for error in failure.errors(include_url=False) if not _only_seems_short(error)]
    own = _own(section, errors)
    bad = [*(error["loc"] for error in errors), *_misspelt(section, errors)]
    part, clashes = _part(section, data, bad)
    own.sort(key=lambda error: document.place((*at, *error["loc"])))
    faults = [*unreadable(data), *(_fault(section, error, document, at, i < MAX_FAULTS) for i, error in enumerate(own))]
    faults += [document.error((*at, *place), message).faults[0] for place, message in clashes]
    return part, [InputError(*faults)]


def json_schema(section: type[Section]) -> dict[str, Any]:
    """The JSON schema of a section."""
    return _adapter(section).json_schema()


def _fault(section: type[Section], error: Any, document: Document, at: tuple[str, ...], hint: bool) -> Fault:
    """One of pydantic's errors as ours, with its place; without a hint where it is not told, for hints take time."""
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        message = f"unknown key {one_line(place[-1])!r}{_hint(section, place, document, at) if hint else ''}"
    else:
        message = _message(error)
    return document.error((*at, *place), message).faults[0]


def _hint(section: type[Section], place: Where, document: Document, at: tuple[str, ...]) -> str:
    """What to write instead of an unknown key: fields that others call so, or the nearest names."""
    key, owner = str(place[-1]), _owner(section, place)
    before = ".".join(map(str, (*at, *place[:-1], "")))
    fields = meant(key, document.data, map(before.__add__, owner.keys()), before + key)
    return f"; did you mean {' or '.join(map(repr, fields))}?" if fields else owner.hint(key)


def _only_seems_short(error: Any) -> bool:
    """Whether a list is too short only because pydantic counts no items that are wrong."""
    return error["type"] == "too_short" and bool(len(error["input"]) >= error["ctx"]["min_length"])


def _misspelt(section: type[Section], errors: list[Any]) -> set[Where]:
    """The fields that unknown keys stand for, of those keys that anybody may have written."""
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"][:MAX_ITEMS]
    return {(*loc[:-1], name) for loc in unknown for name in _owner(section, loc).meant(loc[-1])}


def _own(section: type[Section], errors: list[Any]) -> list[Any]:
    """Errors that follow from no other, as a field does that is missing because it is misspelt."""
    misspelt = _misspelt(section, errors)
    return [
        error
        for error in errors
        if not isinstance(error["input"], Unreadable) and not (error["type"] == "missing" and error["loc"] in misspelt)
    ]


def _owner(section: type[Section], place: Where) -> type[Section]:
    """The section, of those within another, that a field at a place belongs to."""
    for part in place[:-1]:
        field = next((field for field in section.section_fields.values() if part == field.key), None)
        section = next(_sections(field.annotation), section) if field else section
    return section


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


# --- sections read in part --------------------------------------------------------------------------------------------


def _part(section: type[Checked], data: Any, bad: Iterable[Where]) -> tuple[Checked, list[Clash]]:
    """A section without its fields in which something is bad, and what of the others does not go together."""
    values: dict[str, Any] = {}
    clashes: list[Clash] = []
    fields, within = section.section_fields, _by_first(bad)
    for name, field in fields.items() if isinstance(data, dict) else ():
        if field.key in within:
            values[name], more = _parts(field.annotation, data.get(field.key), within[field.key])
            clashes += [((field.key, *at), message) for at, message in more]
        else:
            values[name] = field.value(data[field.key]) if field.key in data else field.default
    part = section.part(
        {name: value for name, value in values.items() if value is not _BAD},
        [name for name, field in fields.items() if isinstance(data, dict) and field.key in data],
    )
    return part, [*clashes, *part.clashes()]


_BAD = object()  # what stands for a field that is left out


def _parts(annotation: Any, data: Any, bad: list[Where]) -> tuple[Any, list[Clash]]:
    """A field in which something is bad: a section or sections in part, if it has some and is not bad itself."""
    section, several = next(_sections(annotation), None), "tuple[" in str(annotation)
    if section is None or not isinstance(data, tuple if several else dict) or (several and () in bad):
        return _BAD, []
    if not several:
        return _part(section, data, bad)
    values: list[Section] = []
    clashes: list[Clash] = []
    within = _by_first(bad)
    for i, item in enumerate(data):
        value, more = _part(section, item, within.get(i, []))
        values.append(value)
        clashes += [((i, *at), message) for at, message in more]
    return tuple(values), clashes


def whole(section: Checked) -> Checked:
    """A section of plain fields. Raises UnreadError if one of them could not be read."""
    for name in section.section_fields:
        getattr(section, name)
    return section


def _by_first(places: Iterable[Where]) -> Mapping[Any, list[Where]]:
    """Places by the section, or the list's item, that they lie in: what is left of them from there."""
    within: dict[Any, list[Where]] = {}
    for place in places:
        if place:
            within.setdefault(place[0], []).append(place[1:])
    return within
