"""Assertions on a result: `--assert` names its numbers by policy and field, or by policy, device and field."""

from collections.abc import Mapping, Sequence

from costsim.cost.totals import Total
from costsim.errors import nearest, one_line
from costsim.names import PEAK
from costsim.policy.policy import Policy
from costsim.results.expressions import Expression, Field, Name, Number, evaluate, field_error, parse
from costsim.results.records import Record, policy_record
from costsim.run.counted import CountedPhase, CountedPolicy
from costsim.run.job import Job
from costsim.run.simulate import Result

_TEXTS = ("policy", "setup", "grade")


def _numbers(record: Record) -> dict[str, Number | None]:
    """The fields of a record that hold numbers; exact integers stand there as decimal strings."""
    numbers: dict[str, Number | None] = {}
    for name, value in record.items():
        if isinstance(value, str) and value.isdecimal() and name not in _TEXTS:
            numbers[name] = int(value)
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            numbers[name] = value
    return numbers


def _policies(job: Job) -> dict[str, Policy]:
    """The policies that an expression may name: those that are run, and the baseline."""
    return {policy.name: policy for policy in (*job.policies, job.baseline)}


def _empty_record(job: Job) -> Record:
    """The record of a policy that does nothing: it has the names of all fields before anything is counted."""
    nothing = CountedPolicy(job.baseline, (CountedPhase(1, [], []),), Total())
    return policy_record(Result(job, (nothing,), nothing), nothing)


def read(texts: Sequence[str], job: Job) -> list[Expression]:
    """Parse assertions and check their names against a job. Raises InputError, with the column and the nearest name."""
    record = _empty_record(job)
    fields = {*_numbers(record), PEAK}  # worked out where it is named: it takes as long as counting
    devices = {name: set(_numbers(fields)) for name, fields in record.get("hardware", {}).items()}
    expressions = [parse(text) for text in texts]
    for expression in expressions:
        for field in expression.fields:
            _check(expression, field, set(_policies(job)), fields, devices)
    return expressions


def _check(
    expression: Expression, field: Field, policies: set[str], fields: set[str], devices: Mapping[str, set[str]]
) -> None:
    policy, *device, name = field.name
    if policy not in policies:
        raise field_error(expression, field, 0, f"unknown policy {one_line(policy)!r}{nearest(policy, policies)}")
    if device and device[0] not in devices:
        known = nearest(device[0], devices) or "; none was named with --hardware"
        raise field_error(expression, field, 1, f"unknown device {one_line(device[0])!r}{known}")
    valid = devices[device[0]] if device else fields
    if name not in valid:
        per_device = not device and any(name in numbers for numbers in devices.values())
        hint = f"; it is of a device: {policy}.DEVICE.{name}" if per_device else nearest(name, valid, most=20)
        raise field_error(expression, field, -1, f"unknown field {one_line(name)!r}{hint}")


def _values(result: Result, names: set[Name]) -> dict[Name, Number | None]:
    """The numbers of these names; None where a number is n/a."""
    counted = {policy.policy.name: policy for policy in (*result.policies, result.baseline)}
    records = {policy: policy_record(result, counted[policy]) for policy in sorted({name[0] for name in names})}
    values: dict[Name, Number | None] = {}
    for name in names:
        record = records[name[0]]
        if name[1:] == (PEAK,):
            from costsim.cost.memory import of_policy  # few assertions need it

            policy = counted[name[0]].policy
            values[name] = of_policy(result.job.graph, policy, result.job.convention.traffic)[1].peak_bytes
        else:
            values[name] = _numbers(record["hardware"][name[1]] if len(name) == 3 else record)[name[-1]]
    return values


def failures(expressions: Sequence[Expression], result: Result) -> list[str]:
    """A line for each assertion that does not hold: the expression, and the value of each name in it.

    An assertion that names a number that is n/a does not hold. Raises InputError for a division by zero.
    """
    values = _values(result, {field.name for expression in expressions for field in expression.fields})
    lines = []
    for expression in expressions:
        named = {field.name: values[field.name] for field in expression.fields}
        known = {name: value for name, value in named.items() if value is not None}
        if len(known) == len(named) and evaluate(expression, known):
            continue
        shown = ", ".join(f"{'.'.join(name)} is {'n/a' if value is None else value}" for name, value in named.items())
        text = " ".join(expression.text.split())
        lines.append(f"assertion failed: {text}" + (f" ({shown})" if shown else ""))
    return lines
