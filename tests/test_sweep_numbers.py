"""Sweeps over levels and numbers of policies: from tables, and yet what each policy by itself counts."""

import json
from itertools import product

import pytest
from click.testing import CliRunner
from conftest import one_layer

import costsim
from costsim.cli import main
from costsim.errors import InputError
from costsim.results.records import full_records
from costsim.run import sweep, tables
from costsim.run.job import Request, prepare
from costsim.run.simulate import execute
from costsim.tables import sweep as sweep_tables

SMALL = [*one_layer("iwslt17-dsq"), "model.d_model=32", "model.ffn_dim=48", "batch.sequences=4"]
SMALL += ["model.source_vocab=40", "model.target_vocab=40", "batch.source_tokens=5", "batch.target_tokens=5"]
SWEEP = ["levels.q0=2,16", "numbers.box=8,32", "levels.q2=3,8", "batch.sequences=4,6"]


def changed(q0, box, q2):
    """dsq with other levels and boxes, as its file would have them: phases that are then alike are one."""
    others = [(2, 16), (4, 16), (4, 16)]  # q1 and q3 of its phases
    levels = [[q0, q1, q2, q3] for q1, q3 in others]
    phases = [{"levels": levels[0], "until_fraction": 0.99}, {"levels": levels[2]}]
    return costsim.load_policy("dsq").with_(called="dsq", phases=phases, numbers={"box": box})


@pytest.mark.parametrize(
    ("by", "options"),
    [
        ("policy", {}),
        ("policy", {"traffic": "fused", "scope": "step", "law": "energy"}),
        ("policy", {"traffic": "eager", "scope": "layer"}),
        ("policy", {"law": "msfp"}),  # which has no price for some of the pairs
        ("reduction", {"scope": "step"}),
    ],
)
def test_points_are_runs_of_the_changed_policy(by, options):
    options = {"workload": "iwslt17-dsq", "policies": ("dsq", "bfp16"), **options}
    swept = sweep.prepared(sweep.points(SWEEP), assignments=SMALL, **options)
    assert tables.tabled(swept, by)
    parts = list(sweep_tables.parts(swept, by, "json"))
    assert len(parts) == 16
    for point, part in zip(swept.where, parts, strict=True):
        dsq = changed(*(int(point[name]) for name in ("levels.q0", "numbers.box", "levels.q2")))
        assignments = [*SMALL, f"batch.sequences={point['batch.sequences']}"]
        request = {**options, "policies": (dsq, "bfp16"), "assignments": assignments}
        expected = full_records(execute(prepare(Request(**request))), by)
        for row, other in zip(part["rows"], expected, strict=True):
            assert {**row, "setup": ""} == {**other, "setup": ""}, point


def test_a_graph_is_made_and_compiled_once_for_all_numbers(monkeypatch):
    made = []
    compiled = tables.compile_totals
    monkeypatch.setattr(tables, "compile_totals", lambda *args: made.append(args[0]) or compiled(*args))
    swept = sweep.prepared(sweep.points(SWEEP), workload="iwslt17-dsq", policies=("dsq",), assignments=SMALL)
    assert [list(point)[-1] for point in swept.where] == ["levels.q2"] * 16  # fields change last
    assert len(list(tables.results(swept, peaks=False))) == 16
    assert len(made) == 2 * 3  # sizes, phases
    assert len({id(graph) for graph in made}) == 2


def test_in_python_and_on_the_command_line(tmp_path):
    workload = costsim.load("iwslt17-dsq", dict(text.split("=", 1) for text in SMALL))
    values = {"levels.q0": [2, 4], "numbers.exponent": [0, 8]}
    table = workload.sweep(values, policies=["dsq"], totals=True).table
    plain = workload.sweep(values, policies=["dsq"]).by()
    sums = table[table["policy"] == "dsq"]
    for (q0, exponent), of_point in sums.groupby(["levels.q0", "numbers.exponent"]):
        [row] = (
            plain[(plain["levels.q0"] == q0) & (plain["numbers.exponent"] == exponent)]
            .query("policy == 'dsq'")
            .to_dict("records")
        )
        for name in ("macs", "arithmetic_cost", "dram_read_bits", "dram_written_bits", "quantize_ops", "vector_ops"):
            assert sum(of_point[name].astype(object) * of_point["steps"].astype(object)) == row[name], name

    def costsim_run(*more):
        args = ["run", "iwslt17-dsq", "--policy", "dsq", "--sweep", "levels.q0=2,4", "--sweep", "numbers.box=8,16"]
        sets = [part for text in SMALL for part in ("--set", text)]
        done = CliRunner().invoke(main, [*args, *sets, *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    rows = json.loads(costsim_run("--format", "json"))["rows"]
    assert [(row["levels.q0"], row["numbers.box"]) for row in rows] == list(product((2, 4), (8, 16)))
    shown = costsim_run()
    assert "a swept level has its value in all phases" in " ".join(shown.split())
    path = tmp_path / "points.jsonl"
    costsim_run("--resume", str(path))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:3]), encoding="utf-8")  # two points of four
    assert costsim_run("--resume", str(path)) == shown
    assert path.read_text(encoding="utf-8") == "".join(lines)


def test_devices_and_memory_take_swept_numbers_too():
    arguments = ["--policy", "dsq", "--sweep", "levels.q1=2,16", *(p for text in SMALL for p in ("--set", text))]
    run = CliRunner().invoke(main, ["run", "iwslt17-dsq", *arguments, "--hardware", "t4", "--format", "json"])
    memory = CliRunner().invoke(main, ["memory", "iwslt17-dsq", *arguments, "--format", "json"])
    assert [run.exit_code, memory.exit_code] == [0, 0], run.output + memory.output
    narrow, wide = json.loads(run.stdout)["rows"]
    assert narrow["hardware"]["t4"]["time_s"] > 0
    assert int(narrow["dram_bits"]) < int(wide["dram_bits"])
    peaks = [row["peak_memory_bytes"] for row in json.loads(memory.stdout)["rows"]]
    assert [int(peak) for peak in peaks] == [int(row["peak_memory_bytes"]) for row in (narrow, wide)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("levels.q9=2", "levels.q9: no policy of the run has it; did you mean 'levels.q0'"),
        ("numbers.bx=2", "did you mean 'numbers.box'"),
        ("levels.q0=two", "expected whole numbers from 1 to 64"),
        ("numbers.box=70000", "expected whole numbers from 0 to 65536"),
        ("levels.q0=2,40", "levels.q0=40: policy dsq: .*bits must be from 2 to 32"),
        ("numbers.box=" + ",".join(map(str, range(20001))), "at most 20000"),
    ],
)
def test_what_is_no_sweep_of_numbers(text, message):
    with pytest.raises(InputError, match=message):
        sweep.prepared(sweep.points([text]), workload="iwslt17-dsq", policies=("dsq",))
