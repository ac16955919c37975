"""How fields of Hugging Face configs are read and checked: what tables are made of, and what holds of any config.

The tables, one for each `model_type`, are in adapters/
"""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from costsim.errors import nearest, one_line
from costsim.inputs.section import MAX_INTEGER

Parse = Callable[[Any], Any]  # a config's value as one of ours; raises ValueError
Check = Callable[[Any, Mapping[str, Any]], None]  # of a value, in a config; raises ValueError if it is not understood
Windows = tuple[int | None, ...]  # tokens that a query sees, itself included, by layer; (): all see all before them
_Value = TypeVar("_Value")
Fields = Mapping[str, Any]  # values of our fields, by name; a dot enters a section


class Derived(NamedTuple):
    """A value that follows from fields read before."""

    text: str  # how the comment names it
    make: Callable[[Fields], Any]


class Read(NamedTuple):
    """How one field of ours is read. Reads of the same field must agree. What is missing is as defaults.json says."""

    field: str  # ours
    names: tuple[str, ...]  # spellings in the config; those that are given must agree; defaults.json has the first
    parse: Parse
    null: Derived | None = None  # what transformers takes for null; without it null is parsed like other values
    note: str = ""  # ends the comment: what parse does to the value


class Worked(NamedTuple):
    """A field of ours that follows from several of the config's; it is left out where it is None.

    `make` has what the config says, and that over the defaults. Raises ValueError for what is not understood.
    """

    names: tuple[str, ...]  # of the config's fields; the first has the faults
    make: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


class Head(NamedTuple):
    """What a class in `architectures` adds to the table of its type."""

    reads: tuple[Read, ...] = ()
    facts: Fields = MappingProxyType({})
    checks: Mapping[str, Check] = MappingProxyType({})


class Adapter(NamedTuple):
    """The table of a `model_type`."""

    family: str  # the model family, of costsim/models
    classes: Mapping[str, Head]  # by name; the first is taken where `architectures` is missing
    reads: tuple[Read, ...]
    facts: Fields  # what is so in every model of the type
    checks: Mapping[str, Check] = MappingProxyType({})  # by field of the config; others must have their default
    no_effect: tuple[str, ...] = ()  # fields that change no shape, besides NO_EFFECT
    worked: Mapping[str, Worked] = MappingProxyType({})  # by field of ours
    windows: Callable[[Mapping[str, Any]], Windows] = lambda _: ()  # of a config over its defaults
    base: str = ""  # the class without a head, if its parameters are those of the first of `classes`


# --- values -----------------------------------------------------------------------------------------------------------


def spell(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    return one_line(json.dumps(value, ensure_ascii=False))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300


def natural(value: Any) -> int:
    """An integer from 0 on. Like all parsers, raises ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected an integer of at least 0, got {spell(value)}")
    return value


def count(value: Any) -> int:
    """An integer from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_INTEGER:
        raise ValueError(f"expected an integer from 1 to {MAX_INTEGER}, got {spell(value)}")
    return value


def plus(more: int) -> Parse:
    """A parser that adds so many to an integer from 0 on."""
    return lambda value: natural(value) + more


def rate(value: Any) -> float:
    """A number from 0 to below 1."""
    if not _number(value) or not 0 <= value < 1:
        raise ValueError(f"expected a rate from 0 to below 1, got {spell(value)}")
    return float(value)


def share(value: Any) -> float:
    """A number above 0, at most 1."""
    if not _number(value) or not 0 < value <= 1:
        raise ValueError(f"expected a number above 0 and at most 1, got {spell(value)}")
    return float(value)


def positive(value: Any) -> float:
    """A number above 0."""
    if not _number(value) or value <= 0:
        raise ValueError(f"expected a number above 0, got {spell(value)}")
    return float(value)


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {spell(value)}")
    return value


def one_of(values: Mapping[Any, Any]) -> Parse:
    """A parser that looks a value up in a table."""

    def parse(value: Any) -> Any:
        if not isinstance(value, (str, bool)) or value not in values:
            known = [key if isinstance(key, str) else spell(key) for key in values]
            raise ValueError(f"not modelled: {spell(value)}{nearest(value, known)}")
        return values[value]

    return parse


def classes(value: Any) -> int:
    """The number of classes from `num_labels` or `id2label`."""
    number = len(value) if isinstance(value, dict) else count(value)
    if number < 2:
        raise ValueError("one class is a regression, whose loss is not modelled")
    return number


def optional(parse: Parse) -> Parse:
    """A parser that takes null for what is not there."""
    return lambda value: None if value is None else parse(value)


_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_new",  # the three are ways to write the same function
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "silu": "silu",
    "swish": "silu",
}
activation = one_of(_ACTIVATIONS)
gemma_activation = one_of({**_ACTIVATIONS, "gelu": "gelu_new"})  # in configs older than gelu_pytorch_tanh


# --- checks -----------------------------------------------------------------------------------------------------------


def only(*allowed: Any) -> Check:
    """A check that a value is one of those that mean what we model."""

    def check(value: Any, _: Mapping[str, Any]) -> None:
        if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in allowed):
            raise ValueError(f"not modelled: {spell(value)} (known: {', '.join(map(spell, allowed))})")

    return check


def allowed_by(parse: Parse) -> Check:
    """A check that a value is one that a parser takes."""

    def check(value: Any, _: Mapping[str, Any]) -> None:
        parse(value)

    return check


_SLIDING = "sliding_attention"
_LAYER_TYPES = ("full_attention", _SLIDING)


def layer_types(value: Any, config: Mapping[str, Any]) -> None:
    """A type for each layer, of those that are counted."""
    if value is None:
        return
    if not isinstance(value, list):
        raise ValueError(f"expected a list, got {spell(value)}")
    for layer_type in value:
        if layer_type not in _LAYER_TYPES:
            raise ValueError(f"not modelled: {spell(layer_type)}{nearest(layer_type, _LAYER_TYPES)}")
    if len(value) != config.get("num_hidden_layers"):
        raise ValueError(f"{len(value)} layers, but num_hidden_layers is {spell(config.get('num_hidden_layers'))}")


def window_everywhere(config: Mapping[str, Any]) -> Windows:
    """The same window in every layer, whatever `layer_types` says, as MistralModel masks."""
    size = config.get("sliding_window")
    return (size,) if size else ()


def window_of_some(config: Mapping[str, Any]) -> Windows:
    """A window if `use_sliding_window`, in the layers that `layer_types` names, else from `max_window_layers` on.

    Source: transformers, configuration_qwen2.py (4.57.6 and 5.24.0). Raises ValueError for a layer without a size.
    """
    size = config.get("sliding_window") if config.get("use_sliding_window") else None
    layers, types = config["num_hidden_layers"], config.get("layer_types")
    if types is None:
        slides = [i >= config["max_window_layers"] for i in range(layers)]
    else:
        slides = [layer_type == _SLIDING for layer_type in types]
        if size is None and any(slides):
            raise ValueError(f"{_SLIDING} without a window: sliding_window is null, or use_sliding_window not true")
    return shortest_period([size if slide else None for slide in slides]) if size and any(slides) else ()


def window_of_types(period: int) -> Callable[[Mapping[str, Any]], Windows]:
    """Windows in the layers that `layer_types` names, else in all but the last of each `sliding_window_pattern`.

    That is `period` if the config says none. Source: transformers, configuration_gemma2.py and configuration_gemma3.py.
    The function raises ValueError for a layer without a size.
    """

    def windows(config: Mapping[str, Any]) -> Windows:
        size, types = config.get("sliding_window"), config.get("layer_types")
        if types is None:
            pattern = config.get("sliding_window_pattern", period)
            slides = [(i + 1) % pattern != 0 for i in range(config["num_hidden_layers"])]
        else:
            slides = [layer_type == _SLIDING for layer_type in types]
        if size is None and any(slides):
            raise ValueError(f"{_SLIDING} without a window: sliding_window is null")
        return shortest_period([size if slide else None for slide in slides]) if any(slides) else ()

    return windows


def shortest_period(values: Sequence[_Value]) -> tuple[_Value, ...]:
    """The least that, repeated and cut off, gives all values again.

    >>> shortest_period([512, None, 512, None, 512])
    (512, None)
    """
    lengths = range(1, len(values) + 1)
    length = next(n for n in lengths if all(value == values[i % n] for i, value in enumerate(values)))
    return tuple(values[:length])


# Ways to make the tables of cosines and sines: none changes their shape.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
_ROPE_FIELDS = (
    *("rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    *("attention_factor", "beta_fast", "beta_slow", "short_factor", "long_factor", "mscale", "mscale_all_dim"),
    "truncate",
)
WHOLE_HEAD = only(1.0)  # rotary positions turn the whole head
_PART = "partial_rotary_factor"


def rope(value: Any, config: Mapping[str, Any]) -> None:
    """`rope_scaling`, or `rope_parameters`, its newer spelling."""
    _rope(value, lambda part: WHOLE_HEAD(part, config))


def rope_of_part(value: Any, _: Mapping[str, Any]) -> None:
    """`rope`, of types that may turn a part of each head."""
    _rope(value, share)


def _rope(value: Any, check_part: Callable[[Any], Any]) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {spell(value)}")
    for name, inner in value.items():
        if name in ("type", "rope_type"):
            if inner not in _ROPE_TYPES:
                raise ValueError(f"{name} is not modelled: {spell(inner)}{nearest(inner, _ROPE_TYPES)}")
        elif name == _PART:
            check_part(inner)
        elif name not in _ROPE_FIELDS:
            raise ValueError(f"unknown field {one_line(name)!r}{nearest(name, _ROPE_FIELDS, most=0)}")


def rotary_dim(head_dim: Callable[[Mapping[str, Any]], int], *names: str) -> Worked:
    """The part of a head that is turned, from the first of a config's fields that says a factor; None: all of it."""

    def make(said: Mapping[str, Any], full: Mapping[str, Any]) -> int | None:
        part = None
        for fields in (said, full):
            for name in (*names, "rope_scaling", "rope_parameters"):
                value = fields.get(name)
                value = value.get(_PART) if isinstance(value, dict) else value
                part = value if part is None else part
        head = head_dim(full)
        turned = head if part is None else int(head * share(part))
        return None if turned == head else turned

    return Worked((*names, "rope_parameters", "rope_scaling"), make)


def rope_of_types(value: Any, config: Mapping[str, Any]) -> None:
    """`rope_parameters` that may be objects, one for each type of layer."""
    flat = value
    if isinstance(value, dict):
        for layer_type in set(value) & set(_LAYER_TYPES):
            rope(value[layer_type], config)
        flat = {name: inner for name, inner in value.items() if name not in _LAYER_TYPES}
    rope(flat, config)


# --- what holds of any config -----------------------------------------------------------------------------------------

# Fields that change no shape: names, tokens, generation, what weights are stored in, what is returned.
NO_EFFECT = (
    *("_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "model_type"),
    *("torch_dtype", "dtype", "use_bfloat16", "torchscript", "tf_legacy_loss", "return_dict", "output_past"),
    *("output_hidden_states", "output_attentions", "use_cache", "cache_implementation", "tokenizer_class", "prefix"),
    *("finetuning_task", "auto_map"),  # the second names code for versions that lack the type
    *("task_specific_params", "initializer_range", "initializer_factor", "init_std", "save_step"),
    *("keys_to_ignore_at_inference", "_attn_implementation", "attn_implementation", "_attn_implementation_autoset"),
    *("gradient_checkpointing", "chunk_size_feed_forward"),  # when, not what is computed; the first is ours to choose
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type"),  # heads of classes read them
    *("classifier_dropout", "classif_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "mask_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id", "force_bos_token_to_be_generated"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty"),
    *("temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores"),
    *("return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
    *("begin_suppress_tokens",),
)
