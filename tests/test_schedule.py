"""Phases that end when a recorded validation loss stops falling."""

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.errors import InputError
from costsim.policy.load import load_policy
from costsim.policy.schedule import schedule

POLICY = """\
description: levels that rise when the loss stops falling
levels: [q0]
monotone: true
loss_log: losses.csv
rules:
  - {format: fixed<q0>}
phases:
  - {until_plateau: {patience: 2, threshold: 0.05}, levels: [4]}
  - {until_plateau: {patience: 1}, levels: [8]}
  - {levels: [16]}
"""
# best so far:     5.0        4.0        4.0 (1)    4.0 (2: phase 1 ends)  3.9        3.9 (1: phase 2 ends)
LOSSES = "step,loss\n100,5.0\n200,4.0\n300,3.99\n400,4.2\n500,3.9\n600,3.95\n700,1.0\n"


@pytest.fixture
def write(tmp_path):
    def make(losses=LOSSES, policy=POLICY):
        (tmp_path / "rising.yaml").write_text(policy)
        if losses is not None:
            (tmp_path / "losses.csv").write_text(losses)
        return tmp_path / "rising.yaml"

    return make


def test_plateaus_end_phases(write):
    assert schedule(load_policy(write()), 1000) == [400, 200, 400]


def test_a_run_shorter_than_its_log_ends_with_it(write):
    assert schedule(load_policy(write()), 450) == [400, 50, 0]


def test_a_loss_that_always_falls_never_ends_a_phase(write):
    falling = "step,loss\n" + "".join(f"{i},{100 - i}\n" for i in range(1, 50))
    assert schedule(load_policy(write(falling)), 1000) == [1000, 0, 0]


def test_slow_improvement_within_the_threshold_counts_as_none(write):
    slow = "step,loss\n" + "".join(f"{i},{5 - 0.01 * i:.2f}\n" for i in range(1, 50))
    assert schedule(load_policy(write(slow)), 1000)[0] == 3  # 4.99 is the first best, two evaluations gain 0.01 each


def test_it_runs_from_the_command_line(write):
    done = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--policy", str(write())])
    assert done.exit_code == 0
    assert "400 steps [4], 200 steps [8], 1696 steps [16]" in done.output


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (None, "losses.csv: No such file"),
        ("", "losses.csv:1: expected the header step,loss"),
        ("step,loss\n", "the loss log is empty"),
        ("epoch,loss\n1,2\n", "losses.csv:1: expected the header step,loss, got 'epoch,loss'"),
        ("step,loss\n1,2\n2,high\n", "losses.csv:3: expected a step and a loss, got '2,high'"),
        ("step,loss\n1,2,3\n", "losses.csv:2: expected a step and a loss"),
        ("step,loss\n1,nan\n", "losses.csv:2: expected a finite loss, got nan"),
        ("step,loss\n2,1\n1,1\n", "losses.csv:3: steps must rise, got 1 after 2"),
        ("step,loss\n-1,1\n", "losses.csv:2: steps must rise, got -1"),
    ],
)
def test_bad_logs_are_refused_with_their_line(write, losses, message):
    with pytest.raises(InputError, match=message.replace("'", ".")):
        schedule(load_policy(write(losses)), 1000)
    done = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--policy", str(write(losses))])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_plateau_needs_a_log(write):
    with pytest.raises(InputError, match="until_plateau needs a loss_log"):
        schedule(load_policy(write(policy=POLICY.replace("loss_log: losses.csv\n", ""))), 1000)


def test_a_phase_has_one_end(write):
    both = POLICY.replace("{until_plateau: {patience: 1}", "{until_step: 5, until_plateau: {patience: 1}")
    with pytest.raises(InputError, match=r"rising.yaml:9:5: phases.1: expected one of"):
        load_policy(write(policy=both))
