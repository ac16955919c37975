"""Files: text and CSV read, files found by shipped name, files written whole or not at all."""

import csv
import io
import os
import select
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from types import MappingProxyType

from costsim.errors import Fault, InputError, nearest, one_line
from costsim.inputs.sorts import SORTS

MAX_FILE_BYTES = 1_000_000
PIPE_SECONDS = 5  # for the first byte of a pipe


# --- text and CSV -----------------------------------------------------------------------------------------------------


def _read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file, or what comes through a pipe; one more than are allowed.

    Raises InputError for a folder, a device, and a pipe into which nobody writes; OSError for what cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # waits for nobody to open a pipe
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISFIFO(mode):
            readable, _, _ = select.select([file], [], [], PIPE_SECONDS)
            os.set_blocking(file.fileno(), True)
            data = file.read(most + 1) if readable else b""
            if not data:
                raise InputError(f"{path}: a pipe through which nothing comes")
            return data
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: a device, expected a file")
        return file.read(most + 1)


def read_text(path: Path, most: int = MAX_FILE_BYTES) -> str:
    """The text of a small UTF-8 file. Raises InputError for a folder, a missing, huge or binary file."""
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder, expected a YAML file")
        data = _read_bytes(path, most)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if len(data) > most:
        raise InputError(f"{path}: larger than {most} bytes")
    if b"\0" in data:
        raise InputError(f"{path}: a binary file, expected text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise InputError(f"{path}:{line}:{column}: not a UTF-8 text file (byte {error.start})") from None


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of a small CSV file, each with its line, without blanks around cells; empty rows are left out.

    Raises InputError as `read_text`, and for text that is not CSV.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=None))
    try:
        return [(rows.line_num, [cell.strip() for cell in row]) for row in rows if row]
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: not valid CSV: {error}") from None


def row_error(path: str | Path, line: int, message: str) -> InputError:
    """The error for a line of a CSV file."""
    return InputError(Fault(f"{path}:{line}: {message}", str(path), line))


# --- files by name ----------------------------------------------------------------------------------------------------


@cache
def list_shipped(folder: str) -> Mapping[str, Path]:
    """The files that come with costsim in `folder` (workloads, policies), by name, sorted."""
    package = Path(__file__).parent.parent
    for root in (package / folder, package.parent / folder):  # a wheel carries them inside, a checkout has them beside
        if root.is_dir():
            return MappingProxyType({path.stem: path for path in sorted(root.glob("*.yaml"))})
    return MappingProxyType({})


def find(name: str, folder: str, noun: str, beside: Path | None = None) -> Path:
    """The file of that name if it exists (from here, or `beside` the file that names it), else the shipped one.

    `noun` says what is looked for. Beside another file, `.yaml` may be left out, as of shipped names. Raises InputError
    with the nearest shipped name.
    """
    paths = [Path(name)] if beside is None else [beside.parent / name, beside.parent / f"{name}.yaml"]
    shipped = list_shipped(folder)
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    try:
        for path in paths if name else ():
            if path.is_file():
                return path
        if stem.lower() in shipped:
            return shipped[stem.lower()]
        if name and paths[0].exists():  # a folder, say: the error comes where it is read
            return paths[0]
    except (OSError, ValueError):  # a name that no file can have
        pass
    for sort in SORTS:
        if stem.lower() in list_shipped(sort.folder):
            typed = sort.typed.format(stem.lower())
            raise InputError(f"{noun} {one_line(name)!r}: is a {sort.noun}, expected a {noun}: {typed}")
    if here := _other_ending(stem) if beside is None else "":
        raise InputError(f"{noun} {one_line(name)!r}: no such file; did you mean {one_line(here, 200)!r}?")
    raise InputError(f"{noun} {one_line(name)!r}: no such file, nor a shipped {noun}{nearest(stem, shipped, most=12)}")


def _other_ending(stem: str) -> str:
    """The file of that name but for `.yaml` or `.yml`, as it is to be typed; "" if there is none."""
    with suppress(OSError, ValueError):
        return next((name for end in (".yaml", ".yml") if Path(name := f"{stem}{end}").is_file()), "")
    return ""


# --- places to write --------------------------------------------------------------------------------------------------


def _refused(place: Path, reason: str) -> InputError:
    return InputError(f"--out {one_line(place, 200)}: {reason}")


def check_folder(folder: Path, place: Path | None = None) -> None:
    """Raise InputError at once, before counting, where files could not be written to a folder afterwards.

    `place` is what was asked for, if that is a file there.
    """
    for part in (folder, *folder.parents):
        try:
            known, there = part.exists(), part.is_dir()
        except (OSError, ValueError) as error:
            raise _refused(place or folder, getattr(error, "strerror", None) or str(error)) from None
        name = f"{one_line(part, 200)} " if place or part != folder else ""
        if known and not there:
            raise _refused(place or folder, f"{name}is a file" if name else "expected a folder, got a file")
        if known and not os.access(part, os.W_OK | os.X_OK):
            raise _refused(place or folder, f"{name}cannot be written to")
        if known:
            return


def check_place(path: Path, what: str = "the file") -> None:
    """As `check_folder`, of a file: folders that it lacks are made when it is written."""
    check_folder(path.parent, path)
    try:
        if path.is_dir():
            raise _refused(path, f"is a folder, expected a name for {what}")
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None


def make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, all or none. Raises OSError."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        for part in missing:  # what was made on the way
            with suppress(OSError):
                part.rmdir()
        raise


def write(path: Path, data: bytes) -> Path:
    """Write a file whole or not at all; an existing one is replaced at once. Raises InputError if that fails.

    An existing file keeps its permissions, a new one has those that the umask leaves. Links are followed; a device or a
    pipe is written to. Folders that it lacks are made.
    """
    temporary = None
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            target.write_bytes(data)
            return path
        if not target.parent.exists():
            make_folder(target.parent)
        file, temporary = _temporary(target)
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _temporary(target: Path) -> tuple[int, Path]:
    """A new file beside another, opened, with the permissions that the umask leaves."""
    for number in count():
        path = target.with_name(f".{target.name[:80]}.{os.getpid()}.{number}")
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), path
        except FileExistsError:
            continue
    raise AssertionError("there is always another number")
