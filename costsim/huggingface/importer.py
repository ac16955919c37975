"""Workload files from Hugging Face `config.json` files. What a config says is in reading.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from costsim.errors import InputError, UnreadError, one_line, refuse
from costsim.huggingface.fields import Fields, count
from costsim.huggingface.reading import Config, Field, Values, clashes, read_config, tree, windows, yaml_text
from costsim.inputs.sorts import editor_lines


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
    "scaled": Chosen("queries", "before the product; transformers scales scores, which only traffic eager tells apart"),
}
_CAPPED_CHOICES = {
    "attention": Chosen("flash", "flash-attn and FlexAttention cap scores; transformers' default stores them all")
}
_DISTANCE_CHOICES = {"attention": Chosen("eager", "as transformers has scores against distances: all are stored")}
_ALL_PAIRS = Chosen("square", "as PyTorch's FlopCounterMode counts; causal and the like count only what meets")
_WITHIN_WINDOWS = Chosen("window", "only what the windows let meet, as flash attention skips the rest")
_EXPERT_CHOICES = {"experts.capacity_factor": Chosen(1.0, "dropless, counted as if tokens were spread evenly")}
_MASKED = Chosen(True, "lengths differ")
_PACKED = Chosen(False, "sequences are packed")
_BATCHES: Mapping[
    str, tuple[tuple[str, ...], Chosen | None]
] = {  # by model family: fields that are a length in tokens, and whether padding is masked, if any
    "decoder": (("tokens",), _PACKED),
    "encoder-classifier": (("tokens",), _MASKED),
    "image-classifier": ((), None),
    "encoder-decoder": (("source_tokens", "target_tokens"), _MASKED),
    "speech-recognizer": (("target_tokens",), Chosen(False, "padding comes last, behind what the causal mask hides")),
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


def _choices(model: Mapping[str, Field]) -> dict[str, Field]:
    """Fields of a model that no config gives."""
    choices = {**_MODEL_CHOICES, **(_EXPERT_CHOICES if "experts.number" in model else {})}
    if "attention_softcap" in model and model["attention_softcap"].value:
        choices |= _CAPPED_CHOICES
    if "disentangled.rows" in model:
        choices |= _DISTANCE_CHOICES
    return {name: Field(*_with_comment(chosen), None) for name, chosen in choices.items()}


def _batch(config: Config) -> dict[str, Chosen]:
    """The fields of a batch, which no config gives."""
    lengths, padding = _BATCHES[config.adapter.family]
    values = Values({name: entry.value for name, entry in config.fields.items()})
    try:
        usable = values.get("max_positions", MOST_TOKENS) - values.get("position_offset", 0)
    except UnreadError:  # then any length goes with it
        usable = MOST_TOKENS
    tokens = Chosen(min(usable, MOST_TOKENS), f"at most {MOST_TOKENS} of the {usable} positions")
    masks = {} if padding is None else {"padding_mask": padding}
    return {"sequences": Chosen(8, _TRAINER), **dict.fromkeys(lengths, tokens), **masks}


# --- notes ------------------------------------------------------------------------------------------------------------


def _window_note(full: Fields) -> str | None:
    """A note on a window that is given and that no layer has. `full` has the defaults, too."""
    size = full.get("sliding_window")
    if not size:
        return None
    if not full.get("use_sliding_window", True):
        return f"sliding_window {size} is not used: use_sliding_window is not true"
    return f"sliding_window {size} is not used: no layer has it"


def _sizes_note(config: Config) -> str | None:
    """A note on sizes that are not the config's own: nobody trains a model of another's size unawares."""
    sizes = {read.names[0]: read for read in config.adapter.reads if read.parse is count}
    given, full = config.document.data, config.given
    left_out = [name for name, read in sizes.items() if given.keys().isdisjoint(read.names) and full.get(name)]
    if not left_out:
        return None
    return f"not given, so transformers' defaults are taken: {', '.join(f'{name} {full[name]}' for name in left_out)}"


# --- writing a workload -----------------------------------------------------------------------------------------------

_HEADER = """\
# Imported by `costsim import`: model_type {type}, class {name}.
# A comment names the field of the config that a value is from. "transformers' default" is what a missing field means,
# "so in every ..." is not in configs, and "ours" is our choice: change it to what you train.
"""


def _lines(sections: Mapping[str, Any], indent: str = "") -> list[str]:
    """Sections of (value, comment) as lines of YAML."""
    lines = []
    for name, entry in sections.items():
        if isinstance(entry, dict):
            lines += [f"{indent}{name}:", *_lines(entry, f"{indent}  ")]
        else:
            value, comment = entry
            lines.append(f"{indent}{name}: {yaml_text(value)}" + (f" # {comment}" if comment else ""))
    return lines


def workload_of(path: str | Path) -> Imported:
    """The workload file that a Hugging Face `config.json` describes, with our choices for what no config gives.

    Raises InputError, with file, line and column, for a file that is no JSON object, an unknown `model_type`, and for
    all else that is wrong: a class whose head we do not have, fields that contradict others or are not understood. What
    is missing is as transformers has it, with a note if it is a size.
    """
    path = Path(path)
    config = read_config(path)
    model = {**config.fields, **_choices(config.fields)}
    batch = _batch(config)
    window, faults = windows(config)
    if config.name:  # without a class nobody knows which fields the model has
        faults += clashes(config, model, {name: chosen.value for name, chosen in batch.items()})
    refuse([InputError(*config.faults, *faults)])
    unused = None if window else _window_note(config.given)
    notes = (*config.notes, *filter(None, (_sizes_note(config), unused)))
    if window:
        model["windows"] = Field(window, "sliding_window, itself included; by layer, and from the first again", None)
    hub_name = config.document.data.get("_name_or_path")
    title = one_line(hub_name if isinstance(hub_name, str) and hub_name else path.stem)
    fields = {
        "description": (f"{title} ({config.name}), from {one_line(path.name)}", ""),
        "model.family": (config.adapter.family, ""),
        **{f"model.{field}": (value, comment) for field, (value, comment, _) in model.items()},
        **{f"batch.{field}": _with_comment(chosen) for field, chosen in batch.items()},
        **{field: _with_comment(chosen) for field, chosen in _CHOICES.items()},
        "attention_pairs": _with_comment(_WITHIN_WINDOWS if window else _ALL_PAIRS),
    }
    header = _HEADER.format(type=config.document.data["model_type"], name=config.name)
    lines = [*(f"# Note: {note}." for note in notes), *_lines(tree(fields))]
    return Imported(editor_lines("workload") + header + "\n".join(lines) + "\n", notes)
