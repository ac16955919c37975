"""The memory timeline: drawn areas against what lies in memory, place by place."""

from itertools import pairwise

import pytest
from conftest import live_bytes
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from test_plots import small, texts

from costsim.cost.memory import COMPONENTS, of_policy
from costsim.graph.fusion import group_ops
from costsim.plots import save
from costsim.plots.style import COMPONENT_COLOURS
from costsim.plots.timeline import regions, thin, timeline
from costsim.results.trace import Live, live_parts
from costsim.run.simulate import run


def height(corners, x):
    """Where the outline of an area is at x: corners along the top, in order."""
    for (left, top), (right, also) in pairwise(corners):
        if left < x <= right:
            assert top == also
            return top
    raise AssertionError(x)


@pytest.mark.parametrize("traffic", ["unfused", "fused"])
def test_areas_are_what_lies_in_memory(traffic):
    result = small("glue-mrpc-dsq", "bf16-mixed", traffic=traffic)
    [counted] = result.policies
    graph = result.job.graph
    _, memory = of_policy(graph, counted.policy, traffic)
    kernels = sorted(set(group_ops(graph, traffic)))
    [axes] = timeline(result).axes
    tops = [patch.get_xy()[:, 1].max() for patch in axes.patches]
    assert tops == sorted(tops, reverse=True)  # each is drawn over the ones before
    areas = {patch.get_facecolor(): patch.get_xy() for patch in axes.patches}
    for k in range(0, len(kernels), 7):
        live = 0
        for name in COMPONENTS:
            live += sum(
                stored.size_bytes
                for stored in memory.stored
                if stored.component == name and stored.first <= kernels[k] <= stored.last
            )
            area = areas.get(to_rgba(COMPONENT_COLOURS[name]))
            if area is not None:
                corners = [tuple(map(float, corner)) for corner in area[1:-2]]
                assert height(corners, k + 0.5) * 1e6 == pytest.approx(live, rel=1e-9), (name, k)
        assert live == live_bytes(memory)[kernels[k]]


@given(st.lists(st.tuples(*[st.integers(0, 9)] * len(COMPONENTS)), min_size=1, max_size=60), st.integers(1, 70))
def test_thinning_keeps_every_maximum(parts, points):
    live = [Live(3 * i, sizes) for i, sizes in enumerate(parts)]
    steps = thin(live, points)
    assert len(steps.starts) == len(steps.parts) <= points
    assert steps.starts[0] == 0
    assert steps.end == len(parts)
    ends = [*steps.starts[1:], steps.end]
    for start, end, drawn in zip(steps.starts, ends, steps.parts, strict=True):
        assert sum(drawn) == max(sum(sizes) for sizes in parts[start:end])
        assert drawn in parts[start:end]
    if points >= len(parts):
        widened = [p for start, end, p in zip(steps.starts, ends, steps.parts, strict=True) for _ in range(start, end)]
        assert widened == parts


def test_the_peak_and_the_regions_are_marked(tmp_path):
    result = small("gpt2-small", "bf16-mixed", "fp32")
    written = texts(save(result, "timeline", tmp_path / "f.svg"))
    for counted in result.policies:
        memory = of_policy(result.job.graph, counted.policy, "fused")[1]
        assert f"peak {memory.peak_bytes / 1e9:.2f} GB at {memory.peak_op.name}" in written
    assert {"forward", "backward", "update", "live memory, GB", "kernel of the step, in order"} <= set(written)
    assert "gpt2-small: live memory over a step, traffic fused a micro-batch of 8 sequences" in written
    assert {name.replace("_", " ") for name in COMPONENTS} <= set(written)
    figure = timeline(result)
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1
    for axes, counted in zip(figure.axes, result.policies, strict=True):
        memory = of_policy(result.job.graph, counted.policy, "fused")[1]
        [mark] = [line for line in axes.get_lines() if line.get_marker() == "v"]
        [at], [top] = mark.get_data()
        kernels = sorted(set(group_ops(result.job.graph, "fused")))
        assert (kernels[int(at)], top) == (memory.peak_kernel, pytest.approx(memory.peak_bytes / 1e9))


def test_regions_follow_each_other():
    graph = small("gpt2-small", "bf16-mixed").job.graph
    phases = regions(graph, "fused")
    assert list(phases) == ["forward", "backward", "update"]
    spans = list(phases.values())
    assert [end for _, end in spans[:-1]] == [first for first, _ in spans[1:]]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(set(group_ops(graph, "fused")))
    kernels = sorted(set(group_ops(graph, "fused")))
    assert {graph.ops[kernels[i]].phase for i in range(*phases["backward"])} <= {"backward", "recompute"}


def test_live_parts_have_the_peak():
    result = small("llama-small", "bf16-mixed", "mxfp8")
    for counted in result.policies:
        memory = of_policy(result.job.graph, counted.policy, "fused")[1]
        live = live_parts(memory, result.job.graph, "fused")
        assert max(sum(moment.parts) for moment in live) == memory.peak_bytes
        assert [sum(moment.parts) for moment in live] == [live_bytes(memory)[moment.kernel] for moment in live]
        peak = next(moment for moment in live if moment.kernel == memory.peak_kernel)
        assert peak.parts == tuple(memory.components.values())


@pytest.mark.parametrize("workload", ["gpt2-small", "mixtral-8x7b"])
def test_long_steps_stay_small_files(workload, tmp_path):
    path = save(run(workload), "timeline", tmp_path / "f.svg")
    assert path.stat().st_size < 1_000_000
    assert any("each place: the fullest of" in text for text in texts(path))
