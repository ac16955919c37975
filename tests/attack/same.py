"""The same bytes from the same input: under other hash seeds, locales, time zones, folders, threads and Pythons."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

COMMANDS = (
    ["run", "translation-small"],
    ["run", "translation-small", "--by", "op", "--format", "csv"],
    ["run", "llama-small", "--by", "reduction", "--hardware", "h100-sxm", "--format", "json"],
    ["memory", "translation-small", "--stash", "--format", "latex"],
    ["explain", "translation-small", "dram"],
    ["list", "formats"],
    ["schema", "workload"],
    ["report", "translation-small", "--out", "out.html"],
    ["plot", "translation-small", "breakdown", "--out", "out.svg"],
    ["plot", "translation-small", "breakdown", "--out", "out.png"],
    ["validate", "translation-small"],
)
ENVIRONMENTS = {
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed 12345": {"PYTHONHASHSEED": "12345"},
    "locale de_DE": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "locale C": {"LC_ALL": "C"},
    "time zone": {"TZ": "Asia/Kathmandu"},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "four threads": {"OMP_NUM_THREADS": "4", "OPENBLAS_NUM_THREADS": "4"},
}
OTHER_PYTHON = "python3.12"


def _told(python: str, command: list[str], changes: dict[str, str], folder: Path) -> str:
    """A digest of all that a command prints and writes."""
    environment = {**os.environ, "COLUMNS": "80", "PYTHONHASHSEED": "0", **changes}
    done = subprocess.run(
        [python, "-m", "costsim", *command], cwd=folder, env=environment, capture_output=True, timeout=300, check=False
    )
    digest = hashlib.sha256(done.stdout + b"|" + done.stderr + str(done.returncode).encode())
    for path in sorted(folder.iterdir()):
        digest.update(path.read_bytes())
        path.unlink()
    return digest.hexdigest()


def _other_python() -> str | None:
    """Another Python that has costsim, as COSTSIM_OTHER_PYTHON names it."""
    named = os.environ.get("COSTSIM_OTHER_PYTHON")
    return shutil.which(named) if named else None


def environments(few: bool = False) -> tuple[Counter[str], list[str]]:
    """Every command under every environment; `few`: under two of them each."""
    counts, failures = Counter[str](), []
    other = _other_python()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(prefix="a b ü ") as elsewhere:
        for i, command in enumerate(COMMANDS[::3] if few else COMMANDS):
            expected = _told(sys.executable, command, {}, Path(name))
            names = list(ENVIRONMENTS)
            chosen = [names[(i + j) % len(names)] for j in range(2)] if few else names
            runs = {env: (sys.executable, ENVIRONMENTS[env], Path(name)) for env in chosen}
            runs["another folder"] = (sys.executable, {}, Path(elsewhere))
            if other is not None:
                runs["another Python"] = (other, {}, Path(name))
            for what, (python, changes, folder) in runs.items():
                same = _told(python, command, changes, folder) == expected
                counts["accepted" if same else "failed"] += 1
                if not same:
                    failures.append(f"{' '.join(command)}: other bytes with {what}")
    return counts, failures
