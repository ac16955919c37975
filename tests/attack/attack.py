"""A standing attack on costsim: valid mutants, kills, hostile files, other environments.

    python tests/attack/attack.py                 # two minutes, as .ci/run does
    python tests/attack/attack.py --minutes 60    # what docs/reliability.md reports
    python tests/attack/attack.py --only mutants --seed 7 --keep failures

Exits with 1 if anything failed. A failing mutant is kept in the folder of `--keep`, with the command and what it did.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 60  # of processor time that one mutant may take: of a clock, other work on the machine would be counted too
CORES = 2


class Score(NamedTuple):
    """What became of the attempts of one kind."""

    counts: Counter[str]  # by verdict
    failures: list[str]


class TooSlowError(BaseException):
    """Of a mutant that takes too long; no Exception, which whoever invokes a command would take for the command's."""


def _too_slow(*_: Any) -> None:
    raise TooSlowError(f"more than {SECONDS} s of processor time")


def mutants(seed: int, deadline: float, keep: Path | None) -> Score:
    """Mutants, one after another, until the deadline."""
    from behind import attack

    signal.signal(signal.SIGPROF, _too_slow)
    score = Score(Counter(), [])
    number = 0
    while time.monotonic() < deadline:
        name = f"{seed}-{number}"
        with tempfile.TemporaryDirectory() as folder:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                outcomes = attack(random.Random(name), Path(folder))
                failed = [(" ".join(o.command), o.told) for o in outcomes if o.verdict == "failed"]
                score.counts.update(outcome.verdict for outcome in outcomes)
            except TooSlowError as error:
                failed = [("", str(error))]
                score.counts["failed"] += 1
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            for command, told in failed:
                score.failures.append(f"mutant {name}: {command}\n{told}")
                if keep is not None:
                    shutil.copytree(folder, keep / name, dirs_exist_ok=True)
        number += 1
    return score


def _in_parallel(function: Callable[..., Score], seed: int, minutes: float, keep: Path | None) -> Score:
    total = Score(Counter(), [])
    deadline = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(CORES) as pool:
        for score in pool.map(function, range(seed, seed + CORES), [deadline] * CORES, [keep] * CORES):
            total.counts.update(score.counts)
            total.failures.extend(score.failures)
    return total


def main() -> int:
    """Run what is asked for, print a table, and say how it ended."""
    import disks
    import same

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes",
        type=float,
        default=2.0,
        help="of which half for mutants, a sixth for kills; less than ten: a sample of the rest",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("mutants", "kills", "writers", "inputs", "outputs", "same"))
    parser.add_argument("--keep", type=Path, help="folder for failing mutants")
    chosen = parser.parse_args()
    few = chosen.minutes < 10
    parts: dict[str, Callable[[], Score]] = {
        "mutants": lambda: _in_parallel(mutants, chosen.seed, chosen.minutes / 2, chosen.keep),
        "kills": lambda: Score(*disks.kills(chosen.seed, time.monotonic() + 60 * chosen.minutes / 6)),
        "writers": lambda: Score(*disks.writers(few)),
        "inputs": lambda: Score(*disks.inputs(few)),
        "outputs": lambda: Score(*disks.outputs()),
        "same": lambda: Score(*same.environments(few)),
    }
    failed = 0
    print(f"{'attack':10} {'tried':>8} {'accepted':>9} {'refused':>8} {'failed':>7} {'seconds':>8}")
    for name, part in parts.items():
        if chosen.only in (None, name):
            start = time.monotonic()
            score = part()
            counts = score.counts
            tried = sum(counts.values())
            seconds = time.monotonic() - start
            numbers = (tried, counts["accepted"], counts["refused"], counts["failed"])
            print(f"{name:10} {numbers[0]:8} {numbers[1]:9} {numbers[2]:8} {numbers[3]:7} {seconds:8.0f}", flush=True)
            for failure in score.failures[:20]:
                print(failure, file=sys.stderr)
            failed += counts["failed"]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
