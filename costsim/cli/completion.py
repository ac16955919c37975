"""What shells complete: workloads, policies, devices, fields, ops, formats. Loaded where a shell asks.

Shells ask as click has it (click.palletsprojects.com/shell-completion). Bash is given the line itself, since it parts
words at `=`.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin

import click
from click.shell_completion import BashComplete, CompletionItem, ZshComplete, add_completion_class, split_arg_string

from costsim.inputs import files
from costsim.inputs.section import Section, SectionField

if TYPE_CHECKING:
    Item = CompletionItem[Any]
    Text = click.ParamType[str]
else:  # which have no types in click 8.1
    Item, Text = CompletionItem, click.ParamType


class Asked(NamedTuple):
    """What is to be completed: the beginning of a word, and the command's workload, if it has one so far."""

    begun: str
    workload: str | None


Completer = Callable[[Asked], list[Item]]


def _beginning(begun: str, names: Mapping[str, str]) -> list[Item]:
    """Names, with what they mean, that begin so."""
    return [CompletionItem(name, help=text or None) for name, text in names.items() if name.startswith(begun)]


def _or_file(items: list[Item], begun: str) -> list[Item]:
    """Names, or files if no name begins so."""
    return items or [CompletionItem(begun, type="file")]


def _file(asked: Asked) -> list[Item]:
    return [CompletionItem(asked.begun, type="file")]


def _shipped(folder: str) -> Completer:
    """Shipped names of a folder, or files."""
    return lambda asked: _or_file(_beginning(asked.begun, dict.fromkeys(files.list_shipped(folder), "")), asked.begun)


def _policies(asked: Asked) -> list[Item]:
    """Policies, the last of a+b."""
    before, plus, begun = asked.begun.rpartition("+")
    named = {f"{before}{plus}{name}": "" for name in files.list_shipped("policies")}
    return _or_file(_beginning(before + plus + begun, named), asked.begun)


def _formats(asked: Asked) -> list[Item]:
    """Formats that stand for families, the last of a,b."""
    from costsim.formats.named import EXAMPLES

    before, comma, begun = asked.begun.rpartition(",")
    return _beginning(before + comma + begun, {f"{before}{comma}{name}": "" for name in EXAMPLES})


def _ops(asked: Asked) -> list[Item]:
    """What `explain` takes: ops of the workload, and totals."""
    from costsim.explain.totals import TOTALS
    from costsim.models.build import build
    from costsim.run.job import read_workload

    if asked.workload is None:
        return []
    _, document, file = read_workload(asked.workload)
    ops = [op.name for op in build(file, document).ops if not op.kind.view]
    return _beginning(asked.begun, dict.fromkeys([*TOTALS, *ops], ""))


def _known(asked: Asked) -> list[Item]:
    """What `show` takes."""
    from costsim.cli.catalogue import CATALOGUES

    return _beginning(asked.begun, {name: text for entries in CATALOGUES.values() for name, text in entries().items()})


# --- fields -----------------------------------------------------------------------------------------------------------


def _section_in(annotation: Any) -> type[Section] | None:
    """The section that a field is, or may be."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _section_in(inner[0])
    if get_origin(annotation) is tuple:
        return None
    return next((found for part in inner if (found := _section_in(part))), None)


def leaves(section: type[Section], at: str = "") -> Iterator[tuple[str, SectionField]]:
    """The fields of a section that are none themselves, with those of sections within: names with `at` before them."""
    for field in section.section_fields.values():
        inner = _section_in(field.annotation)
        if inner is None:
            yield at + field.key, field
        else:
            yield from leaves(inner, f"{at}{field.key}.")


def fields_of(workload: str | None) -> dict[str, SectionField]:
    """The fields that `--set` takes, of a workload's family; of none, those that all workloads have."""
    from costsim.inputs.parse import parse_yaml
    from costsim.inputs.schema_workload import Workload
    from costsim.models.families import family, is_family

    found = {name: field for name, field in leaves(Workload) if name not in ("model", "batch")}
    if workload is not None:
        path = files.find(workload, "workloads", "workload")
        name = parse_yaml(files.read_text(path), str(path)).data.get("model", {}).get("family")
        if isinstance(name, str) and is_family(name):
            module = family(name)
            found |= dict(leaves(module.Model, "model.")) | dict(leaves(module.Batch, "batch."))
    return found


def _choices(annotation: Any) -> Iterator[str]:
    """The words that a field may be."""
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is not tuple:
        for part in get_args(annotation):
            yield from _choices(part)


def _assignments(asked: Asked) -> list[Item]:
    """Fields, and behind `=` the words that they may be."""
    known = fields_of(asked.workload)
    name, equals, _ = asked.begun.partition("=")
    if not equals:
        return _beginning(asked.begun, {f"{name}=": field.description for name, field in known.items()})
    words = _choices(known[name].annotation) if name in known else ()
    return _beginning(asked.begun, {f"{name}={word}": "" for word in words})


# --- commands ---------------------------------------------------------------------------------------------------------

# By the name of a parameter, or of a command and a parameter.
COMPLETERS: Mapping[str, Completer] = {
    "workload": _shipped("workloads"),
    "policies": _policies,
    "policy": _policies,
    "baseline": _policies,
    "hardware": _shipped("hardware_profiles"),
    "memory.device": _shipped("hardware_profiles"),
    "assignments": _assignments,
    "sweep": _assignments,
    "formats": _formats,
    "explain.name": _ops,
    "show.name": _known,
    "config": _file,
    "bits": _file,
    "resume": _file,
}


class _Completed(Text):
    """Text that a completer completes."""

    name = "text"

    def __init__(self, completer: Completer) -> None:
        self.completer = completer

    def shell_complete(self, ctx: click.Context, _: click.Parameter, incomplete: str) -> list[Item]:
        """What the word may become; nothing if what stands before is wrong."""
        from costsim.errors import InputError

        with suppress(InputError):
            return self.completer(Asked(incomplete, ctx.params.get("workload") or _workload(ctx)))
        return []


def _workload(ctx: click.Context) -> str | None:
    """The workload of a line whose last option lacks its value, so that click reads none of it."""
    words = ctx.find_root().obj or ()
    return next((word for word in words[1:] if word in files.list_shipped("workloads") or word.endswith(".yaml")), None)


def attach(command: click.Command) -> click.Command:
    """The command, whose parameters complete."""
    for param in command.params:
        completer = COMPLETERS.get(f"{command.name}.{param.name}") or COMPLETERS.get(param.name or "")
        if completer is not None and not isinstance(param.type, click.Choice):
            param.type = _Completed(completer)
    return command


_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    for line in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1"); do
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            plain,*=) compopt -o nospace; COMPREPLY+=("${line#*,}") ;;
            plain,*) COMPREPLY+=("${line#*,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Bash, which replaces what stands behind the last `=`, and puts no space behind a field's name and `=`."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one that it stands in."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)[1:]
        begun = words.pop() if words and not re.search(r"\s$", line) else ""
        self.begun = re.sub(r"^--[\w-]+=", "", begun)
        return words, begun

    def format_completion(self, item: Item) -> str:
        """A line of the answer."""
        before = self.begun.rpartition("=")[0] + "=" if "=" in self.begun else ""
        return f"{item.type},{str(item.value).removeprefix(before)}"


class Zsh(ZshComplete):
    """Zsh, which puts no space behind a field's name and `=`."""

    source_template = (
        ZshComplete.source_template.replace("local -a response", 'local -a response\n    local behind=" "')
        .replace("in ${response}; do", 'in ${response}; do\n        [[ "$key" == *= ]] && behind=""')
        .replace("completions_with_descriptions -U", 'completions_with_descriptions -U -S "$behind"')
        .replace("compadd -U", 'compadd -S "$behind" -U')
    )


add_completion_class(Bash, "bash")
add_completion_class(Zsh, "zsh")
