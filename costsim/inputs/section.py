"""What a section of a file is: frozen fields with limits, and what of them does not go together. Plain data.

The sections themselves are in schema_workload, schema_policy, schema_hardware, and for models in costsim/models. What
users write is checked by pydantic, which `schema` imports where there is something to check; the hooks for it are here.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from types import MappingProxyType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NoReturn,
    Self,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)

from costsim.errors import InputError, UnreadError, apart, near, nearest
from costsim.formats.format import Format
from costsim.formats.named import parse_format

MAX_INTEGER = 10**18  # larger sizes are typing errors; products are exact Python integers anyway

Clash = tuple[tuple[str | int, ...], str]  # of fields that do not go together: the place, and what is wrong

# --- fields -----------------------------------------------------------------------------------------------------------

REQUIRED: Any = object()  # in place of the default of a field that every file has to have


class Said:
    """What is said of a field, as its default or in `Annotated`: limits as pydantic names them, and what it means."""

    def __init__(
        self,
        default: Any,
        description: str = "",
        key: str = "",
        limits: Mapping[str, Any] = MappingProxyType({}),
        unsaid: str = "",
    ) -> None:
        self.default, self.description, self.key, self.limits = default, description, key, limits
        self.unsaid = unsaid

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """For pydantic: the limits."""
        schema = handler(source)
        if self.limits and schema["type"].startswith("function"):
            raise TypeError(f"in Annotated, limits of a value come before functions of it: {source}")
        return {**schema, **self.limits}

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> Any:
        """For pydantic: the description."""
        json_schema = handler(core_schema)
        return {**json_schema, "description": self.description} if self.description else json_schema


def Field(  # noqa: N802
    default: Any = REQUIRED, *, description: str = "", key: str = "", unsaid: str = "", **limits: Any
) -> Any:
    """What is said of a field; `key` is its name in files, where that is none for Python.

    `unsaid` is the attribute of the section that is in force where the field is None.
    """
    return Said(default, description, key, limits, unsaid)


class WrongError(Exception):
    """What is wrong with a value, in our words; `got`: the value is to be told as well."""

    def __init__(self, message: str, got: bool = False) -> None:
        super().__init__(message)
        self.got = got


def _translated(function: Callable[[Any], Any], value: Any) -> Any:
    """What a function makes of a value. Raises what pydantic takes as the fault of a field."""
    from pydantic_core import PydanticCustomError

    try:
        return function(value)
    except WrongError as wrong:
        kind: Literal["own", "value_error"] = "own" if wrong.got else "value_error"
        raise PydanticCustomError(kind, "{message}", {"message": str(wrong)}) from None


class After:
    """In `Annotated`: a function that raises WrongError for a value that is none, and else gives it back."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """For pydantic: the function after all other checks."""
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(partial(_translated, self.function), handler(source))


class Before:
    """In `Annotated`: a function that makes a value of what files have, before it is checked."""

    def __init__(self, function: Callable[[Any], Any], json_schema: Callable[[Any], Any] | None = None) -> None:
        self.function, self.json_schema = function, json_schema

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """For pydantic: the function before all other checks."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(partial(_translated, self.function), handler(source))

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> Any:
        """For pydantic: what files have, in a JSON schema."""
        json_schema = handler(core_schema)
        return self.json_schema(json_schema) if self.json_schema else json_schema


class SectionField:
    """A field of a section: its name in Python and in files, its type and its default."""

    def __init__(self, name: str, annotation: Any, said: Said) -> None:
        self.name, self.key, self.default, self.description = name, said.key or name, said.default, said.description
        self.unsaid = said.unsaid
        self.annotation = Annotated[annotation, said] if said.limits or said.description else annotation

    @cached_property
    def take(self) -> Callable[[Any], Any] | None:
        """What makes its value of data that is right; None: they are the same."""
        return taking(self.annotation)

    def value(self, data: Any) -> Any:
        """Its value, of data that is right."""
        return data if self.take is None else self.take(data)


def taking(annotation: Any) -> Callable[[Any], Any] | None:
    """What makes a value of a type of data that is right; None: they are the same."""
    if annotation is float:
        return float
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation.of
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        inner = taking(arguments[0])
        before = [mark.function for mark in arguments[1:] if isinstance(mark, Before)]
        return partial(_in_turn, [*before, inner] if inner else before) if before else inner
    if origin in (Union, UnionType):
        inner = next((take for argument in arguments if (take := taking(argument))), None)
        return inner and partial(_if_any, inner)
    if origin is tuple:
        inner = taking(arguments[0])
        return inner and partial(_each, inner)
    return None


def _in_turn(functions: Iterable[Callable[[Any], Any]], value: Any) -> Any:
    for function in functions:
        value = function(value)
    return value


def _if_any(function: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else function(value)


def _each(function: Callable[[Any], Any], values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple([function(value) for value in values])


# --- sections ---------------------------------------------------------------------------------------------------------


class from_file(property):  # noqa: N801
    """A property of a section that is read from a file which a field names: the file may change and the field stay."""


Check = Callable[[Any], Iterator[Clash]]


def check(method: Check) -> Check:
    """Mark a method of a section as one that yields what of its fields does not go together."""
    method.is_check = True  # type: ignore[attr-defined]
    return method


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class Section:
    """A section of a file: frozen, no silent conversions, unknown keys are errors. A subclass only names its fields."""

    __slots__ = ("__dict__", "given")

    given: frozenset[str]  # the fields that its file has, or whoever made it; others have their defaults
    section_fields: ClassVar[Mapping[str, SectionField]] = {}
    checks: ClassVar[tuple[str, ...]] = ()  # its methods marked by `check`, and those of its bases
    expected: ClassVar[str] = "expected fields (`name: value`)"  # in place of what has none

    def __init_subclass__(cls) -> None:
        fields, checks = dict(cls.section_fields), list(cls.checks)
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            if get_origin(annotation) is not ClassVar:
                said = vars(cls).get(name, REQUIRED)
                if not isinstance(said, Said):  # with another default, a field of a base still means the same
                    said = Said(said, fields[name].description if name in fields else "")
                fields[name] = SectionField(name, annotation, said)
                if name in vars(cls):
                    delattr(cls, name)  # so that a section without the field does not seem to have one
        checks += [name for name, member in vars(cls).items() if hasattr(member, "is_check") and name not in checks]
        cls.section_fields, cls.checks = fields, tuple(checks)

    def __init__(self, **values: Any) -> None:
        """Of values as files have them, or as they are read; unchecked. Raises TypeError for fields that are none."""
        defaults = {name: field.default for name, field in self.section_fields.items() if name not in values}
        missing = [name for name, default in defaults.items() if default is REQUIRED]
        if missing or not values.keys() <= self.section_fields.keys():
            raise TypeError(f"{type(self).__name__}: missing {missing}, or unknown among {list(values)}")
        self._fill(defaults | {name: self.section_fields[name].value(value) for name, value in values.items()}, values)

    def _fill(self, values: Mapping[str, Any], given: Iterable[str]) -> None:
        vars(self).update(values)
        object.__setattr__(self, "given", frozenset(given))

    @classmethod
    def part(cls, values: Mapping[str, Any], given: Iterable[str]) -> Self:
        """A section with these fields, maybe not all; others raise UnreadError."""
        section = cls.__new__(cls)
        section._fill(values, given)
        return section

    @classmethod
    def of(cls, data: Any) -> Self:
        """The section of a file's data that are known to be right; one that was made already is taken as it is."""
        if isinstance(data, cls):
            return data
        values, given = {}, []
        for name, field in cls.section_fields.items():
            if field.key in data:
                given.append(name)
                values[name] = field.value(data[field.key])
            else:
                values[name] = field.default
        return cls.part(values, given)

    def changed(self, **values: Any) -> Self:
        """The section with other values of some fields, unchecked."""
        return self.part({**vars(self), **values}, self.given | values.keys())

    def without(self, names: Iterable[str]) -> Self:
        """The section as if some of its fields could not be read."""
        gone = set(names)
        return self.part({name: value for name, value in vars(self).items() if name not in gone}, self.given)

    def as_data(self) -> dict[str, Any]:
        """What a file would say: the fields that do not have their defaults. Sections within are data, too."""
        named = ((field, getattr(self, name)) for name, field in self.section_fields.items())
        return {field.key: _as_data(value) for field, value in named if value != field.default}

    def defaults(self, at: str = "") -> Iterator[tuple[str, Any, SectionField]]:
        """The fields that are not given, of sections within too: names with `at` before them, what is in force."""
        for name, field in self.section_fields.items():
            value = getattr(self, name)
            if isinstance(value, Section):
                yield from value.defaults(f"{at}{field.key}.")
            elif name not in self.given:
                in_force = getattr(self, field.unsaid) if value is None and field.unsaid else value
                yield at + field.key, _as_data(in_force), field

    def clashes(self) -> Iterator[Clash]:
        """What does not go together, of the fields that there are."""
        return apart(*(getattr(self, name) for name in self.checks))

    # --- its names ---

    @classmethod
    def keys(cls) -> set[str]:
        """The names of its fields, as files spell them."""
        return {field.key for field in cls.section_fields.values()}

    @classmethod
    def meant(cls, key: str) -> list[str]:
        """The fields that a key that it does not have may stand for."""
        return near(key, cls.keys())

    @classmethod
    def hint(cls, key: str) -> str:
        """What to write instead of a key that it does not have."""
        return nearest(key, cls.keys(), most=20)

    # --- a frozen value ---

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).part, (vars(self), self.given)

    if not TYPE_CHECKING:  # where it would hide from mypy what a section has

        def __getattr__(self, name: str) -> Any:
            """Raises UnreadError for a field of a section that was read in part."""
            if name in type(self).section_fields:
                raise UnreadError(name)
            raise AttributeError(f"{type(self).__name__} has no {name}")

    # --- hooks of pydantic ---

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """For pydantic: the fields, and then what does not go together."""
        from pydantic_core import core_schema

        fields = {}
        for field in cls.section_fields.values():
            schema, required = handler.generate_schema(field.annotation), field.default is REQUIRED
            whole = schema if required else core_schema.with_default_schema(schema, default=_as_data(field.default))
            fields[field.key] = core_schema.typed_dict_field(whole, required=required)
        plain = core_schema.typed_dict_schema(fields, extra_behavior="forbid", config={"strict": True})
        ref = f"{cls.__module__}.{cls.__qualname__}:{id(cls)}"
        return core_schema.no_info_wrap_validator_function(cls._checked, plain, ref=ref)

    @classmethod
    def _checked(cls, data: Any, handler: Callable[[Any], Any]) -> Self:
        from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            raise PydanticCustomError("own", "{message}", {"message": cls.expected})
        values = handler(data)
        given = [name for name, field in cls.section_fields.items() if field.key in data]
        fields = cls.section_fields.items()
        section = cls.part({n: values[f.key] if f.key in data else f.default for n, f in fields}, given)
        words = [(at, PydanticCustomError("value_error", "{message}", {"message": m})) for at, m in section.clashes()]
        if words:
            details = [InitErrorDetails(type=error, loc=at, input=section) for at, error in words]
            raise ValidationError.from_exception_data(cls.__name__, details)
        return section

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """For pydantic: the class's name and docstring."""
        json_schema = handler.resolve_ref_schema(handler(core_schema))
        json_schema |= {"title": cls.__name__, "description": inspect.cleandoc(cls.__doc__ or "")}
        return json_schema


def _as_data(value: Any) -> Any:
    """A field's value as a file has it; lists are tuples."""
    if isinstance(value, Section):
        return value.as_data()
    if isinstance(value, dict):
        return {key: _as_data(item) for key, item in value.items()}
    return tuple(_as_data(item) for item in value) if isinstance(value, tuple) else value


# --- types of fields that files share ---------------------------------------------------------------------------------

Grade = Literal["stated", "inferred", "recalled", "fitted", "ours"]  # how well a source backs a choice
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Hundred = Field(max_length=100)  # of what each item takes a file to read, or a run
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]


def parsed(name: str) -> Format:
    """The format of that name. Raises WrongError."""
    try:
        return parse_format(name)
    except InputError as error:
        raise WrongError(str(error)) from None
