"""Policies read: the file of a name, and the policies that it composes in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from costsim.errors import InputError, one_line
from costsim.inputs import files, schema_policy
from costsim.inputs.document import Document, Where, parse_yaml, tuples
from costsim.inputs.schema import validate
from costsim.policy.check import check, check_used
from costsim.policy.levels import mentioned
from costsim.policy.policy import INHERITED, Assumption, Place, Policy, number_places

MOST_DEEP = 32  # policies that compose each other


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
    known: dict[Path, Policy] = {}
    bases = [_read(path, (), known) for path in paths]
    name = "+".join(base.name for base in bases)
    recalled: dict[str, Any] = {"grade": "recalled"} if any(base.file.grade == "recalled" for base in bases) else {}
    setup = ", ".join(base.file.setup or base.name for base in bases)
    file = schema_policy.Policy(description=f"{name}, composed", setup=setup, **recalled)
    policy = _compose(Policy(name, file, Document("+".join(map(str, paths)), {})), bases)
    check(policy.file, policy.error)
    return _all_used(policy)


def load_policy(path: Path) -> Policy:
    """The policy of that file. Raises InputError, with the place in the file, for anything wrong."""
    return _all_used(_read(path, (), {}))


def _all_used(policy: Policy) -> Policy:
    """The policy as a whole, for a base may leave it to others: raises InputError for a level or number without use."""
    check_used(policy.file, policy.mentioned, policy.error)
    return policy


def _read(path: Path, within: tuple[Path, ...], known: dict[Path, Policy]) -> Policy:
    """The policy of a file, read once; `within` are the files that compose this one, which it may not in turn."""
    resolved = path.resolve()
    if resolved not in known:
        document = parse_yaml(files.read_text(path), str(path))
        known[resolved] = _of_document(path.stem, document, (*within, resolved), known)
    return known[resolved]


def make_policy(name: str, fields: Mapping[str, Any]) -> Policy:
    """The policy with the fields that its file would have. Raises InputError."""
    return _all_used(_of_document(name, Document(f"{name} (Python)", tuples(dict(fields))), (), {}))


def _of_document(name: str, document: Document, within: tuple[Path, ...], known: dict[Path, Policy]) -> Policy:
    """The policy of a file that is read, composed and checked. Raises InputError."""
    policy = Policy(name, validate(schema_policy.Policy, document), document)
    bases = []
    for i, name in enumerate(policy.file.compose):
        for base in find_policy(name, document, ("compose", i)):
            if base.resolve() in within:
                raise document.error(("compose", i), f"{one_line(name)} composes this policy in turn")
            if len(within) > MOST_DEEP:
                raise document.error(("compose", i), f"policies compose each other more than {MOST_DEEP} deep")
            bases.append(_read(base, within, known))
    policy = _compose(policy, bases)
    if not policy.file.rules:
        raise document.error(("rules",), "expected at least one rule")
    check(policy.file, policy.error)
    return policy


def _compose(policy: Policy, bases: list[Policy]) -> Policy:
    """The policy with rules, numbers and assumptions of its bases; the last base that has it gives a field left out."""
    update: dict[str, Any] = {}
    inherited: dict[str, Place] = {}
    for base in bases:
        for name in INHERITED:
            if name in base.file.model_fields_set and name not in policy.file.model_fields_set:
                update[name] = getattr(base.file, name)
                inherited[name] = base.inherited.get(name, (base.document, (name,)))
        inherited |= number_places(base)
    files_in_order = (*(base.file for base in bases), policy.file)
    update["numbers"] = {name: number for file in files_in_order for name, number in file.numbers.items()}
    update["rules"], places = _composed_rules(policy, bases)
    for name in policy.file.numbers:
        inherited.pop(f"numbers.{name}", None)
    file = policy.file.model_copy(update=update)
    used = mentioned(file).union(*(base.mentioned for base in bases))
    assumptions = _composed_assumptions(policy, bases)
    return replace(policy, file=file, rule_places=places, inherited=inherited, assumptions=assumptions, mentioned=used)


def _composed_rules(policy: Policy, bases: list[Policy]) -> tuple[tuple[schema_policy.Rule, ...], tuple[Place, ...]]:
    """The rules of the bases before the policy's own, and where each stands.

    A rule that several bases compose comes once, where the first has it: bf16-mixed lies below all of
    w8-channel+a8-token.
    """
    rules: dict[tuple[str, Where], tuple[schema_policy.Rule, Place]] = {}
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
