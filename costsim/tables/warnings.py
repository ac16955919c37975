"""What readers are warned of, in lines under tables and in JSON: what is counted may not be what was meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from costsim.errors import InputError
from costsim.models.build import sections
from costsim.policy.policy import Policy
from costsim.run.job import Job
from costsim.run.simulate import Result

if TYPE_CHECKING:
    from costsim.cost.memory import Memory
    from costsim.run.peaks import Row


def _unfrozen(job: Job, policies: Iterable[Policy]) -> Iterator[str]:
    """Policies for frozen weights, of a workload that trains all."""
    idle = [policy for policy in policies if policy.for_frozen]
    if not idle or job.graph.trainable_parameters < job.graph.parameters:
        return
    model, _ = sections(job.file, job.document)
    adapters = "" if model.lora else "; adapters to train instead are model.lora"
    for policy in idle:
        yield (
            f"{policy.name}: its rules for frozen weights do nothing, for every weight is trained; say in "
            f'training.trainable which are, such as ["*.lora_*"]{adapters}'
        )


def _at_peak(job: Job, policy: Policy) -> Memory:
    from costsim.cost.memory import of_policy  # most tables show no memory

    return of_policy(job.graph, policy, job.convention.traffic)[1]


def copies(job: Job, policy: Policy, memory: Memory) -> Iterator[str]:
    """A peak that stored copies raise: they are wider than what they are made from, and both are there."""
    wider = sum(place.size_bytes for place in memory.wider_copies)
    if wider:
        yield (
            f"{policy.name}: {wider} bytes of its peak are copies that lie beside the narrower tensors that they are "
            f"made from{_above_baseline(job, memory)}; with placement on_chip they take none"
        )


def _above_baseline(job: Job, memory: Memory) -> str:
    """How much more the peak is than the baseline's; "" if it is not, or if the baseline does not fit the workload."""
    try:
        base = _at_peak(job, job.baseline).peak_bytes
    except InputError:
        return ""
    more = memory.peak_bytes - base
    return f"; the peak is {more} bytes above that of {job.baseline.name}" if more > 0 else ""


def _attention_dropout(job: Job) -> Iterator[str]:
    """A model with dropout whose attention has none because nothing is said of it."""
    model, _ = sections(job.file, job.document)
    if getattr(model, "dropout", 0) and "attention_dropout" not in model.given:
        yield (
            f"model.dropout is {model.dropout:g} and model.attention_dropout is not said: attention counts as without "
            "dropout, so it keeps no masks and no dropped probabilities"
        )


def of_memory(row: Row) -> tuple[list[str], list[str]]:
    """The warnings for a row of a table of memory: of what is asked, which come first, and of its copies."""
    asked = [*_unfrozen(row.job, [row.policy]), *_attention_dropout(row.job)]
    return asked, list(copies(row.job, row.policy, row.memory))


def of_run(result: Result, by: str) -> list[str]:
    """The warnings for a table of a run, one of `names.BY`; those of memory where it has some."""
    job = result.job
    distinct = {counted.policy.name: counted.policy for counted in (*result.policies, result.baseline)}
    lines = list(_unfrozen(job, distinct.values()))
    if by == "reduction":
        for counted in result.policies:
            if counted.phases[0].total is not None:
                continue  # of which nobody knows where its bytes lie
            lines += copies(job, counted.policy, _at_peak(job, counted.policy))
    return lines
