"""Kills while files are written, writers of one file, odd files as inputs, places that cannot be written."""

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from costsim.cli import main

COSTSIM = [sys.executable, "-m", "costsim"]
# What writes a file, with the ending that it needs; each is run once for how long it takes, and for what it writes.
WRITES = {
    "run.json": ["run", "translation-small", "--out"],
    "run.tex": ["run", "translation-small", "--by", "reduction", "--out"],
    "report.html": ["report", "translation-small", "--out"],
    "figure.svg": ["plot", "translation-small", "breakdown", "--out"],
    "figure.png": ["plot", "translation-small", "breakdown", "--out"],
    "trace.json": ["plot", "translation-small", "trace", "--hardware", "h100-sxm", "--out"],
}
OLD = b"what was there before\n"
Scored = tuple[Counter[str], list[str]]


def _run(arguments: list[str], folder: Path, **more: object) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([*COSTSIM, *arguments], cwd=folder, capture_output=True, timeout=120, **more)  # type: ignore[call-overload,no-any-return]


def _child(command: list[str], folder: Path) -> int:
    """The process of a command, forked from this one, whose imports are done: moments are those of writing."""
    process = os.fork()
    if not process:
        os.chdir(folder)
        CliRunner().invoke(main, command)
        os._exit(0)
    return process


def _wait_for(process: int, seconds: float, folder: Path, file: str) -> None:
    """Wait so long; below 0, until the file that is to take the place of another one appears, or the process ends."""
    if seconds >= 0:
        time.sleep(seconds)
        return
    while not list(folder.glob(f".{file}.*")):
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
    time.sleep(-seconds)


def kills(seed: int, deadline: float) -> Scored:
    """kill -9 at random moments, half of them while the file is written: it is what it was, or the new one, whole."""
    rng, counts, failures = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, seconds = {}, {}
        for file, command in WRITES.items():
            for _ in range(2):  # the first time modules are imported, here too
                start = time.monotonic()
                os.chdir(folder)
                CliRunner().invoke(main, [*command, file])
                seconds[file] = time.monotonic() - start
            whole[file] = (folder / file).read_bytes()
        while time.monotonic() < deadline:
            file = rng.choice(list(WRITES))
            path = folder / file
            path.write_bytes(OLD)
            process = _child([*WRITES[file], file], folder)
            _wait_for(process, rng.choice((rng.uniform(0, 1.2 * seconds[file]), -rng.uniform(0, 3e-4))), folder, file)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            left = path.read_bytes()
            verdict = "refused" if left == OLD else "accepted" if left == whole[file] else "failed"
            counts[verdict] += 1
            if verdict == "failed":
                failures.append(f"{file}: {len(left)} bytes, neither the old file nor the new one")
            for temporary in folder.glob(f".{file}.*"):
                temporary.unlink()
        os.chdir("/")
    return counts, failures


def writers(few: bool, number: int = 8) -> Scored:
    """So many at once on one file: it is the file of one of them, whole, and no other file is left."""
    counts, failures = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, command in list(WRITES.items())[: 1 if few else None]:
            _run([*command, file], folder)
            whole = (folder / file).read_bytes()
            started = [
                subprocess.Popen(
                    [*COSTSIM, *command, file], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                for _ in range(number)
            ]
            codes = []
            for process in started:
                process.communicate()
                codes.append(process.returncode)
            left = sorted(path.name for path in folder.iterdir())
            good = codes == [0] * number and (folder / file).read_bytes() == whole and left == [file]
            counts["accepted" if good else "failed"] += 1
            if not good:
                failures.append(f"{file}: exit codes {codes}, files {left}")
            (folder / file).unlink(missing_ok=True)
    return counts, failures


def _odd_files(folder: Path) -> dict[str, Path]:
    """Files that are none to read."""
    odd = {
        name: folder / f"{name}.yaml"
        for name in ("folder", "loop", "nowhere", "binary", "empty", "bom", "huge", "fifo")
    }
    odd["folder"].mkdir()
    odd["loop"].symlink_to(odd["loop"])
    odd["nowhere"].symlink_to(folder / "no such file")
    odd["binary"].write_bytes(bytes(range(256)))
    odd["empty"].write_bytes(b"")
    odd["bom"].write_bytes(b"\xff\xfea: 1")
    odd["huge"].write_bytes(b"# \n" * 10**6)
    os.mkfifo(odd["fifo"])
    return {**odd, "zero": Path("/dev/zero"), "null": Path("/dev/null"), "memory": Path("/proc/self/mem")}


def inputs(few: bool) -> Scored:
    """Odd files wherever a file is read: one line, exit code 2, at once."""
    counts, failures = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, path in _odd_files(folder).items():
            for command in (
                ["run", str(path)],
                ["run", "translation-small", "--policy", str(path)],
                ["run", "translation-small", "--hardware", str(path)],
                ["run", "translation-small", "--bits", str(path)],
                ["import", str(path)],
            )[: 2 if few else None]:
                try:
                    done = _run(command, folder, stdin=subprocess.DEVNULL)
                    told = done.stderr.decode(errors="replace")
                    good = done.returncode == 2 and told.startswith("costsim: ") and "Traceback" not in told
                except subprocess.TimeoutExpired:
                    good, told = False, "hangs"
                counts["refused" if good else "failed"] += 1
                if not good:
                    failures.append(f"{kind}: {' '.join(command)}: {told[-300:]}")
    return counts, failures


def _no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def outputs() -> Scored:
    """Places that cannot be written: a full disk, a limit on files, a folder that is none, a closed stdout."""
    counts, failures = Counter[str](), []

    def judge(what: str, done: "subprocess.CompletedProcess[bytes]", codes: tuple[int, ...]) -> None:
        told = done.stderr.decode(errors="replace")
        good = done.returncode in codes and "Traceback" not in told and "Exception ignored" not in told
        counts["refused" if good else "failed"] += 1
        if not good:
            failures.append(f"{what}: exit code {done.returncode}: {told[-300:]}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, command in WRITES.items():
            (folder / file).write_bytes(OLD)
            judge(f"{file}, file size limit", _run([*command, file], folder, preexec_fn=_no_room), (2,))
            if (folder / file).read_bytes() != OLD:
                counts["failed"] += 1
                failures.append(f"{file}: gone or changed by a write that failed")
            judge(f"{file}, no such folder", _run([*command, f"no/such/{file}"], folder), (0, 2))
            judge(f"{file}, a file as folder", _run([*command, f"{file}/{file}"], folder), (2,))
            if list(folder.glob(".*")):
                counts["failed"] += 1
                failures.append(f"{file}: leaves {list(folder.glob('.*'))}")
        for command in (
            ["run", "translation-small"],
            ["list", "policies"],
            ["memory", "translation-small"],
            ["--help"],
        ):
            text = " ".join([*COSTSIM, *command])
            for shell, codes in (
                (f"{text} > /dev/full", (2, 74)),
                (f"{text} >&-", (0, 2, 74)),
                (f"{text} | head -c 1", (0,)),
            ):
                done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, timeout=120, check=False)
                judge(shell, done, codes)
    return counts, failures
