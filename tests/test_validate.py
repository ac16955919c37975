"""Counts are what the reference measures; and a planted miscount of any sort is found."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import POLICIES, adamw, pairs, shipped_policy
from conftest import STEPS as FAMILIES

from costsim.cli import main
from costsim.cost import count as counting
from costsim.cost.count import count
from costsim.errors import InputError
from costsim.formats.format import Format
from costsim.graph import ops
from costsim.graph.fusion import group_ops
from costsim.graph.kinds import contraction
from costsim.inputs import files, schema, schema_policy
from costsim.inputs.document import Document
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.reference.accuracy import noise_db
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.numpy_ops import contract
from costsim.reference.shrink import shrink
from costsim.reference.validate import Difference, compare, validate
from costsim.run.job import Request, prepare

COMPOSED = ["w8a8+as-coded", "w8a8+deployed"]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def graph(request):
    layers = {"decoder_layers": 1} if request.param == "encoder-decoder" else {"layers": 1}
    return FAMILIES[request.param](dropout=0.1, micro_batches=2, optimizer=adamw(clip_norm=1.0), **layers)


def measure(graph, rules, phase=0, traffic="unfused", dtype=np.float32, **options):
    rng = np.random.default_rng(0)
    weights, batches = draw_weights(graph, rng, dtype), [draw_batch(graph, rng, dtype) for _ in range(2)]
    assignment = assign(graph, rules, phase) if rules else None
    return run(graph, weights, batches, assignment=assignment, group=group_ops(graph, traffic), **options)


@pytest.mark.parametrize(("graph", "name"), pairs([*POLICIES, *COMPOSED]), indirect=["graph"])
def test_every_op_is_counted_as_it_is_measured(graph, name):
    rules = shipped_policy(name)
    for phase in range(len(rules.file.phases)):
        ran = measure(graph, rules, phase, measure=True)
        assert not list(compare(count(graph, assign(graph, rules, phase)), ran.measured))


@pytest.mark.parametrize("name", ["fixed16", "dsq", "bf16-mixed", "fp8-block", "w8a8+as-coded"])
def test_fused_kernels_too_and_the_numbers_are_the_same(graph, name):
    rules = shipped_policy(name)
    unfused, fused = (measure(graph, rules, traffic=traffic, measure=True) for traffic in ("unfused", "fused"))
    assert not list(compare(count(graph, assign(graph, rules), "fused"), fused.measured))
    for name in unfused.values:
        np.testing.assert_array_equal(unfused.values[name], fused.values[name])


def test_packing_changes_no_number(graph):
    for name in ("dsq", "fp8-tensor", "nvfp4", "w8a8"):
        plain, packed = (measure(graph, shipped_policy(name), measure=flag) for flag in (False, True))
        assert plain.losses == packed.losses


FP32 = {"description": "all fp32", "rules": ({"format": "fp32"},)}


def test_all_fp32_is_the_executor_without_casts_bit_for_bit(graph):
    rules = Policy(
        "fp32", schema.validate(schema_policy.Policy, Document("fp32.yaml", FP32)), Document("fp32.yaml", {})
    )
    casts, none = measure(graph, rules), measure(graph, None)
    for name, x in none.values.items():
        assert casts.values[name].tobytes() == x.tobytes(), name


def test_a_contraction_is_einsum_and_counts_its_products():
    rng = np.random.default_rng(0)
    for equation, a, b in (("abc,cde->abde", (2, 3, 5), (5, 7, 2)), ("bqhe,bkhe->bhqk", (2, 3, 4, 5), (2, 6, 4, 5))):
        x, w = rng.normal(size=a), rng.normal(size=b)
        y, products = contract(equation, x, w)
        np.testing.assert_allclose(y, np.einsum(equation, x, w), rtol=1e-12)
        assert products == y.size * 5  # of both, the summed dim


# --- planted miscounts ------------------------------------------------------------------------------------------------


SMALL = ("model.encoder_layers=1", "model.decoder_layers=1", "training.micro_batches=1")


def check(name="dsq"):
    return validate(prepare(Request("iwslt17-dsq", [name], assignments=SMALL)))


def test_nothing_is_found_where_nothing_is_planted():
    assert check().passed


@pytest.mark.usefixtures("nothing_known")
def test_a_wrong_work_is_found():
    kind = contraction("btd,vd->btv")
    object.__setattr__(kind, "work", ((("b", "t", "v"), {"mac": 1}),))  # the summed index forgotten
    try:
        validation = check()
    finally:
        contraction.cache_clear()
    assert {(wrong.op, wrong.what) for wrong in validation.checks[0].differences} == {("head.logits", "MACs")}
    assert not validation.passed


@pytest.mark.usefixtures("nothing_known")
def test_a_format_one_bit_off_is_found(monkeypatch):
    bits_of_runs = Format.bits_of_runs
    monkeypatch.setattr(Format, "bits_of_runs", lambda self, runs: bits_of_runs(self, runs) + (self.name == "bfp2"))
    counting._memo.cache_clear()
    differences = check().checks[0].differences
    counting._memo.cache_clear()
    assert differences
    assert all("bits" in wrong.what and abs(wrong.counted - wrong.measured) == 1 for wrong in differences)


@pytest.mark.usefixtures("nothing_known")
def test_a_skipped_copy_is_found(monkeypatch):
    traffic = counting.tensor_traffic
    monkeypatch.setattr(counting, "tensor_traffic", lambda *given: traffic(*given)._replace(copies=[]))
    counting._memo.cache_clear()
    differences = check().checks[0].differences
    counting._memo.cache_clear()
    assert any(wrong.what == "conversions" for wrong in differences)
    assert any(wrong.what.startswith("bits written of") and wrong.counted == 0 for wrong in differences)


@pytest.mark.usefixtures("nothing_known")
def test_a_wrong_gradient_is_found():
    kind = ops.OPS["relu_grad"]
    before = kind.run
    object.__setattr__(kind, "run", lambda dy, y: before(dy, y) * 1.001)
    try:
        validation = check("fixed32")
    finally:
        object.__setattr__(kind, "run", before)
    assert validation.gradient_error > 1e-6
    assert not validation.passed


# --- shrinking, and the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", files.list_shipped("workloads"))
def test_shrinking_keeps_every_kind_of_op(name):
    job = prepare(Request(name))
    graph = shrink(job)
    assert {(op.kind.name, op.phase) for op in graph.ops} == {(op.kind.name, op.phase) for op in job.graph.ops}
    assert max(graph.sizes.values()) <= 37
    assert any(size % 2 for size in graph.sizes.values())


def test_a_model_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    with pytest.raises(InputError, match=r"would need about \d+ bytes of memory, 1000000 are free"):
        check()


def invoke(*args):
    return CliRunner().invoke(
        main, ["validate", "glue-mrpc-dsq", "--policy", "stash-bfp", "--set", "model.layers=1", *args]
    )


@pytest.mark.parametrize("how", [[], ["--measure"]])
def test_a_step_of_many_devices_is_refused_by_its_field(how):
    done = CliRunner().invoke(main, ["validate", "llama-small", "--set", "parallel.data=2", *how])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("costsim: --set parallel.data=2: this machine is one device; leave parallel out")


def test_the_command_says_that_counts_are_equal():
    done = invoke()
    assert done.exit_code == 0
    assert "all counts are what was measured" in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_json_and_losses():
    done = invoke("--steps", "3", "--format", "json")
    data = json.loads(done.output)
    assert data["passed"] is True
    assert [check["differences"] for check in data["checks"]] == [[]]
    assert {name: len(losses) for name, losses in data["losses"].items()} == {"plain float32": 3, "stash-bfp": 3}
    assert data == json.loads(invoke("--steps", "3", "--format", "json").output)


def test_a_miscount_exits_with_one(monkeypatch):
    monkeypatch.setattr(
        "costsim.reference.validate.compare", lambda rows, measured: iter([Difference("op", "MACs", 1, 2)])
    )
    done = invoke()
    assert done.exit_code == 1
    assert "counted 1, measured 2" in done.output


def test_numbers_that_a_format_cannot_hold_are_one_line(monkeypatch):
    # Masked scores stay minus infinity.
    monkeypatch.setattr("costsim.reference.accelerator._storable", lambda x, format: x)
    done = invoke()
    assert done.exit_code == 2
    assert done.output == "costsim: stash-bfp: bfp16 holds no NaN or infinity\n"


def test_noise():
    x = np.array([3.0, 4.0])
    assert noise_db(x, x) == float("inf")
    assert noise_db(x, x + [0.3, 0.4]) == pytest.approx(20)
    assert noise_db(x * 0, x) is None
