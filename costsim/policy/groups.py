"""Groups of tensors as variables: all that agree in some fields of a rule take one format, which is to be chosen."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from costsim.errors import InputError
from costsim.formats.hadamard import NONE
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph
from costsim.inputs.document import Document, tuples
from costsim.inputs.schema import validate
from costsim.inputs.schema_policy import Policy as PolicyFile
from costsim.names import COLLECTIVES, VARIED, Varied
from costsim.policy.assign import DEFAULT_PLACEMENT, DEFAULT_SCALE_TIME, selectors_of
from costsim.policy.classes import Candidate, Read, classify
from costsim.policy.policy import Policy, with_rules
from costsim.policy.space import Space, Variable

FIELDS = ("role", "layer", "gemm", "operand", "phase", "collective")  # of a rule, by which tensors can be told apart


Fields = tuple[tuple[str, str], ...]  # of a rule, with the value that all have; what has none is left out


# What rules select by that are about what is varied: a message is what a collective reads.
_SELECTED: Mapping[Varied, Mapping[str, Any]] = {
    "operand": {"copy": "operand"},
    "stash": {"copy": "stash"},
    "stored": {},
    "sent": {"copy": "operand", "collective": COLLECTIVES},
}


class Group(NamedTuple):
    """Tensors, or reads of them, that take one format."""

    varied: Varied
    fields: Fields

    @property
    def name(self) -> str:
        """Its name in tables and files."""
        return "/".join((self.varied, *(value for _, value in self.fields)))

    def rule(self, format: str) -> dict[str, Any]:
        """The fields of the rule that gives it a format."""
        rule: dict[str, Any] = dict(_SELECTED[self.varied])
        rule |= {name: value if name in ("layer", "phase") else (value,) for name, value in self.fields}
        return {**rule, "format": format}


def groups_of(graph: Graph, policy: Policy, fields: Sequence[str], varied: Sequence[Varied]) -> list[Group]:
    """The groups of floating-point tensors of a graph, and of reads, that some fields of rules tell apart."""
    selectors = selectors_of(policy)
    layers = tuple(sorted({op.layer for op in graph.ops} | {t.layer for t in graph.tensors.values()} - {""}))
    seen = selectors._replace(layer=tuple(sorted({*selectors.layer, *layers}))) if "layer" in fields else selectors
    classes = classify(graph, seen)
    groups: dict[Group, None] = {}
    for what, candidate in _candidates(classes.stored, classes.reads, varied):
        values = {
            "role": candidate.role,
            "layer": next((layer for layer in sorted(candidate.layer) if layer in layers), None),
            "gemm": candidate.gemm,
            "operand": candidate.operand,
            "phase": candidate.phase,
            "collective": candidate.collective,
        }
        groups[Group(what, tuple((name, value) for name in fields if (value := values[name])))] = None
    return sorted(groups, key=lambda group: (VARIED.index(group.varied), len(group.fields)))


def _placing(policy: Policy, copies: Set[str]) -> Iterator[dict[str, Any]]:
    """The policy's rules about copies once more, of which only the places are left: another format changes no place."""
    for rule in policy.file.rules:
        if rule.copy_ is not None and rule.copy_ in copies:
            own = rule.as_data()
            defaults = (DEFAULT_PLACEMENT[rule.copy_], DEFAULT_SCALE_TIME, NONE) if rule.format else (None,) * 3
            said = {name: getattr(rule, name) or of for name, of in zip(_OF_PLACES, defaults, strict=True)}
            placed = {name: value for name, value in said.items() if value}
            if placed:
                left = {name: value for name, value in own.items() if name not in _NOT_OF_PLACES}
                yield {**left, **placed, "optional": True}


_OF_PLACES = ("placement", "scale_time", "transform")
_NOT_OF_PLACES = ("format", "container", "accumulator", *_OF_PLACES, "optional")


def _candidates(
    stored: Sequence[Candidate], reads: Sequence[Read], varied: Sequence[Varied]
) -> Iterator[tuple[Varied, Candidate]]:
    """What can take a format: operands of GEMMs, what is kept for the backward, messages, tensors as stored."""
    for read in reads:
        if "operand" in varied and read.candidate.gemm is not None:
            yield "operand", read.candidate._replace(copy_="operand")
        if "stash" in varied and read.stashed:
            yield "stash", read.candidate._replace(copy_="stash")
        if "sent" in varied and read.candidate.collective is not None:
            yield "sent", read.candidate._replace(copy_="operand")
    if "stored" in varied:
        yield from (("stored", candidate) for candidate in stored if candidate.values == "float")


def space_of(policy: Policy, groups: Sequence[Group], formats: Sequence[str]) -> Space:
    """The space in which each group takes any of the formats, and copies stay where the policy has them.

    Raises InputError for a format that holds no numbers.
    """
    for name in formats:
        if parse_format(name).values != "float":
            raise InputError(f"--formats {name}: holds {parse_format(name).values} values, not numbers")
    before = len(policy.file.rules)
    copies = {_SELECTED[group.varied]["copy"] for group in groups if group.varied != "stored"}
    rules = [*(group.rule(formats[0]) for group in groups), *_placing(policy, copies)]
    document = Document(f"{policy.name} (groups)", tuples({"description": "", "rules": rules}))
    policy = with_rules(policy, validate(PolicyFile, document).rules, document, ())
    variables = (Variable(group.name, tuple(formats), (before + i,)) for i, group in enumerate(groups))
    return Space(policy, tuple(variables))
