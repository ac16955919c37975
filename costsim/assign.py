"""From a policy to the format of every tensor, and of the copies that ops read in its place.

Rules select tensors, or the *reads* of tensors by ops: a read may go through a `stash` copy (what the backward reads of
a forward tensor) and an `operand` copy (what a GEMM multiplies). Which copies exist, in which format and where they
live, is all that a policy says; no policy's name is known to the code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import NamedTuple

from costsim import schema
from costsim.autodiff import is_stashed
from costsim.formats import Format, parse_format
from costsim.graph import GEMM_OPERANDS, Graph, Op, Tensor
from costsim.kinds import Dims
from costsim.policy import Policy, fill

Axes = tuple[int, ...]

_DEFAULT_PLACEMENT = {"operand": "on_chip", "stash": "at_producer"}
_DEFAULT_FORMAT = {"index": "index64", "mask": "mask8"}  # as PyTorch holds ids, labels and masks


@dataclass(frozen=True, slots=True, eq=False)  # an assignment makes each copy once: identity is equality
class Copy:
    """A tensor's values once more, in another format or with boxes along other dims.

    `placement`: `at_producer` is written by the op that makes the source, while the values are on chip; `on_chip` is
    made anew by every op that reads it; `stored` takes a pass of its own (source read, copy written).
    """

    name: str  # for tables: of what, why, in what format, boxes along which dims
    tensor: str  # whose values
    of: "Copy | None"  # the copy that it is made from, None: the tensor itself
    why: str  # stash or operand
    format: Format
    axes: Axes  # of the tensor, along which boxes run, flattened in this order
    placement: str


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


class _Candidate(NamedTuple):
    """What rules look at: a tensor as it is stored, or (with `copy_`) a read of it. Fields as in schema.Rule."""

    role: str
    values: str
    phase: str | None
    gemm: str | None
    operand: str | None
    copy_: str | None
    layer: str | None
    name: str | None
    op: str | None


class _Choice(NamedTuple):
    """What the last matching rule says."""

    format: Format
    placement: str
    rule: int


_GLOBS = ("layer", "name", "op")
_Test = frozenset[str] | re.Pattern[str]


def _tests(rule: schema.Rule) -> list[tuple[int, _Test]]:
    """What a rule asks of each field of a candidate that it mentions."""
    tests: list[tuple[int, _Test]] = [(_Candidate._fields.index("copy_"), frozenset((rule.copy_ or "",)))]
    for at, name in enumerate(_Candidate._fields):
        value = getattr(rule, name)
        if value is None or name == "copy_":
            continue
        if name in _GLOBS:
            tests.append((at, re.compile(translate(value))))
        else:
            tests.append((at, frozenset(value if isinstance(value, tuple) else (value,))))
    return tests


def _passes(test: _Test, value: str | None) -> bool:
    if isinstance(test, frozenset):
        return (value or "") in test
    return value is not None and test.match(value) is not None


class _Rules:
    """The rules of a policy in one phase, compiled; remembers which of them matched anything."""

    def __init__(self, policy: Policy, index: int) -> None:
        self.policy = policy
        rules = policy.file.rules
        self.tests = [_tests(rule) for rule in rules]
        self.choices = [
            _Choice(
                fill(policy, ("rules", i, "format"), rule.format, index),
                rule.placement or _DEFAULT_PLACEMENT.get(rule.copy_ or "", ""),
                i,
            )
            for i, rule in enumerate(rules)
        ]
        self.matched: set[int] = set()
        self.copies = any(rule.copy_ for rule in rules)
        self.detailed = any(getattr(rule, name) is not None for rule in rules for name in _GLOBS)
        self.memo: dict[_Candidate, _Choice | None] = {}

    def choose(self, candidate: _Candidate) -> _Choice | None:
        """What the last rule that matches says; None if none does."""
        if candidate not in self.memo:
            self.memo[candidate] = self._last_match(candidate)
        return self.memo[candidate]

    def _last_match(self, candidate: _Candidate) -> _Choice | None:
        chosen = None
        for choice, tests in zip(self.choices, self.tests, strict=True):
            if all(_passes(test, candidate[at]) for at, test in tests):
                self.matched.add(choice.rule)
                chosen = choice
        return chosen

    def check_all_matched(self) -> None:
        """Raise InputError for a rule that matched nothing and is not optional."""
        for i, rule in enumerate(self.policy.file.rules):
            if i not in self.matched and not rule.optional:
                raise self.policy.error(
                    ("rules", i), "this rule matches nothing in the workload; say optional: true if that is meant"
                )


@lru_cache(maxsize=2)  # the same for all policies
def _tensors_alike(graph: Graph, detailed: bool) -> tuple[tuple[_Candidate, tuple[str, ...]], ...]:
    """The tensors in groups that no rule tells apart, unless (`detailed`) by its globs."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    producer, root = graph.producer, graph.root
    for name in graph.tensors:
        tensor = graph.tensors[root[name]]  # written in place: one memory, one format
        op = producer.get(tensor.name)
        phase, gemm = (op.phase, op.gemm) if op else (None, None)
        where = (tensor.layer, tensor.name, op and op.name) if detailed else (None, None, None)
        groups.setdefault((tensor.role, tensor.values, phase, gemm, None, None, *where), []).append(name)
    return tuple((_Candidate._make(key), tuple(names)) for key, names in groups.items())


def _stored_formats(graph: Graph, rules: _Rules) -> dict[str, Format]:
    formats: dict[str, Format] = {}
    for candidate, names in _tensors_alike(graph, rules.detailed):
        chosen = rules.choose(candidate)
        if chosen is not None:
            format = chosen.format
        elif candidate.values in _DEFAULT_FORMAT:
            format = parse_format(_DEFAULT_FORMAT[candidate.values])
        else:
            message = f"no rule gives tensor {names[0]!r} (role {candidate.role}) a format"
            raise rules.policy.error(("rules",), message)
        formats.update(dict.fromkeys(names, format))
    return formats


class _Read(NamedTuple):
    """A read that may go through copies: of a floating-point tensor, by a GEMM or from the stash."""

    op: Op
    operand: int
    tensor: Tensor
    axes: Axes  # over which the GEMM sums, else the last


@lru_cache(maxsize=2)  # the same for all policies
def _reads_alike(graph: Graph, detailed: bool) -> tuple[tuple[_Candidate, bool, tuple[_Read, ...]], ...]:
    """Reads in groups that no rule tells apart, unless by its globs, and whether they are from the stash."""
    groups: dict[tuple[bool, tuple[str | None, ...]], list[_Read]] = {}
    for op in graph.ops:
        gemm, backward = op.gemm, op.phase == "backward"
        if gemm is None and not backward:
            continue
        for i, name in enumerate(op.inputs):
            tensor = graph.tensors[name]
            stashed = backward and is_stashed(graph, name)
            if tensor.values == "float" and (gemm or stashed):
                label = GEMM_OPERANDS[gemm][i] if gemm else None
                axes = op.kind.contracted[i] if gemm else last_axis(tensor)
                where = (op.layer, name, op.name) if detailed else (None, None, None)
                key = (tensor.role, tensor.values, op.phase, gemm, label, None, *where)
                groups.setdefault((stashed, key), []).append(_Read(op, i, tensor, axes))
    return tuple((_Candidate._make(key), stashed, tuple(reads)) for (stashed, key), reads in groups.items())


def last_axis(tensor: Tensor) -> Axes:
    """Along which the boxes of a tensor lie as it is stored; none for a scalar."""
    return (len(tensor.dims) - 1,) if tensor.dims else ()


class _Copies:
    """Makes each copy once, and leaves out those that equal their source."""

    def __init__(self, graph: Graph, rules: _Rules, formats: Mapping[str, Format]) -> None:
        self.graph, self.rules, self.formats = graph, rules, formats
        self.made: dict[tuple[object, ...], Copy] = {}
        self.boxes_of: dict[tuple[str, Dims, Axes], Axes] = {}

    def boxes(self, format: Format, dims: Dims, axes: Axes) -> Axes:
        """The fewest trailing axes along which the same boxes lie; none if the format has no boxes.

        Boxes of 16 along (heads, head) with 128 elements a head never cross a head: they are those along head.
        """
        key = (format.name, dims, axes)
        found = self.boxes_of.get(key)
        if found is None:
            runs = (axes[start:] for start in range(len(axes) - 1, 0, -1))
            whole = (run for run in runs if format.fits(self.graph.elements(tuple(dims[axis] for axis in run))))
            found = self.boxes_of[key] = next(whole, axes) if format.blocked else ()
        return found

    def extend(
        self, chain: tuple[Copy, ...], tensor: Tensor, why: str, choice: _Choice, axes: Axes
    ) -> tuple[Copy, ...]:
        """The chain of copies and one more made from its end, unless that would be the same bits."""
        format, placement, rule = choice
        axes = self.boxes(format, tensor.dims, axes)
        of = chain[-1] if chain else None
        source = of.format if of else self.formats[tensor.name]
        if format.name == source.name and axes == (
            of.axes if of else self.boxes(source, tensor.dims, last_axis(tensor))
        ):
            return chain
        if placement == "at_producer" and of is not None and of.placement == "stored":
            raise self.rules.policy.error(
                ("rules", rule, "placement"),
                "made at_producer from a stash that is stored later; choose on_chip or stored",
            )
        key = (tensor.name, of, format, axes, placement)
        if key not in self.made:
            run = "." + "+".join(tensor.dims[axis] for axis in axes) if axes else ""
            stored = ".stored" if placement == "stored" else ""
            name = f"{of.name if of else tensor.name}@{why}.{format.name}{run}{stored}"
            self.made[key] = Copy(name, tensor.name, of, why, format, axes, placement)
        return (*chain, self.made[key])


def assign(graph: Graph, policy: Policy, index: int = 0) -> Assignment:
    """The formats of all tensors and the copies of all reads, in the phase of that index.

    A stash that a GEMM reads without an operand copy of its own is the GEMM's operand: its boxes lie along the
    contracted dims. Otherwise boxes of what is stored lie along the last dim. Raises InputError for a tensor without a
    format and for a rule that matches nothing.
    """
    rules = _Rules(policy, index)
    formats = _stored_formats(graph, rules)
    copies = _Copies(graph, rules, formats)
    chains: dict[tuple[str, int], tuple[Copy, ...]] = {}
    for candidate, stashed, reads in _reads_alike(graph, rules.detailed) if rules.copies else ():
        operand = rules.choose(candidate._replace(copy_="operand")) if candidate.gemm else None
        stash = rules.choose(candidate._replace(copy_="stash")) if stashed else None
        for op, i, tensor, axes in reads if operand or stash else ():
            chain: tuple[Copy, ...] = ()
            if stash:
                chain = copies.extend(chain, tensor, "stash", stash, last_axis(tensor) if operand else axes)
            if operand:
                chain = copies.extend(chain, tensor, "operand", operand, axes)
            if chain:
                chains[op.name, i] = chain
    rules.check_all_matched()
    accumulator = fill(policy, ("accumulator",), policy.file.accumulator, index)
    return Assignment(formats, chains, accumulator)
