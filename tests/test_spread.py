"""Sweeps on several cores and machines, stopped and gone on with: the same bytes as one after another."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

import costsim
from costsim.cli import main, output
from costsim.errors import InputError
from costsim.run import journal, spread, sweep
from costsim.tables import sweep as sweep_tables

SWEEP = ("run", "glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "dsq", "--sweep", "batch=1,2,3,4,5,6")
STYLES = ("table", "json", "csv", "markdown", "latex")


def run(*arguments, of=SWEEP):
    return CliRunner().invoke(main, [*of, *arguments])


@pytest.fixture(scope="module")
def whole():
    """By style: what a sweep prints that nobody stops."""
    return {style: run("--format", style).output for style in STYLES}


@pytest.fixture
def stopped(monkeypatch):
    """Stops what parts are made of by an exception, at the point of that number."""

    def stop(at, error=KeyboardInterrupt):
        part, number = sweep_tables.part, iter(range(1, 100))

        def stopping(by, data, phases, result):
            if next(number) == at:
                raise error
            return part(by, data, phases, result)

        monkeypatch.setattr(sweep_tables, "part", stopping)

    return stop


# --- stopped, and gone on with ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_ctrl_c_keeps_what_is_done(style, whole, stopped, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stopped(4)
    result = run("--format", style)
    assert result.exit_code == 130
    assert result.stdout == ""
    kept = "glue-mrpc-dsq-sweep.unfinished.jsonl"
    assert f"3 of 6 points are done, and kept in {kept}; the same command with --resume {kept} goes on" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == [kept]
    head, *parts = map(json.loads, (tmp_path / kept).read_text().splitlines())
    assert "finished points of a sweep" in head["what"]
    assert head["asked"]["swept"] == {"batch.sequences": ["1", "2", "3", "4", "5", "6"]}
    assert len(parts) == 3
    made = []
    monkeypatch.setattr(sweep_tables, "part", partial(counted_part, made))
    result = run("--format", style, "--resume", kept)
    assert (result.exit_code, result.output) == (0, whole[style])
    assert len(made) == 3
    assert len((tmp_path / kept).read_text().splitlines()) == 7


PART = sweep_tables.part


def counted_part(made, by, data, phases, result):
    made.append(result)
    return PART(by, data, phases, result)


def test_a_file_that_is_there_is_not_overwritten(stopped, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("glue-mrpc-dsq-sweep.unfinished.jsonl").write_text("mine")
    stopped(2)
    assert "glue-mrpc-dsq-sweep.unfinished.2.jsonl" in run().stderr
    assert Path("glue-mrpc-dsq-sweep.unfinished.jsonl").read_text() == "mine"


def test_nothing_is_kept_of_nothing(stopped, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    stopped(1)
    result = run()
    assert (result.exit_code, result.stderr.strip()) == (130, "")
    assert not list(tmp_path.iterdir())


def heed_interrupts():
    """In a new process: a shell that runs the tests in the background has it that signal ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_process_that_is_stopped(whole, tmp_path):
    """A signal to a real process, in the middle of whatever it does; another process goes on."""
    kept = tmp_path / "kept.jsonl"
    command = [sys.executable, "-m", "costsim", *SWEEP[:-1], "batch=" + ",".join(map(str, range(1, 200)))]
    first = subprocess.Popen(
        [*command, "--resume", kept],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    deadline = time.monotonic() + 60
    while not kept.exists() or kept.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    printed, said = first.communicate()
    assert (first.returncode, printed) == (130, "")
    assert "Traceback" not in said
    assert f"points are done, and kept in {kept}" in said
    done = len(kept.read_text().splitlines()) - 1
    assert 3 <= done < 199
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    again = subprocess.run([*command, "--resume", kept], capture_output=True, text=True, env=env, check=True)
    alone = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == alone.stdout


def test_a_line_that_was_cut_off_is_made_again(whole, tmp_path):
    kept = tmp_path / "kept.jsonl"
    assert run("--resume", str(kept)).output == whole["table"]
    lines = kept.read_bytes().splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:3]) + lines[3][:-20])
    assert run("--resume", str(kept)).output == whole["table"]
    assert kept.read_bytes().splitlines(keepends=True) == lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "model.layers=1,2"), "it is of another sweep (swept: {'batch.sequences': ["),
        (("--by", "layer"), "it is of another sweep (by: policy, and here layer)"),
        (("--format", "json"), "it is of another sweep (peak memory: False, and here True)"),
        (("--set", "training.steps=7"), "the workload, a policy or a device has changed since"),
        (("--law", "bops"), "the workload, a policy or a device has changed since"),
        (("--hardware", "t4"), "the workload, a policy or a device has changed since"),
        (("--policy", "bfp16"), "the workload, a policy or a device has changed since"),
    ],
)
def test_other_inputs_are_refused(arguments, message, tmp_path):
    kept = tmp_path / "kept.jsonl"
    assert run("--resume", str(kept)).exit_code == 0
    before = kept.read_bytes()
    result = run("--resume", str(kept), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"costsim: --resume {kept}: {message}")
    assert kept.read_bytes() == before


def test_a_policy_that_has_changed_is_refused(tmp_path):
    policy, kept = tmp_path / "mine.yaml", tmp_path / "kept.jsonl"
    of = (*SWEEP[:4], "--policy", str(policy), *SWEEP[-2:], "--resume", str(kept))
    policy.write_text("description: mine\nrules: [{format: bf16}]\n")
    assert run(of=of).exit_code == 0
    policy.write_text("description: mine\nrules: [{format: fp16}]\n")
    assert "has changed since" in run(of=of).stderr


@pytest.mark.parametrize("content", [b"", b"description: x\n", b"{}\n", b"[1]\n", b"\xff\xfe\x00\n", b'{"what": "x"}'])
def test_what_is_no_journal_is_refused_and_left(content, tmp_path):
    kept = tmp_path / "kept.jsonl"
    kept.write_bytes(content)
    result = run("--resume", str(kept))
    assert result.exit_code == 2
    assert "not a file of finished points of a sweep" in result.stderr
    assert kept.read_bytes() == content


def test_another_version_is_refused(tmp_path):
    kept = tmp_path / "kept.jsonl"
    assert run("--resume", str(kept)).exit_code == 0
    kept.write_text(kept.read_text().replace('"costsim": "', '"costsim": "9.', 1))
    assert "it is of costsim 9." in run("--resume", str(kept)).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", ""), "--resume: expected a name"),
        (("--resume", "/"), "--resume /: Is a directory"),
        (
            ("--executor", "locl"),
            "--executor locl: expected local, or dask:ADDRESS of a scheduler; did you mean 'local'?",
        ),
        (("--executor", "dask"), "--executor dask: expected local, or dask:ADDRESS of a scheduler"),
    ],
)
def test_bad_options(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["--executor", "--resume"])
@pytest.mark.parametrize("command", [("run", "glue-mrpc-dsq"), ("plot", "glue-mrpc-dsq", "roofline")])
def test_options_of_a_sweep_want_one(command, option):
    result = run(option, "local", of=command)
    assert (result.exit_code, result.stderr) == (2, f"costsim: {option}: is of a sweep; add --sweep FIELD=VALUE,...\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("terminal", "seconds", "shown"), [(True, 0, True), (True, 60, False), (False, 0, False)])
def test_a_bar_on_a_terminal_after_a_while(terminal, seconds, shown, monkeypatch):
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(output, "_SECONDS", seconds)
    monkeypatch.setattr(sys, "stderr", stderr)
    with output.progress(4) as bar:
        for _ in range(4):
            bar.update(1)
    assert ("100%" in stderr.getvalue()) is shown
    assert bool(stderr.getvalue()) is shown


# --- on several cores -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_all_cores_print_the_same(style, whole):
    assert run("--format", style, "--executor", "local").output == whole[style]


def test_a_swept_field_of_all_sorts(tmp_path):
    """A convention, a baseline that a file holds, lengths, and devices travel to other processes."""
    of = ("run", "glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "dsq", "--hardware", "t4", "--by", "reduction")
    for swept in ("law=product,bops", "baseline=fixed16,fp32", "traffic=unfused,fused", "training.steps=1,2"):
        here = run("--sweep", swept, of=of)
        assert here.exit_code == 0, here.output
        assert run("--sweep", swept, "--executor", "local", of=of).output == here.output


def test_an_input_error_of_a_worker_is_one_line():
    swept = sweep.prepared(sweep.points(["batch=1,2,3"]), workload="glue-mrpc-dsq", policies=["fp32"])
    with spread.workers("local") as workers, pytest.raises(InputError, match="no good"):
        list(spread.over(swept, refused, workers))


def refused(job):
    if job.graph.sizes["batch"] == 2:
        raise InputError("no good")


def killed(result):
    if result.job.graph.sizes["batch"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return PART("policy", False, True, result)


def test_a_killed_process_loses_nothing_that_is_done(monkeypatch, tmp_path, whole):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep_tables, "maker", lambda *_: killed)
    result = run("--executor", "local")
    assert result.exit_code == 2
    assert "costsim: --executor: a process that worked on a point was killed" in result.stderr
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    kept = list(tmp_path.iterdir())
    assert kept
    assert run("--resume", kept[0].name).output == whole["table"]


# --- in Python --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return costsim.load("glue-mrpc-dsq", {"model.layers": 1})


@pytest.mark.parametrize("totals", [False, True])
@pytest.mark.parametrize("executor", ["local", "threads"])
def test_tables_of_all_cores_are_the_same(small, totals, executor):
    fields, options = {"batch": [1, 2, 3], "law": ["product", "bops"]}, {"policies": ["dsq"], "hardware": ["t4"]}
    here = small.sweep(fields, totals=totals, **options).table
    with ThreadPoolExecutor(2) as pool:
        there = small.sweep(fields, totals=totals, executor=pool if executor == "threads" else executor, **options)
    assert there.table.equals(here)
    assert len(here) > 6


def test_a_table_of_totals_is_the_sum_of_one_of_ops(small):
    options = {"policies": ["dsq"], "hardware": ["t4", "h100-sxm"], "scope": "step"}
    ops, totals = (small.sweep({"batch": [1, 2]}, totals=totals, **options) for totals in (False, True))
    exact = [name for name in ops.by() if not name.endswith(("_s", "_j"))]
    for by in ("policy", "training_phase"):
        assert totals.by(by)[exact].equals(ops.by(by)[exact])
        for name in ("time_s", "energy_j"):
            assert totals.by(by)[name].tolist() == pytest.approx(ops.by(by)[name].tolist(), rel=1e-12)
    assert len(totals.table) == 2 * 2 * (3 + 1)  # points, devices, phases of dsq and of the baseline
    ratios = [of.compare().drop(columns=["time_reduction", "energy_reduction"]) for of in (ops, totals)]
    assert ratios[0].equals(ratios[1])
    with pytest.raises(InputError, match="this table has totals only, by policy and training_phase"):
        totals.by("layer")


def test_a_sweep_of_many_points_takes_little_memory(small):
    table = small.sweep({"batch": range(1, 31)}, totals=True, policies=["dsq"]).table
    assert table.memory_usage(deep=True).sum() < 30 * 4 * 400


# --- on other machines ------------------------------------------------------------------------------------------------


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run("--executor", "dask:tcp://127.0.0.1:1")
    assert result.exit_code == 2
    assert result.stderr == (
        "costsim: --executor dask:tcp://127.0.0.1:1: Dask is not installed; pip install 'costsim[dask]'\n"
    )


dask = pytest.mark.skipif(find_spec("distributed") is None, reason="takes costsim[dask]")


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers on the loopback: its address, and their processes."""
    address_file = tmp_path / "scheduler.json"
    common = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    started = [
        subprocess.Popen(
            [*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", address_file], **common
        )
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", address_file]
    try:
        deadline = time.monotonic() + 60
        while not address_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", tmp_path)
        started += [subprocess.Popen([*worker, *options], **common) for _ in range(2)]
        yield json.loads(address_file.read_text())["address"], started[1:]
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


def both_there(client):
    client.wait_for_workers(2, timeout=60)


@dask
def test_a_cluster_one_of_whose_workers_is_killed(cluster, monkeypatch, whole):
    """A real scheduler, two workers, of which one is killed after the second point; and stopped, and gone on with."""
    address, workers = cluster
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        both_there(client)
    add, done = journal.Journal.add, []

    def kill_one(self, part):
        add(self, part)
        done.append(part)
        if len(done) == 2:
            workers[0].kill()

    monkeypatch.setattr(journal.Journal, "add", kill_one)
    result = run("--executor", f"dask:{address}")
    assert result.exit_code == 0, result.output
    assert result.output == whole["table"]
    assert len(done) == 6
    assert workers[0].wait() == -signal.SIGKILL
    table = costsim.load("glue-mrpc-dsq", {"model.layers": 1})
    swept = [table.sweep({"batch": [1, 2]}, executor=executor).table for executor in (None, f"dask:{address}")]
    assert swept[0].equals(swept[1])


@dask
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nowhere.invalid:8786", "bad://x"])
def test_no_scheduler_at_an_address(address, monkeypatch):
    monkeypatch.setattr(spread, "SECONDS", 1)
    result = run("--executor", f"dask:{address}")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"costsim: --executor dask:{address}: no scheduler answers there")
    assert len(result.stderr.splitlines()) == 1
