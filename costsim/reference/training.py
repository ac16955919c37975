"""Real training, small: a translation model trained in NumPy under a policy, whose losses can drive its schedule.

The graph, the formats and the policies are those that the cost model counts.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from costsim.cost.totals import sum_rows
from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.inputs import files
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import loss_log_path, schedule
from costsim.reference import corpus
from costsim.reference.draw import draw_weights
from costsim.reference.execute import Executor
from costsim.reference.numpy_ops import Array
from costsim.run.job import Job, prepare
from costsim.run.simulate import count_policy, count_step

Batch = dict[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A workload of the family encoder-decoder and the sentences to train it on, as numbers."""

    graph: Graph
    evaluation: Graph  # the same without dropout
    training: Batch
    validation: Batch
    unigram_entropy: float  # nats per word of the validation targets, by how often words occur in training
    steps: int


def _columns(sentences: Sequence[Sequence[int]], length: int) -> Array:
    """Numbers of words, padded to one length."""
    table = np.full((len(sentences), length), corpus.PADDING)
    for row, sentence in zip(table, sentences, strict=True):
        row[: len(sentence)] = sentence
    return table


def _sentences(
    parts: list[tuple[list[str], list[str]]], source: corpus.Vocabulary, target: corpus.Vocabulary, graph: Graph
) -> Batch:
    """All sentences as the data tensors of one large batch."""
    read = _columns([source.encode(german) for german, _ in parts], graph.sizes["source"])
    encoded = [target.encode(english) for _, english in parts]
    written = _columns([[corpus.START, *sentence] for sentence in encoded], graph.sizes["target"])
    labels = _columns([[*sentence, corpus.END] for sentence in encoded], graph.sizes["target"])
    return {
        "embedding.source_ids": read,
        "embedding.target_ids": written,
        "embedding.source_keep": read != corpus.PADDING,
        "embedding.target_keep": written != corpus.PADDING,
        "head.labels": np.where(labels == corpus.PADDING, -1, labels),
    }


def _unigram_entropy(training: Array, validation: Array, words: int) -> float:
    counts = np.bincount(training[training >= 0], minlength=words) + 1.0  # words that never occur count once
    chances = counts / counts.sum()
    return float(-np.log(chances[validation[validation >= 0]]).mean())


def load_task(pairs: Sequence[corpus.Pair], workload: str = "translation-small", sets: Sequence[str] = ()) -> Task:
    """A workload and a corpus. Raises InputError for a workload that does not fit."""
    job, still = prepare(workload, assignments=sets), prepare(workload, assignments=[*sets, "model.dropout=0.0"])
    graph = job.graph
    parts = corpus.split(pairs, longest=min(graph.sizes["source"], graph.sizes["target"] - 1))
    source = corpus.vocabulary((german for german, _ in parts.training), graph.sizes["source_vocab"])
    target = corpus.vocabulary((english for _, english in parts.training), graph.sizes["target_vocab"])
    training, validation = (_sentences(part, source, target, graph) for part in (parts.training, parts.validation))
    entropy = _unigram_entropy(training["head.labels"], validation["head.labels"], graph.sizes["target_vocab"])
    return Task(graph, still.graph, training, validation, entropy, job.convention.steps)


@cache
def _sinusoids(positions: int, width: int) -> Array:
    """Vaswani et al. 2017, section 3.5, sines then cosines."""
    angles = np.arange(positions)[:, None] / 10000 ** (2 * np.arange(width // 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _batch(graph: Graph, sentences: Batch, rows: Array) -> Batch:
    """The data tensors of some sentences."""
    batch = {name: values[rows] for name, values in sentences.items()}
    for side in ("source", "target"):
        length = graph.sizes[side]
        batch[f"embedding.{side}_positions"] = np.broadcast_to(np.arange(length), (len(rows), length))
        batch[f"embedding.{side}_position_table"] = _sinusoids(graph.sizes["positions"], graph.sizes["model"])
    return batch


def _shuffled(sentences: Batch, size: int, seed: int) -> Iterator[Array]:
    """Rows of batches without end; each epoch in another order."""
    number, epoch = len(sentences["head.labels"]), 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(number)
        for start in range(0, number - size + 1, size):
            yield order[start : start + size]
        epoch += 1


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The state of a training run: losses are nats per word."""

    policy: str
    step: int
    phase: int  # of the policy, from 0
    training_loss: float  # mean since the last evaluation
    validation_loss: float


def evaluate(task: Task, policy: Policy, phase: int, weights: dict[str, Array]) -> float:
    """The validation loss (nats per word) under a policy's formats, without dropout."""
    graph, size = task.evaluation, task.graph.sizes["batch"]
    executor = Executor(graph, assign(graph, policy, phase))
    number, total, words = len(task.validation["head.labels"]), 0.0, 0
    for start in range(0, number - size + 1, size):
        batch = _batch(graph, task.validation, np.arange(start, start + size))
        labelled = int((batch["head.labels"] >= 0).sum())
        total += labelled * executor.forward(weights, [batch]).losses[0]
        words += labelled
    return total / words


def write_loss_log(path: Path, log: Sequence[tuple[int, float]]) -> None:
    """Record validation losses as policies read them."""
    files.write(path, ("step,loss\n" + "".join(f"{step},{loss:.6f}\n" for step, loss in log)).encode())


def train(
    task: Task, policy: Policy, *, every: int = 100, seed: int = 0, seen: Callable[[Evaluation], None] = lambda _: None
) -> list[Evaluation]:
    """Train under a policy, evaluate every so many steps, and record the losses that its plateau rule waits for.

    A `loss_log` of the policy is written anew, so that its schedule follows the losses of this very run.
    """
    graph = task.graph
    weights = draw_weights(graph, np.random.default_rng(seed), np.float32)
    for name in ("embedding.source.weight", "embedding.target.weight"):
        weights[name] *= math.sqrt(graph.shape(name)[0] / graph.sizes["model"])  # each word's vector of length 1
    log = loss_log_path(policy)
    ends = [] if log else list(accumulate(schedule(policy, task.steps)))  # of phases; those of plateaus are to be seen
    executors = [Executor(graph, assign(graph, policy, i), seed=seed) for i in range(len(policy.file.phases))]
    rows = _shuffled(task.training, graph.sizes["batch"], seed)
    found: list[Evaluation] = []
    recent: list[float] = []
    for step in range(1, task.steps + 1):
        phase = min(bisect_right(ends, step - 1), len(policy.file.phases) - 1)
        batch = _batch(graph, task.training, next(rows))
        done = executors[phase].step(weights, [batch], step)
        recent.append(done.losses[0])
        weights = done.weights(graph)
        if step % every == 0 or step == task.steps:
            loss = evaluate(task, policy, phase, weights)
            found.append(Evaluation(policy.name, step, phase, math.fsum(recent) / len(recent), loss))
            recent = []
            seen(found[-1])
            if log is not None:
                write_loss_log(log, [(its.step, its.validation_loss) for its in found])
                ends = list(accumulate(schedule(policy, task.steps)))
    return found


def write_evaluations(path: Path, found: Sequence[Evaluation], unigram_entropy: float) -> Path:
    """A CSV file, a line an evaluation; the unigram entropy stands beside each, to compare with."""
    lines = [",".join((*_COLUMNS, "unigram_entropy"))]
    for its in found:
        losses = (its.training_loss, its.validation_loss, unigram_entropy)
        lines.append(",".join((its.policy, str(its.step), str(its.phase), *(f"{loss:.6f}" for loss in losses))))
    return files.write(path, "".join(f"{line}\n" for line in lines).encode())


_COLUMNS = ("policy", "step", "phase", "training_loss", "validation_loss")


def read_evaluations(path: Path) -> tuple[list[Evaluation], float]:
    """What `write_evaluations` wrote. Raises InputError with file and line."""
    (_, header), *rows = files.read_csv(path) or [(1, [])]
    if header != [*_COLUMNS, "unigram_entropy"] or not rows:
        raise InputError(f"{path}:1: expected the header {','.join(_COLUMNS)},unigram_entropy and rows")
    found, entropy = [], 0.0
    for line, row in rows:
        try:
            policy, step, phase, training, validation, unigram = row
            found.append(Evaluation(policy, int(step), int(phase), float(training), float(validation)))
            entropy = float(unigram)
        except ValueError:
            raise InputError(f"{path}:{line}: expected {', '.join(_COLUMNS)}, unigram_entropy") from None
    return found, entropy


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has cost up to an evaluation, in shares of what the baseline spends on all its steps."""

    step: int
    validation_loss: float
    arithmetic: float
    dram: float


def spent(job: Job, policy: Policy, found: Sequence[Evaluation]) -> list[Spent]:
    """The cost of each evaluation's steps, each step at the formats of the phase that the run was in.

    Arithmetic and traffic by the convention of the job. Phases are those recorded: one evaluation after another.
    """
    base = count_policy(job.graph, job.baseline, job.convention).total
    totals = [
        sum_rows(count_step(job.graph, assign(job.graph, policy, i), job.convention).rows, job.convention.law)
        for i in range(len(policy.file.phases))
    ]
    curve, arithmetic, dram, before = [], 0, 0, 0
    for its in found:
        steps = its.step - before
        arithmetic += steps * (totals[its.phase].arithmetic_cost or 0)
        dram += steps * totals[its.phase].dram_bits
        before = its.step
        shares = Fraction(arithmetic, base.arithmetic_cost or 1), Fraction(dram, base.dram_bits)
        curve.append(Spent(its.step, its.validation_loss, float(shares[0]), float(shares[1])))
    return curve
