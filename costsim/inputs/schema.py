"""What workload, policy and hardware files hold, and how that is checked: one clear error for bad input.

pydantic ends here: the rest of the package reads these frozen objects as plain data.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from costsim.errors import nearest, one_line
from costsim.inputs.files import Document

MAX_INTEGER = 10**18  # larger sizes are typing errors; products are exact Python integers anyway

Grade = Literal["stated", "inferred", "recalled", "fitted", "ours"]

Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Layers = Annotated[int, Field(ge=1, le=1000)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=60)]


class Strict(BaseModel):
    """A section of a file: frozen, no silent conversions, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = {info.alias or name for name, info in cls.model_fields.items()}
            for key in data:
                if key not in known:
                    context = {"key": key, "hint": nearest(key, known, most=20)}
                    raise PydanticCustomError("unknown_key", "unknown key", context)
        return data


# --- workload ---------------------------------------------------------------------------------------------------------


class Optimizer(Strict):
    """The update: a row of the op table and its numbers."""

    kind: Literal["adam", "adamw"] = Field(description="adam: coupled (L2) decay; adamw: decoupled decay")
    lr: Positive
    beta1: Rate = 0.9
    beta2: Rate = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_norm: Positive | None = Field(default=None, description="clip gradients to this global norm")


class Training(Strict):
    """How long: policies with phases are laid over these steps."""

    steps: Count = Field(description="updates of the weights")
    micro_batches: Count = Field(default=1, description="forward and backward passes per update")
    trainable: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("*",), description="globs over names of weights; the others are frozen"
    )


class Published(Strict):
    """A figure that a paper states, to be shown beside ours."""

    quantity: Literal["arithmetic_reduction", "dram_reduction"]
    policy: Name
    stated: Annotated[float, Field(ge=1e-6, le=1e6)]
    source: str


class WorkloadCase(Strict):
    """Another choice: fields of the workload as `--set` takes them."""

    name: str
    set: Annotated[tuple[str, ...], Field(min_length=1)]


class WorkloadAssumption(Strict):
    """A choice of the workload that its source leaves open, and what it could have been."""

    name: str
    here: str = Field(description="what the file assumes")
    grade: Grade = "ours"
    cases: Annotated[tuple[WorkloadCase, ...], Field(min_length=1)]


class Workload(Strict):
    """A workload file. `model` and `batch` are checked by the model family that `model.family` names."""

    description: str
    model: dict[str, Any]
    batch: dict[str, Any]
    training: Training
    optimizer: Optimizer
    label_smoothing: Rate = 0.0
    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    baseline: str
    law: Literal["product", "bops", "msfp", "energy"] = "product"
    traffic: Literal["unfused", "fused", "tiled"] = "fused"
    buffer_bytes: Count | None = Field(default=None, description="on chip, for traffic tiled")
    scope: Literal["gemm", "layer", "step"] = "step"
    hardware: tuple[str, ...] = Field(default=(), description="profiles on which time and energy are given")
    published: tuple[Published, ...] = ()
    assumptions: tuple[WorkloadAssumption, ...] = Field(
        default=(), description="moved one at a time by --by assumption"
    )


# --- policy -----------------------------------------------------------------------------------------------------------


class Rule(Strict):
    """Which tensors (or, with `copy`, which copies) get which format; of several that match, the last one wins.

    A rule without a format changes only what it says of what the rules before it chose.
    """

    role: tuple[Literal["data", "weight", "activation", "gradient", "weight_gradient", "state"], ...] | None = None
    values: Literal["float", "index", "mask"] = "float"
    phase: Literal["forward", "backward", "update"] | None = Field(
        default=None, description="of the op that writes the tensor, or for copies reads it"
    )
    gemm: tuple[Literal["forward", "dgrad", "wgrad"], ...] | None = Field(
        default=None, description="the GEMM that writes the tensor, or for copies reads it"
    )
    operand: tuple[Literal["x", "w", "dy"], ...] | None = None
    trainable: bool | None = Field(default=None, description="of weights: whether they are trained, or frozen")
    copy_: Literal["operand", "stash"] | None = Field(default=None, alias="copy")
    layer: str | None = Field(default=None, description="glob over layers, such as encoder.*")
    name: str | None = Field(default=None, description="glob over tensor names")
    op: str | None = Field(default=None, description="glob over names of ops that write it, or for copies read it")
    not_name: tuple[str, ...] = Field(default=(), description="globs over tensor names that it leaves alone")
    not_op: tuple[str, ...] = Field(default=(), description="globs over names of ops that it leaves alone")
    format: str | None = Field(default=None, description="a format name; <q0> stands for the number of level q0")
    placement: Literal["at_producer", "on_chip", "stored"] | None = None
    scale_time: Literal["current", "delayed"] | None = Field(
        default=None,
        description="how a copy knows a scale over the whole tensor: from one more read of the source, or beforehand",
    )
    container: str | None = Field(
        default=None, description="a wider format in which the values are stored and multiplied; none undoes it"
    )
    optional: bool = Field(default=False, description="no error if the rule matches nothing")


class Plateau(Strict):
    """A loss that has stopped falling: `patience` evaluations in a row that do not beat the best by `threshold`."""

    patience: Count
    threshold: NonNegative = 0.0


class Phase(Strict):
    """One stretch of training and its levels. The last phase has no end."""

    until_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    until_step: Count | None = None
    until_plateau: Plateau | None = Field(default=None, description="until the loss of loss_log stops falling")
    levels: tuple[Annotated[int, Field(ge=1, le=64)], ...] = ()
    grade: Grade = Field(default="ours", description="where the levels come from")
    until_grade: Grade = Field(default="ours", description="where the end of the phase comes from")


Numbers = dict[Name, Annotated[int, Field(ge=0, le=65536)]]


class PolicyCase(Strict):
    """Another choice: rules after the policy's, numbers in place of its own, other phases."""

    name: str
    rules: tuple[Rule, ...] = ()
    numbers: Numbers = {}
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] | None = None


class PolicyAssumption(Strict):
    """A choice of the policy that its source leaves open, and what it could have been."""

    name: str
    here: str = Field(description="what the file assumes")
    grade: Grade = "ours"
    cases: Annotated[tuple[PolicyCase, ...], Field(min_length=1)]


class Policy(Strict):
    """A policy file: formats by rules, levels by phases of training."""

    description: str
    compose: tuple[str, ...] = Field(
        default=(),
        description="policies whose rules come first; levels, phases and the like are theirs unless said here",
    )
    source: str = ""
    grade: Grade = "ours"
    setup: str = Field(default="", description="how tables name the setting; derived from the levels if there are any")
    accumulator: str = "fp32"
    levels: tuple[Name, ...] = ()
    numbers: Numbers = Field(
        default={}, description="numbers for format templates, the same in all phases; --bits may give others"
    )
    monotone: bool = Field(default=False, description="no level may fall from one phase to the next")
    loss_log: str | None = Field(default=None, description="CSV file (step,loss) beside the policy, for until_plateau")
    rules: tuple[Rule, ...] = ()
    phases: Annotated[tuple[Phase, ...], Field(min_length=1)] = (Phase(),)
    assumptions: tuple[PolicyAssumption, ...] = Field(
        default=(),
        description="moved one at a time by --by assumption; one replaces that of its name in what is composed",
    )


# --- hardware ---------------------------------------------------------------------------------------------------------

HARDWARE_VERSION = 1  # `schema_version` of hardware profiles

# Fields as they are often named, and what to write instead: units are in the names, so another unit is another name.
_OTHER_UNITS = (
    (r"vector_.*", "vector_op_per_s, in operations on elements a second"),
    (r".*(flop|tops|ops?_per_s|mac).*", "mac_per_s of an entry of rates, in MACs a second: half the operations"),
    (r"on_?chip.*|sram.*|l2.*|cache.*", "on_chip_bytes, in bytes"),
    (r".*bandwidth.*|.*bps|(dram|memory|hbm)_.*_per_(s|sec|second)", "dram_bytes_per_s, in bytes a second"),
    (r"(dram|memory|hbm|capacity).*", "dram_bytes, in bytes"),
    (r"launch.*", "launch_s, in seconds"),
    (r"(tdp|static).*", "tdp_w or static_w, in watts"),
    (r"units?", "no unit: it is in the field's name"),
)


class Measured(Strict):
    """A section whose fields have units in their names; says which name is right for a field in another unit."""

    @model_validator(mode="before")
    @classmethod
    def _right_units(cls, data: Any) -> Any:
        known = {info.alias or name for name, info in cls.model_fields.items()}
        for key in data if isinstance(data, Mapping) else ():
            right = next((right for pattern, right in _OTHER_UNITS if re.fullmatch(pattern, key)), None)
            if key not in known and right is not None:
                raise PydanticCustomError("unknown_key", "unknown key", {"key": key, "hint": f"; write {right}"})
        return data


class Sourced(Measured):
    """A figure and where it comes from."""

    source: Annotated[tuple[str, ...], Field(min_length=1, description="keys of `sources`")]
    verified: bool = Field(default=True, description="false: recalled, or computed from what is; shown as such")
    note: str = Field(default="", description="conditions, or how it was computed")
    disagreement: str = Field(default="", description="what other sources say")


class _Bare(Sourced):
    @model_validator(mode="before")
    @classmethod
    def _not_bare(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise PydanticCustomError("bare_figure", "expected `value: ...` and `source: [...]`")
        return data


class Figure(_Bare):
    """A whole number with its source; the unit is in the field's name."""

    value: Count


class Quantity(_Bare):
    """A number with its source; the unit is in the field's name."""

    value: Positive


class Factor(_Bare):
    """A part of a peak that is reached, with its source."""

    value: Annotated[float, Field(gt=0.0, le=1.0)]


def _known(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("bare_figure", "expected `value: ...` and `source: [...]`, or unknown")
    return None if value == "unknown" else value


def _unknown_is_text(found: dict[str, Any]) -> None:
    found["anyOf"] = [{"const": "unknown"} if kind == {"type": "null"} else kind for kind in found["anyOf"]]


def _whole(value: Any) -> Any:
    """1.0e14 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


OrUnknown = Annotated[Figure | None, BeforeValidator(_known), Field(json_schema_extra=_unknown_is_text)]
PerSecond = Annotated[  # less, of a device, is a number in another unit
    int, BeforeValidator(_whole), Field(ge=10**5, le=MAX_INTEGER)
]


class MacRate(Sourced):
    """How fast the device multiplies and accumulates in some formats. Either order of the operands is meant."""

    operands: tuple[str, str] = Field(description="formats of the elements, without scales")
    accumulator: str = Field(description="format of the sums")
    mac_per_s: PerSecond = Field(description="MACs a second, dense; vendors count a MAC as 2 operations")


class BitSerial(Sourced):
    """A multiplier that takes the bits of integer operands one by one: A x B cycles for a MAC of A by B bits."""

    bit_product_per_s: PerSecond = Field(description="products of 1 by 1 bit a second")
    accumulator: str = Field(default="int32", description="format of the sums")


class Efficiency(Measured):
    """What part of a peak is reached; 1 where nothing is said."""

    mac: Factor | None = None
    vector: Factor | None = None
    dram: Factor | None = None


class AtSize(Factor):
    """The part of the peak that one GEMM of some size reaches, with its source."""

    macs: Count = Field(description="MACs of one run of the GEMM")


class Hardware(Measured):
    """A hardware profile: what a device does and holds, with the source of every figure."""

    schema_version: Literal[1]
    description: str
    vendor: str = ""
    memory: Name = Field(description="type of the main memory, such as hbm3, gddr6, lpddr5, sram, none")
    rates: Annotated[tuple[MacRate, ...], Field(min_length=1)]
    bit_serial: BitSerial | None = None
    vector_op_per_s: OrUnknown = Field(description="elementwise fp32 operations a second, outside matrix units")
    dram_bytes_per_s: OrUnknown
    dram_bytes: OrUnknown
    on_chip_bytes: OrUnknown = Field(description="last level before main memory that holds tiles of any operand")
    launch_s: Quantity | None = Field(default=None, description="to start a kernel; 0 if not said")
    static_w: Quantity | None = Field(default=None, description="drawn whatever runs")
    tdp_w: Quantity | None = Field(default=None, description="thermal design power")
    energy_table: Name | None = Field(default=None, description="table of energies per operation")
    node_nm: Quantity | None = None
    year: Figure | None = None
    efficiency: Efficiency = Efficiency()
    gemm_efficiency: tuple[AtSize, ...] = Field(
        default=(), description="by size, MACs rising; on a log scale of MACs straight in between, constant beyond"
    )
    notes: tuple[str, ...] = ()
    sources: Annotated[dict[str, str], Field(min_length=1, description="what the keys of `source` stand for")]


# --- checking -------------------------------------------------------------------------------------------------------

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
    """The part of a document at `at` as a checked section. Raises InputError for the first thing wrong."""
    data: Any = document.data
    for part in at:
        data = data[part]
    try:
        return section.model_validate(data)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        where = (*at, *error["loc"])
        if error["type"] == "unknown_key":
            where = (*where, error["ctx"]["key"])
        raise document.error(where, _message(error)) from None
