"""What all sections of files share: the types of fields, and the check that gives one clear error for bad input.

The sections themselves are in schema_workload, schema_policy, schema_hardware, and for models in costsim/models.
pydantic ends here: the rest of the package reads these frozen objects as plain data.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from costsim.errors import MAX_FAULTS, Fault, InputError, UnreadError, near, nearest, one_line, refuse
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.inputs.document import MAX_ITEMS, Document, Unreadable, Where, unreadable

MAX_INTEGER = 10**18  # larger sizes are typing errors; products are exact Python integers anyway

Grade = Literal["stated", "inferred", "recalled", "fitted", "ours"]  # how well a source backs a choice
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Hundred = Field(max_length=100)  # of what each item takes a file to read, or a run
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]


Clash = tuple[tuple[str | int, ...], str]  # of fields that do not go together: the place, and what is wrong


class Strict(BaseModel):
    """A section of a file: frozen, no silent conversions, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    @classmethod
    def keys(cls) -> set[str]:
        """The names of its fields, as files spell them."""
        return {info.alias or name for name, info in cls.model_fields.items()}

    @classmethod
    def meant(cls, key: str) -> list[str]:
        """The fields that a key that it does not have may stand for."""
        return near(key, cls.keys())

    @classmethod
    def hint(cls, key: str) -> str:
        """What to write instead of a key that it does not have."""
        return nearest(key, cls.keys(), most=20)

    if not TYPE_CHECKING:  # where it would hide from mypy what a section has

        def __getattr__(self, name: str) -> Any:
            """Raises UnreadError for a field of a section that was read in part."""
            if name in type(self).model_fields:
                raise UnreadError(name)
            return super().__getattr__(name)


def wrong(message: str) -> PydanticCustomError:
    """What validators raise, in our words."""
    return PydanticCustomError("value_error", "{message}", {"message": message})


def clash(section: Strict, clashes: Iterable[Clash]) -> None:
    """Raise what a section's own validator finds, if it finds anything, as pydantic wants it."""
    details = [InitErrorDetails(type=wrong(message), loc=at, input=section) for at, message in clashes]
    if details:
        raise ValidationError.from_exception_data(type(section).__name__, details)


def parsed(name: str) -> Format:
    """The format of that name. Raises what pydantic takes as the fault of a field."""
    try:
        return parse_format(name)
    except InputError as error:
        raise wrong(str(error)) from None


# --- checking ---------------------------------------------------------------------------------------------------------

Section = TypeVar("Section", bound=Strict)

# pydantic's complaints in our words; braces are filled from their context.
_WORDS = {
    "int_type": "expected an integer",
    "float_type": "expected a number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "dict_type": "expected fields (`name: value`)",
    "model_type": "expected fields (`name: value`)",
    "model_attributes_type": "expected fields (`name: value`)",
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
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"expected one of {', '.join(allowed)}, got {got}{nearest(value, allowed, most=0)}"
    if kind in _WORDS:
        return f"{_WORDS[kind].format(**context)}, got {got}"
    text = str(error["msg"])
    return text if kind == "value_error" else f"{text[0].lower()}{text[1:]}, got {got}"


def validate(section: type[Section], document: Document, at: tuple[str, ...] = ()) -> Section:
    """The part of a document at `at` as a checked section. Raises InputError for all that is wrong, in file order."""
    part, errors = read(section, document, at)
    refuse(errors)
    return part


def read(section: type[Section], document: Document, at: tuple[str, ...] = ()) -> tuple[Section, list[InputError]]:
    """The part of a document at `at` as a section, and the error for all that is wrong with it, if anything is.

    Then the section has only the fields that are right, at any depth, to check more of it; others raise UnreadError.
    """
    data: Any = document.data
    for key in at:
        data = data[key]
    try:
        return section.model_validate(data, context={"folder": Path(document.path).parent}), []  # of files it names
    except ValidationError as failure:
        errors = [error for error in failure.errors(include_url=False) if not _only_seems_short(error)]
    own = _own(section, errors)
    bad = [*(error["loc"] for error in errors), *_misspelt(section, errors)]
    part, clashes = _part(section, data, bad)
    own.sort(key=lambda error: document.place((*at, *error["loc"])))
    faults = [*unreadable(data), *(_fault(section, error, document, at, i < MAX_FAULTS) for i, error in enumerate(own))]
    faults += [document.error((*at, *place), message).faults[0] for place, message in clashes]
    return part, [InputError(*faults)]


def _fault(section: type[Strict], error: Any, document: Document, at: tuple[str, ...], hint: bool) -> Fault:
    """One of pydantic's errors as ours, with its place; without a hint where it is not told, for hints take time."""
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        message = f"unknown key {one_line(place[-1])!r}{_owner(section, place).hint(place[-1]) if hint else ''}"
    else:
        message = _message(error)
    return document.error((*at, *place), message).faults[0]


def _only_seems_short(error: Any) -> bool:
    """Whether a list is too short only because pydantic counts no items that are wrong."""
    return error["type"] == "too_short" and bool(len(error["input"]) >= error["ctx"]["min_length"])


def _misspelt(section: type[Strict], errors: list[Any]) -> set[Where]:
    """The fields that unknown keys stand for, of those keys that anybody may have written."""
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"][:MAX_ITEMS]
    return {(*loc[:-1], name) for loc in unknown for name in _owner(section, loc).meant(loc[-1])}


def _own(section: type[Strict], errors: list[Any]) -> list[Any]:
    """Errors that follow from no other, as a field does that is missing because it is misspelt."""
    misspelt = _misspelt(section, errors)
    return [
        error
        for error in errors
        if not isinstance(error["input"], Unreadable) and not (error["type"] == "missing" and error["loc"] in misspelt)
    ]


def _owner(section: type[Strict], place: Where) -> type[Strict]:
    """The section, of those within another, that a field at a place belongs to."""
    for part in place[:-1]:
        info = next((info for name, info in section.model_fields.items() if part == (info.alias or name)), None)
        section = next(_sections(info.annotation), section) if info else section
    return section


def _sections(annotation: Any) -> Iterator[type[Strict]]:
    """The sections that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


# --- sections read in part --------------------------------------------------------------------------------------------


def _part(section: type[Section], data: Any, bad: Iterable[Where]) -> tuple[Section, list[Clash]]:
    """A section without its fields in which something is bad, and what of the others does not go together."""
    values: dict[str, Any] = {}
    clashes: list[Clash] = []
    within = _by_first(bad)
    for name, info in section.model_fields.items():
        key = info.alias or name
        if not isinstance(data, dict):
            values[key] = _BAD
        elif key in within:
            values[key], more = _parts(info.annotation, data.get(key), within[key])
            clashes += [((key, *at), message) for at, message in more]
        elif key in data:
            values[key] = getattr(_alone(section, name).model_validate({key: data[key]}), name)
    construct: Any = section.model_construct  # for mypy, of a Strict
    part: Section = construct(**values)
    for name in [name for name, value in vars(part).items() if value is _BAD]:
        del part.__dict__[name]
    return part, clashes + _clashes(part)


_BAD = object()  # what stands for a field that is left out


def _parts(annotation: Any, data: Any, bad: list[Where]) -> tuple[Any, list[Clash]]:
    """A field in which something is bad: a section or sections in part, if it has some and is not bad itself."""
    section, several = next(_sections(annotation), None), "tuple[" in str(annotation)
    if section is None or not isinstance(data, tuple if several else dict) or (several and () in bad):
        return _BAD, []
    if not several:
        return _part(section, data, bad)
    values: list[Strict] = []
    clashes: list[Clash] = []
    within = _by_first(bad)
    for i, item in enumerate(data):
        value, more = _part(section, item, within[i]) if i in within else (section.model_validate(item), [])
        values.append(value)
        clashes += [((i, *at), message) for at, message in more]
    return tuple(values), clashes


def without(section: Section, names: Iterable[str]) -> Section:
    """A section as if some of its fields could not be read."""
    part = section.model_copy()
    for name in names:
        part.__dict__.pop(name, None)
    return part


def whole(section: Section) -> Section:
    """A section of plain fields. Raises UnreadError if one of them could not be read."""
    for name in type(section).model_fields:
        getattr(section, name)
    return section


def _by_first(places: Iterable[Where]) -> Mapping[Any, list[Where]]:
    """Places by the section, or the list's item, that they lie in: what is left of them from there."""
    within: dict[Any, list[Where]] = {}
    for place in places:
        if place:
            within.setdefault(place[0], []).append(place[1:])
    return within


@cache
def _alone(section: type[Strict], name: str) -> type[Strict]:
    """A section with one field of another."""
    info = section.model_fields[name]
    field: Any = (info.annotation, info)
    return create_model(section.__name__, __base__=Strict, **{name: field})


def _clashes(part: Strict) -> list[Clash]:
    """What a section's own validators refuse of what there is of it."""
    clashes: list[Clash] = []
    for validator in type(part).__pydantic_decorators__.model_validators.values():
        if validator.info.mode == "after":
            try:
                validator.func(part)
            except UnreadError:
                continue
            except PydanticCustomError as error:
                clashes.append(((), error.message()))
            except ValidationError as failure:
                clashes += [(error["loc"], error["msg"]) for error in failure.errors(include_url=False)]
    return clashes
