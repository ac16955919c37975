"""Optimizers beside Adam against their authors' equations; counts against the reference. PyTorch's: tests/pytorch."""

from typing import get_args

import numpy as np
import pytest
from conftest import STEPS, adamw, in_turn, miscounts, policy, shipped_policy

from costsim.errors import InputError
from costsim.models.training_step import training_step
from costsim.models.update import MATRICES_ONLY, OPTIMIZERS
from costsim.policy.assign import assign
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.run.job import Request, prepare

KINDS = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "lion": {"beta2": 0.99},
    "adafactor": {"eps": 1e-7, "lr": 0.5},
    "muon": {},
    "galore": {"rank": 3},
    "soap": {},
}
NO_STACKS = ("adafactor",)  # which would take a stack of experts for one matrix
FAMILIES = [(family, kind) for family in STEPS for kind in KINDS if family != "experts" or kind not in NO_STACKS]


def optimizer(kind, **changes):
    return adamw(kind=kind, **KINDS[kind], **changes)


def stepped(family, kind, step=3, **changes):
    """A step from states that are not 0: graph, weights and states before, values after."""
    graph = STEPS[family](optimizer=optimizer(kind, **changes))
    rng = np.random.default_rng(0)
    before = draw_weights(graph, rng)
    for tensor in graph.tensors.values():
        if tensor.role == "state" and tensor.name not in graph.producer and tensor.alias is None:
            before[tensor.name] = rng.uniform(0.001, 0.02, graph.shape(tensor.name))
    return graph, before, run(graph, before, [draw_batch(graph, rng)], step=step).values


def as_matrix(x, w):
    """A weight as the matrix of a linear layer: q, k and v are (in, heads x head), out is (heads x head, in)."""
    if x.ndim == 2:
        return x
    return x.reshape(x.shape[0], -1) if w.rpartition(".")[0][-1] in "qkv" else x.reshape(-1, x.shape[-1])


HIDDEN = "decoder.1.self_attention.q.weight", "decoder.0.self_attention.out.weight", "decoder.0.ffn.fc1.weight"
LR, DECAY = 0.01, 0.1  # of adamw() in conftest


@pytest.mark.parametrize(("family", "kind", "name"), in_turn(FAMILIES, ["mixed", "fp32", "fp8-block"]))
def test_counts_are_what_a_run_measures(family, kind, name):
    """Products, operations and bits, all in several formats, with clipping and micro-batches."""
    graph = STEPS[family](optimizer=optimizer(kind, clip_norm=1.0), micro_batches=2)
    mixed = policy({"format": "bf16"}, {"format": "fp32", "role": ("weight", "state")})
    assert not miscounts(graph, mixed if name == "mixed" else shipped_policy(name))


@pytest.mark.parametrize("kind", ["sgd", "momentum", "lion"])
def test_first_order(kind):
    graph, before, after = stepped("decoder", kind)
    for w in graph.weights:
        x, g = before[w.name], after[f"{w.name}.grad"]
        if kind == "sgd":  # torch.optim.SGD
            expected = x - LR * (g + DECAY * x)
        elif kind == "momentum":
            m = 0.9 * before[f"{w.name}.m"] + g + DECAY * x
            expected = x - LR * m
        else:  # Chen et al. 2023, algorithm 2
            m, expected = before[f"{w.name}.m"], x
            expected = x - LR * (np.sign(0.9 * m + 0.1 * g) + DECAY * x)
            m = 0.99 * m + 0.01 * g
        np.testing.assert_allclose(after[f"{w.name}.next"], expected, rtol=1e-12)
        assert kind == "sgd" or np.allclose(after[f"{w.name}.m.next"], m, rtol=1e-12)


def adafactor_by_hand(w, g, r, c, step, lr, eps1, decay):
    """Shazeer and Stern 2018, algorithm 4, with the decay of torch.optim.Adafactor."""
    beta = 1 - step**-0.8
    r, c = beta * r + (1 - beta) * (g**2).mean(1), beta * c + (1 - beta) * (g**2).mean(0)
    v = np.outer(r, c) / max(r.mean(), eps1)
    u = g / np.sqrt(np.maximum(v, eps1**2))
    alpha = max(1e-3, np.sqrt((w**2).mean())) * min(lr, step**-0.5)
    return (1 - lr * decay) * w - alpha * u / max(1, np.sqrt((u**2).mean())), r, c


@pytest.mark.parametrize("w", HIDDEN)
def test_adafactor(w):
    _, before, after = stepped("decoder", "adafactor")
    x, g = as_matrix(before[w], w), as_matrix(after[f"{w}.grad"], w)
    r, c = before[f"{w}.r"].reshape(-1), before[f"{w}.c"].reshape(-1)
    assert (r.size, c.size) == x.shape
    expected = adafactor_by_hand(x, g, r, c, 3, 0.5, 1e-7, DECAY)
    for name, theirs in zip(("", ".r", ".c"), expected, strict=True):
        np.testing.assert_allclose(after[f"{w}{name}.next"].reshape(theirs.shape), theirs, rtol=1e-10)


def muon_by_hand(w, g, m, steps=5):
    """Jordan et al. 2024, whose matrices are (out, in): momentum, Nesterov, Newton-Schulz, step."""
    w, g, m = w.T, g.T, m.T
    m = 0.95 * m + 0.05 * g
    x = 0.95 * m + 0.05 * g
    x = x if x.shape[0] <= x.shape[1] else x.T
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    x = x if x.shape == w.shape else x.T
    return (w - LR * DECAY * w - LR * max(1, w.shape[0] / w.shape[1]) ** 0.5 * x).T, m.T


@pytest.mark.parametrize("w", [*HIDDEN, "decoder.0.ffn.fc2.weight"])
def test_muon(w):
    _, before, after = stepped("decoder", "muon")
    expected, m = muon_by_hand(*(as_matrix(x, w) for x in (before[w], after[f"{w}.grad"], before[f"{w}.m"])))
    np.testing.assert_allclose(as_matrix(after[f"{w}.next"], w), expected, rtol=1e-9)
    np.testing.assert_allclose(as_matrix(after[f"{w}.m.next"], w), m, rtol=1e-12)


def test_newton_schulz_makes_singular_values_alike():
    """Jordan et al.: after 5 steps all are between 0.7 and 1.3."""
    _, _, after = stepped("decoder", "muon")
    name = "decoder.0.ffn.fc1.weight"
    values = np.linalg.svd(after[f"{name}.muon.x.5"], compute_uv=False)
    assert 0.6 < values.min() <= values.max() < 1.3
    before = np.linalg.svd(after[f"{name}.muon.x"], compute_uv=False)
    assert before.max() / before.min() > 3


@pytest.mark.parametrize("w", [*HIDDEN, "decoder.0.ffn.fc2.weight"])
def test_galore(w):
    """Zhao et al. 2024, algorithm 2, in directions that are given."""
    _, before, after = stepped("decoder", "galore")
    x, g = as_matrix(before[w], w), as_matrix(after[f"{w}.grad"], w)
    p = before[f"{w}.p"].reshape(-1, 3)
    low = x.shape[0] <= x.shape[1]
    projected = p.T @ g if low else g @ p
    m = 0.9 * before[f"{w}.m"].reshape(projected.shape) + 0.1 * projected
    v = 0.999 * before[f"{w}.v"].reshape(projected.shape) + 0.001 * projected**2
    n = m / (np.sqrt(v) + 1e-8)
    back = 0.25 * (p @ n if low else n @ p.T)
    expected = x - LR * np.sqrt(1 - 0.999**3) / (1 - 0.9**3) * back
    expected = expected - LR * DECAY * expected
    np.testing.assert_allclose(as_matrix(after[f"{w}.next"], w), expected, rtol=1e-9)


@pytest.mark.parametrize("w", [*HIDDEN, "decoder.0.ffn.fc2.weight"])
def test_directions_are_those_of_the_gradient(w):
    """What is projected to the first singular vectors and back is the best matrix of that rank (Eckart and Young)."""
    _, _, after = stepped("decoder", "galore", refreshes=True)
    g = as_matrix(after[f"{w}.grad"], w)
    p = after[f"{w}.p.next"].reshape(-1, 3)
    near = p @ p.T @ g if g.shape[0] <= g.shape[1] else g @ p @ p.T
    rest = np.linalg.svd(g, compute_uv=False)[3:]
    assert np.linalg.norm(g - near) == pytest.approx(np.sqrt((rest**2).sum()), rel=1e-9)
    assert not miscounts(STEPS["decoder"](optimizer=optimizer("galore", refreshes=True)), shipped_policy("fp32"))


def soap(x, g, m, v, left, right, ql, qr, step, refreshes):
    """Vyas et al. 2024, algorithms 3 and 4, as their code has them: weight, m, L, R, Q_L, Q_R after it."""
    if refreshes:  # at the end of the step before
        m = ql @ m @ qr.T
        ql, qr = np.linalg.qr(left @ ql)[0], np.linalg.qr(right @ qr)[0]
        m = ql.T @ m @ qr
    along = ql.T @ g @ qr
    m, v = 0.9 * m + 0.1 * along, 0.999 * v + 0.001 * along**2
    x = x - LR * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * (ql @ (m / (np.sqrt(v) + 1e-8)) @ qr.T)
    return x - LR * DECAY * x, m, 0.999 * left + 0.001 * g @ g.T, 0.999 * right + 0.001 * g.T @ g, ql, qr


@pytest.mark.parametrize("refreshes", [False, True])
@pytest.mark.parametrize("w", [*HIDDEN, "decoder.0.ffn.fc2.weight"])
def test_soap(w, refreshes):
    graph, before, after = stepped("decoder", "soap", refreshes=refreshes)
    x, g, m, v = (
        as_matrix(values, w) for values in (before[w], after[f"{w}.grad"], *(before[f"{w}.{s}"] for s in "mv"))
    )
    (left, right), square = x.shape, lambda name, side: before[f"{w}.{name}"].reshape(side, side)
    given = square("l", left), square("r", right), square("ql", left), square("qr", right)
    expected = soap(x, g, m, v, *given, 3, refreshes)
    states = ("", ".m", ".l", ".r", *((".ql", ".qr") if refreshes else ()))
    for state, values in zip(states, expected, strict=False):
        ours = after[f"{w}{state}.next"].reshape(values.shape)
        np.testing.assert_allclose(ours, values, rtol=1e-7, atol=1e-12, err_msg=state)
    assert not refreshes or not miscounts(graph, shipped_policy("fp32"))


def test_soap_keeps_the_axes_of_long_sides():
    """A side that is longer has no states; where both are, it is Adam."""
    name = "decoder.0.ffn.fc1.weight"
    graph = STEPS["decoder"](optimizer=optimizer("soap"))
    short, long = sorted(graph.elements((dim,)) for dim in graph.tensors[name].dims)
    assert short < long
    kept = []
    for largest in (long, short, 1):
        graph = STEPS["decoder"](optimizer=optimizer("soap", largest_side=largest))
        states = {t.rpartition(".")[2] for t in graph.tensors if t.startswith(f"{name}.") and not t.endswith(".next")}
        kept.append(states & {"m", "v", "l", "r", "ql", "qr"})
    assert [len(states) for states in kept] == [6, 4, 2]


def test_products_of_soap():
    """Of m x n: 2 m^2 n + 2 m n^2 for the ways there and back, m^2 n + m n^2 for the moments of both sides."""
    graph = job("soap").graph
    macs = sum(graph.work(op)[0] for op in graph.ops if op.phase == "update")
    d, ffn, layers = 768, 3072, 12
    assert macs == 3 * layers * (4 * 2 * d**3 + 2 * (d * d * ffn + d * ffn * ffn))


@pytest.mark.parametrize("kind", MATRICES_ONLY)
@pytest.mark.parametrize("family", ["encoder-decoder", "llama", "experts"])
def test_what_is_no_hidden_matrix_has_adamw(family, kind):
    graph = STEPS[family](optimizer=optimizer(kind))
    by_kind = {"adamw": set(), kind: set()}
    for w in graph.weights:
        by_kind[graph.producer[f"{w.name}.next"].name.rpartition(".")[2]].add(w.name)
    assert all(len(graph.tensors[name].dims) > 1 for name in by_kind[kind])
    assert all(
        len(graph.tensors[name].dims) == 1 or name.endswith(".bias") or name.startswith(("embedding.", "head."))
        for name in by_kind["adamw"]
    )
    assert all(by_kind.values())


def multiplied(graph, chosen):
    """By op of the update that is a product: the formats of its operands."""
    assignment = assign(graph, chosen)
    update = [op for op in graph.ops if op.gemm == "update"]
    return {op.name: tuple(assignment.multiplied(op, i).name for i in (0, 1)) for op in update}


def test_rules_give_products_of_an_update_formats():
    graph = STEPS["decoder"](optimizer=optimizer("muon"))
    assert set(multiplied(graph, shipped_policy("muon")).values()) == {("bf16", "bf16")}
    assert set(multiplied(graph, shipped_policy("bf16-mixed")).values()) == {("fp32", "fp32")}
    eight = policy({"format": "bf16"}, {"copy": "operand", "gemm": ("update",), "format": "mxfp8"})
    pairs = multiplied(graph, eight)
    assert set(pairs.values()) == {("mxfp8", "mxfp8")}
    assert not miscounts(graph, eight)


# --- counts in closed form --------------------------------------------------------------------------------------------


def job(kind, *assignments):
    return prepare(Request("gpt2-small", ["fp32"], assignments=[f"optimizer.kind={kind}", *assignments]))


def test_flops_of_muon():
    """4 n m^2 + 2 m^3 of 2 m^2 n + 2 m^3 + 2 m^2 n a step (Jordan et al.: at most 6 n m^2), as MACs; 5 steps."""
    graph = job("muon").graph
    macs = sum(graph.work(op)[0] for op in graph.ops if op.phase == "update")
    d, ffn, layers = 768, 3072, 12
    of_square, of_wide = 3 * d**3, 2 * d * d * ffn + d**3
    assert macs == 5 * layers * (4 * of_square + 2 * of_wide)
    # Jordan et al. bound the overhead on a linear layer by T m / B, and a square one has just that.
    tokens = graph.sizes["batch"] * graph.sizes["tokens"] * graph.micro_batches
    assert 5 * of_square / (3 * tokens * d * d) == 5 * d / tokens


def test_states_of_galore():
    """m r + 2 n r for a matrix of m x n (Zhao et al., table 1)."""
    graph = job("galore", "optimizer.rank=128").graph
    states = sum(
        graph.elements(t.dims) for t in graph.tensors.values() if t.role == "state" and t.name not in graph.producer
    )
    d, ffn, layers, rank = 768, 3072, 12, 128
    hidden = 4 * (d * rank + 2 * d * rank) + 2 * (d * rank + 2 * ffn * rank)
    others = graph.parameters - layers * (4 * d * d + 2 * d * ffn)
    assert states == layers * hidden + 2 * others


@pytest.mark.parametrize(("kind", "states"), [("sgd", 0), ("momentum", 1), ("lion", 1), ("adamw", 2)])
def test_states_of_first_order(kind, states):
    graph = job(kind).graph
    elements = sum(
        graph.elements(t.dims) for t in graph.tensors.values() if t.role == "state" and t.name not in graph.producer
    )
    assert elements == states * graph.parameters


# --- bad input --------------------------------------------------------------------------------------------------------


def test_galore_wants_a_rank():
    with pytest.raises(InputError, match="rank: missing; galore projects gradients to so many directions"):
        job("galore")


def test_a_stack_of_experts_is_refused():
    with pytest.raises(InputError, match=r"optimizer.kind.*adafactor: decoder.0.experts.* is a stack of matrices"):
        prepare(Request("mixtral-8x7b", assignments=["optimizer.kind=adafactor", "model.layers=1"]))


def test_the_table_is_of_the_schema():
    assert set(OPTIMIZERS) | {"adam", "adamw", "sgd", "momentum", "lion"} == set(
        get_args(get_args(type(adamw()).section_fields["kind"].annotation)[0])
    )
    assert callable(training_step)
