"""One number, wherever it is shown: exports, tables of ops, groups, explanations and traces say the same."""

import math

import pandas as pd
import pytest

import costsim
from costsim.cost.totals import GROUPINGS
from costsim.explain import totals as explain_totals
from costsim.inputs import files
from costsim.results import records, trace
from costsim.run import timing

CASES = {
    "several phases, tiled, a buffer each": ("iwslt17-dsq", ["dsq"], {"scope": "step", "traffic": "tiled"}),
    "micro-batches, fused": ("gpt2-small", ["bf16-mixed", "fp8-block"], {"scope": "layer", "traffic": "fused"}),
    "one's own buffer": ("glue-mrpc-dsq", ["dsq"], {"scope": "gemm", "traffic": "tiled", "buffer_bytes": 100_000}),
}
SMALL = {"iwslt17-dsq": {"model.encoder_layers": 1, "model.decoder_layers": 2}, "gpt2-small": {"model.layers": 2},
         "glue-mrpc-dsq": {"model.layers": 2}}  # fmt: skip


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """Two devices of different buffers, one that does not know its buffer, one that lacks pairs of formats."""
    text = files.list_shipped("hardware_profiles")["h100-sxm"].read_text()
    lines, skipping = [], False
    for line in text.splitlines():
        if not line.startswith(" "):
            skipping = line.startswith("on_chip_bytes:")
            lines += ["on_chip_bytes: unknown"] if skipping else []
        lines += [] if skipping else [line]
    path = tmp_path_factory.mktemp("devices") / "no-buffer.yaml"
    path.write_text("\n".join(lines) + "\n")
    return ["a100-80gb", "jetson-orin-nano", str(path), "edge-tpu"]


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def ran(request, devices):
    workload, policies, options = CASES[request.param]
    return costsim.load(workload, SMALL[workload]).run(policies, hardware=devices, **options)


def same(ours, theirs, rel=1e-9):
    if theirs is None or (isinstance(theirs, float) and math.isnan(theirs)):
        return pd.isna(ours)
    return ours == pytest.approx(theirs, rel=rel)


def test_times_and_energies(ran):
    run = ran.runs[0]
    table, ratios = (its.set_index(["policy", "hardware"]) for its in (ran.by(), ran.compare()))
    compared = 0
    for counted in run.policies:
        by_device = records.policy_record(run, counted)["hardware"]
        for device in run.job.hardware:
            key, record = (counted.policy.name, device.name), by_device[device.name]
            for name in ("time_s", "energy_j"):
                assert same(table.loc[key, name], record[name]), (key, name)
                compared += record[name] is not None
            for name in ("time_reduction", "energy_reduction"):
                assert same(ratios.loc[key, name], record[name]), (key, name)
            for by in set(GROUPINGS) - set(timing.UNDIVIDED):
                parts = [part.time_s for part in timing.time_groups(run.job, counted, device, by).values()]
                if record["time_s"] is None:
                    assert None in parts
                else:
                    assert same(sum(parts), record["time_s"]), (key, by)
    assert compared >= 4
    unknown = [run.spent[counted.policy.name, "no-buffer"].time_s is None for counted in run.policies]
    assert all(unknown) == (run.job.convention.tiled and bool(run.job.convention.buffer_of))


def test_memory(ran):
    run = ran.runs[0]
    ours = ran.compare().set_index(["policy", "hardware"])["memory_reduction"]
    for record in records.records(run, "reduction"):
        assert ours[record["policy"], "a100-80gb"] == record["memory_reduction"]


def test_traffic_is_that_of_each_devices_buffer(ran):
    run, table = ran.runs[0], ran.by().set_index(["policy", "hardware"])
    for counted in run.policies:
        for device in run.job.hardware[:2]:
            spent = run.spent[counted.policy.name, device.name]
            if not spent.lacks:
                assert table.loc[(counted.policy.name, device.name), "dram_bits"] == spent.dram_bits


def test_explanations(ran):
    run = ran.runs[0]
    _, sections = explain_totals.explain_total(run.job, "time_s")
    assert len(sections) == len(run.policies) * len(run.job.hardware)
    for section in sections:
        expected, result = run.spent[section.policy, section.device].time_s, section.explained[0].result
        assert (expected is None) == (result is None)
        if expected is not None:
            assert float(result) == pytest.approx(expected, rel=1e-9)


def test_traces(ran):
    from dataclasses import replace

    run = ran.runs[0]
    shown = replace(run, job=replace(run.job, hardware=run.job.hardware[:2]))
    events = trace.trace(shown)["traceEvents"]
    for pid, (counted, device) in enumerate(
        [(counted, device) for counted in run.policies for device in run.job.hardware[:2]]
    ):
        ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X" and event["pid"] == pid + 1]
        first = ran.table[
            (ran.table["policy"] == counted.policy.name)
            & (ran.table["hardware"] == device.name)
            & (ran.table["training_phase"] == 0)
        ]
        assert max(ends) / 1e6 == pytest.approx(first["time_s"].sum(), rel=1e-6)
