"""Traces: the format, checked by itself, and their times and memory against totals made another way."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import one_layer, spend_all
from test_plots import small, texts

from costsim.cli import main
from costsim.cost.memory import memory
from costsim.devices.roofline import kernels
from costsim.errors import InputError
from costsim.inputs.files import list_shipped
from costsim.plots import save
from costsim.policy.assign import assign
from costsim.results import trace
from costsim.run.simulate import execute


def read(path):
    """A trace, its times as exact decimals, by process."""
    data = json.loads(path.read_text(), parse_float=Decimal)
    events = data["traceEvents"]
    assert isinstance(events, list)
    processes = {}
    for event in events:
        processes.setdefault(event["pid"], []).append(event)
    return data, processes


def tracks(events):
    """{tid: complete events}"""
    by_track = {}
    for event in events:
        if event["ph"] == "X":
            by_track.setdefault(event["tid"], []).append(event)
    return by_track


def check_format(data):
    """What the trace event format asks for; nothing of costsim is used."""
    times = []
    for event in data["traceEvents"]:
        assert event["ph"] in ("X", "M", "C")
        assert isinstance(event["pid"], int)
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["args"], dict)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] > 0
            assert isinstance(event["tid"], int)
            assert isinstance(event["cat"], str)
        if event["ph"] == "C":
            assert all(type(value) is int and value >= 0 for value in event["args"].values())
        if event["ph"] == "M":
            [(key, value)] = event["args"].items()
            of = {"process_name": "name", "process_labels": "labels", "thread_name": "name",
                  "process_sort_index": "sort_index"}  # fmt: skip
            assert key == of[event["name"]]
            assert isinstance(value, int if key == "sort_index" else str)
            assert not times
        else:
            times.append(event["ts"])
    assert times == sorted(times)


def check_tracks(events):
    for track in tracks(events).values():
        for before, after in pairwise(track):
            assert before["ts"] + before["dur"] <= after["ts"]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("scope", ["gemm", "step"])
@pytest.mark.parametrize("name", ["h100-sxm", "cortex-m7"])
def test_a_trace_is_the_step(scope, overlap, name, tmp_path):
    names = ("bf16-mixed", "fp32") if name == "h100-sxm" else ("fp32",)
    result = small("glue-mrpc-dsq", *names, scope=scope, traffic="fused", hardware=[name], overlap=overlap)
    data, processes = read(trace.save(result, tmp_path / "t.json"))
    check_format(data)
    convention = result.job.convention
    for (_, events), counted in zip(sorted(processes.items()), result.policies, strict=True):
        check_tracks(events)
        rows = counted.phases[0].rows
        step = spend_all(
            kernels(result.job.graph, rows, convention.traffic, convention.scope), result.job.hardware[0], overlap
        )
        complete = [event for event in events if event["ph"] == "X"]
        end = max(event["ts"] + event["dur"] for event in complete)
        assert float(end) == pytest.approx(step.time_s * 1e6, rel=1e-9)
        compute, dram = (tracks(events)[tid] for tid in (trace.COMPUTE, trace.DRAM))
        assert float(sum(event["dur"] for event in compute)) == pytest.approx(
            (step.mac_s + step.vector_s) * 1e6, rel=1e-9
        )
        assert float(sum(event["dur"] for event in dram)) == pytest.approx(step.dram_s * 1e6, rel=1e-9)
        assert sum(event["args"]["macs"] for event in compute) == step.macs
        assert sum(event["args"]["read_bits"] + event["args"]["written_bits"] for event in dram) == step.dram_bits
        assert {event["args"]["bound"] for event in complete} == set(step.bound_s)
        stored = memory(result.job.graph, assign(result.job.graph, counted.policy, 0), convention.traffic)
        counters = {name: [event["args"] for event in events if event["name"] == name] for name in
                    (trace.LIVE, trace.LIVE_TOTAL)}  # fmt: skip
        assert max(sum(args.values()) for args in counters[trace.LIVE]) == stored.peak_bytes
        assert [sum(args.values()) for args in counters[trace.LIVE]] == [
            args["bytes"] for args in counters[trace.LIVE_TOTAL]
        ]
        fullest = max(counters[trace.LIVE], key=lambda args: sum(args.values()))
        assert list(fullest.values()) == list(stored.components.values())


@pytest.mark.parametrize("overlap", [True, False])
def test_compute_and_dram_of_a_kernel(overlap, tmp_path):
    result = small("glue-mrpc-dsq", "bf16-mixed", hardware=["h100-sxm"], scope="step", overlap=overlap)
    _, processes = read(trace.save(result, tmp_path / "t.json"))
    by_kernel = {}
    for event in processes[1]:
        if event["ph"] == "X":
            by_kernel.setdefault(event["name"], {})[event["tid"]] = event
    both = [pair for pair in by_kernel.values() if len(pair) == 2]
    assert len(both) > 50
    for pair in both:
        compute, dram = pair[trace.COMPUTE], pair[trace.DRAM]
        assert compute["args"] == dram["args"]
        assert dram["ts"] == (compute["ts"] if overlap else compute["ts"] + compute["dur"])
        if overlap:
            bound = "dram" if dram["dur"] > compute["dur"] else ("arithmetic", "vector")
            assert compute["args"]["bound"] in bound


def test_events_say_what_a_kernel_does(tmp_path):
    result = small("glue-mrpc-dsq", "dsq", hardware=["a100-80gb"])
    data, processes = read(trace.save(result, tmp_path / "t.json"))
    events = processes[1]
    names = {(event["name"], event.get("tid")): event["args"] for event in events if event["ph"] == "M"}
    assert names["process_name", 0] == {"name": "dsq on a100-80gb"}
    assert names["process_labels", 0] == {"labels": "phase 1 of 3, 2273 steps"}
    assert [names["thread_name", tid] for tid in (1, 2)] == [{"name": "compute"}, {"name": "DRAM"}]
    assert data["otherData"]["scope"] == "gemm"
    assert data["otherData"]["phase"] == 1
    first = next(event for event in events if event["ph"] == "X")
    row, op = kernels(result.job.graph, result.policies[0].phases[0].rows, "unfused", "gemm", each=True)[0].first
    assert first["args"] == {
        "op": op.name,
        "kind": "abc,cde->abde",
        "phase": "forward",
        "layer": "encoder.0",
        "pair": "bfp2 x bfp2 + fp32",
        "runs_as": "int4 x int4 + int32",
        "macs": row.macs,
        "vector_ops": sum(row.vector.values()),
        "read_bits": sum(move.read_bits for move in row.moves),
        "written_bits": sum(move.written_bits for move in row.moves),
        "bound": first["args"]["bound"],
        "runs": 1,
    }


def test_other_phases_have_their_own_times_and_memory(tmp_path):
    result = small("glue-mrpc-dsq", "dsq", hardware=["a100-80gb"])
    ends = []
    for phase in (1, 3):
        _, processes = read(trace.save(result, tmp_path / "t.json", phase=phase))
        stored = memory(result.job.graph, assign(result.job.graph, result.policies[0].policy, phase - 1), "unfused")
        live = [event["args"]["bytes"] for event in processes[1] if event["name"] == trace.LIVE_TOTAL]
        assert max(live) == stored.peak_bytes
        ends.append(max(event["ts"] + event["dur"] for event in processes[1] if event["ph"] == "X"))
    assert ends[0] < ends[1]
    with pytest.raises(InputError, match=r"--phase 4: policy dsq has 3 phases"):
        trace.trace(result, 4)


@pytest.mark.parametrize("workload", list_shipped("workloads"))
def test_every_workload_has_a_trace(workload):
    result = small(workload, "fp32", hardware=["h100-sxm", "a100-80gb"])
    made = trace.trace(result)
    check_format(made)
    assert len({event["pid"] for event in made["traceEvents"]}) == 2


@pytest.mark.parametrize("step_s", [0.0, 3e-9, 2.5e-6, 0.1, 0.999, 1.0, 9.99, 1000.0, 1e9])
def test_ticks_are_fine_enough(step_s):
    clock = trace.Clock(step_s)
    assert clock.us(clock.ticks(step_s)) == pytest.approx(step_s * 1e6, rel=1e-10)
    for seconds in (step_s, step_s / 3):
        text = json.dumps(clock.us(clock.ticks(seconds)))
        assert Decimal(text) * clock.per_us == clock.ticks(seconds)  # what is written is exactly what is meant


def test_a_device_that_cannot(tmp_path):
    result = small("glue-mrpc-dsq", "fixed32", "fixed16", hardware=["h100-sxm"])
    with pytest.raises(InputError, match=r"h100-sxm multiplies neither fixed32 x fixed32 \+ int32 nor .*fixed32"):
        trace.save(result, tmp_path / "t.json")
    profile = tmp_path / "d.yaml"
    text = Path(list_shipped("hardware_profiles")["a100-80gb"]).read_text()
    before, _, after = text.partition("dram_bytes_per_s:")
    profile.write_text(f"{before}dram_bytes_per_s: unknown\ndram_bytes:{after.partition('dram_bytes:')[2]}")
    with pytest.raises(InputError, match="d: the profile has no DRAM bandwidth"):
        trace.save(small("glue-mrpc-dsq", "fp32", hardware=[str(profile)]), tmp_path / "t.json")
    assert not (tmp_path / "t.json").exists()


def test_a_tiled_step_moves_what_the_device_s_buffer_makes_it_move(tmp_path):
    result = small("glue-mrpc-dsq", "fp32", scope="step", traffic="tiled", hardware=["cortex-m7", "h100-sxm"])
    _, processes = read(trace.save(result, tmp_path / "t.json"))
    moved = []
    for events, device in zip(processes.values(), result.job.hardware, strict=True):
        dram = tracks(events)[trace.DRAM]
        moved.append(sum(event["args"]["read_bits"] + event["args"]["written_bits"] for event in dram))
        spent = result.spent["fp32", device.name]
        assert moved[-1] * result.job.convention.steps == spent.dram_bits
        end = max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")
        assert float(end) == pytest.approx(spent.time_s / result.job.convention.steps * 1e6, rel=1e-9)
    assert moved[0] > moved[1]


@pytest.mark.parametrize("overlap", [True, False])
def test_launches_come_before_what_is_launched(overlap, tmp_path):
    job = small("glue-mrpc-dsq", "fp32", hardware=["h100-sxm"], overlap=overlap).job
    slow = replace(job, hardware=(replace(job.hardware[0], launch_s=1e-3),))
    begins = []
    for timed_job in (job, slow):
        result = execute(timed_job)
        _, processes = read(trace.save(result, tmp_path / "t.json"))
        check_tracks(processes[1])
        track = tracks(processes[1])[trace.COMPUTE]
        begins.append([float(event["ts"]) for event in track])
        end = max(event["ts"] + event["dur"] for event in processes[1] if event["ph"] == "X")
        steps = result.job.convention.steps
        assert float(end) == pytest.approx(result.spent["fp32", "h100-sxm"].time_s / steps * 1e6, rel=1e-9)
    later = [slow - fast for fast, slow in zip(*begins, strict=True)]
    extra_us = 1e3 - 1e6 * job.hardware[0].launch_s
    assert later == pytest.approx([extra_us * (i + 1) for i in range(len(later))], rel=1e-6)


def test_a_buffer_that_is_not_known(tmp_path):
    job = small("glue-mrpc-dsq", "fp32", scope="step", traffic="tiled", hardware=["h100-sxm"]).job
    result = execute(replace(job, hardware=(replace(job.hardware[0], on_chip_bytes=None),)))
    with pytest.raises(InputError, match="plot trace: h100-sxm: the profile has no on_chip_bytes, for traffic tiled"):
        trace.save(result, tmp_path / "t.json")
    shown = texts(save(result, "roofline", tmp_path / "f.svg"))
    assert any(text.startswith("the profile has no on_chip_bytes, for traffic tiled") for text in shown)
    assert "not known" in texts(save(result, "comparison", tmp_path / "f.svg"))


# --- costsim plot WORKLOAD trace --------------------------------------------------------------------------------------

ARGUMENTS = ["plot", "glue-mrpc-dsq", *(part for its in one_layer("glue-mrpc-dsq") for part in ("--set", its))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_same_bytes_in_another_process(folder):
    arguments = [*ARGUMENTS, "trace", "--policy", "dsq", "--hardware", "h100-sxm"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, done.output) == (0, "glue-mrpc-dsq-trace.json\n")
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-X", "importtime", "-m", "costsim", *arguments, "--out", "t.json"]
    ran = subprocess.run(command, check=True, env=environment, timeout=60, capture_output=True, text=True)
    assert (folder / "t.json").read_bytes() == (folder / "glue-mrpc-dsq-trace.json").read_bytes()
    assert "matplotlib" not in ran.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["trace"],
            "plot trace: expected a device, --hardware NAME (see costsim list hardware)",
        ),
        (["trace", "--hardware", "h100-sxm", "--out", "t.svg"], "--out t.svg: expected a name that ends in .json"),
        (["trace", "--hardware", "h100-sxm", "--out", "t"], "--out t: expected a name that ends in .json"),
        (["trace", "--hardware", "h100-sxm", "--phase", "2"], "--phase 2: policy fp32 has 1 phase"),
        (["trace", "--by", "role"], "--by: is of plot breakdown, not of plot trace"),
        (["timeline", "--phase", "1"], "--phase: is of plot trace, not of plot timeline"),
        (
            ["timeline", "--out", "t.json"],
            "--out t.json: expected a name that ends in .svg, .pdf or .png (.json is what plot trace writes)",
        ),
    ],
)
def test_what_is_refused(folder, args, says):
    done = CliRunner().invoke(main, [*ARGUMENTS, "--policy", "fp32", *args])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"costsim: {says}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(folder.iterdir())


def test_breakdown_by_role(folder):
    done = CliRunner().invoke(main, [*ARGUMENTS, "--policy", "fp32", "breakdown", "--by", "role"])
    assert (done.exit_code, done.output) == (0, "glue-mrpc-dsq-breakdown.svg\n")
    assert "weight gradient" in (folder / "glue-mrpc-dsq-breakdown.svg").read_text()
