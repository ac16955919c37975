"""The structure of the package: who may import whom, and what an import loads."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import click
import pytest

import costsim

PACKAGE = Path(costsim.__file__).parent

# Wings on their floors, from the ground up: a module imports from its own wing and from wings below it.
FLOORS = [
    ["errors", "collector", "names", "notebook"],
    ["formats", "graph"],
    ["inputs"],
    ["parallel"],
    ["policy", "models"],
    ["cost", "huggingface", "trace"],
    ["devices"],
    ["run"],
    ["explain", "reference"],
    ["results"],
    ["search"],
    ["tables"],
    ["plots", "arguments"],
    ["loading"],
    ["page", "findings"],
    ["api"],
    ["cli"],
    ["__main__"],
]
FLOOR = {wing: floor for floor, wings in enumerate(FLOORS) for wing in wings}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


MODULES = dict(modules())


def imported(path):
    """The package's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            assert not isinstance(node, ast.ImportFrom), f"{path}: relative import"
            continue
        for name in names:
            inner = name.removeprefix("costsim.")
            while inner != name and inner and inner not in MODULES:
                inner = inner.rpartition(".")[0]
            if inner in MODULES and inner != name:
                yield inner


def wing(module):
    return module.partition(".")[0]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__"])
def test_imports_go_down(name):
    own = wing(name)
    assert own in FLOOR, "give the new wing a floor"
    for other in imported(MODULES[name]):
        theirs = wing(other)
        assert theirs == own or FLOOR[theirs] < FLOOR[own], f"{name} imports {other}: {theirs} is not below {own}"


def test_no_circles():
    """Whatever is imported anywhere in a file, late imports too."""
    of = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    while lowest := [name for name, others in of.items() if not others & set(of)]:
        for name in lowest:
            del of[name]
    assert not of, f"import each other: {', '.join(of)}"


def test_every_floor_exists():
    assert {wing(name) for name in MODULES} - {"__init__"} == set(FLOOR)


def functions(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
    path = MODULES[name]
    assert len(path.read_text().splitlines()) <= 400
    for function in functions(path):
        arguments = function.args
        taken = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        assert function.end_lineno - function.lineno < 45, function.name
        assert len([argument for argument in taken if argument.arg != "self"]) <= 8, function.name


HEAVY = ("numpy", "pandas", "pydantic", "matplotlib", "yaml")


@pytest.mark.parametrize(
    "code",
    [
        "import costsim",
        "import sys; sys.argv = ['costsim', '--help']; from costsim.cli import main; main(standalone_mode=False)",
        "from costsim.run import simulate; simulate.run('iwslt17-dsq')",
        "from costsim.cli import main; main(['run', 'glue-mrpc-dsq'], standalone_mode=False)",
    ],
)
def test_what_is_loaded(code):
    program = f"{code}\nimport sys; print('LOADED', *(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.rpartition("LOADED")[2].split()


def test_every_name_is_implemented():
    """What the command line offers is what there is; it says so without loading it."""
    from costsim import names, plots
    from costsim.cli import catalogue
    from costsim.cost import collectives, laws, totals
    from costsim.devices import links
    from costsim.graph import fusion, graph
    from costsim.parallel import schedules
    from costsim.plots import breakdown
    from costsim.tables import styles

    assert tuple(laws.LAWS) == names.LAWS
    assert tuple(collectives.ALGORITHMS) == names.COLLECTIVES
    assert tuple(schedules.SCHEDULES) == names.PIPELINE_SCHEDULES
    assert tuple(links.HIDDEN) == names.LINK_OVERLAPS
    assert {name for rows in collectives.ALGORITHMS.values() for name in rows} == set(names.COLLECTIVE_ALGORITHMS)
    assert tuple(fusion.MODELS) == names.TRAFFIC_MODELS
    assert tuple(graph.GEMM_OPERANDS) == get_args(names.Gemm)
    assert {name for operands in graph.GEMM_OPERANDS.values() for name in operands} == set(get_args(names.Operand))
    assert tuple(totals.GROUPINGS) == names.GROUPINGS
    assert tuple(breakdown.BY) == names.BREAKDOWNS
    assert tuple(plots.PLOTS) == names.FIGURES
    assert tuple(styles.WRITERS) == tuple(names.STYLES)
    assert tuple(catalogue.CATALOGUES) == names.CATALOGUES


def commands():
    from costsim.cli.commands import COMMANDS, main

    context = click.Context(main)
    return {name: main.get_command(context, name) for name in COMMANDS}


def test_every_command_has_help_that_the_group_sums_up():
    from costsim.cli.commands import COMMANDS, main

    width = click.Context(main, terminal_width=80).make_formatter().width
    for name, command in commands().items():
        assert command.name == name
        assert command.get_short_help_str(width - 6 - max(map(len, COMMANDS))) == COMMANDS[name].short_help
        assert f"costsim {name}" in command.help, "an example"


def test_run_and_plot_take_all_that_a_job_is_made_of():
    from costsim.run.job import Request

    job = {field.name for field in dataclasses.fields(Request)}
    for name in ("run", "plot"):
        assert job < {option.name for option in commands()[name].params}


def test_the_two_stashing_policies_differ_in_family_and_levels_only():
    from costsim.inputs import files

    texts = {name: files.list_shipped("policies")[name].read_text() for name in ("stash-bfp", "stash-fixed")}
    rules = {
        re.sub(r"bfp(\d+|<q\d>)-box<box>-exp<exponent>", r"fixed\1", text)
        .partition("rules:")[2]
        .partition("phases:")[0]
        for text in texts.values()
    }
    assert len(rules) == 1


def test_files_that_contributing_names_exist():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    [where] = re.findall(r"## Where to look\n.*?\|---\|\n(.*?)\n## ", text, flags=re.S)
    paths = re.findall(r"`([a-z_*]+/[a-z_*]*(?:\.py)?)`", where)
    assert len(paths) > 30
    for path in paths:
        assert list(PACKAGE.glob(path)), f"no {path}"
