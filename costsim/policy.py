"""From a policy to the format of every tensor, and of the copies that ops read in its place.

Rules select tensors, or the *reads* of tensors by ops: a read may go through a `stash` copy (what the backward reads of
a forward tensor) and an `operand` copy (what a GEMM multiplies). Which copies exist, in which format and where they
live, is all that a policy says; no policy's name is known to the code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import translate
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from costsim import files, schema
from costsim.autodiff import is_stashed
from costsim.errors import InputError, nearest, one_line
from costsim.files import Document, Where
from costsim.formats import Format, parse_format
from costsim.graph import GEMM_OPERANDS, Graph, Op, Tensor
from costsim.kinds import Dims
from costsim.schema import validate

_LEVEL = r"<([^<>]*)>"
_DEFAULT_PLACEMENT = {"operand": "on_chip", "stash": "at_producer"}
_DEFAULT_FORMAT = {"index": "index64", "mask": "mask8"}  # as PyTorch holds ids, labels and masks


@dataclass(frozen=True, slots=True, eq=False)  # an assignment makes each copy once: identity is equality
class Copy:
    """A tensor's values once more, in another format or with boxes along other dims.

    `placement`: `at_producer` is written by the op that makes the source, while the values are on chip; `on_chip` is
    made anew by every op that reads it; `stored` takes a pass of its own (source read, copy written).
    """

    tensor: str  # whose values
    of: "Copy | None"  # the copy that it is made from, None: the tensor itself
    why: str  # stash or operand
    format: Format
    along: Dims  # the dims that boxes run along, flattened in this order
    placement: str

    @property
    def name(self) -> str:
        """A name for tables: whose copy, why, in what."""
        run = f".{'+'.join(self.along)}" if self.format.blocked else ""
        return f"{self.tensor}@{self.why}.{self.format.name}{run}"


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a policy says of a graph in one phase of training. The cost model and the reference share this."""

    formats: Mapping[str, Format]  # of each tensor as stored
    copies: Mapping[tuple[str, int], tuple[Copy, ...]]  # by op and operand: the chain of copies it reads through
    accumulator: Format

    def multiplied(self, op: Op, operand: int) -> Format:
        """The format in which a GEMM's operand meets the multipliers."""
        chain = self.copies.get((op.name, operand))
        return chain[-1].format if chain else self.formats[op.inputs[operand]]


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy file, under the name that tables print."""

    name: str
    file: schema.Policy
    document: Document

    @property
    def setup(self) -> tuple[str, ...]:
        """How tables name the setting, one text per phase; `*` marks levels that are recalled, not stated."""
        if not self.file.levels:
            return (self.file.setup or self.name,) * len(self.file.phases)
        return tuple(
            f"[{','.join(map(str, phase.levels))}]{'*' if phase.grade == 'recalled' else ''}"
            for phase in self.file.phases
        )

    @property
    def recalled(self) -> bool:
        """Whether any number in it is remembered rather than sourced."""
        return "recalled" in (self.file.grade, *(phase.grade for phase in self.file.phases))


def load_policy(path: Path) -> Policy:
    """The policy of that file. Raises InputError, with the place in the file, for anything wrong."""
    document = files.parse_yaml(files.read_text(path), str(path))
    file = validate(schema.Policy, document)
    policy = Policy(path.stem, file, document)
    _check(policy)
    return policy


def _check(policy: Policy) -> None:
    file, error = policy.file, policy.document.error
    if len(set(file.levels)) < len(file.levels):
        raise error(("levels",), "a level is named twice")
    for i, phase in enumerate(file.phases):
        at = ("phases", i)
        if len(phase.levels) != len(file.levels):
            raise error((*at, "levels"), f"expected {len(file.levels)} numbers for {list(file.levels)}")
        ends = (phase.until_fraction is not None) + (phase.until_step is not None)
        if i + 1 < len(file.phases) and ends != 1:
            raise error(at, "expected one of until_fraction and until_step (only the last phase has no end)")
        if i + 1 == len(file.phases) and ends:
            raise error(at, "the last phase has no end; leave until_fraction and until_step out")
        if i and file.monotone:
            for level, before, now in zip(file.levels, file.phases[i - 1].levels, phase.levels, strict=True):
                if now < before:
                    raise error(
                        (*at, "levels"), f"level {level} falls from {before} to {now}, but the policy is monotone"
                    )
        if (accumulator := _fill(policy, ("accumulator",), file.accumulator, i)).values != "float":
            raise error(("accumulator",), f"{accumulator.name} holds no sums of products")
        for j, rule in enumerate(file.rules):
            format = _fill(policy, ("rules", j, "format"), rule.format, i)
            if format.values != rule.values:
                raise error(
                    ("rules", j, "format"), f"{format.name} holds {format.values} values, the rule is for {rule.values}"
                )
    for j, rule in enumerate(file.rules):
        if rule.placement is not None and rule.copy_ is None:
            raise error(("rules", j, "placement"), "only a copy has a placement; say copy: operand or copy: stash")
        if rule.operand is not None and rule.copy_ is None:
            raise error(("rules", j, "operand"), "only a read has an operand; say copy: operand or copy: stash")


def _fill(policy: Policy, at: Where, template: str, index: int) -> Format:
    """The format of a template in the phase of that index: `bfp<q0>` with q0 = 4 is bfp4."""
    levels = dict(zip(policy.file.levels, map(str, policy.file.phases[index].levels), strict=True))
    for name in re.findall(_LEVEL, template):
        if name not in levels:
            raise policy.document.error(at, f"unknown level {one_line(name)!r}{nearest(name, levels)}")
    try:
        parse_format(re.sub(_LEVEL, "8", template))  # wrong with any number: the template's fault
        at = ("phases", index, "levels") if levels else at
        return parse_format(re.sub(_LEVEL, lambda match: levels[match[1]], template))
    except InputError as error:
        raise policy.document.error(at, str(error)) from None


def schedule(policy: Policy, steps: int) -> list[int]:
    """How many of the `steps` each phase takes; they sum to `steps`. Raises InputError on overlapping phases.

    A fraction ends its phase at the step floor(fraction x steps).
    """
    start = 0
    lengths = []
    for i, phase in enumerate(policy.file.phases):
        end = steps
        if phase.until_fraction is not None:
            end = int(Fraction(str(phase.until_fraction)) * steps)
        if phase.until_step is not None:
            end = min(phase.until_step, steps)
        if end < start:
            raise policy.document.error(("phases", i), f"ends at step {end}, before it starts at step {start}")
        lengths.append(end - start)
        start = end
    return lengths


class _Rules:
    """The rules of a policy in one phase, compiled; remembers which of them matched anything."""

    def __init__(self, policy: Policy, index: int) -> None:
        self.policy = policy
        rules = policy.file.rules
        self.compiled = [self._compile(rule) for rule in rules]
        self.formats = [_fill(policy, ("rules", i, "format"), rule.format, index) for i, rule in enumerate(rules)]
        self.matched: set[int] = set()
        self.copies = any(rule.copy_ for rule in rules)
        self.by_layer = any(rule.layer is not None for rule in rules)
        self.by_name = any(rule.name is not None for rule in rules)
        self.memo: dict[tuple[str | None, ...], tuple[Format, str] | None] = {}

    @staticmethod
    def _compile(rule: schema.Rule) -> list[tuple[int, frozenset[str] | re.Pattern[str]]]:
        tests: list[tuple[int, frozenset[str] | re.Pattern[str]]] = []
        for i, selector in enumerate(schema.Rule.SELECTORS):
            value = getattr(rule, selector)
            if value is None:
                continue
            if selector in ("layer", "name"):
                tests.append((i, re.compile(translate(value))))
            else:
                tests.append((i, frozenset(value if isinstance(value, tuple) else (value,))))
        return tests

    def choose(
        self,
        tensor: Tensor,
        phase: str | None,
        gemm: str | None,
        operand: str | None = None,
        copy: str | None = None,
        layer: str | None = None,
    ) -> tuple[Format, str] | None:
        """Format and placement by the last rule that matches; None if none does."""
        key = (
            tensor.role,
            tensor.values,
            phase,
            gemm,
            operand,
            copy,
            (layer or tensor.layer) if self.by_layer else None,
            tensor.name if self.by_name else None,
        )
        if key not in self.memo:
            self.memo[key] = self._choose(key)
        return self.memo[key]

    def _choose(self, key: tuple[str | None, ...]) -> tuple[Format, str] | None:
        copy = key[5]
        chosen = None
        for i, (rule, tests) in enumerate(zip(self.policy.file.rules, self.compiled, strict=True)):
            if rule.copy_ != copy:
                continue
            if all(_passes(test, key[at]) for at, test in tests):
                self.matched.add(i)
                chosen = (self.formats[i], rule.placement or _DEFAULT_PLACEMENT.get(copy or "", ""))
        return chosen

    def check_all_matched(self) -> None:
        """Raise InputError for a rule that matched nothing and is not optional."""
        for i, rule in enumerate(self.policy.file.rules):
            if i not in self.matched and not rule.optional:
                raise self.policy.document.error(
                    ("rules", i), "this rule matches nothing in the workload; say optional: true if that is meant"
                )


def _passes(test: frozenset[str] | re.Pattern[str], value: str | None) -> bool:
    if value is None:
        return False
    return value in test if isinstance(test, frozenset) else test.match(value) is not None


def _stored_formats(graph: Graph, rules: _Rules) -> dict[str, Format]:
    formats: dict[str, Format] = {}
    producer = graph.producer
    for name, tensor in graph.tensors.items():
        if tensor.alias is not None:  # written in place: one memory, one format
            formats[name] = formats[graph.root[name]]
            continue
        op = producer.get(name)
        chosen = rules.choose(tensor, op and op.phase, op and op.gemm)
        if chosen is not None:
            formats[name] = chosen[0]
        elif tensor.values in _DEFAULT_FORMAT:
            formats[name] = parse_format(_DEFAULT_FORMAT[tensor.values])
        else:
            raise rules.policy.document.error(
                ("rules",), f"no rule gives tensor {name!r} (role {tensor.role}) a format"
            )
    return formats


class _Read(NamedTuple):
    """A read that may go through copies: of a floating-point tensor, by a GEMM or from the stash."""

    op: Op
    operand: int
    label: str | None  # x, w or dy, if a GEMM reads
    tensor: Tensor
    stashed: bool
    along: Dims  # over which the GEMM sums, else the last dim


@lru_cache(maxsize=4)  # the same for all policies
def _reads(graph: Graph) -> tuple[_Read, ...]:
    reads = []
    for op in graph.ops:
        backward = op.phase == "backward"
        if op.gemm is None and not backward:
            continue
        for i, name in enumerate(op.inputs):
            tensor = graph.tensors[name]
            stashed = backward and is_stashed(graph, name)
            if tensor.values == "float" and (op.gemm or stashed):
                label = GEMM_OPERANDS[op.gemm][i] if op.gemm else None
                along = graph.contracted_dims(op, i) if op.gemm else tensor.dims[-1:]
                reads.append(_Read(op, i, label, tensor, stashed, along))
    return tuple(reads)


class _Copies:
    """Makes each copy once, and leaves out those that equal their source."""

    def __init__(self, formats: Mapping[str, Format]) -> None:
        self.formats = formats
        self.made: dict[tuple[object, ...], Copy] = {}

    def extend(
        self, chain: tuple[Copy, ...], tensor: Tensor, why: str, choice: tuple[Format, str], along: Dims
    ) -> tuple[Copy, ...]:
        format, placement = choice
        of = chain[-1] if chain else None
        source = of.format if of else self.formats[tensor.name]
        source_along = of.along if of else tensor.dims[-1:]
        if format == source and (along == source_along or not format.blocked):
            return chain
        key = (tensor.name, of, format, along if format.blocked else (), placement)
        if key not in self.made:
            self.made[key] = Copy(tensor.name, of, why, format, along, placement)
        return (*chain, self.made[key])


def assign(graph: Graph, policy: Policy, index: int = 0) -> Assignment:
    """The formats of all tensors and the copies of all reads, in the phase of that index.

    A stash that a GEMM reads without an operand copy of its own is the GEMM's operand: its boxes lie along the
    contracted dims. Otherwise boxes of what is stored lie along the last dim. Raises InputError for a tensor without a
    format and for a rule that matches nothing.
    """
    rules = _Rules(policy, index)
    formats = _stored_formats(graph, rules)
    copies = _Copies(formats)
    chains: dict[tuple[str, int], tuple[Copy, ...]] = {}
    for op, i, label, tensor, stashed, along in _reads(graph) if rules.copies else ():
        operand = rules.choose(tensor, op.phase, op.gemm, label, "operand", op.layer) if label else None
        chain: tuple[Copy, ...] = ()
        if stashed and (stash := rules.choose(tensor, op.phase, op.gemm, label, "stash", op.layer)):
            chain = copies.extend(chain, tensor, "stash", stash, tensor.dims[-1:] if operand else along)
        if operand:
            chain = copies.extend(chain, tensor, "operand", operand, along)
        if chain:
            chains[op.name, i] = chain
    rules.check_all_matched()
    accumulator = _fill(policy, ("accumulator",), policy.file.accumulator, index)
    return Assignment(formats, chains, accumulator)
