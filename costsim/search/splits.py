"""All ways to split a step over so many devices: which fit into their memory, and how long each takes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from math import gcd
from typing import NamedTuple

from costsim.devices.profile import Hardware
from costsim.errors import InputError, one_line
from costsim.inputs.schema_workload import Parallel
from costsim.policy.policy import Policy
from costsim.run.few_layers import NotAlikeError, alike, few_jobs, step_from_few, worth_it
from costsim.run.job import Job, with_fields
from costsim.run.stages import Step, step_of
from costsim.search.split_formats import Chosen, Wanted, fastest

ZEROS = (0, 1, 2, 3)
SIZES = ("tensor", "pipeline", "data", "zero", "expert")  # the fields of `parallel` in which splits differ


class Split(NamedTuple):
    """One way, under a policy: the fields of `parallel`, micro-batches of a rank of data, and what they cost."""

    policy: str
    parallel: Parallel
    micro_batches: int
    step_s: float
    bubble_share: float
    peak_bytes: int  # of the fullest stage
    capacity_bytes: int | None  # None: the profile does not say
    step: Step
    chosen: Chosen | None = None  # if its formats are

    @property
    def fits(self) -> bool:
        """Whether each stage fits into a device's memory; so it does where that is not known."""
        return self.capacity_bytes is None or self.peak_bytes <= self.capacity_bytes

    @property
    def fields(self) -> tuple[str, ...]:
        """What makes this split of the workload, as `--set` takes it."""
        given = {name: getattr(self.parallel, name) for name in SIZES}
        sets = [f"parallel.{name}={n}" for name, n in given.items() if n != (0 if name == "zero" else 1)]
        return (*sets, f"training.micro_batches={self.micro_batches}")


def zeros_of(text: str) -> list[int]:
    """The numbers of a list such as 0,1. Raises InputError for others than ZEROS."""
    parts = [part.strip() for part in text.split(",")]
    if not set(parts) <= {str(zero) for zero in ZEROS}:
        raise InputError(f"--zero {one_line(text)}: expected some of 0, 1, 2, 3, such as 0,1")
    return sorted({int(part) for part in parts})


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def ways(job: Job, devices: int, zeros: Sequence[int] = ZEROS) -> Iterator[tuple[Parallel, int]]:
    """The sizes of axes that multiply to so many devices, and micro-batches of a rank of data; others than the job's.

    All give as many micro-batches a step as the job. Stages of a pipeline share no weights with ranks of data (zero 3),
    nor gradients (2): each micro-batch would gather, or reduce, anew.
    """
    own = job.file.parallel
    whole = job.file.training.micro_batches * own.data
    experts = (job.file.model.get("experts") or {}).get("number", 1)
    for tensor in _divisors(devices):
        for pipeline in _divisors(devices // tensor):
            data = devices // tensor // pipeline
            if whole % data:
                continue
            for expert in _divisors(gcd(data, experts)):
                for zero in zeros:
                    if zero and (data == 1 or (zero > 1 and pipeline > 1)):
                        continue
                    sizes = {"tensor": tensor, "pipeline": pipeline, "data": data, "zero": zero, "expert": expert}
                    yield own.changed(**sizes, stage=0), whole // data


class _Candidate:
    """One way to split a job: its steps are built when they are asked for, of few layers where all are alike."""

    def __init__(self, job: Job, parallel: Parallel, micro_batches: int) -> None:
        self.base, self.parallel, self.micro_batches = job, parallel, micro_batches
        sizes = [f"parallel.{name}={getattr(parallel, name)}" for name in (*SIZES, "stage")]
        self.sets = (*sizes, f"training.micro_batches={micro_batches}")

    @cached_property
    def job(self) -> Job | None:
        """The job so split; None if the model cannot be."""
        with suppress(InputError):
            return with_fields(self.base, self.sets)
        return None

    @cached_property
    def _few(self) -> Sequence[Job]:
        """Its steps of few layers; none if the model cannot be split so."""
        with suppress(InputError):
            return few_jobs(self.base, self.sets, self.parallel.pipeline)
        return ()

    def step(self, policy: Policy, device: Hardware) -> Step | None:
        """A step of the last phase of a policy; None if the model cannot be split so, or its time is not known."""
        index = len(policy.file.phases) - 1
        if "job" not in vars(self) and alike(self.base, policy) and worth_it(self.base, self.parallel):
            with suppress(NotAlikeError):
                layers = self.base.file.model["layers"]
                return step_from_few(self._few, layers, policy, index, device) if self._few else None
        return None if self.job is None else step_of(self.job, policy, index, device)


def splits(
    job: Job,
    policies: Sequence[Policy],
    device: Hardware,
    devices: int,
    zeros: Sequence[int] = ZEROS,
    tick: Callable[[], None] = lambda: None,
    wanted: Wanted | None = None,
) -> list[Split]:
    """All splits that the model allows and whose time is known: those that fit first, the fastest of them first.

    A policy's step is that of its last phase. `wanted`: what of the policies is chosen anew, for each split by itself.
    Raises InputError if there is none, for a device without links, and for what cannot be chosen.
    """
    if devices > 1 and not device.links:
        raise InputError(f"--hardware {device.name}: has no links to send over; say a cluster, such as h100-node")
    found: list[Split] = []
    for parallel, micro_batches in ways(job, devices, zeros):
        candidate = _Candidate(job, parallel, micro_batches)
        for policy in policies:
            found += _split(candidate, policy, device, wanted)
        tick()
    if not found:
        raise InputError(f"--devices {devices}: no split that the model allows has a known time on {device.name}")
    return _named(sorted(found, key=lambda split: (not split.fits, split.step_s)))


def _split(candidate: _Candidate, policy: Policy, device: Hardware, wanted: Wanted | None) -> list[Split]:
    """What a split costs under a policy, or one that is chosen; nothing if its time is not known."""
    chosen = None
    if wanted is not None:
        chosen = None if candidate.job is None else fastest(candidate.job, policy, device, wanted)
        if chosen is None:
            return []
        policy = chosen.policy(policy.name)
    step = candidate.step(policy, device)
    if step is None:
        return []
    peak = max(stage.peak_bytes for stage in step.stages)
    costs = (step.time_s, step.play.bubble_share, peak, device.dram_bytes)
    return [Split(policy.name, candidate.parallel, candidate.micro_batches, *costs, step, chosen)]


def _named(found: Sequence[Split]) -> list[Split]:
    """The splits, whose chosen policies are numbered in the order in which they come, after what was changed."""
    numbers: dict[str, dict[tuple[tuple[str, str], ...], int]] = {}
    made = []
    for split in found:
        if split.chosen:
            of = numbers.setdefault(split.policy, {})
            number = of.setdefault(tuple(split.chosen.formats.items()), len(of) + 1)
            split = split._replace(policy=f"{split.policy}-{number:02}")
        made.append(split)
    return made
