"""Questions of a paper on quantized pre-training: what fills memory, what the linear layers take, how long a run is.

Source of the questions and of the stated figures: Chitsaz et al. 2024, arXiv:2407.11722. The answers are those of this
package's counts and rooflines: nothing is measured, and nothing is charged for communication.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from costsim.cost.memory import of_policy
from costsim.devices.profile import pair_on
from costsim.devices.roofline import Kernel
from costsim.errors import InputError
from costsim.graph.graph import Graph, Op
from costsim.policy.assign import assign
from costsim.run import simulate
from costsim.run.batch import with_batch
from costsim.run.counted import CountedPolicy
from costsim.run.job import Request, prepare
from costsim.run.simulate import Result
from costsim.run.timing import time_kernels

SECONDS_PER_DAY = 86400


# --- memory -----------------------------------------------------------------------------------------------------------


class Peak(NamedTuple):
    """The peak memory of a step of a workload under a policy, bytes by component."""

    workload: str
    policy: str
    sequences: int  # of a micro-batch
    components: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.components.values())


def peaks(workloads: Sequence[str], policies: Sequence[str], batches: Sequence[int]) -> list[Peak]:
    """Peak memory of each workload, policy and micro-batch size. Raises InputError as `prepare` does."""
    rows = []
    for workload in workloads:
        job = prepare(Request(workload, policies))
        sized = [(sequences, with_batch(job, sequences)) for sequences in batches]
        for policy in job.policies:
            for sequences, resized in sized:
                memory = of_policy(resized.graph, policy, resized.convention.traffic)[1]
                rows.append(Peak(job.workload, policy.name, sequences, memory.components))
    return rows


# --- linear layers ----------------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """Time of the linear layers of a block, forward and backward, and of the whole block; over a training step."""

    workload: str
    attention: str
    tokens: int  # of a sequence
    sequences: int  # of a micro-batch
    linear_s: float
    block_s: float

    @property
    def share(self) -> float:
        """Of the linear layers in the block's time."""
        return self.linear_s / self.block_s


def is_linear(graph: Graph, op: Op) -> bool:
    """Whether an op is a product of a linear layer: with a weight (forward, dgrad) or into its gradient (wgrad).

    Attention's products, of activations alone, are not.
    """
    roles = {graph.tensors[name].role for name in op.inputs + op.outputs}
    return op.gemm is not None and not roles.isdisjoint({"weight", "weight_gradient"})


def _in_block(kernel: Kernel, layer: str) -> bool:
    op = kernel.first[1]
    return op.layer == layer and op.phase != "update"


_MIDDLE = ("model.layers=3", "decoder.1")  # a block between two others, since kernels may reach across their borders


def linear_share(workload: str, policy: str, device: str, attention: str, tokens: int, micro_batch: int) -> Share:
    """The share of a block's time on a device that its linear layers take, forward and backward, for one length.

    `micro_batch` tokens are cut into sequences of `tokens`, so that the linear layers' products stay the same whatever
    the length. A kernel is a linear layer's if it starts with its product (what follows is the epilogue: bias,
    activation) or makes a copy for it. Optimizer updates are left out.
    Raises InputError if the lengths do not divide, the family is not the decoder's, or the device lacks something.
    """
    if micro_batch % tokens:
        raise InputError(f"sequences of {tokens} tokens do not divide {micro_batch} tokens")
    layers, layer = _MIDDLE
    assignments = [
        layers,
        f"model.attention={attention}",
        f"model.max_positions={tokens}",  # rows of a table outside of the block
        f"batch.tokens={tokens}",
        f"batch.sequences={micro_batch // tokens}",
    ]
    job = prepare(Request(workload, [policy], assignments=assignments, hardware=[device]))
    job = replace(job, convention=replace(job.convention, scope="step"))
    graph = job.graph
    step = simulate.count_step(graph, assign(graph, job.policies[0]), job.convention)
    linear = block = 0.0
    for kernel, spent in time_kernels(job, step, job.hardware[0], each=True):
        if _in_block(kernel, layer):
            seconds = spent.time_s
            if seconds is None:
                raise InputError(f"{policy} has no time on {device}: a pair of formats or a rate is lacking")
            block += seconds
            linear += seconds if is_linear(graph, kernel.first[1]) else 0.0
    if not block:
        raise InputError(f"{workload}: no layer is named {layer}")
    return Share(job.workload, attention, tokens, micro_batch // tokens, linear, block)


# --- ratios -----------------------------------------------------------------------------------------------------------


class Ratios(NamedTuple):
    """How many times less than the baseline's a policy's arithmetic, DRAM traffic, peak memory and time are."""

    policy: str
    arithmetic: float | None  # None: the law is not defined for some pair
    dram: float | None
    memory: float
    time: float | None  # on the job's first device; None: there is none, or it lacks a pair or a rate


def ratios(result: Result) -> list[Ratios]:
    """The ratios of all policies of a result to its baseline."""
    job = result.job

    def peak(counted: CountedPolicy) -> int:
        return of_policy(job.graph, counted.policy, job.convention.traffic)[1].peak_bytes

    def seconds(counted: CountedPolicy) -> float | None:
        return result.spent[counted.policy.name, job.hardware[0].name].time_s if job.hardware else None

    base, base_s = peak(result.baseline), seconds(result.baseline)
    rows = []
    for counted in result.policies:
        less = [None if ratio is None else float(ratio) for ratio in counted.total.reductions(result.baseline.total)]
        time_s = seconds(counted)
        faster = base_s / time_s if base_s and time_s else None
        rows.append(Ratios(counted.policy.name, less[0], less[1], base / peak(counted), faster))
    return rows


# --- a whole run ------------------------------------------------------------------------------------------------------


class Totals(NamedTuple):
    """A whole run on so many devices that share its work evenly. FLOPs are 2 a MAC; peak_flops is FLOP/s of a device.

    Model FLOPs are those of forward and backward; `flops` holds what is made again for the backward too.
    """

    tokens: int
    steps: int
    parameters: int
    flops: int
    model_flops: int
    devices: int
    peak_flops: int
    predicted_days: float
    stated_days: float

    @property
    def utilisation(self) -> float:
        """Predicted over stated time: the part of what the roofline allows that the stated run reached."""
        return self.predicted_days / self.stated_days

    def _of_peak(self, flops: int) -> float:
        return flops / (self.stated_days * SECONDS_PER_DAY * self.devices * self.peak_flops)

    @property
    def six_n_utilisation(self) -> float:
        """Model FLOP utilisation in the stated time by 6 FLOPs a parameter and token (Kaplan et al. 2020)."""
        return self._of_peak(6 * self.parameters * self.tokens)

    @property
    def model_utilisation(self) -> float:
        """Model FLOP utilisation in the stated time by the graph's forward and backward, attention included."""
        return self._of_peak(self.model_flops)

    @property
    def hardware_utilisation(self) -> float:
        """The same by all FLOPs, what is made again included."""
        return self._of_peak(self.flops)


def totals(workload: str, policy: str, device: str, devices: int, stated_days: float) -> Totals:
    """What a workload's whole run takes, beside the days that somebody states it took on so many devices.

    The prediction is one device's roofline time, all at its peaks, over the number of devices: no communication, no
    waiting. (The update is divided too, as if its states were sharded; over many micro-batches it weighs little.)
    The peak is that of the fastest multiplier that the policy's pairs run on. Raises InputError if a pair of formats or
    a rate is lacking.
    """
    job = prepare(Request(workload, [policy], hardware=[device]))
    result = simulate.execute(job)
    graph, steps = job.graph, job.convention.steps
    [counted] = result.policies
    spent = result.spent[counted.policy.name, job.hardware[0].name]
    if spent.time_s is None:
        raise InputError(f"{policy} has no time on {device}: a pair of formats or a rate is lacking")
    pairs = {row.pair for phase in counted.phases for row in phase.rows if row.pair is not None and row.macs}
    rates = [chosen[0] for pair in pairs if (chosen := pair_on(job.hardware[0], *pair))]
    return Totals(
        tokens=steps * graph.micro_batches * graph.sizes["batch"] * graph.sizes["tokens"],
        steps=steps,
        parameters=graph.parameters,
        flops=2 * counted.total.macs,
        model_flops=2 * steps * sum(graph.work(op)[0] for op in graph.ops if op.phase != "recompute"),
        devices=devices,
        peak_flops=2 * max(rate.mac_per_s for rate in rates),
        predicted_days=spent.time_s / devices / SECONDS_PER_DAY,
        stated_days=stated_days,
    )
