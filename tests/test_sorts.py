"""The sorts of files that users write: each names its schema, and one in place of another is recognised."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from costsim import names
from costsim.cli import main
from costsim.inputs import files, schema_hardware, schema_policy, schema_workload
from costsim.inputs.sorts import SORTS, editor_lines

CONFIG = Path(__file__).parent / "data" / "configs" / "gpt2.json"


@pytest.mark.parametrize("file", names.FILES)
def test_the_schema_that_the_first_line_names_is_what_schema_prints(file, tmp_path, monkeypatch):
    first, second = editor_lines(file).splitlines()
    name = first.removeprefix("# yaml-language-server: $schema=")
    command = second.removeprefix("# For editors: costsim ")
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, shlex.split(command)).exit_code == 0
    assert (tmp_path / name).read_text() == CliRunner().invoke(main, ["schema", file]).output


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (["new", "policy"], "policy"),
        (["import", str(CONFIG)], "workload"),
        (["calibrate", "--seconds", "0"], "hardware"),
    ],
)
def test_all_files_that_commands_write_name_their_schema(command, file, tmp_path):
    path = tmp_path / "of" / "mine" / "file.yaml"  # folders are made
    done = CliRunner().invoke(main, [*command, "--out", str(path)])
    assert (done.exit_code, done.exception) == (0, None)
    assert path.read_text().startswith(editor_lines(file))


def test_policies_that_a_search_finds_name_their_schema(tmp_path):
    options = ("--formats", "bfp4,bfp8", "--minimise", "dram_bits", "--out", str(tmp_path / "of" / "mine"))
    done = CliRunner().invoke(main, ["search", "translation-small", *options])
    assert done.exit_code == 0
    found = list(tmp_path.rglob("*-01.yaml"))
    assert found
    assert all(path.read_text().startswith(editor_lines("policy")) for path in found)


# --- one sort of file in place of another -----------------------------------------------------------------------------

SHIPPED = {"workload": ["glue-mrpc-dsq"], "policy": ["glue-mrpc-dsq", "--policy", "dsq"]}
SHIPPED["hardware"] = ["glue-mrpc-dsq", "--hardware", "t4"]


@pytest.mark.parametrize("given", SORTS, ids=lambda sort: sort.name)
@pytest.mark.parametrize("wanted", SORTS, ids=lambda sort: sort.name)
@pytest.mark.parametrize("as_file", [False, True], ids=["name", "file"])
def test_a_file_of_another_sort_is_recognised(wanted, given, as_file, tmp_path):
    """What is to be typed instead is said, and works."""
    name = SHIPPED[given.name][-1]
    if as_file:
        path = tmp_path / "mine.yaml"
        path.write_text(files.list_shipped(given.folder)[name].read_text())
        name = str(path)
    done = CliRunner().invoke(main, ["run", *SHIPPED[wanted.name][:-1], name])
    if wanted is given:
        assert done.exit_code == 0
        return
    assert done.exit_code == 2
    place, _, typed = done.stderr.rpartition(f": is a {given.noun}, expected a {wanted.noun}: costsim ")
    assert name in place
    assert CliRunner().invoke(main, shlex.split(typed.replace("WORKLOAD", "glue-mrpc-dsq"))).exit_code == 0


def test_marks_are_fields_that_one_sort_has():
    sections = {
        "workload": (schema_workload.Workload,),
        "policy": (schema_policy.Policy,),
        "hardware": (schema_hardware.Hardware, schema_hardware.Cluster),
    }
    for sort in SORTS:
        for name, of in sections.items():
            for section in of:
                assert bool(sort.marks & section.keys()) == (name == sort.name), (sort.name, name)
