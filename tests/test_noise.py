"""The proxy for what bits cost in quality: noise that a format leaves in gradients."""

import math
from fractions import Fraction

import numpy as np
import pytest
from conftest import shipped_policy
from threadpoolctl import threadpool_info, threadpool_limits

from costsim.errors import InputError
from costsim.policy.assign import assign
from costsim.reference import noise as noise_module
from costsim.reference.accuracy import gradient_of
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import Executor
from costsim.reference.noise import EXACT, gradient_noise, runs, signal_to_noise
from costsim.reference.shrink import shrink
from costsim.run.job import Request, prepare

GIVEN = (("gemm", "operand"), ("operand",), ("fp32", "bfp4", "bfp8", "bfp16"))


@pytest.fixture(scope="module")
def noise():
    ticks = []
    job, policy = prepare(Request("translation-small")), shipped_policy("fp32")
    measured = gradient_noise(job, policy, *GIVEN, tick=lambda: ticks.append(1))
    assert len(ticks) == runs(job, policy, *GIVEN)
    return measured


def test_more_bits_make_less_noise_in_every_group(noise):
    groups = {group for group, _ in noise}
    assert len(groups) == 6
    for group in groups:
        assert noise[group, EXACT] == 0
        assert 0 < noise[group, "bfp16"] < noise[group, "bfp8"] < noise[group, "bfp4"]


def test_it_falls_with_the_square_of_the_step(noise):
    """Eight bits more make steps 256 times smaller, so noise 65536 times smaller: where nothing else happens."""
    for group in ("operand/wgrad/x", "operand/wgrad/dy"):  # of which gradients are linear
        assert 2**14 < noise[group, "bfp8"] / noise[group, "bfp16"] < 2**18


def test_differences_of_the_loss_are_those_of_a_step_by_hand():
    """In forward products of 4 bits the loss is another; against a step that is taken here, formats and all."""
    job, policy, given = prepare(Request("translation-small")), shipped_policy("fp32"), (GIVEN[0], GIVEN[1])
    formats = ("fp32", "bfp4", "bfp8")
    ticks = []
    measured = gradient_noise(job, policy, *given, formats, tick=lambda: ticks.append(1), proxy="loss")
    assert len(ticks) == runs(job, policy, *given, formats)
    groups = {group for group, _ in measured}
    assert all(measured[group, EXACT] == 0 < measured[group, "bfp4"] for group in groups)
    assert sum(measured[group, "bfp8"] for group in groups) < sum(measured[group, "bfp4"] for group in groups) / 4
    graph = shrink(job, policies=[policy])
    weights = draw_weights(graph, np.random.default_rng(0))
    batches = [draw_batch(graph, np.random.default_rng((0, i))) for i in range(graph.micro_batches)]
    changed = policy.with_(copy="operand", gemm=("forward",), operand=("x",), format="bfp4")
    names = [weight.name for weight in graph.weights if weight.trainable]

    def step(under, rate):
        first = Executor(graph, assign(graph, under), seed=0)
        done = first.gradients({name: weight.astype(np.float32) for name, weight in weights.items()}, batches)
        slope = {name: done.values[gradient_of(graph, name)].astype(np.float64) for name in names}
        if rate is None:
            return math.sqrt(sum((weights[name] ** 2).sum() for name in names)
                             / sum((each**2).sum() for each in slope.values())) / 100  # fmt: skip
        after = {name: (weights[name] - rate * slope.get(name, 0)).astype(np.float32) for name in weights}
        return np.mean(Executor(graph, assign(graph, under), seed=0).gradients(after, batches).losses)

    rate = step(policy, None)
    by_hand = abs(step(changed, rate) - step(policy, rate))
    assert float(measured["operand/forward/x", "bfp4"]) == pytest.approx(by_hand, rel=1e-2)


def test_the_same_bytes_every_time(noise):
    again = gradient_noise(prepare(Request("translation-small")), shipped_policy("fp32"), *GIVEN)
    assert again == noise
    assert all(isinstance(value, Fraction) for value in again.values())


def test_layers_that_the_copy_lacks():
    job = prepare(Request("iwslt17-dsq"))
    with pytest.raises(InputError, match=r"a copy of few layers, which has no operand/decoder\.2; leave layer out"):
        gradient_noise(job, shipped_policy("bfp16"), ("layer",), ("operand",), ("bfp8",))


# --- whole policies ---------------------------------------------------------------------------------------------------

SIDE_BY_SIDE = ("bf16-mixed", "lion", "fp8-lm", "mxfp8", "accuracy-boosters")


def test_what_makes_the_same_gradients_is_run_once_and_nothing_else_is(monkeypatch):
    """Lion has states of its own, and the gradients of AdamW; the numbers are those of running all of them."""
    policies = [shipped_policy(name) for name in SIDE_BY_SIDE]
    pairs = [(prepare(Request("translation-small", assignments=policy.file.set)), policy) for policy in policies]
    sizes, gradients, ran = pairs[0][0].graph.sizes, noise_module._Trial.gradients, []
    monkeypatch.setattr(noise_module._Trial, "gradients", lambda *args: ran.append(1) or gradients(*args))
    once = signal_to_noise(pairs, sizes)
    assert len(ran) == 1 + 5  # the signal, four policies, one of them in two phases
    monkeypatch.setattr(noise_module, "_makes", lambda *_: object())
    assert signal_to_noise(pairs, sizes) == once
    assert len(ran) == 6 + 2 * 6


def test_small_products_are_on_one_thread_until_they_are_done():
    seen = set()

    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    with threadpool_limits(2, user_api="blas"):
        job = prepare(Request("translation-small"))
        signal_to_noise([(job, shipped_policy("bf16-mixed"))], job.graph.sizes, tick=lambda: seen.update(threads()))
        assert threads() == {2}
    assert seen == {1}
