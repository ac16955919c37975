"""Pipelines as records: by policy and device, the time of a run with its bubbles, and each stage of a step."""

from functools import lru_cache
from typing import Any

from costsim.run.simulate import Result

Record = dict[str, Any]


@lru_cache(maxsize=1)  # every style of output asks anew of the same result
def pipeline_records(result: Result) -> list[Record]:
    """A row per policy and device, only to be read; none without a pipeline or without devices.

    `stages` are those of a step in the phase that lasts longest. None where a time is not known.
    """
    if not result.job.hardware or result.job.file.parallel.pipeline == 1:
        return []
    from costsim.run.stages import steps_of  # few runs have a pipeline

    rows = []
    for counted in result.policies:
        for device in result.job.hardware:
            phases = steps_of(result.job, counted.policy, device)
            _, longest = max(phases, key=lambda phase: phase[0])
            known = [(steps, step.time_s) for steps, step in phases if step is not None and steps]
            whole = len(known) == sum(1 for steps, _ in phases if steps)
            row: Record = {"policy": counted.policy.name, "hardware": device.name}
            row["time_s"] = sum(steps * time_s for steps, time_s in known) if whole else None
            row["step_s"] = longest.time_s if longest else None
            row["bubble_share"] = longest.play.bubble_share if longest else None
            row["send_s"] = longest.send_s if longest else None
            row["stages"] = [_stage(stage) for stage in longest.stages] if longest else []
            rows.append(row)
    return rows


def _stage(stage: Any) -> Record:
    return {
        "stage": stage.number,
        "parameters": stage.parameters,
        "forward_s": stage.forward_s,
        "backward_s": stage.backward_s,
        "once_s": stage.once_s,
        "in_flight": stage.in_flight,
        "peak_memory_bytes": str(stage.peak_bytes),
    }
