"""Workload files from Hugging Face `config.json` files. What a `model_type` means is in adapters.py."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from costsim.errors import InputError, nearest, one_line
from costsim.huggingface.adapters import ADAPTERS, TEXT_MODELS
from costsim.huggingface.defaults import defaults_of, last_version_with
from costsim.huggingface.fields import NO_EFFECT, Adapter, Fields, Head, Read, Windows, count, only, spell
from costsim.inputs import files, schema
from costsim.inputs.document import Document, Where
from costsim.inputs.json_document import parse_json
from costsim.models.families import family


class Imported(NamedTuple):
    """An imported workload."""

    text: str  # of the workload file
    notes: tuple[str, ...]  # what its reader should know; they stand in the text, too


# --- our choices ------------------------------------------------------------------------------------------------------

MOST_TOKENS = 1024


class Chosen(NamedTuple):
    """A value that no config gives."""

    value: Any
    why: str  # the reason, for the comment; "" if none is given


_TRAINER = "the default of transformers' TrainingArguments"
_MODEL_CHOICES = {
    "attention": Chosen("flash", "what scaled_dot_product_attention runs; eager stores every score"),
    "fused_activation": Chosen(True, "one kernel; false counts it op by op"),
    "checkpointing": Chosen("none", ""),
}
_CAPPED_CHOICES = {
    "attention": Chosen("flash", "flash-attn and FlexAttention cap scores; transformers' default, eager, stores them all")
}
_ALL_PAIRS = Chosen("square", "as PyTorch's FlopCounterMode counts; causal and the like count only what meets")
_WITHIN_WINDOWS = Chosen("window", "only what the windows let meet, as flash attention skips the rest")
_EXPERT_CHOICES = {"experts.capacity_factor": Chosen(1.0, "dropless, counted as if tokens were spread evenly")}
_MASKED = Chosen(True, "lengths differ")
_PACKED = Chosen(False, "sequences are packed")
_BATCHES = {  # by model family: fields that are a length in tokens, and whether padding is masked
    "decoder": (("tokens",), _PACKED),
    "encoder-classifier": (("tokens",), _MASKED),
    "encoder-decoder": (("source_tokens", "target_tokens"), _MASKED),
}
_CHOICES = {
    "training.steps": Chosen(1000, ""),
    "training.micro_batches": Chosen(1, "no accumulation"),
    "optimizer.kind": Chosen("adamw", _TRAINER),
    "optimizer.lr": Chosen(5e-5, _TRAINER),
    "optimizer.beta1": Chosen(0.9, _TRAINER),
    "optimizer.beta2": Chosen(0.999, _TRAINER),
    "optimizer.eps": Chosen(1e-8, _TRAINER),
    "optimizer.weight_decay": Chosen(0.0, _TRAINER),
    "optimizer.clip_norm": Chosen(1.0, _TRAINER),
    "label_smoothing": Chosen(0.0, _TRAINER),
    "policies": Chosen(("fp32", "bf16-mixed"), ""),
    "baseline": Chosen("fp32", ""),
    "law": Chosen("product", ""),
    "traffic": Chosen("fused", ""),
    "scope": Chosen("step", ""),
}


def _with_comment(chosen: Chosen) -> tuple[Any, str]:
    return chosen.value, f"ours: {chosen.why}" if chosen.why else "ours"


# --- reading a config -------------------------------------------------------------------------------------------------


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
        raise config.error(("model_type",), f"missing{nearest('', ADAPTERS, most=20)}")
    name = config.data["model_type"]
    if isinstance(name, str) and name in ADAPTERS:
        return ADAPTERS[name]
    if isinstance(name, str) and (version := last_version_with(name)):  # so it is no misspelling
        known = nearest("", ADAPTERS, most=20)
        raise config.error(
            ("model_type",), f"{name} is a type of transformers {version} that costsim does not import{known}"
        )
    raise config.error(("model_type",), f"unknown type {spell(name)}{nearest(name, ADAPTERS, most=20)}")


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


def _refuse(config: Document, adapter: Adapter, head: Head, defaults: Fields) -> None:
    """Raise InputError for a field that no table has, or a value that we do not understand.

    A field that we know nothing of is understood if it has the default: that is the model without the field.
    """
    read = {name for read in (*adapter.reads, *head.reads) for name in read.names}
    free = {*read, *NO_EFFECT, *adapter.no_effect}
    by_default = {name: only(value) for name, value in defaults.items() if name not in free}
    checks = {**by_default, **adapter.checks, **head.checks}
    full = {**defaults, **config.data}
    for name, value in config.data.items():
        if name in checks:
            try:
                checks[name](value, full)
            except ValueError as error:
                raise config.error((name,), str(error)) from None
        elif name not in free:
            hint = nearest(name, {*free, *checks}, most=0)
            raise config.error((name,), f"not understood, and it may change the architecture{hint}")


class _Field(NamedTuple):
    """A field of ours."""

    value: Any
    comment: str  # where the value is from
    source: str | None  # the field of the config, if it is from one


def _values(fields: Mapping[str, _Field]) -> Fields:
    return {name: field.value for name, field in fields.items()}


def _read(config: Document, read: Read, fields: Mapping[str, _Field], defaults: Fields) -> _Field:
    """One field. `fields` are those read before. Raises InputError if it is bad, or spelled in ways that differ."""
    given = [name for name in read.names if name in config.data]
    if not given:
        first = read.names[0]
        value, comment = _parsed(read, defaults.get(first), fields)
        return _Field(value, f"{first} is not given, transformers' default{comment}", None)
    spelled = []
    for name in given:
        try:
            value, comment = _parsed(read, config.data[name], fields)
        except ValueError as error:
            raise config.error((name,), str(error)) from None
        spelled.append(_Field(value, f"{name}{comment}", name))
    for other in spelled[1:]:
        _agree(config, read.field, spelled[0], other)
    return spelled[0]


def _parsed(read: Read, value: Any, fields: Mapping[str, _Field]) -> tuple[Any, str]:
    """A value of a config as ours, and what its comment says after the name. Raises ValueError."""
    if value is None and read.null:
        return read.null.make(_values(fields)), f" is null: {read.null.text}"
    return read.parse(value), read.note


def _agree(config: Document, name: str, first: _Field, second: _Field) -> None:
    """Raise InputError if two sources of one field of ours differ."""
    if first.value != second.value:
        at = (second.source or first.source or "",)
        one, other = (f"{_yaml(field.value)} ({field.comment})" for field in (first, second))
        raise config.error(at, f"{one} and {other} differ, but the family has one {name}")


def _model(config: Document, adapter: Adapter, head: Head, defaults: Fields) -> dict[str, _Field]:
    """The fields of the model section. Raises InputError."""
    fields: dict[str, _Field] = {}
    for read in (*adapter.reads, *head.reads):
        field = _read(config, read, fields, defaults)
        _agree(config, read.field, fields.setdefault(read.field, field), field)
    comment = f"so in every {config.data['model_type']}"
    for name, value in {**adapter.facts, **head.facts}.items():
        fact = _Field(value, comment, None)
        _agree(config, name, fields.setdefault(name, fact), fact)
    choices = {**_MODEL_CHOICES, **(_EXPERT_CHOICES if "experts.number" in fields else {})}
    if _values(fields).get("attention_softcap"):
        choices |= _CAPPED_CHOICES
    return fields | {name: _Field(*_with_comment(chosen), None) for name, chosen in choices.items()}


def _tree(fields: Fields) -> dict[str, Any]:
    """Fields whose dots enter sections, as sections."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *sections, last = name.split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return tree


def _check(config: Document, adapter: Adapter, model: Mapping[str, _Field], batch: Fields) -> None:
    """Raise InputError, in the config's own words, if the family finds that sizes clash."""
    sections = {"model": {"family": adapter.family, **_tree(_values(model))}, "batch": dict(batch)}
    sources = {name: field.source for name, field in model.items() if field.source in config.data}
    marks: dict[Where, tuple[int, int]] = {
        ("model", *name.split(".")): config.marks[source,] for name, source in sources.items()
    }
    workload = Document(config.path, sections, marks)
    module = family(adapter.family)
    try:
        checked = schema.validate(module.Model, workload, ("model",))
        try:
            module.sizes(checked, schema.validate(module.Batch, workload, ("batch",)))
        except ValueError as error:
            raise workload.error((), str(error)) from None
    except InputError as error:
        message = str(error).removeprefix(config.path)
        named = [f"{name} is {source}" for name, source in sources.items() if re.search(rf"\b{name}\b", message)]
        raise InputError(f"{error} ({', '.join(named)})" if named else str(error)) from None


def _window_note(full: Fields) -> str | None:
    """A note on a window that is given and that no layer has. `full` has the defaults, too."""
    size = full.get("sliding_window")
    if not size:
        return None
    if not full.get("use_sliding_window", True):
        return f"sliding_window {size} is not used: use_sliding_window is not true"
    return f"sliding_window {size} is not used: no layer has it"


def _windows(config: Document, adapter: Adapter, full: Fields) -> Windows:
    """The windows of the layers. Raises InputError."""
    try:
        return adapter.windows(full)
    except ValueError as error:
        raise config.error(("layer_types",), str(error)) from None


def _sizes_note(config: Document, adapter: Adapter, defaults: Fields) -> str | None:
    """A note on sizes that are not the config's own: nobody trains a model of another's size unawares."""
    sizes = {read.names[0]: read for read in adapter.reads if read.parse is count}
    left_out = [name for name, read in sizes.items() if not set(read.names) & set(config.data) and defaults.get(name)]
    if not left_out:
        return None
    values = ", ".join(f"{name} {defaults[name]}" for name in left_out)
    return f"not given, so transformers' defaults are taken: {values}"


# --- writing a workload -----------------------------------------------------------------------------------------------

_HEADER = """\
# Imported by `costsim import`: model_type {type}, class {name}.
# A comment names the field of the config that a value is from. "transformers' default" is what a missing field means,
# "so in every ..." is not in configs, and "ours" is our choice: change it to what you train.
"""
_BARE = re.compile(r"[a-z][a-z0-9_-]*")


def _yaml(value: Any) -> str:
    """A value as our YAML files have it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str) and _BARE.fullmatch(value) and value not in ("true", "false", "null", "nan", "inf"):
        return value
    return json.dumps(value, ensure_ascii=False)


def _lines(tree: Mapping[str, Any], indent: str = "") -> list[str]:
    """Sections of (value, comment) as lines of YAML."""
    lines = []
    for name, entry in tree.items():
        if isinstance(entry, dict):
            lines += [f"{indent}{name}:", *_lines(entry, f"{indent}  ")]
        else:
            value, comment = entry
            lines.append(f"{indent}{name}: {_yaml(value)}" + (f" # {comment}" if comment else ""))
    return lines


def workload_of(path: str | Path) -> Imported:
    """The workload file that a Hugging Face `config.json` describes, with our choices for what no config gives.

    Raises InputError, with file, line and column, for a file that is no JSON object, an unknown `model_type`, a class
    whose head we do not have, a field that contradicts another or is not understood. What is missing is as
    transformers has it, with a note if it is a size.
    """
    path = Path(path)
    config, text_note = _text_model(parse_json(files.read_text(path), str(path)))
    adapter = _adapter(config)
    name, class_note = _class(config, adapter)
    head = adapter.classes[name]
    defaults = defaults_of(config.data["model_type"])
    _refuse(config, adapter, head, defaults)
    model = _model(config, adapter, head, defaults)
    usable = model["max_positions"].value - (model["position_offset"].value if "position_offset" in model else 0)
    lengths, padding = _BATCHES[adapter.family]
    tokens = Chosen(min(usable, MOST_TOKENS), f"at most {MOST_TOKENS} of the {usable} positions")
    batch = {"sequences": Chosen(8, _TRAINER), **dict.fromkeys(lengths, tokens), "padding_mask": padding}
    _check(config, adapter, model, {name: chosen.value for name, chosen in batch.items()})
    full = {**defaults, **config.data}
    windows = _windows(config, adapter, full)
    unused = None if windows else _window_note(full)
    notes = tuple(filter(None, (text_note, class_note, _sizes_note(config, adapter, defaults), unused)))
    if windows:
        model["windows"] = _Field(windows, "sliding_window, itself included; by layer, and from the first again", None)
    hub_name = config.data.get("_name_or_path")
    title = one_line(hub_name if isinstance(hub_name, str) and hub_name else path.stem)
    fields = {
        "description": (f"{title} ({name}), from {one_line(path.name)}", ""),
        "model.family": (adapter.family, ""),
        **{f"model.{field}": (value, comment) for field, (value, comment, _) in model.items()},
        **{f"batch.{field}": _with_comment(chosen) for field, chosen in batch.items()},
        **{field: _with_comment(chosen) for field, chosen in _CHOICES.items()},
        "attention_pairs": _with_comment(_WITHIN_WINDOWS if windows else _ALL_PAIRS),
    }
    header = _HEADER.format(type=config.data["model_type"], name=name)
    lines = [*(f"# Note: {note}." for note in notes), *_lines(_tree(fields))]
    return Imported(header + "\n".join(lines) + "\n", notes)
