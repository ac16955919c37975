"""The Python interface by itself: what completion lists, what a notebook shows, types, and the words of errors."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import costsim
from costsim import api, arguments, findings, loading, names
from costsim.cli.commands import COMMANDS, main

HERE = Path(__file__).parent
PACKAGE = Path(costsim.__file__).parent


def test_completion_lists_all_that_there_is():
    code = "import costsim, sys; print(*dir(costsim)); print(*(m for m in ('pandas', 'numpy') if m in sys.modules))"
    listed, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split("\n")[:2]
    assert set(listed.split()) == {*costsim.__all__, "__version__"}
    assert loaded == ""  # to list is not to load
    assert all(getattr(costsim, name) is not None for name in listed.split())
    assert set(costsim.__all__) <= set(api.__all__)


# --- what a notebook shows --------------------------------------------------------------------------------------------

SHOWN = {
    "Workload('glue-mrpc-dsq', {'batch.sequences': '8'})": (
        lambda: costsim.load("glue-mrpc-dsq", {"batch.sequences": 8}),
        ("sequences 8", "2,296", "DSQ's third task"),
    ),
    "Policy('dsq')": (lambda: costsim.load_policy("dsq"), ("[2,2,2,16]*", "inferred")),
    "Hardware('t4')": (lambda: costsim.load_hardware("t4"), ("fp16 x fp16 + fp32", "320", "gddr6")),
    "Format('bfp8')": (lambda: costsim.load_format("bfp8"), ("8.5", "1 x 16 elements", "127")),
}


class Text(HTMLParser):
    """The text of HTML, with a check that tags close in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.parts = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.parts.append(data)


@pytest.mark.parametrize("short", SHOWN)
def test_objects_show_what_they_are(short):
    make, known = SHOWN[short]
    shown = make()
    assert repr(shown) == short
    text = " | ".join(Text(shown._repr_html_()).parts)
    assert all(word in text for word in known), text


def test_texts_of_files_are_escaped_in_a_notebook():
    hostile = "<script>alert(1)</script>"
    policy = costsim.make_policy("mine", {"description": hostile, "rules": [{"format": "bf16"}]})
    assert "<script" not in policy._repr_html_()
    assert hostile in Text(policy._repr_html_()).parts


# --- figures in a figure of one's own ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results():
    return costsim.load("translation-small").run(["fixed16", "dsq"], hardware="t4")


@pytest.mark.parametrize("kind", names.FIGURES)
def test_a_figure_is_drawn_in_the_place_of_an_axis(results, kind):
    figure = Figure(figsize=(14, 7))
    left, right = figure.subplots(1, 2)
    left.plot([1, 2], [1, 2])
    part = results.plot.draw(kind, ax=right)
    right.set_title("my words")
    FigureCanvasAgg(figure).draw()
    assert part in figure.subfigs
    assert set(part.axes) <= set(figure.axes) - {left, right}
    assert part.axes
    place = right.get_subplotspec().get_position(figure)
    for axes in part.axes:
        box = axes.get_position().transformed(part.transSubfigure - figure.transFigure)
        assert box.x0 >= place.x0 - 0.1  # the layout moves both a little
        assert box.x0 > left.get_position().x1 - 0.01
    assert right.get_title() == "my words"
    assert left.lines


def test_an_axis_must_have_a_place(results):
    figure = Figure()
    with pytest.raises(costsim.InputError, match="ax: expected one of figure"):
        results.plot.memory(ax=figure.add_axes((0.1, 0.1, 0.5, 0.5)))
    with pytest.raises(costsim.InputError, match="width: a figure in the place of an ax is as wide as that"):
        results.plot.memory(ax=figure.subplots(), width="84mm")


# --- errors -----------------------------------------------------------------------------------------------------------


def run(**options):
    return costsim.load("glue-mrpc-dsq").run("dsq", **options)


ERRORS = {
    "buffer_bytes: only traffic tiled has a buffer, this is unfused; add traffic='tiled'": lambda: run(buffer_bytes=9),
    "say buffer_bytes=N, buffer_bytes in the workload, or hardware=NAME": lambda: run(traffic="tiled"),
    "bits nope.csv: No such file or directory".removeprefix("bits "): lambda: run(bits="nope.csv"),
    "by x: expected one of phase, role": lambda: run().plot.breakdown(by="x"),
    "plot roofline: expected a device, hardware=NAME": lambda: run().plot.roofline(),
    "workload 'dsq': is a policy, expected a workload: load(WORKLOAD).run(policies=['dsq'])": lambda: costsim.load(
        "dsq"
    ),
    "policy 'glue-mrpc-dsq': is a workload, expected a policy: costsim.load('glue-mrpc-dsq')": (
        lambda: costsim.load_policy("glue-mrpc-dsq")
    ),
    "fields model.laers=3: unknown key 'laers'; did you mean 'layers'": (
        lambda: costsim.load("glue-mrpc-dsq", {"model.laers": 3})
    ),
    "sensitivity: say what bits cost": lambda: costsim.load("glue-mrpc-dsq").search(["bfp4"]),
    "formats: unknown format 'bfq4'": (lambda: costsim.load("glue-mrpc-dsq").search(["bfq4"], minimise="dram_bits")),
    "groups: unknown field 'x'": (
        lambda: costsim.load("glue-mrpc-dsq").search(["bfp4"], groups="x", minimise="dram_bits")
    ),
    "budgets": lambda: costsim.load("glue-mrpc-dsq").search(["bfp4"], budgets="dram >= 2", minimise="dram_bits"),
    "assumptions: no assumption 'x'": lambda: costsim.load("iwslt17-dsq").reconcile(assumptions="x"),
    "fields policies: not a field to sweep": lambda: costsim.load("glue-mrpc-dsq").sweep({"policies": ["dsq"]}),
    "executor 'locl'".replace("'", "") + ": expected local": (
        lambda: costsim.load("glue-mrpc-dsq").sweep({"batch.sequences": [1]}, executor="locl")
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_speak_of_arguments(message):
    with pytest.raises(costsim.InputError) as caught:
        ERRORS[message]()
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


def messages():
    """All texts of the package that name an option, but for those of the command line itself and of docstrings."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "cli":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search("--[a-z]", node.value):
                    yield node.value


def test_every_option_that_a_message_names_has_words_for_python():
    options = {option for text in messages() for option in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", text)}
    assert len(options) > 20
    assert [text for text in messages() if "--" in re.sub("-{3,}", "", arguments.as_arguments(text))] == []


def parameters():
    calls = [getattr(costsim, name) for name in costsim.__all__ if name not in ("Format", "Hardware", "Policy")]
    members = [m for c in calls if inspect.isclass(c) for m in vars(c).values() if inspect.isfunction(m)]
    named = {name for call in (*calls, *members) if callable(call) for name in inspect.signature(call).parameters}
    return named | set(arguments.Convention.__annotations__) | {"memory()", "by()", "against", "minimise", "points"}


def test_words_for_python_are_arguments_that_there_are():
    """Of those that have another name; and they stand for options that there are."""
    import click

    commands = [main.get_command(click.Context(main), name) for name in COMMANDS]
    params = [param for command in commands for param in command.params]
    options = {name.lstrip("-") for param in params for name in (*param.opts, *param.secondary_opts)}
    assert set(arguments.ARGUMENTS) <= options
    assert {word for word in arguments.ARGUMENTS.values() if word not in parameters()} <= {"batches"}  # of plot.memory


def test_all_of_the_interface_speaks():
    classes = [api.Workload, api.Results, api.Plots, findings.Search, findings.Reconciliation, findings.Survey]
    for kind in classes:
        for name, member in vars(kind).items():
            function = member.fget if isinstance(member, property) else member
            if not name.startswith("_") and inspect.isfunction(function):
                assert hasattr(function, "__wrapped__"), (kind, name)
    for function in (
        api.load,
        api.read,
        *(getattr(loading, n) for n in dir(loading) if n.startswith(("load_", "make_"))),
    ):
        assert hasattr(function, "__wrapped__"), function


# --- types ------------------------------------------------------------------------------------------------------------

TYPED = HERE / "typed" / "uses_api.py"  # which mypy checks, as pyproject.toml says


def test_the_typed_script_uses_the_whole_interface():
    text = TYPED.read_text()
    kinds = (api.Workload, api.Results, api.Plots, findings.Search, findings.Reconciliation, findings.Survey)
    members = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    assert [name for name in {*members, *costsim.__all__} if not re.search(rf"\b{name}\b", text)] == []


def test_mypy_checks_the_typed_script():
    settings = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    assert "tests/typed" in settings["files"]
    assert (PACKAGE / "py.typed").exists()


# --- the page of all names --------------------------------------------------------------------------------------------


def test_the_page_of_all_names_is_what_the_docstrings_say():
    """If not: python docs/site/api.py."""
    made = runpy.run_path(str(HERE.parent / "docs" / "site" / "api.py"))
    assert (HERE.parent / "docs" / "api.md").read_text() == made["page"]()
