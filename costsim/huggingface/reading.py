"""A Hugging Face config read: which fields of ours its own give, and all that is wrong with it.

A field with a fault stays `Unreadable`; what would follow from it is not looked at, and all else is.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from costsim.errors import MAX_FAULTS, Fault, InputError, UnreadError, nearest, one_line
from costsim.huggingface.adapters import ADAPTERS, TEXT_MODELS
from costsim.huggingface.defaults import defaults_of, last_version_with
from costsim.huggingface.fields import NO_EFFECT, Adapter, Fields, Head, Read, Windows, only, spell
from costsim.inputs import files, schema
from costsim.inputs.document import Document, Unreadable, Where, unreadable
from costsim.inputs.json_document import parse_json
from costsim.models.families import family

_MOST_TYPES = 99  # that an error lists: all


class Field(NamedTuple):
    """A field of ours."""

    value: Any
    comment: str  # where the value is from
    source: str | None  # the field of the config, if it is from one


class Values(Mapping[str, Any]):
    """Values by name. Raises UnreadError for one that could not be read, for nothing follows from it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        if isinstance(value, Unreadable):
            raise UnreadError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def of(self, names: Iterable[str]) -> "Values":
        """Those of some names."""
        return Values({name: self._values[name] for name in names})

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class Config:
    """A config as far as it could be read."""

    document: Document
    adapter: Adapter
    name: str  # of the class whose head is taken, "" if nobody knows
    notes: tuple[str, ...]
    given: Values  # its fields, and the defaults of those that it leaves out
    fields: Mapping[str, Field]  # ours, of the section `model`
    faults: list[Fault]


def yaml_text(value: Any) -> str:
    """A value as our YAML files have it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, str) and _BARE.fullmatch(value) and value not in ("true", "false", "null", "nan", "inf"):
        return value
    return json.dumps(value, ensure_ascii=False)


_BARE = re.compile(r"[a-z][a-z0-9_-]*")


# --- which model it is ------------------------------------------------------------------------------------------------


def _text_model(config: Document) -> tuple[Document, str | None]:
    """The config of the text model inside a config, if its type has one, and a note. Raises InputError."""
    name = config.data.get("model_type")
    if not isinstance(name, str) or name not in TEXT_MODELS:
        return config, None
    inner = config.data.get("text_config")
    if not isinstance(inner, dict):
        at = ("text_config",) if "text_config" in config.data else ("model_type",)
        message = f"the text model of a {name} is read from text_config, an object; or import a {TEXT_MODELS[name]}"
        raise config.error(at, message)
    marks = {where[1:]: mark for where, mark in config.marks.items() if where[:1] == ("text_config",)}
    hub_name = {key: config.data[key] for key in ("_name_or_path",) if key in config.data}
    data = {"model_type": TEXT_MODELS[name], **hub_name, **inner}
    return Document(config.path, data, marks), f"text_config of a {name} is taken; what reads images is not counted"


def _adapter(config: Document) -> Adapter:
    """The table of the config's type. Raises InputError for an unknown one."""
    if "model_type" not in config.data:
        raise config.error(("model_type",), f"missing{nearest('', ADAPTERS, most=_MOST_TYPES)}")
    name = config.data["model_type"]
    if isinstance(name, str) and name in ADAPTERS:
        return ADAPTERS[name]
    if isinstance(name, str) and (version := last_version_with(name)):  # so it is no misspelling
        known = nearest("", ADAPTERS, most=_MOST_TYPES)
        raise config.error(
            ("model_type",), f"{name} is a type of transformers {version} that costsim does not import{known}"
        )
    raise config.error(("model_type",), f"unknown type {spell(name)}{nearest(name, ADAPTERS, most=_MOST_TYPES)}")


def _class(config: Document, adapter: Adapter) -> tuple[str, str | None]:
    """The class whose head is taken, and a note if the config does not name it. Raises InputError."""
    given = config.data.get("architectures") or []
    default = next(iter(adapter.classes))
    known = nearest("", adapter.classes, most=20)
    if not isinstance(given, list) or len(given) > 1 or not all(isinstance(name, str) for name in given):
        raise config.error(("architectures",), f"expected a list of one class, got {spell(given)}{known}")
    if not given:
        return default, f"architectures does not say the class; {default} is taken"
    if given[0] == adapter.base:
        return default, f"{adapter.base} has no head; {default} is taken"
    if given[0] not in adapter.classes:
        raise config.error(("architectures",), f"the head of {one_line(given[0])!r} is not modelled{known}")
    return given[0], None


# --- what its fields say ----------------------------------------------------------------------------------------------


def read_config(path: Path) -> Config:
    """A config, with its faults. Raises InputError where nobody knows of which type it is."""
    whole = parse_json(files.read_text(path), str(path))
    faults = list(unreadable(whole.data))
    try:
        config, text_note = _text_model(whole)
        adapter = _adapter(_readable(config))
    except InputError as error:
        raise InputError(*faults, *error.faults) from None
    config = _readable(config)
    try:
        name, class_note = _class(config, adapter)
    except InputError as error:
        name, class_note = "", None
        faults += error.faults
    head = adapter.classes.get(name, Head())
    given, not_understood = _given(config, adapter, [head] if name else list(adapter.classes.values()))
    fields, bad = _fields(config, adapter, head)
    faults += _work_out(config, adapter, given, fields)
    notes = tuple(note for note in (text_note, class_note) if note)
    return Config(config, adapter, name, notes, given, fields, [*faults, *not_understood, *bad])


def _readable(config: Document) -> Document:
    """The config without fields that have, at any depth, something that cannot be read: they are Unreadable."""
    bad = {key: Unreadable(fault) for key, value in config.data.items() for fault in unreadable(value)}
    return Document(config.path, {**config.data, **bad}, config.marks)


def _given(config: Document, adapter: Adapter, heads: list[Head]) -> tuple[Values, list[Fault]]:
    """What a config says, over the defaults, and its fields that no table has, or whose value we do not understand.

    A field that we know nothing of is understood if it has the default: that is the model without the field.
    """
    reads = [*adapter.reads, *(each for head in heads for each in head.reads)]
    free = {*NO_EFFECT, *adapter.no_effect, *(name for each in reads for name in each.names)}
    free |= {name for each in adapter.worked.values() for name in each.names}
    defaults = defaults_of(config.data["model_type"])
    checks = {name: only(value) for name, value in defaults.items() if name not in free}
    checks |= {**adapter.checks, **(heads[0].checks if len(heads) == 1 else {})}
    full = {**defaults, **config.data}
    for name, read in ((name, each) for each in reads for name in each.names if name in config.data):
        value = config.data[name]
        if value is not None or not read.null:
            parsed = _value(config, name, read, value)
            full[name] = parsed if isinstance(parsed, Unreadable) else value
    faults: list[Fault] = []
    for name, value in config.data.items():
        if isinstance(value, Unreadable):
            continue
        if name in checks:
            try:
                checks[name](value, Values(full))
            except ValueError as error:
                faults += config.error((name,), str(error)).faults
                full[name] = Unreadable(faults[-1])
            except UnreadError:
                continue
        elif name not in free:
            hint = nearest(name, {*free, *checks}, most=0) if len(faults) < MAX_FAULTS else ""  # others are not told
            faults += config.error((name,), f"not understood, and it may change the architecture{hint}").faults
    return Values(full), faults


def _value(config: Document, name: str, read: Read, value: Any) -> Any:
    """A field's value as ours; Unreadable if it is bad."""
    try:
        return value if isinstance(value, Unreadable) else read.parse(value)
    except ValueError as error:
        return Unreadable(config.error((name,), str(error)).faults[0])


def _fields(config: Document, adapter: Adapter, head: Head) -> tuple[dict[str, Field], list[Fault]]:
    """The fields of the model section, and what is wrong with the config's that they are read from."""
    fields: dict[str, Field] = {}
    faults: list[Fault] = []
    for read in (*adapter.reads, *head.reads):
        for entry in _read(config, read, fields):
            faults += [entry.value.fault] if isinstance(entry.value, Unreadable) else []
            faults += _disagree(config, read.field, fields.setdefault(read.field, entry), entry)
    comment = f"so in every {config.data['model_type']}"
    for name, value in {**adapter.facts, **head.facts}.items():
        fact = Field(value, comment, None)
        faults += _disagree(config, name, fields.setdefault(name, fact), fact)
    return fields, faults


def _work_out(config: Document, adapter: Adapter, given: Values, fields: dict[str, Field]) -> list[Fault]:
    """Add the fields that follow from several of the config's, and return what is wrong with those."""
    faults: list[Fault] = []
    said = given.of(config.data)
    for name, worked in adapter.worked.items():
        source = next((each for each in worked.names if each in config.data), None)
        try:
            value = worked.make(said, given)
        except ValueError as error:
            faults += config.error((source or worked.names[0],), str(error)).faults
        except UnreadError:
            continue
        else:
            if value is not None:
                comment = source or f"{worked.names[0]} is not given, transformers' default"
                fields[name] = Field(value, comment, source)
    return faults


def _read(config: Document, read: Read, fields: Mapping[str, Field]) -> list[Field]:
    """One field of ours, as each spelling that is given has it. `fields` are those read before."""
    first, defaults = read.names[0], defaults_of(config.data["model_type"])
    entries = []
    for name in [name for name in read.names if name in config.data] or [""]:
        value = config.data[name] if name else defaults.get(first)
        origin = name or f"{first} is not given, transformers' default"
        if value is None and read.null:
            try:
                made = read.null.make(Values({key: entry.value for key, entry in fields.items()}))
            except UnreadError as error:
                made = fields[str(error)].value
            entries.append(Field(made, f"{origin} is null: {read.null.text}", name or None))
        else:
            entries.append(Field(_value(config, name or first, read, value), f"{origin}{read.note}", name or None))
    return entries


def _disagree(config: Document, name: str, first: Field, second: Field) -> list[Fault]:
    """The fault if two sources of one field of ours differ."""
    if first.value == second.value or any(isinstance(entry.value, Unreadable) for entry in (first, second)):
        return []
    at = (second.source or first.source or "",)
    one, other = (f"{yaml_text(entry.value)} ({entry.comment})" for entry in (first, second))
    return config.error(at, f"{one} and {other} differ, but the family has one {name}").faults


# --- what does not go together ----------------------------------------------------------------------------------------


def tree(fields: Fields) -> dict[str, Any]:
    """Fields whose dots enter sections, as sections."""
    sections: dict[str, Any] = {}
    for name, value in fields.items():
        *above, last = name.split(".")
        at = sections
        for section in above:
            at = at.setdefault(section, {})
        at[last] = value
    return sections


def clashes(config: Config, model: Mapping[str, Field], batch: Fields) -> list[Fault]:
    """What the family finds wrong with a model and a batch of its own, in the config's own words."""
    values = {name: entry.value for name, entry in model.items()}
    given = {name: entry.source for name, entry in model.items() if entry.source in config.document.data}
    marks: dict[Where, tuple[int, int]] = {
        ("model", *name.split(".")): config.document.marks[source,] for name, source in given.items()
    }
    sections = {"model": {"family": config.adapter.family, **tree(values)}, "batch": dict(batch)}
    workload = Document(config.document.path, sections, marks)
    module = family(config.adapter.family)
    part, errors = schema.read(module.Model, workload, ("model",))
    sizes, more = schema.read(module.Batch, workload, ("batch",))
    errors += more
    try:
        module.sizes(part, sizes)
    except ValueError as error:
        errors.append(workload.error((), str(error)))
    except UnreadError:
        pass
    faults = [fault for error in errors for fault in error.faults if fault not in config.faults]
    return [fault._replace(text=_named(fault.text, config.document.path, given)) for fault in faults]


def _named(text: str, path: str, sources: Mapping[str, str | None]) -> str:
    """A message that names fields of ours, with the config's fields that they are from."""
    message = text.removeprefix(path)
    named = [f"{name} is {source}" for name, source in sources.items() if re.search(rf"\b{name}\b", message)]
    return f"{text} ({', '.join(named)})" if named else text


def windows(config: Config) -> tuple[Windows, list[Fault]]:
    """The windows of the layers, and what is wrong with them."""
    try:
        return config.adapter.windows(config.given), []
    except ValueError as error:
        return (), config.document.error(("layer_types",), str(error)).faults
    except UnreadError:
        return (), []
