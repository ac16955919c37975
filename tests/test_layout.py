"""The structure of the package: who may import whom, and what an import loads."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import costsim

PACKAGE = Path(costsim.__file__).parent

# A module imports only from levels below its own.
LEVELS = [
    ["errors", "collector"],
    ["formats", "kinds", "files", "cells", "tables", "steps", "expressions"],
    ["ops.table", "schema", "laws", "widths", "quantize", "corpus"],
    [f"ops.{name}" for name in ("attention", "elementwise", "experts", "lookups", "loss", "norms", "update")],
    ["ops"],
    ["graph", "benches", "torch_kernels"],
    ["autodiff", "fusion", "import_tables"],
    ["alike", "policy", "hardware"],
    ["assign", "schedule"],
    ["reference"],
    ["count"],
    ["tiling", "follow"],
    ["energy", "derive"],
    ["roofline"],
    ["models.blocks"],
    ["models.encoder_decoder", "models.encoder_classifier", "models.decoder"],
    ["models"],
    ["simulate", "calibrate", "torch_step", "explain_devices", "explain_tiling"],
    ["sensitivity", "memory", "importers", "validate", "spending", "explain"],
    ["training", "pretraining", "plots_style", "measure", "trace", "explain_totals", "frames", "sweep"],
    ["plots_hardware", "plots_breakdown"],
    ["plots_timeline"],
    ["records", "plots", "catalogue", "report_explain"],
    ["report_hardware", "report_latex", "assertions", "page_tables", "page_figures"],
    ["report", "page_sources"],
    ["report_memory", "report_validation", "report_html", "report_sweep", "plots_sweep", "api"],
    ["cli"],
    ["__main__"],
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


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
            parts = name.split(".")
            if parts[0] == "costsim":
                inner = ".".join(parts[1:])
                while inner and inner not in LEVEL:
                    inner = inner.rpartition(".")[0]
                if inner:
                    yield inner


@pytest.mark.parametrize(("name", "path"), [(n, p) for n, p in modules() if n != "__init__"])
def test_imports_go_down(name, path):
    assert name in LEVEL, "give the new module a level"
    for other in imported(path):
        assert LEVEL[other] < LEVEL[name], f"{name} (level {LEVEL[name]}) imports {other} (level {LEVEL[other]})"


def test_every_level_exists():
    assert {name for name, _ in modules()} - {"__init__"} == set(LEVEL)


HEAVY = ("numpy", "pandas", "pydantic", "matplotlib", "yaml")


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import costsim", ()),
        ("import sys; sys.argv = ['costsim', '--help']; from costsim.cli import main; main(standalone_mode=False)", ()),
        ("from costsim import simulate; simulate.run('iwslt17-dsq')", ("pydantic", "yaml")),
        ("from costsim.cli import main; main(['run', 'glue-mrpc-dsq'], standalone_mode=False)", ("pydantic", "yaml")),
    ],
)
def test_what_is_loaded(code, allowed):
    program = f"{code}\nimport sys; print('LOADED', *(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert set(loaded) <= set(allowed)


def test_choices_on_the_command_line_are_those_of_the_library():
    """The command line spells them out, to load nothing before a command runs."""
    from costsim import catalogue, cli, count, laws, plots, plots_breakdown, records, report, schema

    run, plot = ({option.name: option for option in command.params} for command in (cli.run, cli.plot))
    assert tuple(run["by"].type.choices) == records.BY
    assert tuple(run["style"].type.choices) == tuple(report.FORMATS)
    assert {ending: style for style, (ending, _) in report.FORMATS.items()} == cli._ENDINGS
    assert tuple(plot["kind"].type.choices) == (*plots.PLOTS, "sweep", "trace")
    assert tuple(plot["by"].type.choices) == tuple(plots_breakdown.BY)
    assert tuple(cli.list_.params[0].type.choices) == tuple(catalogue.CATALOGUES)
    for field, names in {"traffic": count.TRAFFIC_MODELS, "scope": count.SCOPES, "law": tuple(laws.LAWS)}.items():
        assert tuple(run[field].type.choices) == tuple(plot[field].type.choices) == names
        assert schema.Workload.model_fields[field].annotation.__args__ == names


def test_run_and_plot_take_all_that_a_job_is_made_of():
    from costsim import cli, simulate

    job = set(inspect.signature(simulate.prepare).parameters)
    for command in (cli.run, cli.plot):
        assert job < {option.name for option in command.params}


def test_the_two_stashing_policies_differ_in_family_and_levels_only():
    from costsim import files

    texts = {name: files.list_shipped("policies")[name].read_text() for name in ("stash-bfp", "stash-fixed")}
    rules = {
        re.sub(r"bfp(\d+|<q\d>)-box<box>-exp<exponent>", r"fixed\1", text)
        .partition("rules:")[2]
        .partition("phases:")[0]
        for text in texts.values()
    }
    assert len(rules) == 1
