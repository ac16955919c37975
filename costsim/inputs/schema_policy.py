"""The sections of a policy file: rules that give tensors formats, phases of training."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal

from costsim.errors import InputError
from costsim.formats import hadamard
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.inputs.section import (
    After,
    Before,
    Clash,
    Count,
    Field,
    Grade,
    Hundred,
    Name,
    NonNegative,
    Section,
    WrongError,
    check,
    parsed,
)
from costsim.inputs.spans import layers_of, moment, moment_of, or_integer, spelled
from costsim.names import Collective, Gemm, Operand, Quantity, Values

MOST_PHASES = 200  # each is counted by itself
LEVEL = r"<([^<>]*)>"  # in a template, the number of that level


def _of_levels(template: str) -> Format:
    """The format of a template, with 8 for the numbers of its levels, not known here, or 4 or 2 if need be."""
    for number in ("8", "4", "2"):
        with suppress(InputError):
            return parse_format(re.sub(LEVEL, number, template))
    return parsed(re.sub(LEVEL, "8", template))


def _format(template: str) -> str:
    _of_levels(template)
    return template


def _accumulator(template: str) -> str:
    format = _of_levels(template)
    if format.values != "float":
        raise WrongError(f"{format.name} holds no sums of products")
    return template


def _container(name: str) -> str:
    if name != "none":
        parsed(name)
    return name


def _transform(name: str) -> str:
    try:
        hadamard.block_of(name)
    except InputError as error:
        raise WrongError(str(error)) from None
    return name


Globs = Annotated[tuple[str, ...], Hundred]
Template = Annotated[str, After(_format)]  # the name of a format, with levels
Accumulator = Annotated[str, After(_accumulator)]
Container = Annotated[str, After(_container)]
Transform = Annotated[str, After(_transform)]
Span = Annotated[Annotated[str, After(layers_of)], Before(spelled, or_integer)]
When = Annotated[Annotated[str, After(moment_of)], Before(spelled, or_integer)]

_FIELDS_OF_COPIES = {
    "placement": "a placement",
    "scale_time": "a scale_time",
    "transform": "a transform",
    "operand": "an operand",
}


class Rule(Section):
    """Which tensors (or, with `copy`, which copies) get which format; of several that match, the last one wins.

    A rule without a format changes only what it says of what the rules before it chose.
    """

    role: tuple[Literal["data", "weight", "activation", "gradient", "weight_gradient", "state"], ...] | None = Field(
        default=None, description="what the tensor is"
    )
    values: Values = Field(default="float", description="what the tensor holds")
    phase: Literal["forward", "backward", "update"] | None = Field(
        default=None, description="of the op that writes the tensor, or for copies reads it"
    )
    gemm: tuple[Gemm, ...] | None = Field(
        default=None, description="the GEMM that writes the tensor, or for copies reads it"
    )
    operand: tuple[Operand, ...] | None = Field(
        default=None, description="of copies: which operand of the GEMM they are"
    )
    collective: tuple[Collective, ...] | None = Field(
        default=None, description="the collective that writes the tensor, or for copies (the messages) reads it"
    )
    trainable: bool | None = Field(default=None, description="of weights: whether they are trained, or frozen")
    copy_: Literal["operand", "stash"] | None = Field(
        default=None,
        key="copy",
        description="which copy it is of: what GEMMs multiply, or what is kept for the backward; none: the tensor",
    )
    layer: str | None = Field(default=None, description="glob over layers, such as encoder.*")
    layers: Annotated[tuple[Span, ...], Hundred] | None = Field(
        default=None, description="layers by number in their stack (0, -1) or share (first 2, last 15%, rounded up)"
    )
    name: str | None = Field(default=None, description="glob over tensor names")
    op: str | None = Field(default=None, description="glob over names of ops that write it, or for copies read it")
    elements_at_least: Count | None = Field(default=None, description="the least number of elements of the tensor")
    not_name: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="globs over tensor names that it leaves alone"
    )
    not_op: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="globs over names of ops that it leaves alone"
    )
    format: Template | None = Field(default=None, description="a format name; <q0> stands for the number of level q0")
    placement: Literal["at_producer", "on_chip", "stored", "transient"] | None = Field(
        default=None,
        description="of a copy: made by the op that writes the tensor, on chip only, stored, or stored for one reader",
    )
    scale_time: Literal["current", "delayed"] | None = Field(
        default=None,
        description="how a copy knows a scale over the whole tensor: from one more read of the source, or beforehand",
    )
    container: Container | None = Field(
        default=None, description="a wider format in which the values are stored and multiplied; none undoes it"
    )
    transform: Transform | None = Field(
        default=None,
        description="hadamard16 and the like: what a GEMM reads is so transformed in blocks before it is converted; "
        "none undoes it",
    )
    accumulator: Accumulator | None = Field(
        default=None, description="format in which the GEMM that writes the tensor sums"
    )
    from_: When | None = Field(
        default=None, key="from", description="when it begins to hold: a share of the run (90%) or a step"
    )
    until: When | None = Field(default=None, description="when it ceases to hold: a share of the run (10%) or a step")
    optional: bool = Field(default=False, description="no error if the rule matches nothing")

    @check
    def _never(self) -> Iterator[Clash]:
        if self.from_ is None or self.until is None:
            return
        start, end = moment(self.from_), moment(self.until)
        if (start.share is None) != (end.share is None):
            yield ("until",), "a share and a step have no order before a run; use one sort"
        elif start.at >= end.at:
            yield ("until",), f"{end} is not after {start}"

    @check
    def _says_nothing(self) -> Iterator[Clash]:
        changes = (self.placement, self.scale_time, self.container, self.transform, self.accumulator)
        if self.format is None and changes == (None,) * 5:
            yield (), "expected a format (or a placement, scale_time, container, transform or accumulator to change)"

    @check
    def _other_values(self) -> Iterator[Clash]:
        if self.format is not None and (format := _of_levels(self.format)).values != self.values:
            yield ("format",), f"{format.name} holds {format.values} values, the rule is for {self.values}"

    @check
    def _accumulator_of_copy(self) -> Iterator[Clash]:
        if self.accumulator is not None and self.copy_ is not None:
            yield ("accumulator",), "only what a GEMM writes has one, no copy; leave copy out"

    @check
    def _fields_of_copies(self) -> Iterator[Clash]:
        for name, words in _FIELDS_OF_COPIES.items():
            if vars(self).get(name) is not None and self.copy_ is None:
                yield (name,), f"only a copy has {words}; say copy: operand or copy: stash"


class Plateau(Section):
    """A loss that has stopped falling: `patience` evaluations in a row that do not beat the best by `threshold`."""

    patience: Count = Field(description="evaluations in a row")
    threshold: NonNegative = Field(default=0.0, description="by how much the best loss has to be beaten")


class Phase(Section):
    """One stretch of training and its levels. The last phase has no end."""

    until_fraction: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None, description="the part of all steps at which it ends"
    )
    until_step: Count | None = Field(default=None, description="the step at which it ends")
    until_plateau: Plateau | None = Field(default=None, description="until the loss of loss_log stops falling")
    levels: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(), description="bits, a number for each of the policy's levels"
    )
    grade: Grade = Field(default="ours", description="where the levels come from")
    until_grade: Grade = Field(default="ours", description="where the end of the phase comes from")


Numbers = dict[Name, Annotated[int, Field(ge=0, le=65536)]]


class PolicyCase(Section):
    """Another choice: rules after the policy's, numbers in place of its own, other phases."""

    name: str = Field(description="a word or two for tables")
    rules: tuple[Rule, ...] = Field(default=(), description="follow the policy's own")
    numbers: Numbers = Field(default={}, description="stand in for the policy's")
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=MOST_PHASES)] | None = Field(
        default=None, description="stand in for the policy's"
    )


class PolicyAssumption(Section):
    """A choice of the policy that its source leaves open, and what it could have been."""

    name: str = Field(description="a word or two for tables")
    here: str = Field(description="what the file assumes")
    grade: Grade = Field(default="ours", description="how well a source backs it")
    cases: Annotated[tuple[PolicyCase, ...], Field(min_length=1), Hundred] = Field(
        description="what else could have been assumed"
    )


class Figure(Section):
    """A cost that the source of a recipe states, to be shown beside ours."""

    quantity: Quantity = Field(description="what is stated")
    stated: Annotated[float, Field(ge=1e-9, le=1e18)] = Field(description="the figure")
    source: str = Field(description="who states it, and where")
    grade: Grade = Field(default="stated", description="recalled: the source is not at hand; it is shown so")
    workload: Name | None = Field(
        default=None, description="that it is stated of; none: of any model, and ours is of the one at hand"
    )
    set: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="fields of the workload for the recipe, as --set takes them, if not those of the policy"
    )
    baseline: Name | None = Field(default=None, description="the policy that a reduction compares with")
    baseline_set: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="fields of the workload for the baseline"
    )
    format: str | None = Field(
        default=None, description="of figures of a format: its name; of shares: a glob over names of formats"
    )
    note: str = Field(default="", description="why ours differs: what the source counts and we do not, or the reverse")

    @check
    def _needs(self) -> Iterator[Clash]:
        if self.quantity.endswith("_reduction") and self.baseline is None:
            yield ("baseline",), f"missing; {self.quantity} is relative to a policy"
        if self.quantity in (*OF_A_FORMAT, "share_of_linear_macs") and self.format is None:
            yield ("format",), f"missing; {self.quantity} is of a format"


OF_A_FORMAT = ("bits_per_element", "scale_bits_per_element")  # which are the same on every workload


class Policy(Section):
    """A policy file: formats by rules, levels by phases of training."""

    description: str = Field(description="one line, which `costsim list policies` shows")
    compose: Annotated[tuple[str, ...], Hundred] = Field(
        default=(),
        description="policies whose rules come first; levels, phases and the like are theirs unless said here",
    )
    source: str = Field(default="", description="where the recipe comes from")
    grade: Grade = Field(default="ours", description="how well the source backs it")
    label: str = Field(
        default="", description="how figures and papers' tables name the policy, if not by its file's name"
    )
    setup: str = Field(default="", description="how tables name the setting; derived from the levels if there are any")
    accumulator: Accumulator | None = Field(
        default=None,
        description="format in which GEMMs sum if no rule says it; by default as their products do",
    )
    levels: Annotated[tuple[Name, ...], Hundred] = Field(
        default=(), description="names of numbers that phases give, such as q0, for `<q0>` in a format"
    )
    numbers: Numbers = Field(
        default={}, description="numbers for format templates, the same in all phases; --bits may give others"
    )
    monotone: bool = Field(default=False, description="no level may fall from one phase to the next")
    loss_log: str | None = Field(default=None, description="CSV file (step,loss) beside the policy, for until_plateau")
    rules: tuple[Rule, ...] = Field(
        default=(), description="which tensors and copies get which format; of several that match the last one wins"
    )
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, max_length=MOST_PHASES)] = Field(
        default=(Phase(),), description="stretches of training, each with its levels; the last has no end"
    )
    set: Annotated[tuple[str, ...], Hundred] = Field(
        default=(), description="fields of a workload that the recipe has beside formats, as --set takes them"
    )
    published: Annotated[tuple[Figure, ...], Hundred] = Field(
        default=(), description="costs that the source states, shown beside ours by run, memory and recipes"
    )
    assumptions: Annotated[tuple[PolicyAssumption, ...], Hundred] = Field(
        default=(),
        description="moved one at a time by --by assumption; one replaces that of its name in what is composed",
    )
