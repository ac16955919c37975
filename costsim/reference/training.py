"""Real training, small: a translation model trained in NumPy under a policy, whose losses can drive its schedule.

The graph, the formats and the policies are those that the cost model counts; `task` has the model and the data. Losses
are written and read as CSV, and set against what the run has cost by then.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np

from costsim.cost.totals import sum_rows
from costsim.errors import InputError, refuse
from costsim.inputs import files
from costsim.policy.assign import assign
from costsim.policy.policy import Policy
from costsim.policy.schedule import loss_log_path, schedule
from costsim.reference.draw import draw_weights
from costsim.reference.execute import Executor
from costsim.reference.numpy_ops import Array
from costsim.reference.task import Task, make_batch, shuffled
from costsim.run.job import Job
from costsim.run.simulate import count_policy, count_step


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
        batch = make_batch(graph, task.validation, np.arange(start, start + size))
        labelled = int((batch["head.labels"] >= 0).sum())
        total += labelled * executor.forward(weights, [batch]).losses[0]
        words += labelled
    return total / words


def write_loss_log(path: Path, log: Sequence[tuple[int, float]]) -> None:
    """Record validation losses as policies read them."""
    files.write(path, ("step,loss\n" + "".join(f"{step},{loss:.6f}\n" for step, loss in log)).encode())


def train(
    task: Task,
    policy: Policy,
    *,
    every: int = 100,
    seed: int = 0,
    report: Callable[[Evaluation], None] = lambda _: None,
) -> list[Evaluation]:
    """Train under a policy, evaluate every so many steps, and record the losses that its plateau rule waits for.

    Each evaluation is reported as soon as it is made. A `loss_log` of the policy is written anew, so that its schedule
    follows the losses of this very run.
    """
    graph = task.graph
    weights = draw_weights(graph, np.random.default_rng(seed), np.float32)
    for name in ("embedding.source.weight", "embedding.target.weight"):
        weights[name] *= math.sqrt(graph.shape(name)[0] / graph.sizes["model"])  # each word's vector of length 1
    log = loss_log_path(policy)
    ends = [] if log else list(accumulate(schedule(policy, task.steps)))  # of phases; those of plateaus are to be seen
    executors = [Executor(graph, assign(graph, policy, i), seed=seed) for i in range(len(policy.file.phases))]
    rows = shuffled(task.training, graph.sizes["batch"], seed)
    evaluations: list[Evaluation] = []
    recent: list[float] = []
    for step in range(1, task.steps + 1):
        phase = min(bisect_right(ends, step - 1), len(policy.file.phases) - 1)
        batch = make_batch(graph, task.training, next(rows))
        done = executors[phase].step(weights, [batch], step)
        recent.append(done.losses[0])
        weights = done.weights(graph)
        if step % every == 0 or step == task.steps:
            loss = evaluate(task, policy, phase, weights)
            evaluations.append(Evaluation(policy.name, step, phase, math.fsum(recent) / len(recent), loss))
            recent = []
            report(evaluations[-1])
            if log is not None:
                write_loss_log(log, [(past.step, past.validation_loss) for past in evaluations])
                ends = list(accumulate(schedule(policy, task.steps)))
    return evaluations


_COLUMNS = ("policy", "step", "phase", "training_loss", "validation_loss")


def write_evaluations(path: Path, evaluations: Sequence[Evaluation], unigram_entropy: float) -> Path:
    """A CSV file, a line an evaluation; the unigram entropy stands beside each, to compare with."""
    lines = [",".join((*_COLUMNS, "unigram_entropy"))]
    for row in evaluations:
        losses = (row.training_loss, row.validation_loss, unigram_entropy)
        lines.append(",".join((row.policy, str(row.step), str(row.phase), *(f"{loss:.6f}" for loss in losses))))
    return files.write(path, "".join(f"{line}\n" for line in lines).encode())


def read_evaluations(path: Path) -> tuple[list[Evaluation], float]:
    """What `write_evaluations` wrote. Raises InputError, with file and line, for all that is wrong in it."""
    (_, header), *rows = files.read_csv(path) or [(1, [])]
    errors: list[InputError] = []
    if header != [*_COLUMNS, "unigram_entropy"] or not rows:
        expected = f"expected the header {','.join(_COLUMNS)},unigram_entropy and rows"
        errors.append(files.row_error(path, 1, expected))
    evaluations, entropy = [], 0.0
    for line, row in rows:
        try:
            policy, step, phase, training, validation, unigram = row
            evaluations.append(Evaluation(policy, int(step), int(phase), float(training), float(validation)))
            entropy = float(unigram)
        except ValueError:
            errors.append(files.row_error(path, line, f"expected {', '.join(_COLUMNS)}, unigram_entropy"))
    refuse(errors)
    return evaluations, entropy


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has cost up to an evaluation, in shares of what the baseline spends on all its steps."""

    step: int
    validation_loss: float
    arithmetic: float
    dram: float


def spent(job: Job, policy: Policy, evaluations: Sequence[Evaluation]) -> list[Spent]:
    """The cost of each evaluation's steps, each step at the formats of the phase that the run was in.

    Arithmetic and traffic by the convention of the job. Phases are those recorded: one evaluation after another.
    """
    base = count_policy(job.graph, job.baseline, job.convention).total
    totals = [
        sum_rows(count_step(job.graph, assign(job.graph, policy, i), job.convention).rows, job.convention.law)
        for i in range(len(policy.file.phases))
    ]
    curve, arithmetic, dram, before = [], 0, 0, 0
    for evaluation in evaluations:
        steps = evaluation.step - before
        arithmetic += steps * (totals[evaluation.phase].arithmetic_cost or 0)
        dram += steps * totals[evaluation.phase].dram_bits
        before = evaluation.step
        shares = Fraction(arithmetic, base.arithmetic_cost or 1), Fraction(dram, base.dram_bits)
        curve.append(Spent(evaluation.step, evaluation.validation_loss, float(shares[0]), float(shares[1])))
    return curve
