"""What all sections of files share: the types of fields, and the check that gives one clear error for bad input.

The sections themselves are in schema_workload, schema_policy, schema_hardware, and for models in costsim/models.
pydantic ends here: the rest of the package reads these frozen objects as plain data.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from costsim.errors import Fault, InputError, near, nearest, one_line
from costsim.inputs.document import Document, Unreadable, Where, unreadable

MAX_INTEGER = 10**18  # larger sizes are typing errors; products are exact Python integers anyway

Grade = Literal["stated", "inferred", "recalled", "fitted", "ours"]  # how well a source backs a choice
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]


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


def clash(section: Strict, faults: Iterable[tuple[tuple[str, ...], str]]) -> None:
    """Raise what a section's own validator finds, if it finds anything: messages, each with the place of a field."""
    details = [
        InitErrorDetails(type=PydanticCustomError("value_error", "{fault}", {"fault": message}), loc=at, input=section)
        for at, message in faults
    ]
    if details:
        raise ValidationError.from_exception_data(type(section).__name__, details)


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
    data: Any = document.data
    for part in at:
        data = data[part]
    try:
        return section.model_validate(data)
    except ValidationError as failure:
        errors = _own(section, failure.errors(include_url=False))
        faults = [_fault(section, error, document, at) for error in errors]
        raise InputError(*unreadable(data), *faults) from None


def _fault(section: type[Strict], error: Any, document: Document, at: tuple[str, ...]) -> Fault:
    """One of pydantic's errors as ours, with its place."""
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        message = f"unknown key {one_line(place[-1])!r}{_owner(section, place).hint(place[-1])}"
    else:
        message = _message(error)
    return document.error((*at, *place), message).faults[0]


def _own(section: type[Strict], errors: list[Any]) -> list[Any]:
    """Errors that follow from no other, as a field does that is missing because it is misspelt, or a list too short."""
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    misspelt = {(*loc[:-1], name) for loc in unknown for name in _owner(section, loc).meant(loc[-1])}
    return [
        error
        for error in errors
        if not isinstance(error["input"], Unreadable)
        and not (error["type"] == "missing" and error["loc"] in misspelt)
        and not (error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])
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
