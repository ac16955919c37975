"""What all figures share: colours, titles, marks, units with SI prefixes, and lists cut to their largest members."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from costsim.cost.memory import COMPONENTS
from costsim.run.job import Job
from costsim.run.simulate import CountedPolicy, Result
from costsim.tables.table import printable

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
GREY = "#BFBFBF"
OF_COMPONENT = dict(zip(COMPONENTS, (COLOURS[i] for i in (0, 5, 1, 4, 2, 3, 7)), strict=True))  # of the memory

RECALLED = " (* levels recalled, not stated)"  # for titles of figures with starred policies


def note(job: Job) -> str:
    """What every figure of a job says about its convention."""
    said = job.convention
    return f"{job.workload}: law {said.law}, traffic {said.traffic_said}, scope {said.scope}"


def _name(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def drawable(result: Result) -> Result:
    """The result with names that fonts can draw: of files that are not UTF-8, or hold control characters, escaped."""
    job = result.job
    counted = {its.policy.name: its for its in (*result.policies, result.baseline)}
    names = [job.workload, *counted, *(device.name for device in job.hardware)]
    if all(name == _name(name) for name in names):
        return result
    renamed = {name: replace(its, policy=replace(its.policy, name=_name(name))) for name, its in counted.items()}
    shown = replace(
        job,
        workload=_name(job.workload),
        convention=replace(job.convention, baseline=_name(job.convention.baseline)),
        policies=tuple(renamed[policy.name].policy for policy in job.policies if policy.name in renamed),
        baseline=renamed[job.baseline.name].policy,
        hardware=tuple(replace(device, name=_name(device.name)) for device in job.hardware),
    )
    policies = tuple(renamed[its.policy.name] for its in result.policies)
    return replace(result, job=shown, policies=policies, baseline=renamed[result.baseline.policy.name])


def starred(counted: CountedPolicy) -> str:
    """A policy's name, marked if its levels are recalled."""
    return counted.policy.name + ("*" if counted.policy.recalled else "")


def marks(shown: Iterable[CountedPolicy]) -> str:
    """What a title says of the policies that are shown: levels that are recalled, phases whose ends are fitted."""
    policies = [counted.policy for counted in shown]
    recalled = RECALLED if any(policy.recalled for policy in policies) else ""
    fitted = any(phase.until_grade == "fitted" for policy in policies for phase in policy.file.phases)
    return recalled + ("; where phases end is fitted" if fitted else "")


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q")


def si(largest: int) -> tuple[int, str]:
    """The power of 1000 that makes the largest of some amounts at least 1 and less than 1000, and its SI prefix."""
    power = min((len(str(largest)) - 1) // 3, len(_PREFIXES) - 1)
    return 1000**power, _PREFIXES[power]


def short(value: float) -> str:
    """Three significant digits, or all before the point: 1.20, 12.3, 123, 1234."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}" if value else "0"


def largest(groups: Mapping[str, Any], sizes: Sequence[Mapping[str, int]], most: int) -> list[str]:
    """The names of at most so many groups: those with the largest share in any of `sizes`, in the order of `groups`."""
    if len(groups) <= most:
        return list(groups)
    wholes = [sum(its.values()) or 1 for its in sizes]

    def share(name: str) -> float:
        return max((its.get(name, 0) / whole for its, whole in zip(sizes, wholes, strict=True)), default=0.0)

    chosen = set(sorted(groups, key=lambda name: -share(name))[: most - 1])  # stable: of equal ones, the first
    return [name for name in groups if name in chosen]
