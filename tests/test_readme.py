"""The README says what happens: its table, its commands, its policy."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import costsim
from costsim.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
COMMANDS = [
    line.partition("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.strip()
]


def run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return CliRunner().invoke(main, shlex.split(command)[1:])


def test_there_are_exactly_two_setup_commands():
    setup = [command for command in COMMANDS if "pip" in command]
    assert len(setup) == 2
    assert setup[0].endswith("python -m costsim run iwslt17-dsq.yaml")
    assert setup[1].endswith("python -m pytest")


def test_the_table_is_what_the_main_job_prints(tmp_path, monkeypatch):
    [table] = [block for language, block in BLOCKS if not language and block.startswith("policy ")]
    done = run("costsim run iwslt17-dsq.yaml", tmp_path, monkeypatch)
    assert done.exit_code == 0
    assert done.output == table


def test_the_sensitivity_table_is_what_by_assumption_prints(tmp_path, monkeypatch):
    [table] = [block for language, block in BLOCKS if not language and block.startswith("assumption ")]
    done = run("costsim run iwslt17-dsq --by assumption", tmp_path, monkeypatch)
    assert done.output.startswith(table + "\n")


SHOWN = [block.removeprefix("$ ").split("\n", 1) for language, block in BLOCKS if language == "console"]


@pytest.mark.parametrize(("command", "expected"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_is_shown_is_what_is_printed(command, expected, tmp_path, monkeypatch):
    done = run(command, tmp_path, monkeypatch)
    assert done.output == expected


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("costsim")])
def test_commands_run(command, tmp_path, monkeypatch):
    done = run(command, tmp_path, monkeypatch)
    assert (done.exit_code, done.exception) == (0, None)
    assert done.output


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    pd.testing.assert_frame_equal(costsim.read("dsq.csv").table, names["result"].table)


POLICIES = [block for language, block in BLOCKS if language == "yaml"]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda text: text.splitlines()[0])
@pytest.mark.parametrize("by", ["policy", "assumption"])
def test_the_policies_to_write_work(policy, by, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(policy)
    (tmp_path / "losses.csv").write_text("step,loss\n1000,4.1\n2000,3.9\n3000,3.9\n4000,4.0\n")
    done = run(f"costsim run iwslt17-dsq --policy mine.yaml --by {by}", tmp_path, monkeypatch)
    assert done.exit_code == 0
    assert "mine" in done.output


@pytest.mark.parametrize("profile", [block for language, block in BLOCKS if language == "yml"])
def test_the_hardware_profile_to_write_works(profile, tmp_path, monkeypatch):
    (tmp_path / "my-board.yaml").write_text(profile)
    done = run("costsim run glue-mrpc-dsq --policy dsq --hardware my-board.yaml", tmp_path, monkeypatch)
    assert (done.exit_code, done.exception) == (0, None)
    assert "my-board: up to 1.00e11 MAC/s" in done.output


def test_the_widths_to_give_work(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("layer,bits\nencoder.0,4\n")
    done = run("costsim run iwslt17-dsq --bits table.csv", tmp_path, monkeypatch)
    assert "\nfixed-bits " in done.output
