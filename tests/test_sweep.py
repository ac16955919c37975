"""Sweeps: each point is the run that --set makes, all of them in one table."""

import csv
import io
import json
import weakref

import pytest
from click.testing import CliRunner

import costsim
from costsim.cli import main
from costsim.cost.memory import of_policy
from costsim.errors import InputError
from costsim.plots import sweep as sweep_plot
from costsim.plots.style import short
from costsim.results import frame, records
from costsim.run import peaks, simulate, spread, sweep
from costsim.run import tables as run_tables
from costsim.run.job import Request, prepare
from costsim.tables import memory as memory_tables
from costsim.tables import sweep as sweep_tables
from costsim.tables.styles import render

SWEEP = ["batch=4,8", "model.layers=1,2"]


@pytest.fixture(scope="module")
def swept():
    return sweep.prepared(sweep.points(SWEEP), workload="glue-mrpc-dsq", policies=["dsq", "fixed16"])


def document_of(swept, by="policy", style=None):
    """The document of a sweep, all points worked out here."""
    return sweep_tables.document(swept, by, list(sweep_tables.parts(swept, by, style)))


def rows_of(swept, by="policy"):
    return document_of(swept, by).records()


def test_points_are_all_combinations_the_last_field_fastest():
    assert sweep.points(SWEEP) == [
        {"batch.sequences": batch, "model.layers": layers} for batch in ("4", "8") for layers in ("1", "2")
    ]
    assert sweep.points([]) == [{}]
    assert sweep.points(["batch=4,4"]) == [{"batch.sequences": "4"}]


@pytest.mark.parametrize("text", ["batch", "=4", "batch=", "batch=4,,8", "trainable=[a],b", "x={a: 1}"])
def test_what_is_no_sweep(text):
    with pytest.raises(InputError, match="expected FIELD=VALUE,VALUE"):
        sweep.points([text])


@pytest.mark.parametrize(
    ("texts", "values", "dtype"),
    [
        (["4", "8"], [4, 8], "int64"),
        (["0.5", "1"], [0.5, 1], "float64"),
        (["1", "inf"], ["1", "inf"], "category"),
        (["nan", "0.5"], ["nan", "0.5"], "category"),
        (["full", "4"], ["full", "4"], "category"),
    ],
)
def test_a_swept_column_is_numeric_if_all_its_values_are_finite_numbers(texts, values, dtype):
    column = frame.typed({"model.field": texts})["model.field"]
    assert (column.tolist(), str(column.dtype)) == (values, dtype)
    assert (dtype == "category") == any(isinstance(sweep.value(text), str) for text in texts)


def test_a_field_is_swept_once():
    with pytest.raises(InputError, match=r"batch\.sequences is swept twice"):
        sweep.points(["batch=4", "batch.sequences=8"])


@pytest.mark.parametrize("by", ["policy", "phase", "reduction"])
def test_each_point_is_the_run_with_these_fields_set(swept, by):
    rows = rows_of(swept, by)
    expected = []
    for point in swept.where:
        alone = simulate.run(
            "glue-mrpc-dsq", ["dsq", "fixed16"], assignments=[f"{name}={text}" for name, text in point.items()]
        )
        expected += records.full_records(alone, by)
    assert [{k: v for k, v in row.items() if k not in swept.where[0]} for row in rows] == expected
    names = ["policy"] if by != "phase" else ["policy", "phase"]
    assert list(rows[0])[: len(names) + 2] == [*names, "batch.sequences", "model.layers"]
    assert [row["batch.sequences"] for row in rows] == sorted(row["batch.sequences"] for row in rows)


@pytest.mark.parametrize("style", ["table", "json", "csv", "markdown", "latex"])
@pytest.mark.parametrize("by", ["policy", "layer", "reduction", "assumption"])
def test_every_format_shows_every_point(swept, by, style):
    text = render(document_of(swept, by, style), style)
    if style == "json":
        data = json.loads(text)
        assert data["swept"] == ["batch.sequences", "model.layers"]
        assert "parameters" not in data["convention"]
        assert data["convention"]["law"] == "product"
        assert {(row["batch.sequences"], row["model.layers"]) for row in data["rows"]} == {
            (4, 1),
            (4, 2),
            (8, 1),
            (8, 2),
        }
    elif style == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {(row["batch.sequences"], row["model.layers"]) for row in rows} == {(a, b) for a in "48" for b in "12"}
    else:
        assert "batch" in text
        assert "layers" in text
    if style == "table":
        assert max(map(len, text.splitlines())) <= 80


class RowWithReferences(peaks.Row):
    __slots__ = ("__weakref__",)


@pytest.mark.parametrize("style", ["table", "json", "csv", "latex", "frame", "memory"])
def test_results_of_a_long_sweep_are_not_kept(style, monkeypatch):
    """Each point is counted once for a view, and its result, which takes megabytes, is let go."""
    made, alive = [], []

    def watched(make):
        def watch(*arguments):
            result = make(*arguments)
            made.append(weakref.ref(result))
            alive.append(sum(reference() is not None for reference in made))
            return result

        return watch

    monkeypatch.setattr(sweep, "KEPT", 3)
    counting = watched(simulate.execute)
    for module in (simulate, run_tables):
        monkeypatch.setattr(module, "execute", counting)
    monkeypatch.setattr(peaks, "Row", watched(RowWithReferences))
    where = sweep.points([f"batch={','.join(map(str, range(1, 13)))}"])
    options = {"workload": "glue-mrpc-dsq", "policies": ["fp32"], "assignments": ["model.layers=1"]}
    if style == "memory":
        asked = peaks.Asked(places=sweep.places(sweep.prepared(where, **options)))
        render(memory_tables.document(prepare(Request(**options)), asked), "table")
    elif style == "frame":
        columns = frame.swept_columns(sweep.prepared(where, **options), False, spread.HERE)
        assert len(set(frame.of_parts(where, columns)["batch.sequences"])) == 12
    else:
        render(document_of(sweep.prepared(where, **options), style=style), style)
    assert len(made) == 12
    assert max(alive) <= 5


def test_memory_of_a_sweep():
    job = prepare(Request("gpt2-small", ["bf16-mixed"]))
    options = {"workload": "gpt2-small", "policies": ["bf16-mixed"]}
    places = sweep.places(sweep.prepared(sweep.points(["model.layers=1,2"]), **options))
    asked = peaks.Asked(places=places, capacity_bytes=10**10)
    rows = json.loads(render(memory_tables.document(job, asked), "json"))["rows"]
    for row, layers in zip(rows, (1, 2), strict=True):
        one = prepare(Request("gpt2-small", ["bf16-mixed"], assignments=[f"model.layers={layers}"]))
        alone = peaks.rows(one, peaks.Asked(), lambda row: row)[0]
        assert row["model.layers"] == layers
        assert row["peak_memory_bytes"] == str(alone.memory.peak_bytes)
        assert row["parameters"] == alone.job.graph.parameters
    assert rows[0]["largest_batch"] > rows[1]["largest_batch"]
    text = render(memory_tables.document(job, asked), "table")
    assert "bf16-mixed, model.layers=2: of these, batch 8 fits" in text
    assert max(map(len, text.splitlines())) <= 80


def run_cli(*arguments):
    return CliRunner().invoke(main, arguments)


def test_on_the_command_line(tmp_path):
    small = ("--set", "model.layers=1", "--policy", "dsq")
    result = run_cli("run", "glue-mrpc-dsq", *small, "--sweep", "batch=2,4", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"glue-mrpc-dsq-sweep.{ending}" for ending in ("csv", "json", "md", "tex", "txt")
    ]
    result = run_cli(
        "plot", "glue-mrpc-dsq", "sweep", *small, "--sweep", "batch=2,4", "--hardware", "h100-sxm", "--out",
        str(tmp_path / "s.svg"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "time on h100-sxm" in (tmp_path / "s.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--sweep", "batch=4", "--assert", "dsq.macs > 1"), "--assert: is of one run; leave out --sweep"),
        (("run", "--sweep", "batch=4,none"), "batch.sequences"),
        (("run", "--sweep", "bath.sequences=4"), "did you mean 'batch'"),
        (("memory", "--sweep", "batch=0"), "batch.sequences"),
        (("run", "--sweep", "policies=dsq,fixed16"), "--sweep policies: not a field to sweep"),
        (("plot", "sweep"), "plot sweep: expected a field, --sweep FIELD=VALUE,VALUE,..., such as batch=1,4,16"),
        (("plot", "roofline", "--sweep", "batch=4"), "--sweep: is of plot sweep, not of plot roofline"),
    ],
)
def test_bad_sweeps(arguments, message):
    command, *rest = arguments
    result = run_cli(command, "glue-mrpc-dsq", *rest)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


CONVENTIONS = [
    ("traffic", ["unfused", "fused"]),
    ("scope", ["gemm", "layer", "step"]),
    ("law", ["product", "bops"]),
    ("baseline", ["fixed16", "fixed32"]),
]


@pytest.mark.parametrize(("name", "texts"), CONVENTIONS, ids=[name for name, _ in CONVENTIONS])
def test_a_swept_convention_is_that_of_each_run(name, texts):
    """It once was in the label only: the numbers were all those of the file's convention."""
    options = {"assignments": ["model.layers=1"], "policies": ["dsq"], "scope": "step"}
    swept = sweep.prepared([{name: text} for text in texts], workload="glue-mrpc-dsq", **options)
    alone = [simulate.run("glue-mrpc-dsq", **{**options, name: text}) for text in texts]
    expected = [record for result in alone for record in records.full_records(result, "policy")]
    assert [{k: v for k, v in row.items() if k != name} for row in rows_of(swept)] == expected
    assert f"{name} as swept" in render(document_of(swept), "table") or name == "baseline"
    table = costsim.load("glue-mrpc-dsq", {"model.layers": 1}).sweep({name: texts}, policies="dsq", scope="step")
    ratios = table.compare()
    ours = ratios[ratios["policy"] == "dsq"][["arithmetic_reduction", "dram_reduction"]].values.tolist()
    assert ours == [[row["arithmetic_reduction"], row["dram_reduction"]] for row in expected]


def test_a_swept_buffer_is_that_of_each_run():
    options = {"workload": "glue-mrpc-dsq", "policies": ["dsq"], "scope": "step"}
    sizes = ["32768", "1048576"]
    swept = sweep.run([{"buffer_bytes": size} for size in sizes], traffic="tiled", buffer_bytes=1000, **options)
    alone = [simulate.run(traffic="tiled", buffer_bytes=int(size), **options) for size in sizes]
    assert [result.policies[0].total for _, result in swept] == [result.policies[0].total for result in alone]
    swept = sweep.run(
        [{"traffic": traffic} for traffic in ("unfused", "fused", "tiled")], buffer_bytes=131072, **options
    )
    moved = [result.policies[0].total.dram_bits for _, result in swept]
    assert moved[0] > moved[1] < moved[2]


SIZES = {
    "TB": 1e12,
    "GB": 1e9,
    "MB": 1e6,
    "min": 60,
    "s": 1,
    "kJ": 1e3,
    "J": 1,
    "Gbit": 1e9,
    "Tbit": 1e12,
    "Pbit": 1e15,
}  # of units
FIGURE = {"workload": "glue-mrpc-dsq", "policies": ["dsq", "fixed16"], "hardware": ["h100-sxm"]}


def drawn_sweep(*fields, relative=False, **options):
    """The sweep, and its figure's panels by title."""
    swept = sweep.prepared(sweep.points(fields), **FIGURE, assignments=["model.layers=1"], **options)
    parts = list(sweep_tables.parts(swept, *(("reduction", "table") if relative else ("policy", "csv"))))
    figure = sweep_plot.sweep(swept, parts, relative)
    return swept, {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_the_figure_shows_the_ratios():
    swept, panels = drawn_sweep("batch=4,8", relative=True)
    rows = [records.records(result, "reduction")[0] for _, result in sweep.results(swept)]
    of_device = [row["hardware"]["h100-sxm"] for row in rows]
    expected = {
        "arithmetic": [row["arithmetic_reduction"] for row in rows],
        "DRAM traffic": [row["dram_reduction"] for row in rows],
        "peak memory of a step": [row["memory_reduction"] for row in rows],
        "time on h100-sxm": [row["time_reduction"] for row in of_device],
        "energy on h100-sxm": [row["energy_reduction"] for row in of_device],
    }
    for title, heights in expected.items():
        drawn = {line.get_label(): line for line in panels[title].get_lines()}["DSQ*"]
        assert list(drawn.get_ydata()) == heights, title
        assert list(drawn.get_xdata()) == [4, 8]
    assert len({tuple(heights) for heights in expected.values()}) == len(expected)


def test_the_figure_shows_amounts_and_where_a_devices_memory_ends():
    """Against the results themselves, in the units that the axes name; the capacity is NVIDIA's 80 GB."""
    swept, panels = drawn_sweep("batch=4,512")
    amounts = {
        "DRAM traffic": lambda result: result.policies[0].total.dram_bits,
        "peak memory of a step": lambda result: (
            of_policy(result.job.graph, result.policies[0].policy, result.job.convention.traffic)[1].peak_bytes
        ),
        "time on h100-sxm": lambda result: result.spent["dsq", "h100-sxm"].time_s,
        "energy on h100-sxm": lambda result: result.spent["dsq", "h100-sxm"].energy_j,
    }
    results = [result for _, result in sweep.results(swept)]
    for title, amount in amounts.items():
        drawn = {line.get_label(): line for line in panels[title].get_lines()}["DSQ*"]
        unit = SIZES[panels[title].get_ylabel()]
        assert [y * unit for y in drawn.get_ydata()] == pytest.approx([amount(result) for result in results]), title
    memory = panels["peak memory of a step"]
    lines = [line for line in memory.get_lines() if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] * SIZES[memory.get_ylabel()] for line in lines] == [80e9]
    assert [text.get_text() for text in memory.texts] == [f"h100-sxm: {short(lines[0].get_ydata()[0])}"]
    low, high = memory.get_ylim()
    assert low < lines[0].get_ydata()[0] < high
    assert panels["arithmetic"].get_ylabel() in ("10¹⁵ bit²", "10¹⁸ bit²")


def test_several_fields_become_panels():
    """Twice the steps move twice as much."""
    _, panels = drawn_sweep("batch=4,8", "training.steps=10,20")
    moved = {}
    for steps in (10, 20):
        axes = panels[f"DRAM traffic\ntraining.steps {steps}"]
        assert axes.get_xlabel() == "batch.sequences"
        line = {line.get_label(): line for line in axes.get_lines()}["fixed 16"]
        assert list(line.get_xdata()) == [4, 8]
        moved[steps] = [y * SIZES[axes.get_ylabel()] for y in line.get_ydata()]
    assert moved[20] == pytest.approx([2 * y for y in moved[10]])
    assert moved[10][0] < moved[10][1]


def test_a_swept_number_of_steps_counts():
    swept = sweep.run(
        [{"training.steps": "10"}, {"training.steps": "20"}], workload="glue-mrpc-dsq", policies=["fixed16"]
    )
    macs = [result.policies[0].total.macs for _, result in swept]
    assert macs[1] == 2 * macs[0] > 0


def test_each_fault_of_a_sweep_is_a_line():
    with pytest.raises(InputError) as error:
        sweep.prepared([{"tokens": "1"}], workload="gpt2-small", hardware=["h100"])
    unknown, device = str(error.value).split("\n")
    assert unknown.startswith("--sweep tokens=1: unknown key")
    assert device.startswith("hardware profile 'h100'")


def test_policies_of_one_colour_have_markers_of_their_own():
    looks = [(line["color"], line["marker"]) for line in map(sweep_plot._line, range(16))]
    assert len(set(looks)) == 16
