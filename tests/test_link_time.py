"""Time of what ranks send: closed forms, what hides behind what, and that all that is shown says the same."""

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from conftest import shipped_policy
from test_compile_measures import agree, drawn, spent_of
from test_explain import check_formula

import costsim
from costsim.cost.kernels import compile_kernels
from costsim.cost.totals import GROUPINGS
from costsim.devices.compiled import Timed
from costsim.devices.links import Link, time_of
from costsim.devices.profile import load_hardware
from costsim.errors import InputError
from costsim.explain.op import explain
from costsim.explain.totals import explain_total
from costsim.names import VARIED
from costsim.policy.groups import groups_of, space_of
from costsim.results import records, trace
from costsim.results.sent import link_records, sent_records
from costsim.run import timing
from costsim.run.simulate import execute

SPLIT = {"parallel.tensor": 4, "parallel.data": 4, "parallel.zero": 1}
DEVICES = ("h100-node", "orin-shelf")


@cache
def ran(overlap="none", devices=DEVICES, stages=1, algorithms=()):
    """GPT-2 with 2 layers on 16 devices (by stages): 2 nodes of 8 H100, or a shelf of Jetsons."""
    fields = {"model.layers": 2, "training.micro_batches": 16, **SPLIT, "parallel.overlap": overlap}
    fields["parallel.pipeline"] = stages
    fields |= {f"parallel.algorithms.{name}": value for name, value in algorithms}
    [run] = costsim.load("gpt2-small", fields).run(["bf16-mixed", "fp8-tensor"], hardware=devices, scope="step").runs
    return run


def on(run, *devices):
    """The same run on other devices."""
    return execute(replace(run.job, hardware=devices))


def spent(run, policy="bf16-mixed"):
    """By device."""
    return {device: one for (name, device), one in run.spent.items() if name == policy}


# --- closed forms -----------------------------------------------------------------------------------------------------


def by_axis(run, in_nodes, between_nodes):
    """Seconds of bf16-mixed's messages by axis, of the table of what is sent: bytes and steps of each collective."""
    seconds = {"tensor": 0.0, "data": 0.0}
    for row in [row for row in sent_records(run) if row["policy"] == "bf16-mixed"]:
        rounds = int(row["runs"]) * {"all_reduce": 2}.get(row["collective"], 1)
        of = in_nodes if row["axis"] == "tensor" else between_nodes
        seconds[row["axis"]] += of(int(row["sent_bits"]) / 8, rounds)
    return seconds


def on_h100_nodes(run):
    """4 ranks of tensor lie in a node of 8, and send 3 times; of 4 ranks of data 2 lie in each of 2 nodes.

    Of 3 shares one crosses nodes, and InfiniBand, 9 times as slow, is what all wait for.
    """
    return by_axis(
        run,
        lambda sent, rounds: sent / 450e9 + rounds * 3 * 3.4e-6,
        lambda sent, rounds: sent / 3 / 50e9 + rounds * (3.4e-6 + 9.6e-6),
    )


def test_time_of_links_is_that_of_their_bytes_and_steps():
    run = ran()
    assert spent(run)["h100-node"].link_s == pytest.approx(sum(on_h100_nodes(run).values()), rel=1e-9)
    shelf = by_axis(run, *2 * [lambda sent, rounds: sent / 125e6 + rounds * 3 * 5e-5])
    assert spent(run)["orin-shelf"].link_s == pytest.approx(sum(shelf.values()), rel=1e-9)


def test_what_crosses_each_link_adds_up():
    run = ran()
    sent, links = sent_records(run), link_records(run)
    for policy in ("bf16-mixed", "fp8-tensor"):
        for device in DEVICES:
            for axis in ("tensor", "data"):
                one = sum(int(row["sent_bits"]) for row in sent if (row["policy"], row["axis"]) == (policy, axis))
                over = [row for row in links if (row["policy"], row["hardware"], row["axis"]) == (policy, device, axis)]
                assert sum(int(row["sent_bits"]) for row in over) == one
                assert len(over) == (2 if (device, axis) == ("h100-node", "data") else 1)


# --- what hides -------------------------------------------------------------------------------------------------------


def without_links(device):
    """The same device, whose links take no time."""
    return replace(device, links=(Link("ideal", None, 10**18, 0.0, 1.0),))


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("overlap", [True, False])
def test_full_overlap_takes_the_longer_of_messages_and_all_else(name, overlap):
    """On H100 all messages hide, on the shelf the step is as long as its messages."""
    device, run = load_hardware(name), ran("full")
    run = replace(run, job=replace(run.job, overlap=overlap))
    ideal = spent(on(run, without_links(device)))[name]
    real = spent(on(run, device))[name]
    assert real.time_s == pytest.approx(max(ideal.time_s, real.link_s), rel=1e-6)
    assert real.link_s - real.hidden_s == pytest.approx(max(0.0, real.link_s - ideal.time_s), rel=1e-6, abs=1e-9)
    assert (real.bound == "link") == (name == "orin-shelf")


def test_without_overlap_each_message_is_waited_for():
    """A collective takes the longer of its DRAM traffic and its message, so a step takes no more than both in full."""
    device = load_hardware("h100-node")
    ideal, real = spent(on(ran(), without_links(device)))["h100-node"], spent(ran())["h100-node"]
    assert real.hidden_s == 0
    assert max(ideal.time_s, real.link_s) < real.time_s <= ideal.time_s + real.link_s
    alone = replace(ran(), job=replace(ran().job, overlap=False))
    ideal, real = (spent(on(alone, of))["h100-node"] for of in (without_links(device), device))
    assert real.time_s == pytest.approx(ideal.time_s + real.link_s, rel=1e-6)


def test_overlap_of_data_hides_only_messages_of_data():
    none, data, full = (spent(ran(overlap))["h100-node"] for overlap in ("none", "data", "full"))
    assert none.link_s == data.link_s == full.link_s
    assert 0 < data.hidden_s < full.hidden_s == full.link_s
    assert data.hidden_s == pytest.approx(on_h100_nodes(ran())["data"], rel=1e-9)
    assert full.time_s < data.time_s < none.time_s


def test_static_power_is_drawn_while_messages_are_waited_for():
    device = replace(load_hardware("orin-shelf"), static_w=3.0)
    real = spent(on(ran("full"), device))["orin-shelf"]
    assert real.static_j == pytest.approx(3.0 * real.time_s, rel=1e-9)


# --- the same everywhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", ["none", "data", "full"])
def test_groups_tables_explanations_and_traces_agree(overlap):
    run = ran(overlap)
    for counted in run.policies:
        for device in run.job.hardware:
            whole = run.spent[counted.policy.name, device.name]
            assert sum(whole.bound_s.values()) == pytest.approx(whole.time_s, rel=1e-9)
            record = records.policy_record(run, counted)["hardware"][device.name]
            assert (record["link_time_s"], record["time_s"]) == (whole.link_s, whole.time_s)
            for by in set(GROUPINGS) - set(timing.UNDIVIDED):
                groups = timing.time_groups(run.job, counted, device, by).values()
                assert sum(part.time_s for part in groups) == pytest.approx(whole.time_s, rel=1e-9)
                assert sum(part.link_s for part in groups) == pytest.approx(whole.link_s, rel=1e-9)
    _, sections = explain_total(run.job, "time_s")
    for section in sections:
        whole = run.spent[section.policy, section.device]
        assert float(section.explained[0].result) == pytest.approx(whole.time_s, rel=1e-9)
    events = trace.trace(run)["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"compute", "DRAM", "links"}
    shown = [event for event in events if event["ph"] == "X" and event["pid"] == 1]
    step = timing.time_step(run.job, run.policies[0].phases[0], run.job.hardware[0])
    assert max(event["ts"] + event["dur"] for event in shown) / 1e6 == pytest.approx(step.time_s, rel=1e-6)
    sent = sum(event["dur"] for event in shown if event["tid"] == trace.LINK) / 1e6
    assert sent == pytest.approx(step.link_s - step.hidden_s, rel=1e-6, abs=1e-9)


RECURSIVE = (("all_gather", "recursive"), ("reduce_scatter", "recursive"), ("all_reduce", "tree"))


@pytest.mark.parametrize(
    ("overlap", "stages", "algorithms"),
    [("none", 1, ()), ("full", 1, ()), ("data", 2, ()), ("none", 1, RECURSIVE), ("none", 1, (("levels", False),))],
)
def test_an_explained_collective_is_what_is_spent(overlap, stages, algorithms):
    run = ran(overlap, stages=stages, algorithms=algorithms)
    job, counted = run.job, run.policies[0]
    for device in job.hardware:
        found = 0
        for kernel, one in timing.time_kernels(job, counted.phases[0], device, each=True):
            row, op = kernel.first
            if not row.messages or (found > 12 and row.messages[0].axis == "tensor"):
                continue
            found += 1
            of = replace(job, hardware=(device,), policies=(counted.policy,))
            [section] = [each for each in explain(of, op.name).sections if each.policy == counted.policy.name]
            steps = {
                step.what.partition(", ")[2]: step.result for step in section.explained if device.name in step.what
            }
            for step in section.explained:
                if device.name in step.what:
                    check_formula(step)
            assert steps["link time"] == pytest.approx(one.link_s, rel=1e-9)
            assert steps.get("time in all", steps["time"]) == pytest.approx(one.time_s, rel=1e-9)
            assert steps["bound"] == one.bound
        assert found > 5


def test_a_send_to_the_next_stage_takes_its_bytes_and_a_latency():
    """Stages of 16 devices each are nodes apart: 16 sends of 512 tokens of bf16 on a rank of tensor, which has 1/4."""
    run = ran(stages=2)
    [message] = [m for row in run.policies[0].phases[0].rows for m in row.messages if m.collective == "send"]
    bits = run.job.graph.sizes["batch"] * run.job.graph.sizes["tokens"] * 768 * 16 // 4
    assert (message.shard_bits, message.times, message.apart) == (bits, 16, 16)
    expected = 16 * (bits / 8 / 50e9 + 9.6e-6)
    assert time_of(message, load_hardware("h100-node").links) == pytest.approx(expected, rel=1e-12)


def test_where_links_do_not_join_all_ranks_no_time_is_known():
    run = ran(devices=("h100-sxm",))
    one = spent(run)["h100-sxm"]
    assert (one.time_s, one.link_s, one.bound) == (None, None, "n/a")
    assert one.lacks == {"links that join 4 ranks of tensor", "links that join 4 ranks of data"}
    assert one.energy_j is not None
    assert link_records(run) == []
    with pytest.raises(InputError, match="the profile has no links that join 4 ranks of data"):
        trace.trace(run)


def test_one_device_needs_no_links():
    fields = {"model.layers": 2}
    [run] = costsim.load("gpt2-small", fields).run(["bf16-mixed"], hardware=["h100-sxm", "h100-node"]).runs
    assert spent(run)["h100-sxm"] == spent(run)["h100-node"]
    assert spent(run)["h100-sxm"].link_s == 0


def test_messages_know_how_far_their_ranks_lie_apart():
    """Ranks of data have those of tensor between them: of 4 and 4 in nodes of 8, 2 of a group lie in each node."""
    messages = {m.axis: m for row in ran().policies[0].phases[0].rows for m in row.messages}
    assert (messages["tensor"].apart, messages["data"].apart) == (1, 4)
    close = messages["data"]._replace(apart=1)
    links = load_hardware("h100-node").links
    assert time_of(close, links) < time_of(messages["data"], links)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("policy", ["bf16-mixed", "fp8-tensor", "fp32"])
def test_compiled_time_of_any_policy_is_that_of_one(policy, overlap):
    """Of a space in which tensors that collectives read have other formats, so that messages differ."""
    job = ran().job
    chosen = shipped_policy(policy)
    space = space_of(chosen, groups_of(job.graph, chosen, ("role",), VARIED), ("fp16", "int8-row", "fp8-e4m3"))
    convention, device = ("fused", "step", ("gemms", ())), load_hardware("h100-node")
    points = drawn(space, random.Random(policy), 6)
    spent = [spent_of(job.graph, space.point(dict(enumerate(p))), convention, device, overlap) for p in points]
    assert len({one.link_s for one in spent}) > 1
    timed = Timed(compile_kernels(job.graph, space, *convention), device, overlap)
    agree(timed.time(), points, [np.inf if one.unsupported else one.time_s for one in spent])
    with pytest.raises(InputError, match="its profile has no links that join 4 ranks of"):
        Timed(compile_kernels(job.graph, space, *convention), load_hardware("h100-sxm"), overlap).time()
