"""Policies that differ in a few choices: each variable gives rules their format, or a number of the policy its value.

What a tensor is stored as, and the copies through which it is read, hang on a few of the variables only: on those of
the rules that have a say. `outcomes` finds them, and works out each combination once.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Generic, NamedTuple, TypeVar

from costsim.errors import InputError, nearest, one_line
from costsim.formats.format import Format
from costsim.graph.graph import Graph
from costsim.inputs.document import Document
from costsim.inputs.schema_policy import LEVEL, Phase
from costsim.policy.assign import (
    Assignment,
    Chain,
    Chains,
    Choice,
    Matching,
    Rules,
    copies,
    selectors_of,
    stored_format,
)
from costsim.policy.check import check
from costsim.policy.classes import Candidate, Classes, Read, Selectors, classify
from costsim.policy.phases import bounds
from costsim.policy.policy import Policy

T = TypeVar("T")

Combination = tuple[int, ...]  # by variable: the place of a choice


def refuse_timed(policy: Policy, why: str) -> None:
    """Raise InputError for a policy with rules that hold in a part of the run only."""
    for i, rule in enumerate(policy.file.rules):
        for field in bounds(rule):
            raise policy.error(("rules", i, field), f"a rule that holds in a part of the run goes with no {why}")


class Variable(NamedTuple):
    """Something that can be chosen: the format of rules, by their numbers, or a level or number of the policy."""

    name: str
    choices: tuple[str, ...]  # names of formats, or whole numbers
    rules: tuple[int, ...] = ()  # whose format it is; none: it is the policy's level or number of that name


@dataclass(frozen=True, eq=False)
class Space:
    """All policies that one becomes as variables take their choices. Levels are then the same in all phases."""

    policy: Policy
    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        if any(variable.name in self.policy.file.levels for variable in self.variables if not variable.rules):
            refuse_timed(self.policy, "levels that are the same in all phases")
        known = (*self.policy.file.levels, *self.policy.file.numbers)
        for variable in self.variables:
            if not variable.rules and variable.name not in known:
                hint = nearest(variable.name, known)
                raise InputError(f"policy {self.policy.name}: no level or number {one_line(variable.name)!r}{hint}")

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many choices each variable has."""
        return tuple(len(variable.choices) for variable in self.variables)

    @cached_property
    def of_rule(self) -> Mapping[int, int]:
        """By number of a rule: the variable that is its format."""
        return {rule: i for i, variable in enumerate(self.variables) for rule in variable.rules}

    @cached_property
    def of_number(self) -> Mapping[str, int]:
        """By name of a level or number: its variable."""
        return {variable.name: i for i, variable in enumerate(self.variables) if not variable.rules}

    def of_template(self, template: str | None) -> set[int]:
        """The variables whose numbers a format mentions."""
        return {self.of_number[name] for name in re.findall(LEVEL, template or "") if name in self.of_number}

    def condition(self, _rule: int) -> frozenset[int]:
        """The variables that say whether the policy has the rule of that number at all."""
        return frozenset()

    def rules(self, chosen: Mapping[int, int], index: int, matching: Matching) -> Rules:
        """The rules of the policy with these choices, in the phase of that index."""
        point = self.unchecked(chosen)
        return Rules(point, min(index, len(point.file.phases) - 1), matching)

    def family(self, graph: Graph, index: int) -> "Family":
        """The assignments of the policies on a graph, in the phase of that index. Raises InputError."""
        return Family(graph, self, index)

    def point(self, chosen: Mapping[int, int], called: str = "") -> Policy:
        """The policy with these choices, by variable; the others as the policy has them. Raises InputError."""
        policy = self.unchecked(chosen)
        check(policy.file, policy.error)
        return replace(policy, name=called, document=Document(f"{called} (Python)", {})) if called else policy

    def unchecked(self, chosen: Mapping[int, int]) -> Policy:
        """As `point`; whether formats exist is seen as they are used."""
        file = self.policy.file
        words = {self.variables[i].name: self.variables[i].choices[choice] for i, choice in chosen.items()}
        formats = {rule: words[self.variables[i].name] for rule, i in self.of_rule.items() if i in chosen}
        update: dict[str, Any] = {
            "rules": tuple(
                rule.changed(format=formats[i]) if i in formats else rule for i, rule in enumerate(file.rules)
            ),
            "numbers": {name: int(words[name]) if name in words else n for name, n in file.numbers.items()},
        }
        if any(name in words for name in file.levels):
            levels = zip(file.levels, file.phases[0].levels, strict=True)
            update["phases"] = (Phase(levels=tuple(int(words.get(name, level)) for name, level in levels)),)
        return replace(self.policy, file=file.changed(**update))


@dataclass(frozen=True, slots=True)
class Outcomes(Generic[T]):
    """Something that hangs on a few variables: its distinct values, and which it has for each combination of them.

    Combinations are in order, with the last variable the fastest.
    """

    variables: tuple[int, ...]
    which: tuple[int, ...]
    values: tuple[T, ...]


def combinations(space: Space, variables: Sequence[int]) -> list[Combination]:
    """Every combination of the choices of these variables, in order."""
    return list(product(*(range(space.sizes[i]) for i in variables)))


def outcomes(space: Space, variables: Sequence[int], value: Callable[[Mapping[int, int]], T]) -> Outcomes[T]:
    """A value worked out for every combination of variables, and the variables among them on which it hangs."""
    return tabled(
        space, variables, [value(dict(zip(variables, each, strict=True))) for each in combinations(space, variables)]
    )


def tabled(space: Space, variables: Sequence[int], values: Sequence[T]) -> Outcomes[T]:
    """Values that are known for every combination of variables, in order."""
    places: dict[T, int] = {}
    which = [places.setdefault(value, len(places)) for value in values]
    kept = list(variables)
    for variable in variables:
        at = kept.index(variable)
        size, inner = space.sizes[variable], 1
        for later in kept[at + 1 :]:
            inner *= space.sizes[later]
        first = [number for i, number in enumerate(which) if i // inner % size == 0]
        spread = [
            first[i // (inner * size) * inner + i % inner] for i in range(len(which))
        ]  # what it would be if the variable had no say
        if spread == which:
            kept.pop(at)
            which = first
    return Outcomes(tuple(kept), tuple(which), tuple(places))


class Family:
    """The assignments of a space on a graph, in one phase: what each class is stored as, and how it is read."""

    def __init__(self, graph: Graph, space: Space, index: int = 0) -> None:
        self.graph, self.space, self.index = graph, space, index
        self.selectors: Selectors = selectors_of(space.policy)
        self.classes: Classes = classify(graph, self.selectors)
        self._matching = Matching(space.policy)
        self._rules: dict[tuple[tuple[int, int], ...], Rules] = {}
        self._choices: dict[Candidate, Outcomes[Choice | None]] = {}
        self.stored = [self._stored(i, candidate) for i, candidate in enumerate(self.classes.stored)]
        self.chains = [self._chain(read) for read in self.classes.reads]
        self.accumulators = [self._accumulator(candidate) for candidate in self.classes.stored]

    def rules(self, chosen: Mapping[int, int]) -> Rules:
        """The rules of the policy with these choices."""
        key = tuple(chosen.items())
        if key not in self._rules:
            self._rules[key] = self.space.rules(chosen, self.index, self._matching)
        return self._rules[key]

    def place(self, of: Outcomes[Any], chosen: Mapping[int, int]) -> int:
        """Which of the values it is for a combination that has at least the variables on which it hangs."""
        place = 0
        for i in of.variables:
            place = place * self.space.sizes[i] + chosen[i]
        return of.which[place]

    def pick(self, of: Outcomes[T], chosen: Mapping[int, int]) -> T:
        """The value for a combination that has at least the variables on which it hangs."""
        return of.values[self.place(of, chosen)]

    def outcomes(self, of: Sequence[Outcomes[Any]], value: Callable[[Mapping[int, int]], T]) -> Outcomes[T]:
        """A value that hangs on others, and is worked out once for each combination of theirs."""
        variables = sorted({i for each in of for i in each.variables})
        every = combinations(self.space, variables)
        known: dict[tuple[int, ...], T] = {}
        values = []
        for combination, *places in zip(every, *(self._places(each, variables, every) for each in of), strict=True):
            key = tuple(places)
            if key not in known:
                known[key] = value(dict(zip(variables, combination, strict=True)))
            values.append(known[key])
        return tabled(self.space, variables, values)

    def _places(self, of: Outcomes[Any], variables: Sequence[int], every: Sequence[Combination]) -> Sequence[int]:
        """Which of its values something has for each combination of variables, among which are its own."""
        if of.variables == tuple(variables):
            return of.which
        if not of.variables:
            return (of.which[0],) * len(every)
        steps, step = [], 1
        for i in reversed(of.variables):
            steps.append((variables.index(i), step))
            step *= self.space.sizes[i]
        return [of.which[sum([combination[at] * n for at, n in steps])] for combination in every]

    def assignment(self, chosen: Mapping[int, int]) -> Assignment:
        """The assignment of a whole combination: the same as that of its policy."""
        stored = [self.pick(each, chosen) for each in self.stored]
        chains = [self.pick(each, chosen) for each in self.chains]
        accumulators = [self.pick(each, chosen) for each in self.accumulators]
        return Assignment(self.classes, stored, chains, accumulators, self.selectors)

    def _of_format(self, candidate: Candidate) -> set[int]:
        """The variables that have a say in a candidate's format: of the last rule that surely names one, and later."""
        variables: set[int] = set()
        for i in reversed(self._matching[candidate]):
            condition, template = self.space.condition(i), self.space.policy.file.rules[i].format
            variables |= condition
            if template is not None:
                of_rule = self.space.of_rule
                variables |= {of_rule[i]} if i in of_rule else self.space.of_template(template)
                if not condition:
                    break
        return variables

    def _of_rules(self, variables: set[int], value: Callable[[Mapping[int, int]], T]) -> Outcomes[T]:
        """Something that rules say, by the variables that have a say in it. Raises InputError for what does not fit."""
        return outcomes(self.space, sorted(variables), value)

    def _stored(self, number: int, candidate: Candidate) -> Outcomes[Format]:
        def make(chosen: Mapping[int, int]) -> Format:
            return stored_format(self.rules(chosen), candidate, self.classes, number)

        return self._of_rules(self._of_format(candidate), make)

    def _choice(self, copy: Candidate | None) -> Outcomes[Choice | None]:
        """What rules say of a copy, if there is one; reads of many sizes ask for the same."""
        if copy is None:
            return Outcomes((), (0,), (None,))
        if copy not in self._choices:
            self._choices[copy] = self._of_rules(self._of_format(copy), lambda chosen: self.rules(chosen).choose(copy))
        return self._choices[copy]

    def _chain(self, read: Read) -> Outcomes[Chain]:
        """The copies of a read: worked out once for all combinations for which rules say the same."""
        stored, operand, stash = self.stored[read.stored], *map(self._choice, copies(read))
        known: dict[tuple[int, ...], Chain] = {}

        def make(chosen: Mapping[int, int]) -> Chain:
            key = tuple([self.place(each, chosen) for each in (stored, operand, stash)])
            if key not in known:
                chains = Chains(self.graph, self.rules({}), {read.stored: stored.values[key[0]]})
                known[key] = chains.chain(read, operand.values[key[1]], stash.values[key[2]])
            return known[key]

        return self._of_rules({*stored.variables, *operand.variables, *stash.variables}, make)

    def _accumulator(self, candidate: Candidate) -> Outcomes[Format | None]:
        space, rules = self.space, self.space.policy.file.rules
        naming = [i for i in self._matching[candidate] if rules[i].accumulator] if candidate.gemm else []
        variables = space.of_template(space.policy.file.accumulator).union(
            *(space.condition(i) | space.of_template(rules[i].accumulator) for i in naming)
        )
        return self._of_rules(variables, lambda chosen: self.rules(chosen).accumulator(candidate))
