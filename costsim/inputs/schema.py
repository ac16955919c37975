"""What all sections of files share: the types of fields, and the check that gives one clear error for bad input.

The sections themselves are in schema_workload, schema_policy, schema_hardware, and for models in costsim/models.
pydantic ends here: the rest of the package reads these frozen objects as plain data.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from costsim.errors import InputError, nearest, one_line
from costsim.inputs.document import Document, Where

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

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = cls.keys()
            for key in data:
                if key not in known:
                    context = {"key": key, "hint": nearest(key, known, most=20)}
                    raise PydanticCustomError("unknown_key", "unknown key", context)
        return data


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


_MEANT = re.compile(r"(?:did you mean|write) '?(\w+)")  # in a hint


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
    if kind == "unknown_key":
        return f"unknown key {one_line(context['key'])!r}{context['hint']}"
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
        faults = [(_place(error, at), _message(error)) for error in _distinct(_errors(section, data, failure))]
        faults.sort(key=lambda fault: document.line_of(fault[0]))
        raise InputError(*(str(document.error(where, message)) for where, message in faults)) from None


def _errors(section: type[Section], data: Any, failure: ValidationError) -> list[Any]:
    """All of pydantic's errors. A section with an unknown key is looked at again without it, for what else is wrong."""
    errors: list[Any] = []
    while True:
        found = failure.errors(include_url=False)
        errors += found
        unknown = [(*error["loc"], error["ctx"]["key"]) for error in found if error["type"] == "unknown_key"]
        before = data
        for place in unknown:
            data = _without(data, place)
        if data == before:
            return errors
        errors = [error for error in errors if error["type"] == "unknown_key"]
        try:
            section.model_validate(data)
        except ValidationError as next_failure:
            failure = next_failure
        else:
            return errors


def _distinct(errors: list[Any]) -> list[Any]:
    """Without what only follows from others: a field that is missing as it is misspelled, a list without its faults."""
    hints = [(error["loc"], _MEANT.search(error["ctx"]["hint"])) for error in errors if error["type"] == "unknown_key"]
    misspelled = {(*loc, hint[1]) for loc, hint in hints if hint}
    return [
        error
        for error in errors
        if not (error["type"] == "missing" and error["loc"] in misspelled)
        and not (error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])
    ]


def _without(data: Any, place: Where) -> Any:
    """The data without what stands at a place."""
    key, *inner = place
    if isinstance(data, tuple):
        return tuple(_without(item, tuple(inner)) if at == key else item for at, item in enumerate(data))
    if not isinstance(data, dict) or key not in data:
        return data
    return {k: _without(v, tuple(inner)) if inner and k == key else v for k, v in data.items() if inner or k != key}


def _place(error: Any, at: tuple[str, ...]) -> Where:
    """The field that one of pydantic's errors is about."""
    unknown = (error["ctx"]["key"],) if error["type"] == "unknown_key" else ()
    return (*at, *error["loc"], *unknown)
