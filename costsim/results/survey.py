"""Recipes side by side on one workload: what each costs there, and what it does to the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from costsim.cost.memory import of_policy
from costsim.errors import InputError
from costsim.policy.load import compose, find_policy, load_policies
from costsim.policy.policy import Policy
from costsim.reference.noise import signal_to_noise
from costsim.results.recipes import recipes
from costsim.results.records import Record
from costsim.run.job import Job, Request, prepare
from costsim.run.simulate import count_policy
from costsim.run.timing import time_run


class Entry(NamedTuple):
    """A recipe in a survey."""

    recipe: str
    policy: Policy  # composed with the one that it changes, if it is not complete
    job: Job  # the workload with the fields that the recipe sets
    own: Policy  # by itself, of which source and grade are


@dataclass(frozen=True, eq=False)
class Asked:
    """A survey before it is made: which recipes fit the workload, and why others do not."""

    job: Job  # under the baseline
    entries: Sequence[Entry]
    left_out: dict[str, str]  # by recipe: why

    @property
    def phases(self) -> int:
        """How many phases of policies are run in the reference."""
        return sum(len(entry.policy.file.phases) for entry in self.entries)


@dataclass(frozen=True, eq=False)
class Survey:
    """Recipes side by side: a record each, the baseline first, the others by the noise that they make."""

    job: Job
    records: Sequence[Record]
    left_out: dict[str, str]
    with_noise: bool

    @cached_property
    def baseline(self) -> str:
        """The policy that ratios compare with."""
        return self.job.convention.baseline


def _completed(policy: Policy, base: Policy) -> Policy:
    """The policy; one that only changes others is composed with what its figures compare with, or with `base`."""
    if policy.complete:
        return policy
    named = next((figure.baseline for figure in policy.file.published if figure.baseline), None)
    return compose([base if named is None else load_policies(find_policy(named)), policy])


def _of_workload(job: Job) -> list[Policy]:
    """The policies of which the workload has figures that a paper states."""
    return [load_policies(find_policy(name)) for name in dict.fromkeys(f.policy for f in job.file.published)]


def prepared(request: Request) -> Asked:
    """The survey of a request: its policies, or all recipes that are shipped, on its workload.

    A recipe may set fields of the workload, over which the request's own stand. Raises InputError for what is wrong in
    the request; a recipe that cannot set its fields there is left out.
    """
    first = prepare(replace(request, policies=()))
    named = request.policies or [*_of_workload(first), *recipes()]
    job = replace(first, policies=(first.baseline,))
    entries = [Entry(job.baseline.name, job.baseline, job, job.baseline)]
    left_out: dict[str, str] = {}
    jobs: dict[tuple[str, ...], Job | str] = {(): job}
    for policy in (load_policies(find_policy(one)) if isinstance(one, str) else one for one in named):
        fields = policy.file.set
        if fields not in jobs:
            try:
                jobs[fields] = prepare(
                    replace(request, policies=(job.baseline,), assignments=(*fields, *request.assignments))
                )
            except InputError as error:
                jobs[fields] = str(error)
        there = jobs[fields]
        if isinstance(there, str):
            left_out[policy.name] = there
        elif policy.name not in {entry.recipe for entry in entries}:
            entries.append(Entry(policy.name, _completed(policy, job.baseline), there, policy))
    return Asked(job, entries, left_out)


class _Costs(NamedTuple):
    """What ratios are made of."""

    arithmetic: int | None
    dram_bits: int
    peak_bytes: int
    spent: dict[str, tuple[float | None, float | None]]  # by device: seconds and joules


def _costs(entry: Entry) -> tuple[_Costs, Record]:
    """The costs of a recipe, and its record without ratios. Raises InputError if it does not fit the workload."""
    job, policy = entry.job, entry.policy
    counted = count_policy(job.graph, policy, job.convention)
    peak = of_policy(job.graph, policy, job.convention.traffic)[1].peak_bytes
    spent = {device.name: time_run(job, counted, device) for device in job.hardware}
    costs = _Costs(
        counted.total.arithmetic_cost,
        counted.total.dram_bits,
        peak,
        {name: (each.time_s, each.energy_j) for name, each in spent.items()},
    )
    record = {
        "recipe": entry.recipe,
        "policy": policy.name,
        "set": list(policy.file.set),
        "setup": " > ".join(dict.fromkeys(policy.setup)),
        "grade": entry.own.file.grade,
        "source": entry.own.file.source,
        "arithmetic_cost": None if costs.arithmetic is None else str(costs.arithmetic),
        "dram_bits": str(costs.dram_bits),
        "peak_memory_bytes": str(peak),
        "hardware": {
            name: {"upcast": len(each.upcast), "unsupported": sorted(each.unsupported)} for name, each in spent.items()
        },
    }
    return costs, record


def _less(base: float | None, ours: float | None) -> float | None:
    return base / ours if ours and base is not None else None


def _with_ratios(record: Record, costs: _Costs, base: _Costs) -> Record:
    """The record with how many times less than the baseline the recipe takes."""
    devices = {
        name: {
            "time_s": time,
            "energy_j": energy,
            "time_reduction": _less(base.spent[name][0], time),
            "energy_reduction": _less(base.spent[name][1], energy),
            **record["hardware"][name],
        }
        for name, (time, energy) in costs.spent.items()
    }
    return {
        **record,
        "arithmetic_reduction": _less(base.arithmetic, costs.arithmetic),
        "dram_reduction": _less(base.dram_bits, costs.dram_bits),
        "memory_reduction": _less(base.peak_bytes, costs.peak_bytes),
        "hardware": devices,
    }


def survey(asked: Asked, noise: bool = True, seed: int = 0, tick: Callable[[], None] = lambda: None) -> Survey:
    """Count all recipes and, with `noise`, run each phase of each in NumPy; `tick` is called as often.

    Raises InputError if the baseline does not fit the workload, or the workload cannot be shrunk.
    """
    left_out = dict(asked.left_out)
    base, _ = _costs(asked.entries[0])
    records, counted = [], []
    for entry in asked.entries:
        try:
            costs, record = _costs(entry)
        except InputError as error:
            left_out[entry.recipe] = str(error)
            continue
        records.append(_with_ratios(record, costs, base))
        counted.append(entry)
    if noise:
        runs = [(entry.job, entry.policy) for entry in counted]
        ratios = signal_to_noise(runs, asked.job.graph.sizes, seed, tick)
        for record, phases in zip(records, ratios, strict=True):
            of_phases = [None if db is None else round(db, 2) for db in phases]
            record["gradient_snr_db"] = None if None in of_phases else min(db for db in of_phases if db is not None)
            record["gradient_snr_db_by_phase"] = of_phases
        records = [records[0], *sorted(records[1:], key=_noisiness)]
    return Survey(asked.job, records, left_out, noise)


def _noisiness(record: Record) -> float:
    """From the least noise on; what has no number comes last."""
    ratio_db = record["gradient_snr_db"]
    return math.inf if ratio_db is None else -ratio_db
