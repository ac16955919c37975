"""The README says what happens: its table, its commands, its policy."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

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


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("costsim")])
def test_commands_run(command, tmp_path, monkeypatch):
    done = run(command, tmp_path, monkeypatch)
    assert (done.exit_code, done.exception) == (0, None)
    assert done.output


def test_the_policy_to_write_works(tmp_path, monkeypatch):
    [policy] = [block for language, block in BLOCKS if language == "yaml"]
    (tmp_path / "mine.yaml").write_text(policy)
    done = run("costsim run iwslt17-dsq --policy mine.yaml", tmp_path, monkeypatch)
    assert done.exit_code == 0
    assert done.output.splitlines()[3].startswith("mine ")
