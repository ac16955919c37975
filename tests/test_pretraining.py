"""The questions of the paper on quantized pre-training: relations, and closed forms of a whole run."""

from itertools import pairwise

import pytest
from conftest import decoder_step

from costsim.cost.memory import COMPONENTS
from costsim.devices.profile import load_hardware
from costsim.errors import InputError
from costsim.plots import papers
from costsim.run import pretraining, simulate
from costsim.run.job import Request, prepare

A100 = "a100-80gb"


def test_linear_layers_are_those_with_weights():
    """q, k, v, out, fc1, fc2 and the head, each in forward, dgrad and wgrad; attention's two products are not."""
    graph = decoder_step(layers=1)
    linear = [op for op in graph.ops if pretraining.is_linear(graph, op)]
    names = ("q", "k", "v", "out", "fc1", "fc2", "logits")
    assert [op.name.rpartition(".")[2] for op in linear if op.gemm == "forward"] == list(names)
    for gemm in ("dgrad", "wgrad"):
        assert sum(op.gemm == gemm for op in linear) == len(names)
    others = [op for op in graph.ops if op.gemm and op not in linear]
    assert len(others) == 3 * 2
    assert all("scores" in op.name or "context" in op.name for op in others)


@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_shares_fall_with_the_length_and_rise_with_the_width(attention):
    sizes, lengths = ("gpt2-small", "gpt2-xl"), (256, 1024, 2048)
    by_size = {
        size: [pretraining.linear_share(size, "bf16-mixed", A100, attention, tokens, 2048) for tokens in lengths]
        for size in sizes
    }
    for shares in by_size.values():
        assert [share.sequences for share in shares] == [8, 2, 1]
        assert all(0 < share.share < 1 for share in shares)
        assert all(before.share > after.share for before, after in pairwise(shares))
        assert shares[0].linear_s == pytest.approx(shares[-1].linear_s)  # the same products
    assert all(small.share < large.share for small, large in zip(*by_size.values(), strict=True))


def test_linear_layers_take_what_their_products_take():
    """12 d^2 MACs a token forward and twice that backward, at 156e12 a second: compute bound at this width."""
    share = pretraining.linear_share("gpt2-xl", "bf16-mixed", A100, "flash", 1024, 8192)
    graph = prepare(Request("gpt2-xl")).graph
    products = 3 * 12 * 1600**2 * 8192 * graph.micro_batches / 156e12
    assert products < share.linear_s < 1.15 * products  # with epilogues


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gpt2-small", "bf16-mixed", A100, "flash", 1000, 8192), "sequences of 1000 tokens do not divide 8192 tokens"),
        (("gpt2-small", "fixed32", "h100-sxm", "flash", 1024, 1024), "fixed32 has no time on h100-sxm"),
        (("glue-mrpc-dsq", "fp32", A100, "eager", 128, 128), "no layer is named decoder.1"),
    ],
)
def test_what_has_no_share_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        pretraining.linear_share(*arguments)


def test_peaks_grow_with_the_batch_by_stash_and_logits_alone():
    peaks = pretraining.peaks(["gpt2-small"], ["bf16-mixed"], [4, 8, 16])
    assert [peak.sequences for peak in peaks] == [4, 8, 16]
    for peak, double in pairwise(peaks):
        assert tuple(peak.components) == COMPONENTS
        for name in ("stash", "logits"):
            assert double.components[name] == pytest.approx(2 * peak.components[name], rel=1e-3)
        for name in ("weights", "master_weights", "gradients", "optimizer_states"):
            assert double.components[name] == peak.components[name]
    fixed = sum(peaks[0].components[name] for name in COMPONENTS[:4])
    alone = 1024 * 768 + (12 * 13 + 2) * 768  # positions, biases and norms have no bf16 copy: no product reads them
    assert fixed == 18 * 124_445_184 - 2 * alone  # bf16 copy; fp32 weight, gradient and two moments
    assert len(papers.peaks(peaks, load_hardware(A100)).axes[0].get_xticks()) == 3


def test_a_run_has_its_closed_forms():
    """300,000 steps of 512 x 1024 tokens; FLOPs as tests/test_decoder.py has them for a micro-batch."""
    run = pretraining.totals("gpt2-small", "bf16-mixed", A100, 4, 4.3)
    assert run.tokens == 300_000 * 512 * 1024 == 157_286_400_000
    d, layers, context, vocab = 768, 12, 1024, 50264
    forward = run.tokens * (layers * (12 * d * d + 2 * context * d) + d * vocab)
    assert run.model_flops == 2 * 3 * forward
    assert run.flops == 2 * (3 * forward + run.tokens * layers * context * d)  # flash: the scores once more
    assert run.peak_flops == 312 * 10**12
    at_peak = run.flops / (4 * run.peak_flops) / 86400
    assert at_peak < run.predicted_days < run.stated_days
    assert run.utilisation == pytest.approx(run.predicted_days / 4.3)
    assert run.six_n_utilisation < run.model_utilisation < run.hardware_utilisation < run.utilisation
    # shared/papers.md, inferred: about 79 TFLOP/s a GPU by 6 N
    assert run.six_n_utilisation * 312 == pytest.approx(79, rel=0.01)


def test_a_run_that_a_device_cannot_do_is_refused():
    with pytest.raises(InputError, match="fixed32 has no time on a100-80gb"):
        pretraining.totals("gpt2-small", "fixed32", A100, 4, 4.3)


def test_ratios_are_those_of_the_run():
    result = simulate.run("gpt2-small", ["bf16-mixed", "w8a8+as-coded", "w8a8+deployed"], hardware=[A100])
    base, coded, deployed = pretraining.ratios(result)
    assert base[1:] == (1, 1, 1, 1)
    assert coded.dram < 1 < deployed.dram
    assert coded.time < 1 < deployed.time
    assert deployed.dram == float(result.policies[2].total.reductions(result.baseline.total).dram_reduction)
    alone = pretraining.ratios(simulate.run("gpt2-small", ["fp32"]))
    assert alone[0].time is None
    assert alone[0].memory < 1


def test_shares_are_drawn_a_line_each():
    made = [pretraining.Share(name, "flash", 2**k, 1, 1.0, 1.5 + k) for name in ("a", "b") for k in (8, 9)]
    [axes] = papers.linear_shares(made).axes
    assert {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()} == {"a": [256, 512], "b": [256, 512]}
