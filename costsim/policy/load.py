"""Policies read: the file of a name, and the policies that it composes in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from costsim.errors import InputError, UnreadError, apart, one_line, refuse, together
from costsim.inputs import files, schema_policy
from costsim.inputs.document import MAX_ITEMS, Document, Where, tuples
from costsim.inputs.parse import parse_yaml
from costsim.inputs.schema import read
from costsim.inputs.sorts import check_sort
from costsim.policy.check import check, check_whole, faults, faults_of_whole
from costsim.policy.levels import mentioned
from costsim.policy.phases import cut
from costsim.policy.policy import INHERITED, Assumption, Place, Policy, number_places

MOST_DEEP = 32  # policies that compose each other
MOST_NAMED = 32  # as a+b
MOST_FILES = 200  # that one policy is composed of, at any depth
MOST_RULES = MAX_ITEMS  # of a policy with those that it composes


def find_policy(name: str, document: Document | None = None, at: Where = ()) -> tuple[Path, ...]:
    """The file of a policy, or the files of `a+b`: beside the document that names them, or shipped.

    Raises InputError at the field of the document.
    """
    beside = Path(document.path) if document else None
    find = partial(files.find, folder="policies", noun="policy", beside=beside)
    try:
        try:
            return (find(name),)
        except InputError:
            if "+" not in name:
                raise
            if name.count("+") >= MOST_NAMED:
                raise InputError(f"{one_line(name)}: more than {MOST_NAMED} policies") from None
            return tuple(together(partial(find, part) for part in name.split("+")))
    except InputError as error:
        if document is None:
            raise
        raise InputError(*(document.error(at, fault.text).faults[0] for fault in error.faults)) from None


Known = dict[Path, Policy | InputError]  # what came of each file that was read


def load_policies(paths: tuple[Path, ...]) -> Policy:
    """The policy of one file, or that of several composed in this order, named a+b. Raises InputError."""
    if len(paths) == 1:
        return load_policy(paths[0])
    known: Known = {}
    return compose(together(partial(_read, path, (), known) for path in paths))


def compose(bases: list[Policy]) -> Policy:
    """Policies composed in this order, named a+b. Raises InputError if they do not go together."""
    name = "+".join(base.name for base in bases)
    recalled: dict[str, Any] = {"grade": "recalled"} if any(base.file.grade == "recalled" for base in bases) else {}
    setup, label = ", ".join(base.file.setup or base.name for base in bases), ", ".join(base.label for base in bases)
    published = tuple(figure for base in bases for figure in base.file.published)
    file = schema_policy.Policy(
        description=f"{name}, composed", label=label, setup=setup, published=published, **recalled
    )
    policy = _compose(Policy(name, file, Document("+".join(base.document.path for base in bases), {})), bases)
    policy = replace(policy, file=cut(policy.file, policy.error))
    check(policy.file, policy.error)
    check_whole(policy.file, policy.mentioned, policy.error)
    return policy


def load_policy(path: Path) -> Policy:
    """The policy of that file. Raises InputError, with the place in the file, for anything wrong."""
    return _read(path, (), {}, whole=True)


def _read(path: Path, within: tuple[Path, ...], known: Known, whole: bool = False) -> Policy:
    """The policy of a file, read once; `within` are the files that compose this one, which it may not in turn.

    `whole`: it is no part of another policy. Raises InputError, each time, for anything wrong.
    """
    resolved = path.resolve()
    if resolved not in known:
        try:
            if len(known) + len(within) > MOST_FILES:
                raise InputError(f"{path}: a policy is composed of more than {MOST_FILES} files")
            document = parse_yaml(files.read_text(path), str(path))
            check_sort("policy", str(path), document.data)
            known[resolved] = _of_document(path.stem, document, (*within, resolved), known, whole)
        except InputError as error:
            known[resolved] = error
    policy = known[resolved]
    if isinstance(policy, InputError):
        raise policy
    return policy


def make_policy(name: str, fields: Mapping[str, Any]) -> Policy:
    """The policy with the fields that its file would have. Raises InputError."""
    return _of_document(name, Document(f"{name} (Python)", tuples(dict(fields))), (), {}, whole=True)


def _of_document(name: str, document: Document, within: tuple[Path, ...], known: Known, whole: bool) -> Policy:
    """The policy of a file that is read, composed and checked. Raises InputError for all that is wrong."""
    file, errors = read(schema_policy.Policy, document)
    policy = Policy(name, file, document)
    try:
        policy = _compose(policy, _bases(policy, within, known))
    except (InputError, UnreadError) as error:  # then nobody knows what it has of others
        errors += [error] if isinstance(error, InputError) else []
        of_others = {"rules", "numbers"} | (set(INHERITED) - file.given)
        policy = replace(policy, file=file.without(of_others))
    try:
        policy = replace(policy, file=cut(policy.file, policy.error))
    except InputError as error:
        errors.append(error)
    except UnreadError:  # its rules or phases are wrong in themselves
        pass
    refuse([*errors, *apart(partial(_faults, policy, whole))])
    return policy


def _faults(policy: Policy, whole: bool) -> Iterator[InputError]:
    """What is wrong with a policy besides what its schema sees."""
    yield from faults(policy.file, policy.error)
    yield from faults_of_whole(policy.file, policy.mentioned, policy.error) if whole else ()
    if not policy.file.rules:
        yield policy.document.error(("rules",), "expected at least one rule")
    if len(policy.file.rules) > MOST_RULES:
        composed = f"with those of the policies that it composes, {len(policy.file.rules)} rules"
        yield policy.document.error(("compose",), f"{composed}; expected at most {MOST_RULES}")


def _bases(policy: Policy, within: tuple[Path, ...], known: Known) -> list[Policy]:
    """The policies that a policy composes. Raises InputError for all that are not there, or wrong in themselves."""

    def base(i: int, name: str) -> list[Policy]:
        return together(partial(of_path, i, name, path) for path in find_policy(name, policy.document, ("compose", i)))

    def of_path(i: int, name: str, path: Path) -> Policy:
        if path.resolve() in within:
            raise policy.document.error(("compose", i), f"{one_line(name)} composes this policy in turn")
        if len(within) > MOST_DEEP:
            raise policy.document.error(("compose", i), f"policies compose each other more than {MOST_DEEP} deep")
        return _read(path, within, known)

    each = together(partial(base, i, name) for i, name in enumerate(policy.file.compose))
    return [policy for of_name in each for policy in of_name]


def _compose(policy: Policy, bases: list[Policy]) -> Policy:
    """The policy with rules, numbers and assumptions of its bases; the last base that has it gives a field left out."""
    update: dict[str, Any] = {}
    inherited: dict[str, Place] = {}
    for base in bases:
        for name in INHERITED:
            if name in base.file.given and name not in policy.file.given:
                update[name] = getattr(base.file, name)
                inherited[name] = base.inherited.get(name, (base.document, (name,)))
        inherited |= number_places(base)
    files_in_order = (*(base.file for base in bases), policy.file)
    update["numbers"] = {name: number for file in files_in_order for name, number in file.numbers.items()}
    update["rules"], places = _composed_rules(policy, bases)
    for name in policy.file.numbers:
        inherited.pop(f"numbers.{name}", None)
    file = policy.file.changed(**update)
    used = frozenset[str]().union(*(mentioned(base.file) | base.mentioned for base in bases))
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
    entries = ((i, entry) for i, entry in enumerate(policy.file.assumptions) if "name" in vars(entry))
    by_name = {entry.name: Assumption(entry, policy.document, ("assumptions", i)) for i, entry in entries}
    for base in reversed(bases):
        for assumption in base.assumptions:
            by_name.setdefault(assumption.entry.name, assumption)
    return tuple(by_name.values())
