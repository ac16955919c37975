"""The journal of a sweep: a file of its finished points, from which it goes on.

Each line is a JSON value: first what the sweep is of, then what was made of its points, in their order. Lines are added
whole, and a last one that was cut off is left out when the file is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from costsim import __version__
from costsim.errors import InputError
from costsim.inputs import files
from costsim.inputs.section import Section
from costsim.policy.schedule import schedule
from costsim.run.sweep import Sweep

_TITLE = "finished points of a sweep, one a line after this; costsim goes on from here with --resume"
_MOST = 10**9  # bytes of a line


def _plain(value: Any) -> Any:
    """A value as JSON has it, the same in every process."""
    if isinstance(value, Section):
        return _plain(vars(value))
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else str(value)


def _digest(sweep: Sweep) -> str:
    """A number for all that the results hang on: the workload, policies with their loss logs, devices, convention."""
    job = sweep.first
    policies = [
        (policy.name, policy.file, policy.widths, schedule(policy, job.convention.steps))
        for policy in (job.baseline, *job.policies)
    ]
    what = (job.workload, job.file, job.convention, job.hardware, job.overlap, policies)
    return sha256(json.dumps(_plain(what), sort_keys=True).encode()).hexdigest()


def heading(sweep: Sweep, of: Mapping[str, Any]) -> dict[str, Any]:
    """The first line of a sweep's journal; `of` says what is made of each point."""
    values = {name: list(dict.fromkeys(point[name] for point in sweep.where)) for name in sweep.where[0]}
    asked = {"workload": sweep.first.workload, "swept": values, **of}
    return {"what": _TITLE, "costsim": __version__, "asked": asked, "inputs": _digest(sweep)}


def read(path: Path, head: Mapping[str, Any]) -> list[Any]:
    """What the journal of such a heading has of its points; nothing if there is no file.

    Raises InputError for a file that is none, or is that of another sweep, of other inputs, or of another costsim.
    """
    try:
        with path.open("rb") as file:
            lines = [line for line in iter(lambda: file.readline(_MOST), b"") if line.endswith(b"\n")]
        first, *rest = [json.loads(line) for line in lines] or [None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"--resume {path}: {error.strerror or error}") from None
    except ValueError:
        raise InputError(f"--resume {path}: not a file of finished points of a sweep") from None
    if not isinstance(first, dict) or first.get("what") != _TITLE:
        raise InputError(f"--resume {path}: not a file of finished points of a sweep")
    changed = _changed(first, head)
    if changed:
        raise InputError(f"--resume {path}: {changed}; name another file")
    return rest


def _changed(first: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """What a journal has otherwise than its heading should be, in words."""
    asked, now = first.get("asked") or {}, head["asked"]
    for name in now:
        if asked.get(name) != now[name]:
            return f"it is of another sweep ({name}: {asked.get(name)}, and here {now[name]})"
    if first.get("costsim") != head["costsim"]:
        return f"it is of costsim {first.get('costsim')}, and this is {head['costsim']}"
    return "" if first.get("inputs") == head["inputs"] else "the workload, a policy or a device has changed since"


def write(path: Path, head: Mapping[str, Any], parts: Iterable[Any]) -> None:
    """Write a journal whole or not at all. Raises InputError."""
    files.write(path, b"".join(map(_line, (head, *parts))))


def _line(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode() + b"\n"


class Journal:
    """What is finished of a sweep, and the file that it is added to, if there is one."""

    def __init__(self, head: Mapping[str, Any], parts: Sequence[Any] = (), file: IO[bytes] | None = None) -> None:
        self.head, self.parts, self._file = head, list(parts), file

    def add(self, part: Any) -> None:
        """Add what was made of the next point."""
        self.parts.append(part)
        if self._file is not None:
            self._file.write(_line(part))
            self._file.flush()


@contextmanager
def opened(path: Path | None, head: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a sweep with such a heading, begun or gone on with; without a file it is only in memory.

    Raises InputError as `read` and `write` do.
    """
    if path is None:
        yield Journal(head)
        return
    parts = read(path, head)
    write(path, head, parts)  # without what was cut off
    try:
        with path.open("ab") as file:
            yield Journal(head, parts, file)
    except OSError as error:
        raise InputError(f"--resume {path}: {error.strerror or error}") from None
