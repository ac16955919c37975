"""How long each phase of a policy lasts: by step, by fraction of the run, or until a recorded loss stops falling."""

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from costsim.errors import InputError, one_line, refuse
from costsim.inputs import files, schema_policy
from costsim.policy.policy import Policy

LossLog = list[tuple[int, float]]  # (step, validation loss), steps rising


def read_loss_log(path: Path) -> LossLog:
    """A CSV file with the header `step,loss`. Raises InputError, with file and line, for all that is wrong in it."""
    (_, header), *rows = files.read_csv(path) or [(1, [])]
    errors: list[InputError] = []
    if header != ["step", "loss"]:
        errors.append(files.row_error(path, 1, f"expected the header step,loss, got {one_line(','.join(header))!r}"))
    log: LossLog = []
    for line, row in rows:
        try:
            step, loss = _step_and_loss(row)
            if step < 0 or (log and step <= log[-1][0]):
                raise ValueError(f"steps must rise, got {step}" + (f" after {log[-1][0]}" if log else ""))
        except ValueError as error:
            errors.append(files.row_error(path, line, str(error)))
        else:
            log.append((step, loss))
    if not rows and not errors:
        errors.append(InputError(f"{path}: the loss log is empty"))
    refuse(errors)
    return log


def _step_and_loss(row: Sequence[str]) -> tuple[int, float]:
    """A row of a loss log. Raises ValueError."""
    try:
        step, loss = row
        whole, number = int(step), float(loss)
    except ValueError:
        raise ValueError(f"expected a step and a loss, got {one_line(','.join(row))!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"expected a finite loss, got {one_line(loss)}")
    return whole, number


class _Plateaus:
    """A walk through a loss log. The best loss lasts from phase to phase, the patience starts anew.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau with threshold_mode="abs".
    """

    def __init__(self, log: LossLog) -> None:
        self.log = log
        self.best = math.inf

    def end(self, rule: schema_policy.Plateau, start: int) -> int | None:
        """The step of the evaluation that ends a phase begun at `start`, None if the loss never stops falling."""
        waited = 0
        for step, loss in self.log:
            if step <= start:
                continue
            waited = 0 if loss < self.best - rule.threshold else waited + 1
            self.best = min(self.best, loss) if waited else loss
            if waited >= rule.patience:
                return step
        return None


def loss_log_path(policy: Policy) -> Path | None:
    """The file of a policy's recorded losses, beside the file that names it; None if none does."""
    if policy.file.loss_log is None:
        return None
    document, _ = policy.inherited.get("loss_log", (policy.document, ()))
    return Path(document.path).parent / policy.file.loss_log


def _loss_log(policy: Policy) -> LossLog:
    path = loss_log_path(policy)
    if path is None:
        raise policy.error((), "until_plateau needs a loss_log (a CSV file with the header step,loss)")
    return read_loss_log(path)


def schedule(policy: Policy, steps: int) -> list[int]:
    """The steps that each phase takes, of a run of so many. Raises InputError on overlapping phases.

    A fraction ends its phase at the step floor(fraction x steps), a plateau at the evaluation that fulfils it.
    """
    phases = policy.file.phases
    plateaus = _Plateaus(_loss_log(policy) if any(phase.until_plateau for phase in phases) else [])
    start = 0
    lengths: list[int] = []
    errors: list[InputError] = []
    for i, phase in enumerate(phases):
        end = steps
        if phase.until_fraction is not None:
            end = int(Fraction(str(phase.until_fraction)) * steps)
        elif phase.until_step is not None:
            end = min(phase.until_step, steps)
        elif phase.until_plateau is not None:
            plateau = plateaus.end(phase.until_plateau, start)
            end = steps if plateau is None else min(plateau, steps)
        if end < start:
            errors.append(policy.error(("phases", i), f"ends at step {end}, before it starts at step {start}"))
        lengths.append(end - start)
        start = max(start, end)
    refuse(errors)
    return lengths
