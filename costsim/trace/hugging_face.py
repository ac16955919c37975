"""`hf:config.json`: the model that transformers makes of a config, without weights, and inputs with labels."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.trace.library import torch
from costsim.trace.subject import Subject

BATCH, TOKENS, TARGET_TOKENS = 2, 64, 48  # of the example; they stay open
_EXPERTS = "batched_mm"  # the way to run experts in which no shape depends on which of them a token goes to

# Auto classes by what their models learn, the first that knows a config's type if it names no class itself.
_AUTO = (
    "AutoModelForSeq2SeqLM",
    "AutoModelForSpeechSeq2Seq",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
)


def _library() -> Any:
    try:
        return import_module("transformers")
    except ImportError:
        raise InputError("hf: transformers is not installed; pip install 'costsim[transformers]'") from None


def from_config(path: str) -> Subject:
    """The module of a config file and its example inputs. Raises InputError for what transformers does not know."""
    text = files.read_text(Path(path))
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise InputError(f"{path}: model_type: missing; a config of transformers has it")
    return subject_of(data, path)


def subject_of(data: Mapping[str, Any], path: str = "config") -> Subject:
    """The module of the fields of a config, in training mode with eager attention, and its example inputs.

    Raises InputError for what transformers does not know.
    """
    library = _library()
    fields = {name: value for name, value in data.items() if name not in ("model_type", "architectures")}
    try:
        config = library.AutoConfig.for_model(data["model_type"], **fields)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {one_line(error, 200)}") from None
    config.use_cache = False
    config._attn_implementation = "eager"
    with import_module("transformers.initialization").no_init_weights():
        module = _class(library, config, data, path)(config).train()
    module.tie_weights()
    if module._can_set_experts_implementation():
        module.set_experts_implementation(_EXPERTS)
    inputs, dynamic = _inputs(module, config)
    return Subject(module, inputs, dynamic)


def _class(library: Any, config: Any, data: Mapping[str, Any], path: str) -> Any:
    """The class that a config names, or the one for its type that has a loss."""
    names = data.get("architectures") or ()
    for name in names:
        made = getattr(library, str(name), None)
        if made is not None and "labels" in inspect.signature(made.forward).parameters:
            return made
    for auto in _AUTO:
        mapping = getattr(library, auto)._model_mapping
        if type(config) in mapping:
            made = mapping[type(config)]
            return made[0] if isinstance(made, tuple) else made
    raise InputError(f"{path}: transformers has no class with a loss for model_type {one_line(data['model_type'])}")


def _inputs(module: Any, config: Any) -> tuple[dict[str, Any], dict[str, dict[int, str]]]:
    """Example inputs by name, and the names of their open axes."""
    taken = inspect.signature(module.forward).parameters
    inputs: dict[str, Any] = {}
    dynamic: dict[str, dict[int, str]] = {}

    def ids(name: str, tokens: int, dim: str) -> None:
        inputs[name] = torch.zeros(BATCH, tokens, dtype=torch.long)
        dynamic[name] = {0: "batch", 1: dim}

    if "pixel_values" in taken and "input_ids" not in taken:
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        inputs["pixel_values"] = torch.zeros(BATCH, config.num_channels, size, size)
        inputs["labels"] = torch.zeros(BATCH, dtype=torch.long)
        return inputs, {"pixel_values": {0: "batch"}, "labels": {0: "batch"}}
    if "input_features" in taken:
        inputs["input_features"] = torch.zeros(BATCH, config.num_mel_bins, 2 * config.max_source_positions)
        dynamic["input_features"] = {0: "batch"}
    else:
        ids("input_ids", TOKENS, "tokens")
    if "decoder_input_ids" in taken:
        ids("decoder_input_ids", TARGET_TOKENS, "target_tokens")
        ids("labels", TARGET_TOKENS, "target_tokens")
    else:
        ids("labels", TOKENS, "tokens")
    return inputs, dynamic
