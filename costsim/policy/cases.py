"""Policies that differ in which cases of their assumptions hold: each assumption is a variable, its cases are choices.

A case adds rules after those of the policy, changes numbers, or lays other phases over the run. The policy of such a
space has the rules of all cases, and each of these rules holds under its case alone. Levels are a variable too, the
last: what is counted hangs on the levels of a step, and the phases say only how many steps have which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.inputs.schema_policy import Phase, Rule
from costsim.policy.assign import Matching, Rules, copies
from costsim.policy.classes import Candidate
from costsim.policy.levels import fill
from costsim.policy.policy import Place, Policy
from costsim.policy.space import Family, Outcomes, Space, T, Variable, combinations, refuse_timed, tabled

Levels = tuple[int, ...]


class Case(NamedTuple):
    """What one choice does to a policy, and where its rules stand; nothing, where it is as shipped."""

    name: str
    rules: tuple[Rule, ...] = ()
    places: tuple[Place, ...] = ()
    numbers: Mapping[str, int] = {}
    phases: tuple[Phase, ...] | None = None


class Clash(NamedTuple):
    """For which combinations of a few variables something is no policy, with the last variable the fastest."""

    variables: tuple[int, ...]
    clashes: tuple[bool, ...]


class _Active(Matching):
    """By candidate: the numbers of the rules that match it and hold."""

    def __init__(self, matching: Matching, held: frozenset[int]) -> None:
        self.matching, self.held = matching, held

    def __missing__(self, candidate: Candidate) -> tuple[int, ...]:
        rules = self[candidate] = tuple([i for i in self.matching[candidate] if i in self.held])
        return rules


@dataclass(frozen=True, eq=False)
class Cases(Space):
    """All policies that one becomes as cases of its assumptions hold: `cases`, by variable, the first as shipped."""

    cases: tuple[tuple[Case, ...], ...] = ()
    levels: tuple[Levels, ...] = ((),)  # that any phase of any case has: the choices of the last variable
    of_rules: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # by rule: its variable and case, if any

    def __post_init__(self) -> None:
        """Its variables are no levels and no numbers."""

    @cached_property
    def of_rule(self) -> Mapping[int, int]:
        """No format of a rule is a variable."""
        return {}

    @cached_property
    def _of_name(self) -> Mapping[str, set[int]]:
        """By name of a level or number: the variables that change it."""
        of_name = {name: {len(self.cases)} for name in self.policy.file.levels}
        for variable, cases in enumerate(self.cases):
            for case in cases:
                for name in case.numbers:
                    of_name.setdefault(name, set()).add(variable)
        return of_name

    @cached_property
    def of_number(self) -> Mapping[str, int]:
        """By name of a level or number: the first variable that changes it."""
        return {name: min(variables) for name, variables in self._of_name.items()}

    def of_template(self, template: str | None) -> set[int]:
        """The variables that change a level or number that a format mentions."""
        return {i for name, variables in self._of_name.items() if f"<{name}>" in (template or "") for i in variables}

    def condition(self, rule: int) -> frozenset[int]:
        """The variable under one of whose cases the policy has the rule, if it is no rule of its own."""
        return frozenset((self.of_rules[rule][0],)) if rule in self.of_rules else frozenset()

    def holds(self, rule: int, chosen: Mapping[int, int]) -> bool:
        """Whether the policy has a rule under these choices; where one is missing, all is as shipped."""
        variable, case = self.of_rules.get(rule, (0, None))
        return case is None or chosen.get(variable, 0) == case

    def numbers(self, chosen: Mapping[int, int]) -> dict[str, int]:
        """The numbers of the policy under these choices."""
        numbers = dict(self.policy.file.numbers)
        for variable, cases in enumerate(self.cases):
            numbers |= cases[chosen.get(variable, 0)].numbers
        return numbers

    def phases(self, chosen: Mapping[int, int]) -> tuple[Phase, ...]:
        """The phases of the policy under these choices."""
        phases = self.policy.file.phases
        for variable, cases in enumerate(self.cases):
            phases = cases[chosen.get(variable, 0)].phases or phases
        return phases

    @cached_property
    def with_phases(self) -> tuple[int, ...]:
        """The variables of which a case has phases."""
        return tuple(i for i, cases in enumerate(self.cases) if any(case.phases for case in cases))

    def unphased(self, chosen: Mapping[int, int]) -> Policy:
        """The policy with the phases that it has under these choices, of which its schedule is."""
        file = self.policy.file.changed(phases=self.phases(chosen))
        return replace(self.policy, file=file)

    def unchecked(self, chosen: Mapping[int, int]) -> Policy:
        """The policy, all of whose phases have the chosen levels, with the rules of all cases."""
        levels = self.levels[chosen.get(len(self.cases), 0)]
        update = {"numbers": self.numbers(chosen), "phases": (Phase(levels=levels),)}
        return replace(self.policy, file=self.policy.file.changed(**update))

    @cached_property
    def with_numbers(self) -> tuple[int, ...]:
        """The variables that formats hang on by their names: those of which a case has numbers, and the levels."""
        return (*(i for i, cases in enumerate(self.cases) if any(case.numbers for case in cases)), len(self.cases))

    def slice(self, chosen: Mapping[int, int]) -> Cases:
        """The space with these choices made: those variables have one choice each."""
        variables = tuple(
            of._replace(choices=(of.choices[chosen[i]],)) if i in chosen else of for i, of in enumerate(self.variables)
        )
        cases = tuple((of[chosen[i]],) if i in chosen else of for i, of in enumerate(self.cases))
        level = chosen.get(len(cases))
        of_rules = {
            rule: (variable, case - chosen[variable]) if variable in chosen else (variable, case)
            for rule, (variable, case) in self.of_rules.items()
        }
        levels = self.levels if level is None else self.levels[level : level + 1]
        return replace(self, variables=variables, cases=cases, levels=levels, of_rules=of_rules)

    @cached_property
    def _points(self) -> dict[object, Rules]:
        return {}

    def rules(self, chosen: Mapping[int, int], index: int, matching: Matching) -> Rules:
        """The rules that hold; formats that were found for the same numbers and levels are known. All is one phase."""
        key = (tuple(self.numbers(chosen).items()), chosen.get(len(self.cases), 0))
        if key not in self._points:
            self._points[key] = Rules(self.unchecked(chosen), index, matching)
        held = frozenset(i for i in range(len(self.policy.file.rules)) if self.holds(i, chosen))
        rules = Rules(self._points[key].policy, index, _Active(matching, held))
        rules.formats = self._points[key].formats
        return rules

    @cached_property
    def _families(self) -> dict[Graph, CaseFamily]:
        return {}

    def family(self, graph: Graph, index: int = 0) -> CaseFamily:
        """The assignments on a graph, which are worked out once for all conventions."""
        if graph not in self._families:
            self._families[graph] = CaseFamily(graph, self, index)
        return self._families[graph]

    def clashes(self) -> Iterator[Clash]:
        """Which cases make formats that there are not, whoever has them."""
        file = self.policy.file
        for i, rule in enumerate(file.rules):
            for template in filter(None, (rule.format, rule.accumulator)):
                fits = partial(self._fits, i, template)
                variables = tuple(sorted(self.of_template(template) | self.condition(i)))
                yield from _clash(self, variables, fits)

    def _fits(self, rule: int, template: str, chosen: Mapping[int, int]) -> None:
        """Raise InputError if a rule holds whose format there is not."""
        if self.holds(rule, chosen):
            point = self.unchecked(chosen)
            fill(point.file, point.error, ("rules", rule), template, 0)


def _clash(space: Space, variables: Sequence[int], value: Callable[[Mapping[int, int]], object]) -> Iterator[Clash]:
    """Where a value raises InputError, if it does anywhere."""
    fails = []
    for combination in combinations(space, variables):
        try:
            value(dict(zip(variables, combination, strict=True)))
            fails.append(False)
        except InputError:
            fails.append(True)
    if any(fails):
        yield Clash(tuple(variables), tuple(fails))


class CaseFamily(Family):
    """The assignments of policies whose cases may clash: `clashes` says where; what they are there means nothing."""

    space: Cases

    def __init__(self, graph: Graph, space: Cases, index: int = 0) -> None:
        self.clashes: list[Clash] = list(space.clashes())
        super().__init__(graph, space, index)
        self.clashes += self._in_vain()

    def _of_rules(self, variables: set[int], value: Callable[[Mapping[int, int]], T]) -> Outcomes[T]:
        """Something that rules say; anything where it does not fit. Raises InputError if it fits nowhere."""
        ordered = sorted(variables)
        results: list[T | InputError] = []
        for combination in combinations(self.space, ordered):
            try:
                results.append(value(dict(zip(ordered, combination, strict=True))))
            except InputError as error:
                results.append(error)
        fails = tuple([isinstance(result, InputError) for result in results])
        if all(fails):
            raise next(result for result in results if isinstance(result, InputError))
        if any(fails):
            self.clashes.append(Clash(tuple(ordered), fails))
        fitting = next(result for result in results if not isinstance(result, InputError))
        values = [fitting if isinstance(result, InputError) else result for result in results]
        return tabled(self.space, ordered, values)

    def _in_vain(self) -> Iterator[Clash]:
        """The cases with a rule that matches nothing in the graph."""
        rules, matched = self.space.policy.file.rules, set[int]()
        for candidate in self._candidates():
            format_before = False
            for i in self._matching[candidate]:
                format_before |= rules[i].format is not None
                if format_before or rules[i].accumulator:
                    matched.add(i)
        for i, (variable, case) in self.space.of_rules.items():
            if i not in matched and not rules[i].optional:
                yield Clash((variable,), tuple(choice == case for choice in range(self.space.sizes[variable])))

    def _candidates(self) -> Iterator[Candidate]:
        """What rules are asked for: tensors as stored, and copies."""
        yield from self.classes.stored
        for read in self.classes.reads:
            yield from filter(None, copies(read))


def cases_of(policy: Policy, choices: Sequence[tuple[str, Sequence[Case]]]) -> Cases:
    """The space of a policy's assumptions, each with a name and its cases, the first as shipped."""
    rules, places = list(policy.file.rules), list(policy.rule_places)
    of_rules: dict[int, tuple[int, int]] = {}
    phases = list(policy.file.phases)
    for variable, (_, cases) in enumerate(choices):
        for number, case in enumerate(cases):
            of_rules |= {len(rules) + i: (variable, number) for i in range(len(case.rules))}
            rules += case.rules
            places += case.places
            phases += case.phases or ()
    whole = replace(policy, file=policy.file.changed(rules=tuple(rules)), rule_places=tuple(places))
    refuse_timed(whole, "cases that are combined")
    levels = tuple(dict.fromkeys(phase.levels for phase in phases))
    variables = [Variable(name, tuple(case.name for case in cases)) for name, cases in choices]
    variables.append(Variable("levels", tuple(map(str, levels))))
    return Cases(whole, tuple(variables), tuple(tuple(cases) for _, cases in choices), levels, of_rules)
