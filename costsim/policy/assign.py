"""From a policy to the format of every tensor, and of the copies that ops read in its place.

Rules select tensors, or the *reads* of tensors by ops. A read may go through a `stash` copy (what the backward reads of
a forward tensor) and an `operand` copy (what a GEMM multiplies, or what an op reads that a rule names). A policy says
which copies exist, in which format and where they live, and nothing else; the code knows no policy by name.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from costsim.errors import InputError, refuse
from costsim.formats import hadamard
from costsim.formats.format import Format, contained
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph, Op
from costsim.graph.kinds import Dims
from costsim.inputs import schema_policy
from costsim.policy.classes import LAYERS, Axes, Candidate, Classes, Read, Selectors, classify, last_axis
from costsim.policy.levels import fill
from costsim.policy.phases import asleep
from costsim.policy.policy import Policy
from costsim.policy.transform import Transform, misfit, one_sided
from costsim.policy.unmatched import why

DEFAULT_PLACEMENT = {"operand": "on_chip", "stash": "at_producer"}
DEFAULT_SCALE_TIME = "delayed"
# Of copies that a pass of their own makes: where copies made from them can live, which are made no earlier.
_MADE_LATER = {"stored": ("on_chip", "stored", "transient"), "transient": ("on_chip", "transient")}
UNRULED_FORMAT = {"index": "index64", "mask": "mask8"}  # as PyTorch holds ids, labels and masks


@dataclass(frozen=True, slots=True)
class Copy:
    """A way to hold a tensor's values once more, in another format or with boxes along other dims.

    `placement`: the op that makes the source writes an `at_producer` copy, while the values are on chip; every op that
    reads an `on_chip` copy makes it anew; a `stored` copy takes a pass of its own (source read, copy written), once; a
    `transient` one takes that pass before every kernel that reads it, and is gone after that kernel.
    `second_read`: that op reads the source once more before, for a scale over the whole tensor. Whoever makes a copy
    transforms it on chip, before the conversion: a transform moves nothing.
    """

    source: "Copy | None"  # the copy from which this one is made, None: the tensor itself
    format: Format
    axes: Axes  # of the tensor; boxes run along them, flattened in this order
    placement: str
    second_read: bool
    label: str = field(
        compare=False
    )  # for tables, after the tensor's name: purpose, format, dims along which boxes run
    purpose: str = field(compare=False)  # stash or operand
    transform: Transform | None = None

    @property
    def conversion(self) -> dict[str, int]:
        """Work of making an element: that of its format, and the additions of a transform."""
        adds = {"add": hadamard.adds_per_element(self.transform.block)} if self.transform else {}
        return {**self.format.conversion, **adds}

    @property
    def transient(self) -> bool:
        """Whether it lies in DRAM for one kernel only."""
        return self.placement == "transient"

    def cast_name(self, tensor: str, op: str) -> str:
        """The name of the pass that makes it of a tensor before an op; a transient copy has one for each such op."""
        return f"{tensor}{self.label}{f'.{op}' if self.transient else ''}.cast"


Chain = tuple[Copy, ...]


@dataclass(frozen=True, eq=False)
class Assignment:
    """The formats and copies of a graph under a policy in one phase of training, for cost model and reference."""

    classes: Classes
    stored: Sequence[Format]  # by class of tensors
    chains: Sequence[Chain]  # by class of reads: the copies, each made from the one before
    accumulators: Sequence[Format | None]  # by class of tensors: of the GEMM that writes them, if the policy names one
    selectors: Selectors

    def format(self, tensor: str) -> Format:
        """The format of a tensor as it is stored."""
        return self.stored[self.classes.stored_as[tensor]]

    def chain(self, op: Op, operand: int) -> Chain:
        """The copies through which an op reads an operand, in order; none if it reads the tensor itself."""
        number = self.classes.read_as.get((op.position, operand))
        return () if number is None else self.chains[number]

    def accumulator(self, op: Op) -> Format | None:
        """The format in which the policy has a GEMM sum; None: by the formats of its products (cost/sums)."""
        return self.accumulators[self.classes.stored_as[op.outputs[0]]]

    def multiplied(self, op: Op, operand: int) -> Format:
        """The format in which a GEMM's operand meets the multipliers."""
        chain = self.chain(op, operand)
        return (chain[-1].format if chain else self.format(op.inputs[operand])).plain


class Choice(NamedTuple):
    """The outcome of the rules: the format of the last that names one, as later rules change it."""

    format: Format
    placement: str
    scale_time: str
    rule: int  # the number of the last that had a say
    transform: str = hadamard.NONE


_GLOBS = ("layer", "name", "op")
_Test = tuple[int, frozenset[object], bool]  # a field of candidates, values, and whether it must be one of them


def _tests(rule: schema_policy.Rule) -> list[_Test]:
    """The tests of a rule, on the fields that it mentions; names are tested by the globs that match them."""
    tests: list[_Test] = [(Candidate._fields.index("copy_"), frozenset((rule.copy_ or "",)), True)]
    for at, name in enumerate(Candidate._fields):
        value = getattr(rule, name, None)
        if value is not None and name != "copy_":
            tests.append((at, frozenset(value if isinstance(value, tuple) else (value,)), True))
        if unwanted := getattr(rule, f"not_{name}", ()):
            tests.append((at, frozenset(unwanted), False))
    if rule.layers is not None:
        tests.append((Candidate._fields.index("layer"), frozenset(LAYERS + span for span in rule.layers), True))
    if (
        rule.copy_ == "operand" and rule.collective is None
    ):  # only by name does a rule ask for what other ops than GEMMs read
        by_name = (Candidate._fields.index("naming"), frozenset((rule.op,)), True)
        tests.append(by_name if rule.op is not None else (Candidate._fields.index("gemm"), frozenset(("",)), False))
    return tests


def _globs(rule: schema_policy.Rule, field: str) -> set[str]:
    """The globs of a rule over layers, names or ops; of layers, spans too."""
    spans = [LAYERS + span for span in rule.layers or ()] if field == "layer" else []
    return {getattr(rule, field) or "", *getattr(rule, f"not_{field}", ()), *spans} - {""}


def _matches(tests: list[_Test], candidate: Candidate) -> bool:
    return all(_is_among(candidate[at], values) is wanted for at, values, wanted in tests)


def _is_among(value: object, values: frozenset[object]) -> bool:
    """Whether a field's value, or one of the globs that match a name, is among these."""
    return not values.isdisjoint(value) if isinstance(value, frozenset) else ("" if value is None else value) in values


@lru_cache(maxsize=64)
def selectors_of(policy: Policy) -> Selectors:
    """The globs of a policy's rules, the numbers of elements that they name, and its widths."""
    rules = policy.file.rules
    layer, name, op = (tuple(sorted(set().union(*(_globs(rule, field) for rule in rules)))) for field in _GLOBS)
    elements = sorted({rule.elements_at_least for rule in rules if rule.elements_at_least is not None})
    return Selectors(layer, name, op, tuple(elements), policy.widths)


def selectors_of_all(policies: Iterable[Policy], ops: Iterable[str] = ()) -> Selectors | None:
    """Those of several policies together, and more globs over ops; None if their widths differ."""
    every = [selectors_of(policy) for policy in policies]
    if len({of.widths for of in every}) > 1:
        return None
    layer, name, op, elements = (tuple(sorted(set().union(*parts))) for parts in list(zip(*every, strict=True))[:4])
    return Selectors(layer, name, tuple(sorted({*op, *ops})), elements, every[0].widths)


def _shapes(rule: schema_policy.Rule) -> bool:
    """Whether a rule says something of a tensor or copy itself, not only of the sums that are written to it."""
    return any((rule.format, rule.container, rule.placement, rule.scale_time, rule.transform))


class Matching(dict[Candidate, tuple[int, ...]]):
    """By candidate: the numbers of the rules of a policy that match it, in any phase."""

    def __init__(self, policy: Policy) -> None:
        self.tests = [_tests(rule) for rule in policy.file.rules]

    def __missing__(self, candidate: Candidate) -> tuple[int, ...]:
        matching = self[candidate] = tuple([i for i, tests in enumerate(self.tests) if _matches(tests, candidate)])
        return matching


_matching = lru_cache(maxsize=64)(Matching)


class Rules:
    """The rules of a policy in one phase, and the numbers of those that had a say so far.

    `matching` is that of another policy whose rules select the same.
    """

    def __init__(self, policy: Policy, index: int, matching: Matching | None = None) -> None:
        self.policy, self.index = policy, index
        self.matching = _matching(policy) if matching is None else matching
        self.asleep = asleep(policy.file, index)  # rules that do not hold in this phase
        self.formats: dict[tuple[int, str, tuple[int, ...]], Format] = {}
        self.matched: set[int] = set()

    def format(self, i: int, field: str, template: str, numbers: tuple[int, ...]) -> Format:
        """The format that a field of rule i names, with the numbers of a layer or tensor. Raises InputError."""
        key = (i, field, numbers)
        if key not in self.formats:
            widths = self.policy.widths
            row = dict(zip(widths.columns, numbers, strict=True)) if widths and numbers else {}
            at = ("rules", i, field)
            self.formats[key] = fill(self.policy.file, self.policy.error, at, template, self.index, row)
        return self.formats[key]

    def contain(self, i: int, format: Format, container: str) -> Format:
        """The format in the container that rule i names, or out of it. Raises InputError."""
        if container == "none":
            return format.grid or format
        try:
            return contained(format, parse_format(container))
        except InputError as error:
            raise self.policy.error(("rules", i, "container"), str(error)) from None

    def choose(self, candidate: Candidate) -> Choice | None:
        """The format of the last matching rule that names one, as later rules change it; None if none names one."""
        chosen = None
        for i in self.matching[candidate]:
            if i in self.asleep:
                continue
            rule = self.policy.file.rules[i]
            if rule.format is not None:
                format = self.format(i, "format", rule.format, candidate.numbers)
                chosen = Choice(format, DEFAULT_PLACEMENT.get(rule.copy_ or "", ""), DEFAULT_SCALE_TIME, i)
            if chosen is not None and _shapes(rule):
                self.matched.add(i)
                format = self.contain(i, chosen.format, rule.container) if rule.container else chosen.format
                placement, scale_time = rule.placement or chosen.placement, rule.scale_time or chosen.scale_time
                chosen = Choice(format, placement, scale_time, i, rule.transform or chosen.transform)
        return chosen

    def accumulator(self, candidate: Candidate) -> Format | None:
        """The accumulator of a GEMM that writes a tensor: of the last matching rule with one, else the policy's."""
        file = self.policy.file
        awake = [i for i in self.matching[candidate] if i not in self.asleep] if candidate.gemm else []
        naming = [i for i in awake if file.rules[i].accumulator]
        self.matched |= set(naming)
        if naming:
            return self.format(naming[-1], "accumulator", file.rules[naming[-1]].accumulator or "", candidate.numbers)
        if file.accumulator is None or not candidate.gemm:
            return None
        return fill(file, self.policy.error, ("accumulator",), file.accumulator, self.index)

    def check_all_matched(self, graph: Graph) -> None:
        """Raise InputError for all rules that matched nothing and are not optional."""
        if "pipeline" in graph.mesh:  # another stage may have what they match
            return
        errors = []
        for i, rule in enumerate(self.policy.file.rules):
            if i not in self.matched | self.asleep and not rule.optional:
                said = f"this rule matches nothing in the workload{why(rule, graph)}"
                message = f"{said}; say optional: true if that is meant"
                errors.append(self.policy.error(("rules", i), message))
        refuse(errors)


def stored_format(rules: Rules, candidate: Candidate, classes: Classes, number: int) -> Format:
    """The format of the class of stored tensors with that number. Raises InputError if no rule gives one."""
    chosen = rules.choose(candidate)
    if chosen is not None:
        return chosen.format
    if candidate.values in UNRULED_FORMAT:
        return parse_format(UNRULED_FORMAT[candidate.values])
    name = next(name for name, stored in classes.stored_as.items() if stored == number)
    raise rules.policy.error(("rules",), f"no rule gives tensor {name!r} (role {candidate.role}) a format")


def _boxes(graph: Graph, format: Format, dims: Dims, axes: Axes) -> Axes:
    """The fewest trailing axes along which the same boxes lie; none if the format has no boxes.

    `axes` are those over which a GEMM sums, or the last; a format that flattens tensors has its own. The boxes of fake
    quantization are those of the values, not of their container.

    Boxes of 16 along (heads, head) with 128 elements a head never cross a head: they are those along head.
    """
    format = format.grid or format
    if not format.blocked:
        return ()
    axes = format.block_axes(len(dims), axes)
    if graph.ragged(dims) is not None:
        return axes
    runs = (axes[start:] for start in range(len(axes) - 1, 0, -1))
    return next((run for run in runs if format.fits(graph.elements(tuple([dims[axis] for axis in run])))), axes)


def _axis_name(dims: Dims, axis: int) -> str:
    """The name of an axis; of several of one name (queries and keys of one length) the later ones are numbered."""
    before = dims[:axis].count(dims[axis])
    return f"{dims[axis]}{before + 1}" if before else dims[axis]


def copies(read: Read) -> tuple[Candidate | None, Candidate | None]:
    """What rules are asked of the copies of a class of reads: as an operand, and as a stash; None: there is none."""
    candidate = read.candidate
    named = candidate.gemm or candidate.naming or candidate.collective
    operand = candidate._replace(copy_="operand") if named else None
    return operand, candidate._replace(copy_="stash") if read.stashed or read.recomputed else None


class Chains:
    """Makes the chain of copies of each class of reads, without copies that equal their source."""

    def __init__(self, graph: Graph, rules: Rules, stored: Sequence[Format] | Mapping[int, Format]) -> None:
        self.graph, self.rules, self.stored = graph, rules, stored

    def extend(self, chain: Chain, read: Read, purpose: str, choice: Choice, axes: Axes) -> Chain:
        """The chain with one more copy made from its end, unless that would be the same bits. Raises InputError."""
        format, placement, scale_time, rule, _ = choice
        transform = self._transform(chain, read, choice)
        axes = _boxes(self.graph, format, read.dims, axes)
        source = chain[-1] if chain else None
        if source is not None:
            before = (source.format, source.axes)
        else:
            stored = self.stored[read.stored]
            before = (stored, _boxes(self.graph, stored, read.dims, last_axis(read.dims)))
        if (format, axes) == before and not transform:
            return chain
        possible = _MADE_LATER.get(source.placement) if source else None
        if source and possible and placement not in possible:
            others = f"{', '.join(possible[:-1])} or {possible[-1]}"
            message = f"made {placement} from a stash that is {source.placement}; choose {others}"
            raise self.rules.policy.error(("rules", rule, "placement"), message)
        second_read = scale_time == "current" and format.needs_whole_tensor
        if second_read and placement == "at_producer":  # the producer finds the scale, but cannot write the copy yet
            placement, second_read = "stored", False
        run = "." + "+".join(_axis_name(read.dims, axis) for axis in axes) if axes else ""
        later = f".{placement}" if placement in _MADE_LATER else ""
        turned = f".{transform.name}" if transform else ""
        label = f"{source.label if source else ''}@{purpose}.{format.name}{run}{turned}{later}"
        return (*chain, Copy(source, format, axes, placement, second_read, label, purpose, transform))

    def _transform(self, chain: Chain, read: Read, choice: Choice) -> Transform | None:
        """The transform that a copy is made with. Raises InputError where no GEMM undoes it, or blocks do not fit."""
        block = hadamard.block_of(choice.transform)
        if not block:
            return None
        twice = "transformed as a stash already; once is enough" if any(copy.transform for copy in chain) else ""
        if wrong := twice or misfit(self.graph, read, block):
            raise self.rules.policy.error(("rules", choice.rule, "transform"), wrong)
        return Transform(block, read.axes)

    def make(self, read: Read) -> Chain:
        """The copies through which the reads of a class go. Raises InputError."""
        return self.chain(read, *(self.rules.choose(copy) if copy else None for copy in copies(read)))

    def chain(self, read: Read, operand: Choice | None, stash: Choice | None) -> Chain:
        """As `make`, of what rules choose for the copies that `copies` names. Raises InputError."""
        if read.recomputed:  # nothing is stashed, but a GEMM multiplies the same formats as if it were
            operand, stash = operand or (stash if read.candidate.gemm else None), None
        chain: Chain = ()
        if stash:
            chain = self.extend(chain, read, "stash", stash, last_axis(read.dims) if operand else read.axes)
        if operand:
            chain = self.extend(chain, read, "operand", operand, read.axes)
        return chain


def _check_transforms(graph: Graph, rules: Rules, classes: Classes, chains: Sequence[Chain]) -> None:
    """Raise InputError, at the rule, for a GEMM of whose operands only one is transformed, or each in other blocks."""
    blocks = {i: copy.transform.block for i, chain in enumerate(chains) for copy in chain if copy.transform}
    for read, message in one_sided(graph, classes, blocks):
        chosen = [rules.choose(read.candidate._replace(copy_=purpose)) for purpose in ("operand", "stash")]
        rule = next(choice.rule for choice in chosen if choice and choice.transform != hadamard.NONE)
        raise rules.policy.error(("rules", rule, "transform"), message)


def assign(graph: Graph, policy: Policy, index: int = 0, selectors: Selectors | None = None) -> Assignment:
    """The formats of all tensors and the copies of all reads, in the phase of that index.

    A stash that a GEMM reads without an operand copy of its own is the GEMM's operand: its boxes lie along the
    contracted dims. Boxes of all else that is stored lie along the last dim. `selectors` are those of several policies,
    which then have their classes in common. Raises InputError for a tensor without a format and for a rule that matches
    nothing.
    """
    return _assign(graph, policy, index, selectors or selectors_of(policy))


@lru_cache(maxsize=64)  # what is counted in several ways is assigned once
def _assign(graph: Graph, policy: Policy, index: int, selectors: Selectors) -> Assignment:
    rules = Rules(policy, index)
    if policy.widths:
        policy.widths.check_names(
            {t.layer for t in graph.tensors.values()} if policy.widths.by == "layer" else graph.tensors
        )
    classes = classify(graph, selectors)
    stored = [stored_format(rules, candidate, classes, i) for i, candidate in enumerate(classes.stored)]
    make = Chains(graph, rules, stored).make
    chains = [make(read) for read in classes.reads]
    _check_transforms(graph, rules, classes, chains)
    accumulators = [rules.accumulator(candidate) for candidate in classes.stored]
    rules.check_all_matched(graph)
    return Assignment(classes, stored, chains, accumulators, selectors)
