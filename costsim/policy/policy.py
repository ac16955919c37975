"""What a policy is: a checked file, with the rules of the policies that it composes, and the formats of its levels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.errors import InputError, nearest, one_line
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.inputs import files, schema_policy
from costsim.inputs.files import Document, Where
from costsim.inputs.schema import validate

_LEVEL = r"<([^<>]*)>"
_Place = tuple[Document, Where]  # of a field, in a file


if TYPE_CHECKING:
    from costsim.inputs.widths import Widths  # which reads CSV: loaded where there is some


@dataclass(frozen=True, slots=True)
class Assumption:
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
    rule_places: tuple[_Place, ...] = ()  # where each rule stands
    assumptions: tuple[Assumption, ...] = ()  # with those of composed policies
    inherited: Mapping[str, _Place] = field(default_factory=dict)  # fields that other files say
    widths: Widths | None = None  # numbers per layer or tensor

    def error(self, at: Where, message: str) -> InputError:
        """The error for a field, at its place in the file that says it."""
        if self.rule_places and len(at) > 1 and at[0] == "rules" and isinstance(at[1], int):
            document, place = self.rule_places[at[1]]
            return document.error((*place, *at[2:]), message)
        document, place = self.inherited.get(str(at[0]) if at else "", (self.document, at[:1]))
        return document.error((*place, *at[1:]), message)

    def __repr__(self) -> str:
        return f"Policy({self.name!r})"

    @property
    def setup(self) -> tuple[str, ...]:
        """The setting as tables name it, one text per phase; `*` marks levels that are recalled, not stated."""
        if not self.file.levels:
            return (self.file.setup or self.name,) * len(self.file.phases)
        return tuple(
            f"[{','.join(map(str, phase.levels))}]{'*' if phase.grade == 'recalled' else ''}"
            for phase in self.file.phases
        )

    @property
    def complete(self) -> bool:
        """Whether a rule stores weights; if none does, the policy only changes those that it is composed with."""
        stored = (rule for rule in self.file.rules if rule.format is not None and rule.copy_ is None)
        return any(rule.role is None or "weight" in rule.role for rule in stored)

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


_INHERITED = ("levels", "phases", "monotone", "accumulator", "loss_log")


def find_policy(name: str, document: Document | None = None, at: Where = ()) -> tuple[Path, ...]:
    """The file of a policy, or the files of `a+b`: beside the document that names them, or shipped.

    Raises InputError at the field of the document.
    """
    beside = Path(document.path) if document else None
    try:
        try:
            return (files.find(name, "policies", "policy", beside),)
        except InputError:
            if "+" not in name:
                raise
            return tuple(files.find(part, "policies", "policy", beside) for part in name.split("+"))
    except InputError as error:
        raise document.error(at, str(error)) if document else error from None


def load_policies(paths: tuple[Path, ...]) -> Policy:
    """The policy of one file, or that of several composed in this order, named a+b. Raises InputError."""
    if len(paths) == 1:
        return load_policy(paths[0])
    bases = [load_policy(path) for path in paths]
    name = "+".join(base.name for base in bases)
    recalled: dict[str, Any] = {"grade": "recalled"} if any(base.file.grade == "recalled" for base in bases) else {}
    setup = ", ".join(base.file.setup or base.name for base in bases)
    file = schema_policy.Policy(description=f"{name}, composed", setup=setup, **recalled)
    policy = _compose(Policy(name, file, Document("+".join(map(str, paths)), {})), bases)
    _check(policy)
    return policy


def load_policy(path: Path, within: tuple[Path, ...] = ()) -> Policy:
    """The policy of that file. Raises InputError, with the place in the file, for anything wrong.

    `within` are the files that compose this one: none of them may be composed in turn.
    """
    return _of_document(path.stem, files.parse_yaml(files.read_text(path), str(path)), (*within, path.resolve()))


def make_policy(name: str, fields: Mapping[str, Any]) -> Policy:
    """The policy with the fields that its file would have. Raises InputError."""
    return _of_document(name, Document(f"{name} (Python)", files.tuples(dict(fields))), ())


def changed(policy: Policy, called: str, fields: Mapping[str, Any]) -> Policy:
    """The policy with one more rule, of those fields that rules have, and with other fields of its file."""
    rule_fields = {field.alias or name: field for name, field in schema_policy.Rule.model_fields.items()}
    changes = {name: value for name, value in fields.items() if name not in rule_fields}
    for name in changes:
        if name not in schema_policy.Policy.model_fields:
            known = (*rule_fields, *schema_policy.Policy.model_fields)
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
    document = Document(f"{name} (Python)", files.tuples({"description": name, **changes, "rules": rules}))
    return _with_changes(policy, name, document, tuple(changes))


def _with_changes(policy: Policy, name: str, document: Document, changes: tuple[str, ...]) -> Policy:
    """The policy under a new name, with the rules of a document after its own, and with fields that it changes."""
    new = validate(schema_policy.Policy, document)
    update: dict[str, Any] = {field: getattr(new, field) for field in changes}
    update["rules"] = (*policy.file.rules, *new.rules)
    if policy.file.setup and "setup" not in changes:  # which would no longer be true
        update["setup"] = f"{policy.file.setup}, {name.removeprefix(f'{policy.name}-').replace('-', ' ')}"
    if "numbers" in changes:
        update["numbers"] = {**policy.file.numbers, **new.numbers}
    before = {field: policy.inherited.get(field, (policy.document, (field,))) for field in _INHERITED}
    inherited = {**policy.inherited, **before, **{field: (document, (field,)) for field in changes}}
    places = (*policy.rule_places, *((document, ("rules", i)) for i in range(len(new.rules))))
    file = policy.file.model_copy(update=update)
    result = replace(policy, name=name, file=file, document=document, rule_places=places, inherited=inherited)
    _check(result)
    return result


def _name_of_change(name: str, values: Sequence[object]) -> str:
    """A name that lists what was changed: dsq-stash-bfp4."""
    texts = ["-".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values]
    return "-".join([name, *(re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() for text in texts)])


def _of_document(name: str, document: Document, within: tuple[Path, ...]) -> Policy:
    """The policy of a file that is read, composed and checked. Raises InputError."""
    policy = Policy(name, validate(schema_policy.Policy, document), document)
    bases = []
    for i, name in enumerate(policy.file.compose):
        for base in find_policy(name, document, ("compose", i)):
            if base.resolve() in within:
                raise document.error(("compose", i), f"{one_line(name)} composes this policy in turn")
            bases.append(load_policy(base, within))
    policy = _compose(policy, bases)
    if not policy.file.rules:
        raise document.error(("rules",), "expected at least one rule")
    _check(policy)
    return policy


def _compose(policy: Policy, bases: list[Policy]) -> Policy:
    """The policy with rules, numbers and assumptions of its bases; the last base that has it gives a field left out."""
    update: dict[str, Any] = {}
    inherited: dict[str, _Place] = {}
    for base in bases:
        for name in _INHERITED:
            if name in base.file.model_fields_set and name not in policy.file.model_fields_set:
                update[name] = getattr(base.file, name)
                inherited[name] = base.inherited.get(name, (base.document, (name,)))
    files_in_order = (*(base.file for base in bases), policy.file)
    update["numbers"] = {name: number for file in files_in_order for name, number in file.numbers.items()}
    update["rules"], places = _composed_rules(policy, bases)
    file = policy.file.model_copy(update=update)
    assumptions = _composed_assumptions(policy, bases)
    return replace(policy, file=file, rule_places=places, inherited=inherited, assumptions=assumptions)


def _composed_rules(policy: Policy, bases: list[Policy]) -> tuple[tuple[schema_policy.Rule, ...], tuple[_Place, ...]]:
    """The rules of the bases before the policy's own, and where each stands.

    A rule that several bases compose comes once, where the first has it: bf16-mixed lies below all of
    w8-channel+a8-token.
    """
    rules: dict[tuple[str, Where], tuple[schema_policy.Rule, _Place]] = {}
    for base in bases:
        for rule, (document, at) in zip(base.file.rules, base.rule_places, strict=True):
            rules.setdefault((document.path, at), (rule, (document, at)))
    own_places = tuple((policy.document, ("rules", i)) for i in range(len(policy.file.rules)))
    composed = tuple(rule for rule, _ in rules.values())
    return (*composed, *policy.file.rules), (*(place for _, place in rules.values()), *own_places)


def _composed_assumptions(policy: Policy, bases: list[Policy]) -> tuple[Assumption, ...]:
    """The policy's assumptions and those of its bases: of one name, the policy's, else that of the last base."""
    entries = enumerate(policy.file.assumptions)
    own = [Assumption(entry, policy.document, ("assumptions", i)) for i, entry in entries]
    by_name = {assumption.entry.name: assumption for assumption in own}
    if len(by_name) < len(own):
        raise policy.document.error(("assumptions",), "an assumption is named twice")
    for base in reversed(bases):
        for assumption in base.assumptions:
            by_name.setdefault(assumption.entry.name, assumption)
    return tuple(by_name.values())


def with_case(policy: Policy, assumption: Assumption, index: int) -> Policy:
    """The policy under another case of one of its assumptions. Raises InputError, at the case, if it does not fit."""
    case = assumption.entry.cases[index]
    at = (*assumption.place, "cases", index)
    update: dict[str, Any] = {
        "rules": (*policy.file.rules, *case.rules),
        "numbers": {**policy.file.numbers, **case.numbers},
    }
    for name in case.numbers:
        if name not in policy.file.numbers:
            hint = nearest(name, policy.file.numbers)
            raise assumption.document.error((*at, "numbers", name), f"unknown number {one_line(name)!r}{hint}")
    inherited = dict(policy.inherited)
    if case.phases:
        update["phases"] = case.phases
        inherited["phases"] = (assumption.document, (*at, "phases"))
    places = (*policy.rule_places, *((assumption.document, (*at, "rules", i)) for i in range(len(case.rules))))
    changed = replace(policy, file=policy.file.model_copy(update=update), rule_places=places, inherited=inherited)
    _check(changed)
    return changed


def _check(policy: Policy) -> None:
    """Raise InputError, with the place in the file, for the first thing that does not fit and that no schema sees."""
    file, error = policy.file, policy.error
    if len(set(file.levels)) < len(file.levels):
        raise error(("levels",), "a level is named twice")
    for i in range(len(file.phases)):
        _check_phase(policy, i)
        if (accumulator := fill(policy, ("accumulator",), file.accumulator, i)).values != "float":
            raise error(("accumulator",), f"{accumulator.name} holds no sums of products")
        for j, rule in enumerate(file.rules):
            if rule.format is None:
                continue
            format = fill(policy, ("rules", j, "format"), rule.format, i)
            if format.values != rule.values:
                raise error(
                    ("rules", j, "format"), f"{format.name} holds {format.values} values, the rule is for {rule.values}"
                )
    for name in file.levels:
        if name in file.numbers:
            raise error(("numbers", name), "is the name of a level too")
    for j, rule in enumerate(file.rules):
        _check_rule(policy, j, rule)


def _check_phase(policy: Policy, i: int) -> None:
    """Raise InputError for a phase whose levels or whose end do not fit."""
    file, error, phase, at = policy.file, policy.error, policy.file.phases[i], ("phases", i)
    if len(phase.levels) != len(file.levels):
        raise error((*at, "levels"), f"expected {len(file.levels)} numbers for {list(file.levels)}")
    ends = sum(end is not None for end in (phase.until_fraction, phase.until_step, phase.until_plateau))
    if i + 1 < len(file.phases) and ends != 1:
        raise error(at, "expected one of until_fraction, until_step and until_plateau (only the last phase has no end)")
    if i + 1 == len(file.phases) and ends:
        raise error(at, "the last phase has no end; leave until_fraction, until_step and until_plateau out")
    if i and file.monotone:
        for level, before, now in zip(file.levels, file.phases[i - 1].levels, phase.levels, strict=True):
            if now < before:
                raise error((*at, "levels"), f"level {level} falls from {before} to {now}, but the policy is monotone")


_FIELDS_OF_COPIES = {"placement": "a placement", "scale_time": "a scale_time", "operand": "an operand"}


def _check_rule(policy: Policy, j: int, rule: schema_policy.Rule) -> None:
    """Raise InputError for a rule whose fields do not go together."""
    if (rule.format, rule.placement, rule.scale_time, rule.container) == (None,) * 4:
        raise policy.error(("rules", j), "expected a format (or a placement, scale_time or container to change)")
    for name, words in _FIELDS_OF_COPIES.items():
        if getattr(rule, name) is not None and rule.copy_ is None:
            raise policy.error(("rules", j, name), f"only a copy has {words}; say copy: operand or copy: stash")
    if rule.container not in (None, "none"):
        try:
            parse_format(rule.container)
        except InputError as wrong:
            raise policy.error(("rules", j, "container"), str(wrong)) from None


def with_widths(policy: Policy, widths: Widths) -> Policy:
    """The policy with numbers per layer or tensor. Raises InputError, with the line, for formats that do not exist."""
    policy = replace(policy, widths=widths)
    for name, numbers in widths.rows.items():
        for i in range(len(policy.file.phases)):
            for j, rule in enumerate(policy.file.rules):
                try:
                    fill(policy, ("rules", j, "format"), rule.format or "fp32", i, numbers)
                except InputError as error:
                    raise widths.error(name, str(error)) from None
    return policy


def fill(policy: Policy, at: Where, template: str, index: int, numbers: tuple[int, ...] = ()) -> Format:
    """The format of a template in the phase of that index: `bfp<q0>` with q0 = 4 is bfp4.

    `numbers`, a row of the policy's widths, replace the policy's own. Raises InputError, with `at` or the place of the
    number.
    """
    phase = policy.file.phases[index]
    known = {**policy.file.numbers, **dict(zip(policy.file.levels, phase.levels, strict=True))}
    if policy.widths and numbers:
        known.update(zip(policy.widths.columns, numbers, strict=True))
    used = re.findall(_LEVEL, template)
    for name in used:
        if name not in known:
            raise policy.error(at, f"unknown level or number {one_line(name)!r}{nearest(name, known)}")
    try:
        parse_format(re.sub(_LEVEL, "8", template))  # wrong with any number: the template's fault
        if used:
            at = ("phases", index, "levels") if used[0] in policy.file.levels else ("numbers", used[0])
        return parse_format(re.sub(_LEVEL, lambda match: str(known[match[1]]), template))
    except InputError as error:
        if numbers:
            raise  # the caller knows their row
        raise policy.error(at, str(error)) from None
