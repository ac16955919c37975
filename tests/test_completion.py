"""Completion in real shells: a line is typed into bash, zsh and fish, and Tab is pressed."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from costsim.cli import completion, main
from costsim.cli.commands import COMMANDS
from costsim.inputs import files
from costsim.run.job import Request, prepare

BIN = str(Path(sys.executable).parent)
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ "}
INTERACTIVE = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
SETUP = {
    "bash": 'bind "set enable-bracketed-paste off"; eval "$(_COSTSIM_COMPLETE=bash_source costsim)"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$(_COSTSIM_COMPLETE=zsh_source costsim)"',
}
SECONDS = 60


def needs(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}; Debian: apt-get install {shell}")


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, shell, folder):
        leader, follower = pty.openpty()
        self.leader = leader
        self.process = subprocess.Popen(
            INTERACTIVE[shell], stdin=follower, stdout=follower, stderr=follower, cwd=folder, env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        self.type(f"{SETUP[shell]}; echo rea''dy\n")
        self.until("ready")

    def type(self, text):
        os.write(self.leader, text.encode())

    def until(self, expected):
        """What is shown up to a text."""
        shown, end = "", time.monotonic() + SECONDS
        while expected not in shown:
            ready = select.select([self.leader], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"no {expected!r} in {shown!r}"
            shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x07", "", os.read(self.leader, 4096).decode(errors="replace"))
        return shown

    def close(self):
        os.close(self.leader)
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module", params=INTERACTIVE)
def terminal(request, tmp_path_factory):
    needs(request.param)
    opened = Terminal(request.param, tmp_path_factory.mktemp(request.param))
    yield opened
    opened.close()


# A line, and what it becomes by one Tab.
LINES = [
    ("costsim memory iwslt1", "iwslt17-dsq"),
    ("costsim run iwslt17-dsq --policy stash-f", "stash-fixed"),
    ("costsim run iwslt17-dsq --policy as-coded+tiny", "as-coded+tinytl"),
    ("costsim run iwslt17-dsq --hardware jetson-th", "jetson-thor"),
    ("costsim run iwslt17-dsq --set model.enc", "model.encoder_layers="),
    ("costsim run iwslt17-dsq --set traffic=ti", "traffic=tiled"),
    ("costsim explain translation-small encoder.0.ffn.fc1.weight.a", "encoder.0.ffn.fc1.weight.adam"),
    ("costsim show nvfp4-pre", "nvfp4-pretrain"),
]


@pytest.mark.parametrize(("line", "word"), LINES)
def test_tab_completes_a_word(terminal, line, word):
    mark = "." if word.endswith("=") else ""  # right behind the word: there is no space
    terminal.type(f"{line}\t")
    rest = word.removeprefix(line.rpartition(" ")[2])
    shown = terminal.until(rest)
    if mark:
        terminal.type(f"{mark}x")
        shown += terminal.until(f"{mark}x")
        assert f"{rest}{mark}x" in shown.replace("\b", "")
    terminal.type("\x15")  # Ctrl-U: away with the line
    terminal.type("echo do''ne\n")
    terminal.until("done")


@pytest.mark.parametrize(("line", "word"), LINES)
def test_fish_offers_it(line, word):
    needs("fish")
    script = f"_COSTSIM_COMPLETE=fish_source costsim | source; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert word in [offered.partition("\t")[0] for offered in done.stdout.splitlines()]


# --- what is offered --------------------------------------------------------------------------------------------------


def offered(line, monkeypatch):
    monkeypatch.setenv("_COSTSIM_COMPLETE", "bash_complete")
    words = line.split(" ")
    context = ShellComplete(main, {}, "costsim", "_COSTSIM_COMPLETE")
    return [item.value for item in context.get_completions(words[1:-1], words[-1])]


@pytest.mark.parametrize("folder", ["workloads", "policies", "hardware_profiles"])
def test_all_shipped_names_are_offered(folder, monkeypatch):
    lines = {
        "workloads": "costsim run ",
        "policies": "costsim run x --policy ",
        "hardware_profiles": "costsim run x --hardware ",
    }
    assert offered(lines[folder], monkeypatch) == list(files.list_shipped(folder))


@pytest.mark.parametrize("workload", ["iwslt17-dsq", "glue-mrpc-dsq", "gpt2-small"])
def test_fields_that_are_offered_are_those_that_there_are(workload, monkeypatch):
    """`--set FIELD=null` says of none of them that it is unknown; and all that the file has are offered."""
    fields = offered(f"costsim run {workload} --set ", monkeypatch)
    assert all(field.endswith("=") for field in fields)
    names = {field.removesuffix("=") for field in fields}
    document = prepare(Request(workload)).document.data
    for section in ("model", "batch", "training", "optimizer"):
        assert {f"{section}.{name}" for name in document[section]} <= {
            n.rsplit(".", n.count(".") - 1)[0] for n in names
        }
    assert {"law", "traffic", "scope", "parallel.tensor"} <= names


def test_words_that_are_offered_for_a_field_fit(monkeypatch):
    offers = offered("costsim run glue-mrpc-dsq --set traffic=", monkeypatch)
    assert "traffic=fused" in offers
    for text in offers:
        prepare(Request("glue-mrpc-dsq", ["fp32"], assignments=[text], buffer_bytes=10**6 if "tiled" in text else None))


def test_without_a_name_there_are_files(tmp_path, monkeypatch):
    monkeypatch.setenv("_COSTSIM_COMPLETE", "bash_complete")
    assert offered("costsim run ./mi", monkeypatch) == ["./mi"]


def test_every_parameter_that_names_something_is_completed():
    """Options with NAME or FIELD, and arguments that are no choice, but for those that nothing can list."""
    free = {"spec", "fits_bytes", "named", "groups", "against", "minimise", "at_most", "at_least", "zero"}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        for param in command.params:
            listed = isinstance(param.type, (click.Choice, click.Path))
            if isinstance(param, click.Argument) or any(
                word in (param.metavar or "") for word in ("NAME", "FIELD", "CSV")
            ):
                known = {f"{name}.{param.name}", param.name} & {*completion.COMPLETERS, *free}
                assert listed or known, (name, param.name)
