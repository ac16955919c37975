"""One whole training step of every model family on scalars that count their own operations."""

import numpy as np
import pytest
from conftest import STEPS, adamw
from counting import Counting

from costsim.reference import execute as execution
from costsim.reference.draw import draw_batch, draw_weights

TINY = {"d_model": 4, "ffn_dim": 3, "heads": 2, "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1}
LENGTHS = {
    "encoder-decoder": {"sequences": 1, "source_tokens": 2, "target_tokens": 2},
    "chunked": {"sequences": 2, "tokens": 2},
}
BATCH = {"sequences": 1, "tokens": 2}
DRAWN = {"random", "cmp"}  # what drawing a mask takes is NumPy's own doing


def as_counting(x):
    """The array with every number made to count; ids and masks stay."""
    x = np.asarray(x)
    wrap = np.frompyfunc(lambda v: v if isinstance(v, Counting) else Counting(v), 1, 1)
    return np.asarray(wrap(x), object) if x.dtype.kind in "fO" else x


@pytest.mark.parametrize("family", sorted(STEPS))
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_every_op_of_a_step_does_the_work_that_is_stated(family, activation, monkeypatch):
    graph = STEPS[family](
        batch=LENGTHS.get(family, BATCH),
        micro_batches=2,
        optimizer=adamw(clip_norm=1.0),
        activation=activation,
        **TINY,
    )
    rng = np.random.default_rng(0)
    given = draw_weights(graph, rng)
    for tensor in graph.tensors.values():
        if tensor.role in ("state", "gradient") and tensor.alias is None and tensor.name not in graph.producer:
            given[tensor.name] = np.ones(graph.shape(tensor.name))
    weights = {name: as_counting(x) for name, x in given.items()}
    batches = [{name: as_counting(x) for name, x in draw_batch(graph, rng).items()} for _ in range(2)]
    done = {op.name: {} for op in graph.ops}
    run_op = execution.run_op

    def counted(graph, op, inputs, **more):
        Counting.counts = {}
        results, products = run_op(graph, op, inputs, **more)
        assert products == 0  # no product of matrices escaped the scalars
        for name, n in Counting.counts.items():
            done[op.name][name] = done[op.name].get(name, 0) + n
        return tuple(map(as_counting, results)), products

    monkeypatch.setattr(execution, "run_op", counted)
    execution.run(graph, weights, batches)
    for op in graph.ops:
        macs, vector = graph.work(op)
        stated = {**vector, "mul": vector.get("mul", 0) + macs, "add": vector.get("add", 0) + macs}
        ran = {**done[op.name]}
        if op.kind.name == "bernoulli":
            ran = {name: stated[name] for name in DRAWN}
        elif op.kind.name == "top_k":  # NumPy sorts; what is stated are the comparisons of k passes
            ran = {"cmp": stated["cmp"]}
        elif op.kind.name == "count_labels":  # integers
            ran = {"cmp": stated["cmp"], "add": stated["add"]}
        elif op.kind.view:  # what NumPy does to lay rows side by side
            ran = {}
        assert {name: n for name, n in stated.items() if n} == ran, op.name
