"""What a policy is: a checked file, with the rules of the policies that it composes, and the formats of its levels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from costsim.errors import InputError, nearest, one_line, refuse
from costsim.inputs import schema_policy
from costsim.inputs.document import Document, Where, tuples
from costsim.inputs.schema import validate
from costsim.notebook import card
from costsim.policy.check import check, check_whole
from costsim.policy.levels import fill, mentioned
from costsim.policy.phases import cut, start_of

Place = tuple[Document, Where]  # of a field, in a file


if TYPE_CHECKING:
    from costsim.inputs.widths import Widths  # which reads CSV: loaded where there is some


class Assumption(NamedTuple):
    """An assumption of a policy, and the place of its entry in a file."""

    entry: schema_policy.PolicyAssumption
    document: Document
    place: Where


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A checked policy file with what it composes, under the name that tables print."""

    name: str
    file: schema_policy.Policy  # with the rules of composed policies before its own
    document: Document
    rule_places: tuple[Place, ...] = ()  # where each rule stands
    assumptions: tuple[Assumption, ...] = ()  # with those of composed policies
    inherited: Mapping[str, Place] = field(default_factory=dict)  # fields that other files say, and `numbers.NAME`
    mentioned: frozenset[str] = frozenset()  # levels and numbers in formats of what it composes, or was made from
    widths: Widths | None = None  # numbers per layer or tensor

    def error(self, at: Where, message: str) -> InputError:
        """The error for a field, at its place in the file that says it."""
        if self.rule_places and len(at) > 1 and at[0] == "rules" and isinstance(at[1], int):
            document, place = self.rule_places[at[1]]
            return document.error((*place, *at[2:]), message)
        for depth in (2, 1):
            if found := self.inherited.get(".".join(map(str, at[:depth]))):
                document, place = found
                return document.error((*place, *at[depth:]), message)
        return self.document.error(at, message)

    def __repr__(self) -> str:
        return f"Policy({self.name!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: what the policy says of itself."""
        file = self.file
        rows = {
            "description": file.description,
            "setup": self.setup,
            "rules": len(file.rules),
            "numbers": [f"{name} {value}" for name, value in file.numbers.items()],
            "grade": file.grade,
            "source": file.source,
        }
        return card("policy", self.name, rows)

    @property
    def setup(self) -> tuple[str, ...]:
        """The setting as tables name it, one text per phase; `*` marks levels that are recalled, not stated."""
        named, before = [self.file.setup or self.name] * len(self.file.phases), ""
        if self.file.levels:
            marks = ("*" if phase.grade == "recalled" else "" for phase in self.file.phases)
            levels = (",".join(map(str, phase.levels)) for phase in self.file.phases)
            named = [f"[{level}]{mark}" for level, mark in zip(levels, marks, strict=True)]
        setups = []
        for i, setup in enumerate(named):  # what only other rules tell apart says when they begin to hold
            setups.append(f"{setup} from {start_of(self.file, i)}" if setup == before else setup)
            before = setup
        return tuple(setups)

    @property
    def label(self) -> str:
        """How figures and tables for papers name the policy."""
        return self.file.label or self.name

    @property
    def complete(self) -> bool:
        """Whether a rule stores weights; if none does, the policy only changes those that it is composed with."""
        stored = (rule for rule in self.file.rules if rule.format is not None and rule.copy_ is None)
        return any(rule.role is None or "weight" in rule.role for rule in stored)

    @property
    def for_frozen(self) -> bool:
        """Whether the policy has rules for weights that are not trained."""
        return any(rule.trainable is False for rule in self.file.rules)

    @property
    def recalled(self) -> bool:
        """Whether the policy has a number that is remembered rather than sourced."""
        return "recalled" in (self.file.grade, *(phase.grade for phase in self.file.phases))

    def with_(self, called: str = "", **fields: Any) -> Policy:
        """This policy, changed: fields of a rule make one more rule, fields of a policy file replace the file's.

        `policy.with_(copy="stash", format="bfp4")`, `policy.with_(phases=[{"levels": [2, 2, 2, 16]}])`. `role="stash"`
        and `role="operand"` mean the copy. Tables name the new policy as `called` says. Raises InputError for fields
        that do not fit.
        """
        return changed(self, called, fields)


def labels_of(policies: Iterable[Policy]) -> dict[str, str]:
    """By name: how figures and tables for papers name each of some policies; by its name if others have its label."""
    by_name = {policy.name: policy.label for policy in policies}
    once = Counter(by_name.values())
    return {name: label if once[label] == 1 else name for name, label in by_name.items()}


def number_places(policy: Policy) -> dict[str, Place]:
    """By `numbers.NAME`: where each number of a policy stands."""
    keys = {name: f"numbers.{name}" for name in policy.file.numbers}
    return {key: policy.inherited.get(key, (policy.document, ("numbers", name))) for name, key in keys.items()}


INHERITED = ("levels", "phases", "monotone", "accumulator", "loss_log", "set")


def changed(policy: Policy, called: str, fields: Mapping[str, Any]) -> Policy:
    """The policy with one more rule, of those fields that rules have, and with other fields of its file."""
    rule_fields = {field.key: field for field in schema_policy.Rule.section_fields.values()}
    changes = {name: value for name, value in fields.items() if name not in rule_fields}
    for name in changes:
        if name not in schema_policy.Policy.section_fields:
            known = (*rule_fields, *schema_policy.Policy.section_fields)
            raise InputError(f"policy {policy.name}: unknown field {one_line(name)!r}{nearest(name, known)}")
    for name in ("compose", "assumptions"):
        if name in changes:
            raise InputError(f"policy {policy.name}: with_ takes no {name}; make_policy makes a policy with it")
    rule = {name: value for name, value in fields.items() if name in rule_fields}
    if rule.get("role") in ("stash", "operand"):
        rule["copy"] = rule.pop("role")
    rule = {
        name: (value,) if isinstance(value, str) and "tuple" in str(rule_fields[name].annotation) else value
        for name, value in rule.items()
    }
    name = called or _name_of_change(policy.name, [*rule.values(), *changes])
    rules = [*changes.pop("rules", ()), *([rule] if rule else [])]
    document = Document(f"{name} (Python)", tuples({"description": name, **changes, "rules": rules}))
    return _with_changes(policy, name, document, tuple(changes))


def _with_changes(policy: Policy, name: str, document: Document, changes: tuple[str, ...]) -> Policy:
    """The policy under a new name, with the rules of a document after its own, and with fields that it changes."""
    new = validate(schema_policy.Policy, document)
    update: dict[str, Any] = {field: getattr(new, field) for field in changes}
    update["rules"] = (*policy.file.rules, *new.rules)
    if policy.file.setup and "setup" not in changes:  # which would no longer be true
        update["setup"] = f"{policy.file.setup}, {name.removeprefix(f'{policy.name}-').replace('-', ' ')}"
    if policy.file.label and "label" not in changes:  # it names another policy
        update["label"] = ""
    if policy.file.grade in ("stated", "inferred") and "grade" not in changes:
        update["grade"] = "ours"  # no source has the change
    if "numbers" in changes:
        update["numbers"] = {**policy.file.numbers, **new.numbers}
    before = {field: policy.inherited.get(field, (policy.document, (field,))) for field in INHERITED}
    numbers = number_places(policy) | {f"numbers.{name}": (document, ("numbers", name)) for name in new.numbers}
    inherited = {**policy.inherited, **before, **{field: (document, (field,)) for field in changes}, **numbers}
    places = (*policy.rule_places, *((document, ("rules", i)) for i in range(len(new.rules))))
    file = policy.file.changed(**update)
    result = replace(
        policy,
        name=name,
        file=file,
        document=document,
        rule_places=places,
        inherited=inherited,
        mentioned=policy.mentioned | mentioned(policy.file),
    )
    result = replace(result, file=cut(result.file, result.error))
    check(result.file, result.error)
    check_whole(result.file, result.mentioned, result.error)
    return result


def _name_of_change(name: str, values: Sequence[object]) -> str:
    """A name that lists what was changed: dsq-stash-bfp4."""
    texts = ["-".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values]
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() for text in texts)])


def with_case(policy: Policy, assumption: Assumption, index: int) -> Policy:
    """The policy under another case of one of its assumptions. Raises InputError, at the case, if it does not fit."""
    case = assumption.entry.cases[index]
    at = (*assumption.place, "cases", index)
    update: dict[str, Any] = {"numbers": {**policy.file.numbers, **case.numbers}}
    for name in case.numbers:
        if name not in policy.file.numbers:
            hint = nearest(name, policy.file.numbers)
            raise assumption.document.error((*at, "numbers", name), f"unknown number {one_line(name)!r}{hint}")
    inherited = {**policy.inherited}
    inherited |= {f"numbers.{name}": (assumption.document, (*at, "numbers", name)) for name in case.numbers}
    if case.phases:
        update["phases"] = case.phases
        inherited["phases"] = (assumption.document, (*at, "phases"))
    changed = replace(policy, file=policy.file.changed(**update), inherited=inherited)
    return with_rules(changed, case.rules, assumption.document, at)


def with_rules(policy: Policy, rules: tuple[schema_policy.Rule, ...], document: Document, at: Where) -> Policy:
    """The policy with rules after its own, which stand at that place of a document. Raises InputError, at the rule."""
    file = policy.file.changed(rules=(*policy.file.rules, *rules))
    places = (*policy.rule_places, *((document, (*at, "rules", i)) for i in range(len(rules))))
    changed = replace(policy, file=file, rule_places=places)
    changed = replace(changed, file=cut(file, changed.error))
    check(changed.file, changed.error)
    return changed


def with_widths(policy: Policy, widths: Widths) -> Policy:
    """The policy with numbers per layer or tensor. Raises InputError, with the lines, for formats that do not exist."""
    policy = replace(policy, widths=widths)
    texts = (text for rule in policy.file.rules for text in (rule.format, rule.accumulator))
    templates = dict.fromkeys(text for text in texts if text and "<" in text)
    messages: dict[tuple[int, ...], str] = {}  # by numbers: what is wrong with them
    for numbers in dict.fromkeys(widths.rows.values()):
        row = dict(zip(widths.columns, numbers, strict=True))
        try:
            for template in templates:
                for i in range(len(policy.file.phases)):
                    fill(policy.file, policy.error, (), template, i, row)
        except InputError as error:
            messages[numbers] = str(error)
    refuse(widths.error(name, messages[row]) for name, row in widths.rows.items() if row in messages)
    return policy
