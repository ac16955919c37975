"""The documentation says what happens: its commands, outputs, files and programs work, its links lead somewhere."""

import ast
import json
import math
import re
import shlex
from contextlib import suppress
from pathlib import Path

import click
import pandas as pd
import pytest
from click.testing import CliRunner

import costsim
from costsim.api import Plots, Results, Workload
from costsim.cli import main, starting
from costsim.cli.commands import COMMANDS
from costsim.inputs import files, schema_policy, schema_workload
from costsim.models.families import families, family

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
}
BLOCKS = [block for text in PAGES.values() for block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)]
FILES = {  # that the pages speak of, beside those that they show
    "config.json": (ROOT / "tests" / "data" / "configs" / "gpt2.json").read_text(),
    "losses.csv": "step,loss\n1000,4.1\n2000,3.9\n3000,3.9\n4000,4.0\n",
    "gpt.yaml": (ROOT / "tests" / "data" / "traced" / "gpt.yaml").read_text(),
    "gpt.json": (ROOT / "tests" / "data" / "traced" / "gpt.json").read_text(),  # which gpt.yaml names
    "table.csv": "layer,bits\nencoder.0,4\n",
    "my-model.yaml": starting.text("workload"),
}


def written_in(language):
    """The blocks in a language, each once."""
    return list(dict.fromkeys(block for name, block in BLOCKS if name == language))


def run(command, tmp_path, monkeypatch):
    """Runs a command line in a folder that holds nothing but the files it names and does not write."""
    for name, text in FILES.items():
        if Path(name).stem in command and f"--out {name}" not in command:
            (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return CliRunner().invoke(main, shlex.split(command)[1:])


# --- what is shown happens --------------------------------------------------------------------------------------------

LINES = [line.partition("#")[0].strip() for block in written_in("sh") for line in block.splitlines()]
SETUP = [line for line in LINES if line.startswith("python -m pip install")]
TYPED = list(dict.fromkeys(line for line in LINES if line.startswith("costsim ")))
SHOWN = [block.removeprefix("$ ").split("\n", 1) for block in written_in("console")]


def test_there_are_exactly_two_setup_commands():
    assert SETUP == [
        "python -m pip install . && python -m costsim run iwslt17-dsq.yaml",
        'python -m pip install -c constraints.txt -e ".[test]" && python -m pytest',
    ]
    assert set(SETUP) < set(PAGES["README.md"].splitlines())
    assert set(LINES) == {*SETUP, *TYPED}, "a line that no test runs"
    assert {language for language, _ in BLOCKS} == {"sh", "console", "python", "yaml", "yml"}, "nor such blocks"


def near(ours, theirs):
    """Whether two words are the same, or two numbers of which the last digits differ."""
    with suppress(ValueError):
        return math.isclose(float(ours), float(theirs), rel_tol=0.1)
    return ours == theirs


@pytest.mark.parametrize(("command", "expected"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_is_shown_is_what_is_printed(command, expected, tmp_path, monkeypatch):
    printed = run(command, tmp_path, monkeypatch).output
    if " --on " not in command and not command.startswith("costsim search"):
        assert printed == expected
        return
    # Noise that NumPy measures in fp32: the order in which a BLAS sums depends on the processor.
    ours, shown = printed.split(), expected.split()
    assert len(ours) == len(shown)
    assert [pair for pair in zip(ours, shown, strict=True) if not near(*pair)] == []


@pytest.mark.parametrize("command", [command for command in TYPED if command not in dict(SHOWN)])
def test_commands_run(command, tmp_path, monkeypatch):
    done = run(command, tmp_path, monkeypatch)
    assert (done.exit_code, done.exception) == (0, None)
    assert done.output


@pytest.mark.parametrize("code", written_in("python"))
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    pd.testing.assert_frame_equal(costsim.read("dsq.csv").table, names["result"].table)


@pytest.mark.parametrize("policy", written_in("yaml"), ids=lambda text: text.splitlines()[0])
@pytest.mark.parametrize("by", ["policy", "assumption"])
def test_the_policies_to_write_work(policy, by, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(policy)
    (tmp_path / "losses.csv").write_text(FILES["losses.csv"])
    done = run(f"costsim run iwslt17-dsq --policy mine.yaml --by {by}", tmp_path, monkeypatch)
    assert done.exit_code == 0
    assert "mine" in done.output


@pytest.mark.parametrize("profile", written_in("yml"))
def test_the_hardware_profile_to_write_works(profile, tmp_path, monkeypatch):
    (tmp_path / "my-board.yaml").write_text(profile)
    done = run("costsim run glue-mrpc-dsq --policy dsq --hardware my-board.yaml", tmp_path, monkeypatch)
    assert (done.exit_code, done.exception) == (0, None)
    assert "my-board: up to 1.00e11 MAC/s" in done.output


def test_the_profile_that_the_folder_of_profiles_shows_works(tmp_path, monkeypatch):
    [profile] = re.findall(r"^```yaml\n(.*?)^```", PROSE["hardware_profiles/README.md"], re.M | re.S)
    (tmp_path / "mine.yaml").write_text(profile)
    done = run("costsim run gpt2-small --policy w8a8+deployed --hardware mine.yaml", tmp_path, monkeypatch)
    assert (done.exit_code, done.exception) == (0, None)
    assert "mine: up to 8.00e9 MAC/s" in done.output


def test_the_widths_to_give_work(tmp_path, monkeypatch):
    done = run("costsim run iwslt17-dsq --bits table.csv", tmp_path, monkeypatch)
    assert "\nfixed-bits " in done.output


@pytest.mark.parametrize(
    ("page", "command", "figures"),
    [
        ("dsq-headline", "costsim run iwslt17-dsq --policy static2-fixed", ("19.20", "2.36")),
        (
            "hardware",
            "costsim run iwslt17-dsq --policy dsq --scope step --traffic tiled --buffer-bytes 128KiB",
            ("2.45",),
        ),
        ("hardware", "costsim run iwslt17-dsq --policy dsq --scope step --traffic fused", ("1.35",)),
    ],
)
def test_figures_in_the_text_are_what_is_printed(page, command, figures, tmp_path, monkeypatch):
    printed = run(command, tmp_path, monkeypatch).output.split()
    written = re.findall(r"\d[\d.]*\d", PAGES[f"docs/{page}.md"])
    assert set(figures) <= set(printed) & set(written)


def test_there_are_as_many_profiles_as_is_said():
    assert f"`costsim list hardware` has {len(files.list_shipped('hardware_profiles'))}" in PAGES["docs/hardware.md"]


INLINE = sorted(set(re.findall(r"`([^`\n]*)`", re.sub(r"^```.*?^```", "", "".join(PAGES.values()), flags=re.M | re.S))))


@pytest.mark.parametrize("text", [text for text in INLINE if re.match("costsim [a-z]+ .", text)])
def test_commands_in_the_text_are_ones_that_there_are(text):
    _, name, *words = shlex.split(text)
    command = main.get_command(click.Context(main), name)
    assert command.make_context(name, words).params


def test_options_in_the_text_are_ones_that_there_are():
    commands = [main.get_command(click.Context(main), name) for name in COMMANDS]
    known = {option for command in commands for its in command.params for option in (*its.opts, *its.secondary_opts)}
    written = {word for text in INLINE for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)}
    assert written - known == {"--help"}


# --- all that there is, is said ---------------------------------------------------------------------------------------


def fields(*sections):
    return [field.key for section in sections for field in section.section_fields.values()]


def methods(*classes):
    members = [(name, member) for kind in classes for name, member in vars(kind).items() if not name.startswith("_")]
    return [name for name, member in members if callable(member) or isinstance(member, property)]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("commands", COMMANDS),
        ("python", [*costsim.__all__, *methods(Workload, Results, Plots)]),
        ("policies", fields(schema_policy.Policy, schema_policy.Rule, schema_policy.Phase, schema_policy.Plateau)),
        ("workloads", fields(schema_workload.Workload, *(family(name).Model for name in families()))),
    ],
)
def test_pages_name_all_that_there_is(page, names):
    text = PAGES[f"docs/{page}.md"]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


# --- pages and links --------------------------------------------------------------------------------------------------

PROSE = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "CHANGELOG.md", "hardware_profiles/README.md")}
NOTEBOOKS = {
    str(path.relative_to(ROOT)): "".join(
        line
        for cell in json.loads(path.read_text())["cells"]
        if cell["cell_type"] == "markdown"
        for line in cell["source"]
    )
    for path in sorted(ROOT.glob("notebooks/*.ipynb"))
}
LINKS = [
    (name, link)
    for name, text in (PAGES | PROSE | NOTEBOOKS).items()
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    if "://" not in link
]


def anchors(path):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), dict.fromkeys(LINKS))
def test_links_lead_somewhere(page, link):
    name, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
    assert target.is_relative_to(ROOT)
    assert target.is_file()
    assert not anchor or anchor in anchors(target)


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8000


def test_every_page_opens_with_a_question_that_the_index_lists():
    for name, text in PAGES.items():
        if name.startswith("docs/"):
            title = text.partition("\n")[0].removeprefix("# ")
            file = Path(name).name
            assert title.endswith("?"), name
            assert file == "README.md" or f"\n- [{file}]({file}): {title}\n" in PAGES["docs/README.md"], name


# --- the map of the code ----------------------------------------------------------------------------------------------

PACKAGE = ROOT / "costsim"


def opening(path):
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def test_wings_say_of_themselves_what_the_map_says():
    modules = {path.name: path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    modules |= {f"{path.parent.name}/": path for path in PACKAGE.glob("*/__init__.py")}
    rows = re.findall(r"^\| `(\w+(?:/|\.py))` \| (.*?) \| (?:`(\w+)` )?\|$", PROSE["CONTRIBUTING.md"], re.M)
    assert {wing: line for wing, line, _ in rows} == {name: opening(path) for name, path in modules.items()}
    assert [wing for wing, _, first in rows if first and not (PACKAGE / wing / f"{first}.py").is_file()] == []


def paths_in(text):
    return sorted(set(re.findall(r"`((?:costsim|tests|docs|workloads|hardware_profiles)/[\w./-]+)`", text)))


@pytest.mark.parametrize("path", paths_in("".join(PROSE.values())))
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()


def test_moved_modules_are_where_the_changelog_says():
    moved = re.findall(r"^\| `.*?` \| (.*) \|$", PROSE["CHANGELOG.md"], re.M)
    names = [name for cell in moved for name in re.findall(r"`([\w.]+)`", cell)]
    paths = [PACKAGE / name.replace(".", "/") for name in names]
    assert [str(path) for path in paths if not (path.is_dir() or path.with_suffix(".py").is_file())] == []
    assert names
