"""The points of `--sweep` worked out: by whom, how far it is, and what is kept if it is stopped."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costsim.cli.options import path_of
from costsim.cli.output import echo_line, progress

if TYPE_CHECKING:
    from costsim.run.journal import Journal
    from costsim.run.sweep import Sweep


def check_options(sweep: Sequence[str], executor: str | None, resume: str | None, expected: Sequence[str] = ()) -> None:
    """Raise InputError for options of a sweep where there is none, and for assertions where there is one."""
    from costsim.errors import InputError

    for name, value in (("executor", executor), ("resume", resume)):
        if value is not None and not sweep:
            raise InputError(f"--{name}: is of a sweep; add --sweep FIELD=VALUE,...")
    if sweep and expected:
        raise InputError("--assert: is of one run; leave out --sweep")


def parts(sweep: "Sweep", by: str, style: str | None, executor: str | None, resume: str | None) -> list[Any]:
    """The parts of a sweep's document in a style (None: in all), those in the file that `resume` names as they are.

    Stopped by Ctrl-C, or by the loss of its workers, it says in which file the finished points are.
    """
    from costsim.run import journal, spread
    from costsim.tables import sweep as tables

    path = None if resume is None else path_of(resume, "--resume")
    head = journal.heading(sweep, {"by": by, "peak memory": tables.is_data(style)})
    number = len(sweep.where)
    with spread.workers(executor) as workers, journal.opened(path, head) as kept, progress(number) as bar:
        bar.update(len(kept.parts))
        try:
            for part in tables.parts(sweep, by, style, workers, len(kept.parts)):
                kept.add(part)
                bar.update(1)
        except (KeyboardInterrupt, spread.LostError):
            bar.close()
            _say_what_is_kept(kept, number, path, f"{sweep.first.workload}-sweep.unfinished")
            raise
    return kept.parts


def _say_what_is_kept(kept: "Journal", number: int, path: Path | None, stem: str) -> None:
    """Write the finished points to a new file, if they are in none yet, and say where they are."""
    from costsim.errors import InputError
    from costsim.run import journal

    if not kept.parts:
        return
    try:
        if path is None:
            path = _new(stem)
            journal.write(path, kept.head, kept.parts)
    except (InputError, OSError) as error:
        echo_line(f"costsim: {len(kept.parts)} of {number} points are done and could not be kept: {error}", err=True)
    else:
        done = f"{len(kept.parts)} of {number} points are done, and kept in {path}"
        echo_line(f"costsim: {done}; the same command with --resume {path} goes on", err=True)


def _new(stem: str) -> Path:
    """A name here that no file has."""
    names = (Path(f"{stem}{'' if number == 1 else f'.{number}'}.jsonl") for number in count(1))
    return next(name for name in names if not name.exists())
