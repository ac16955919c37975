"""Figures: their texts, the same bytes each time, and whole files or none."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from conftest import one_layer
from overlaps import faults

from costsim.cli import main
from costsim.cost.memory import COMPONENTS, of_policy
from costsim.devices.profile import load_hardware
from costsim.inputs.files import list_shipped
from costsim.plots import PLOTS, save
from costsim.plots.roofline import KINDS
from costsim.plots.style import starred
from costsim.results.roof import roof
from costsim.run.batch import with_batch
from costsim.run.sensitivity import outcomes
from costsim.run.simulate import run

BEGINS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}
ONE_LAYER = ("glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "stash-fixed")


def small(workload, *policies, **options):
    return run(workload, policies, assignments=one_layer(workload), **{"hardware": ["a100-80gb"], **options})


def texts(path):
    """Every text in an SVG file, those of several lines in one."""
    return [
        " ".join("".join(part.itertext()).split())
        for part in ElementTree.parse(path).iter()
        if part.tag.endswith(("}text", "}g"))
    ]


@pytest.fixture(scope="module")
def result():
    return small("glue-mrpc-dsq", "stash-fixed")


@pytest.mark.parametrize("ending", BEGINS)
@pytest.mark.parametrize("kind", PLOTS)
def test_the_same_bytes_when_drawn_again(result, kind, ending, tmp_path):
    first, again = (save(result, kind, tmp_path / f"{name}.{ending}").read_bytes() for name in ("first", "again"))
    assert first == again
    assert first.startswith(BEGINS[ending])
    assert len(first) > 5000
    assert {path.name for path in tmp_path.iterdir()} == {f"first.{ending}", f"again.{ending}"}


@pytest.mark.parametrize("kind", ["sensitivity", "roofline"])
def test_the_same_bytes_in_another_process(result, kind, tmp_path):
    here, there = tmp_path / "here.svg", tmp_path / "there.svg"
    save(result, kind, here)
    arguments = ["plot", *ONE_LAYER, kind, "--hardware", "a100-80gb", "--out", str(there)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "costsim", *arguments], check=True, env=environment, timeout=60)
    assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("workload", list_shipped("workloads"))
def test_sensitivity_names_every_case_and_its_ratios(workload, tmp_path):
    drawn = small(workload, "dsq")
    written = texts(save(drawn, "sensitivity", tmp_path / "f.svg"))
    assert {"arithmetic, times less", "DRAM traffic, times less", f"DSQ* against {drawn.baseline.policy.label}"} <= set(
        written
    )
    convention = drawn.job.convention
    note = f"{workload}: law product, traffic {convention.traffic}, scope {convention.scope} as shipped"
    assert f"{note} (* levels recalled, not stated)" in written
    shipped, *cases = outcomes(drawn.job)
    for name in ("arithmetic_reduction", "dram_reduction"):
        was = f"{float(getattr(shipped, name)):.2f}"
        assert f"as shipped, {was}" in written
        values = [getattr(outcome, name) for outcome in cases]
        assert {f"{float(value):.2f}" for value in values if value is not None} <= {*written, was}
    assert ("not defined" in written) == any(outcome.arithmetic_reduction is None for outcome in cases)
    assert {f"{outcome.assumption}: {outcome.case}" for outcome in cases} <= set(written)
    stated = {f"stated, {figure.stated:g}" for figure in drawn.job.file.published}
    assert stated == {text for text in written if text.startswith("stated, ")}


@pytest.mark.parametrize("workload", list_shipped("workloads"))
def test_schedule_names_levels_and_policies(workload, tmp_path):
    drawn = small(workload, "dsq", "fixed16", "bfp16", scope="layer")
    written = " ".join(texts(save(drawn, "schedule", tmp_path / "f.svg")))
    levels = ("training step", "DSQ* bits per level", "q0", "q3")
    for text in (*levels, "share of", "arithmetic so far", "DRAM traffic so far", "BFP 16"):
        assert text in written
    note = f"{workload}: law product, traffic {drawn.job.convention.traffic}, scope layer"
    assert f"{note} (* levels recalled, not stated)" in written
    assert "BFP 16*" not in written


def test_nothing_is_marked_that_is_not_recalled(tmp_path):
    drawn = small("glue-mrpc-dsq", "bfp16")
    for kind in PLOTS:
        assert "*" not in " ".join(texts(save(drawn, kind, tmp_path / f"{kind}.svg")))


def test_what_is_spent_in_the_end_is_the_inverse_of_the_ratio():
    drawn = small("glue-mrpc-dsq", "dsq", "bfp16", "fixed16")
    panels = PLOTS["schedule"](drawn).axes
    for axes, field in ((panels[-4], "arithmetic_cost"), (panels[-2], "dram_bits")):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert len(lines) == 3
        for counted in drawn.policies:
            steps, shares = lines[starred(counted)].get_data()
            cost, base = (getattr(total, field) for total in (counted.total, drawn.baseline.total))
            assert (steps[0], shares[0], steps[-1]) == (0, 0, 2296)
            assert shares[-1] == pytest.approx(cost / base, rel=1e-12)


def test_no_line_hides_another():
    """Of lines that end at one place, those drawn later are thinner."""
    drawn = small("iwslt17-dsq", "dsq", "fixed16", "bfp16", "stash-bfp")
    lines = {line.get_label(): line for line in PLOTS["schedule"](drawn).axes[-4].get_lines()}
    below, above = lines["fixed 16"], lines["BFP 16"]
    assert below.get_ydata()[-1] == pytest.approx(above.get_ydata()[-1], rel=0.01)
    assert below.get_zorder() == above.get_zorder()
    assert list(lines).index("fixed 16") < list(lines).index("BFP 16")
    assert below.get_linewidth() >= above.get_linewidth() + 2
    assert lines["DSQ*"].get_linewidth() == lines["stash BFP*"].get_linewidth() < below.get_linewidth()


def test_levels_are_drawn_where_their_phases_are():
    drawn = small("glue-mrpc-dsq", "dsq")
    steps = {line.get_label(): line for line in PLOTS["schedule"](drawn).axes[0].get_lines()}
    for i, name in enumerate(("q0", "q1", "q2", "q3")):
        first, second, third = ([2, 2, 2, 16][i], [4, 4, 4, 16][i], [16, 4, 4, 16][i])
        assert list(steps[name].get_xdata()) == [0, 2273, 2293, 2296]  # floor(0.99 x 2296), floor(0.999 x 2296)
        assert list(steps[name].get_ydata()) == [first, first, second, third]
        assert steps[name].get_drawstyle() == "steps-pre"


# --- roofline ---------------------------------------------------------------------------------------------------------


def test_roofline_names_policies_rates_kinds_and_units(tmp_path):
    drawn = small("iwslt17-dsq", hardware=["h100-sxm"])
    written = texts(save(drawn, "roofline", tmp_path / "f.svg"))
    title = "iwslt17-dsq: law product, traffic unfused, scope gemm, on h100-sxm (* levels recalled, not stated)"
    lacking = "no time on h100-sxm: fixed 32 (unsupported fixed32 x fixed32 + int32), BFP 32 (unsupported bfp32 x "
    assert title in written
    assert lacking + "bfp32 + fp32)" in " ".join(written)
    assert {"fixed 16: bound by arithmetic", "DSQ*: bound by arithmetic"} <= set(written)
    assert "fixed32" not in written
    assert "fixed16 x fixed16 as fp32 x fp32 + fp32: 67.0 Top/s" in written  # 2 x 33.5e12 MACs, NVIDIA's 67 TFLOPS
    assert {"forward", "dgrad", "wgrad", "10 % of the time", "ridge point"} <= set(written)
    assert set(written).isdisjoint({"update", "other", "recompute"})  # of which there are none
    assert {"arithmetic intensity, op/byte", "performance, op/s"} <= set(written)


def test_a_roofline_of_many_policies_says_which_it_leaves_out(tmp_path):
    names = ("fp32", "bf16-mixed", "bf16-pure", "fp16-mixed", "fp8-block", "mxfp8", "nvfp4", "dsq", "w8a8")
    written = texts(save(small("glue-mrpc-dsq", *names, hardware=["h100-sxm"]), "roofline", tmp_path / "f.svg"))
    assert any(text.endswith("not shown: W8A8; --policy chooses") for text in written)


@pytest.mark.parametrize("scope", ["gemm", "step"])
def test_points_lie_under_the_roof_and_make_up_the_time(scope):
    drawn = small("glue-mrpc-dsq", "dsq", "bf16-mixed", "fp32", scope=scope, traffic="fused")
    [device] = drawn.job.hardware
    for counted in drawn.policies:
        view = roof(drawn, counted, device)
        assert view.lacks == ""
        assert sum(point.share for point in view.points) + view.moving == pytest.approx(1)
        highest = 2 * max(rate.mac_per_s for rate in view.rates)
        for point in view.points:
            assert point.op_per_s <= min(highest, point.op_per_byte * device.dram_bytes_per_s) * (1 + 1e-12)
        kinds = {point.kind for point in view.points}
        assert kinds == ({"forward", "dgrad", "wgrad"} if scope == "gemm" else set(KINDS) - {"recompute"})


def test_points_of_all_phases_make_up_the_work_of_the_run():
    drawn = small("glue-mrpc-dsq", "dsq", hardware=["abstract-bit-serial"])
    [counted] = drawn.policies
    view = roof(drawn, counted, drawn.job.hardware[0])
    names = {rate.name for rate in view.rates}
    assert {"int2 x int2 + int32", "int4 x int4 + int32"} <= names
    seconds = drawn.spent["dsq", "abstract-bit-serial"].time_s
    whole = [point.share * seconds * point.op_per_s for point in view.points]
    assert sum(whole) == pytest.approx(2 * counted.total.macs + sum(counted.total.vector.values()), rel=1e-9)


def test_panels_share_their_scale_and_mark_every_ridge():
    drawn = small("glue-mrpc-dsq", "bf16-mixed", "fp32", hardware=["h100-sxm", "a100-80gb"])
    panels = PLOTS["roofline"](drawn).axes
    assert len(panels) == 4
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in panels}) == 1
    assert {axes.get_xscale() for axes in panels} == {axes.get_yscale() for axes in panels} == {"log"}
    ridges = {tuple(map(float, line.get_xydata()[0])) for axes in panels for line in axes.get_lines()
              if line.get_marker() == "D"}  # fmt: skip
    for device in map(load_hardware, ("h100-sxm", "a100-80gb")):
        peak = 2 * max(rate.mac_per_s for rate in device.rates if rate.a.name == rate.b.name == "bf16")
        assert (peak / device.dram_bytes_per_s, peak) in ridges


def test_panels_without_points_are_left_out():
    """Of 4 policies on 3 devices those remain that have a time, each with points; so a device may have no row."""
    policies, devices = ("fp32", "bf16-mixed", "fixed32", "dsq"), ("h100-sxm", "ethos-u85", "versal-vc1902")
    drawn = small("glue-mrpc-dsq", *policies, hardware=devices)
    figure = PLOTS["roofline"](drawn)
    titles = [axes.get_title() for axes in figure.axes if axes.axison]
    labels = {counted.policy.name: counted.policy.label for counted in drawn.policies}
    timed = [(name, on) for on in devices for name in policies if drawn.spent[name, on].time_s is not None]
    assert 0 < len(timed) < len(policies) * len(devices)
    assert [tuple(title.partition(":")[0].replace("*", "").split(" on ")) for title in titles] == [
        (labels[name], on) for name, on in timed
    ]
    assert all(axes.collections for axes in figure.axes if axes.axison)
    said = " ".join(figure.legends[0].get_title().get_text().split())
    for name in policies:
        for on in devices:
            of_device = next((part for part in said.split("no time on ") if part.startswith(f"{on}:")), "")
            assert (f" {labels[name]}{'*' * (name == 'dsq')} (unsupported" in of_device) == ((name, on) not in timed)


@pytest.mark.parametrize("name", list_shipped("hardware_profiles"))
def test_every_profile_has_a_panel(name):
    drawn = small("glue-mrpc-dsq", "fp32", hardware=[name])
    [axes] = PLOTS["roofline"](drawn).axes
    view = roof(drawn, drawn.policies[0], drawn.job.hardware[0])
    assert bool(view.lacks) != bool(axes.collections)
    assert view.lacks in ("", *(text.get_text() for text in axes.texts))
    assert bool(view.lacks) == (drawn.spent["fp32", name].time_s is None)


def test_a_device_without_a_bandwidth_is_said(tmp_path):
    profile = tmp_path / "d.yaml"
    text = Path(list_shipped("hardware_profiles")["a100-80gb"]).read_text()
    before, _, after = text.partition("dram_bytes_per_s:")
    profile.write_text(f"{before}dram_bytes_per_s: unknown\ndram_bytes:{after.partition('dram_bytes:')[2]}")
    written = texts(save(small("glue-mrpc-dsq", "fp32", hardware=[str(profile)]), "roofline", tmp_path / "f.svg"))
    assert "the profile has no DRAM bandwidth" in written


def test_measured_kernels_are_discs_beside_the_circles_of_a_roofline(tmp_path):
    """Products were measured, ten times as slow as the peak: each has a disc below its circle; others circles alone."""
    text = Path(list_shipped("hardware_profiles")["t4"]).read_text()
    slow = 10 / max(rate.mac_per_s for rate in load_hardware("t4").rates if rate.a.name == "fp32")
    product = {"kind": "product", "launch_s": 0, "s_per_mac": slow, "s_per_element": [0, 0, 0], "spread": 0}
    product["source"] = [next(iter(yaml.safe_load(text)["sources"]))]
    profile = tmp_path / "measured.yaml"
    profile.write_text(text + yaml.safe_dump({"kernels": [product]}))
    drawn = small("glue-mrpc-dsq", "fp32", hardware=[str(profile), "t4"], scope="step", traffic="unfused")
    [counted] = drawn.policies
    view, bare = (roof(drawn, counted, device) for device in drawn.job.hardware)
    places = {(point.kind, point.op_per_byte, point.op_per_s) for point in bare.points}
    assert {(point.kind, point.op_per_byte, point.by_roofline) for point in view.points} == places
    for point in view.points:
        product = point.kind in ("forward", "dgrad", "wgrad")
        assert point.measured == product
        assert not product or point.op_per_s == pytest.approx(2 / slow)
    figure = PLOTS["roofline"](drawn)
    axes, other = figure.axes
    hollow = [mark for mark in axes.collections if not len(mark.get_facecolor())]
    discs = [mark for mark in axes.collections if len(mark.get_facecolor())]
    assert hollow
    assert [float(mark.get_offsets()[0][1]) for mark in discs] == [pytest.approx(2 / slow)] * len(discs)
    assert "by a roofline; discs: measured" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert not faults(figure)
    assert all(len(mark.get_facecolor()) for mark in other.collections)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_memory_stacks_the_components_of_every_policy_and_batch(tmp_path):
    drawn = small("gpt2-small", "fp32", "w8a8+deployed", "dsq")
    batches = (1, 3)
    axes = PLOTS["memory"](drawn, batches=batches).axes[0]
    tops = {}
    for bar in axes.patches:
        tops[bar.get_x()] = max(tops.get(bar.get_x(), 0), bar.get_y() + bar.get_height())
    peaks = [
        of_policy(with_batch(drawn.job, n).graph, counted.policy, "fused")[1].peak_bytes / 1e9
        for counted in drawn.policies
        for n in batches
    ]
    assert [tops[x] for x in sorted(tops)] == pytest.approx(peaks)
    written = texts(save(drawn, "memory", tmp_path / "f.svg", batches=batches))
    assert {"1", "3", "fp32", "W8A8, deployed", "DSQ*", "a100-80gb: 85.9 GB, above"} <= set(written)
    assert {name.replace("_", " ") for name in COMPONENTS} <= set(written)
    title = "gpt2-small: peak memory of a step, traffic fused (* levels recalled, not stated)"
    assert f"{title} micro-batches of 1, 3 sequences (the numbers under the bars)" in written


def test_memory_without_a_device_has_no_line(tmp_path):
    written = texts(save(small("glue-mrpc-dsq", "fp32", hardware=[]), "memory", tmp_path / "f.svg"))
    assert "peak memory, GB (10⁹ bytes)" in written
    assert not any("a100" in text for text in written)


# --- costsim plot -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder.svg").mkdir()
    return tmp_path


def plot(*more):
    return CliRunner().invoke(main, ["plot", *ONE_LAYER[:-1], "fixed16", "schedule", *more])


def test_the_default_file_is_in_the_current_folder(folder):
    for out in ((), ("--out", "new.PDF")):
        before = set(os.listdir())
        done = plot(*out)
        [new] = set(os.listdir()) - before
        assert (done.exit_code, done.output) == (0, f"{new}\n")
    assert {"glue-mrpc-dsq-schedule.svg", "new.PDF"} < set(os.listdir())
    assert (folder / "new.PDF").read_bytes().startswith(BEGINS["pdf"])


def test_a_file_that_is_there_is_replaced(folder):
    (folder / "f.svg").write_text("old " * 100_000)
    assert plot("--out", "f.svg").exit_code == 0
    assert ElementTree.parse("f.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("f.gif", "--out f.gif: expected a name that ends in .svg, .pdf or .png"),
        ("f", "--out f: expected a name that ends in"),
        (".svg", "--out .svg: expected a name that ends in"),
        ("f.svg.", "--out f.svg.: expected a name that ends in"),
        ("", "--out: expected a name"),
        ("file", "--out file: expected a name that ends in"),
        (".", "--out .: expected a name that ends in"),
        ("folder.svg", "folder.svg: Is a directory"),
        ("file/f.svg", "file/f.svg: Not a directory"),
        ("/proc/f.svg", "/proc/f.svg: "),  # nobody may write there
        ("x" * 300 + ".svg", "File name too long"),
    ],
)
def test_what_cannot_be_written(folder, out, says):
    before = {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")}
    done = plot("--out", out)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.is_dir() or path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize("args", [[], ["schedule"], ["glue-mrpc-dsq"], ["glue-mrpc-dsq", "pie"], ["nope", "schedule"]])
def test_plot_usage(folder, args):
    done = CliRunner().invoke(main, ["plot", *args])
    assert (done.exit_code, done.stdout) == (2, "")
    assert not list(Path().glob("*-*.svg"))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["roofline"], "plot roofline: expected a device, --hardware NAME (see costsim list hardware)"),
        (["roofline", "--hardware", "a101"], "hardware profile 'a101': no such file"),
        (["schedule", "--batch", "4"], "--batch: is of plot memory, not of plot schedule"),
        (["memory", "--batch", "4,x"], "--batch: expected whole numbers above 0"),
    ],
)
def test_what_cannot_be_drawn(folder, args, says):
    done = CliRunner().invoke(main, ["plot", *ONE_LAYER, *args])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"costsim: {says}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(Path().glob("*-*.svg"))


@pytest.mark.parametrize("args", [["roofline", "--hardware", "h100-sxm", "--no-overlap"], ["memory", "--batch", "2,4"]])
def test_plots_of_devices(folder, args):
    done = CliRunner().invoke(main, ["plot", *ONE_LAYER, *args])
    assert (done.exit_code, done.output) == (0, f"glue-mrpc-dsq-{args[0]}.svg\n")
    assert ("without overlap" in Path(done.output.strip()).read_text()) == (args[0] == "roofline")


def test_names_with_signs_of_formulas_are_drawn_as_they_are(tmp_path):
    policy = tmp_path / "$x_{$.yaml"
    policy.write_text("description: x\nrules:\n  - {format: fixed8}\n")
    path = save(small("glue-mrpc-dsq", str(policy)), "sensitivity", tmp_path / "figure.svg")
    assert any(text.startswith("$x_{$ against") for text in texts(path))


@pytest.mark.parametrize("kind", ["roofline", "comparison", "memory"])
def test_devices_are_those_of_the_workload_if_it_names_some(kind, folder):
    common = ["plot", "translation-small", kind, "--policy", "fp32"]
    assert CliRunner().invoke(main, [*common, "--set", "hardware=[t4]", "--out", "a/b/own.svg"]).exit_code == 0
    assert CliRunner().invoke(main, [*common, "--hardware", "t4", "--out", "c/named.svg"]).exit_code == 0
    assert (folder / "a" / "b" / "own.svg").read_bytes() == (folder / "c" / "named.svg").read_bytes()
