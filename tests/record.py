"""Records what costsim prints and writes, to compare two versions of the code: a refactoring must change nothing.

    python tests/record.py record FOLDER [--jobs 2] [--docs CHECKOUT] [--only TEXT]
    PYTHONPATH=OTHER_CHECKOUT python tests/record.py record OTHER_FOLDER
    python tests/record.py compare FOLDER OTHER_FOLDER

What is recorded is the costsim that imports, so PYTHONPATH chooses it. `record` runs thousands of commands: those of
the documentation and those of tests/data/recorded.yaml (every shipped file under every command, bad input, the Python
API). It writes a file for each, with exit code, stdout, stderr and every file that the command wrote. A command runs in
a folder of its own and in a process of its own, forked from one that has imported libraries but nothing of costsim:
none sees what another left behind. Paths of the checkout and of the folder are replaced by words. Commands that measure
time are left out, as they say something else each time.

It is no test: pytest does not collect it. Of costsim it uses the entry of the command line and the public names only,
so that it runs on versions whose modules lie elsewhere.
"""

import argparse
import difflib
import hashlib
import importlib
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).parent.parent
CONFIGS = Path(__file__).parent / "data" / "configs"
LIBRARIES = ("click", "jinja2", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg")
LIBRARIES += ("matplotlib.font_manager", "numpy", "pandas", "pyarrow", "pydantic", "yaml")
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TERM": "xterm", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
UNSET = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "SOURCE_DATE_EPOCH")
BINARY = (".png", ".pdf", ".parquet")  # told by their hash
SECONDS = 300  # that a command may take
SHOWN = 12  # lines of a difference


class Command(NamedTuple):
    """A command line, or a piece of Python; the files that it finds, and what tells it from others of the same text."""

    text: str
    files: dict[str, str]
    note: str = ""

    @property
    def key(self) -> str:
        """What it is called in every recording."""
        return f"{self.text.strip()}\n{self.note}".strip()

    @property
    def file(self) -> str:
        """The name of its file in a recording."""
        words = re.sub(r"[^\w.-]+", "_", self.text.strip().removeprefix("costsim "))[:80]
        return f"{words}-{hashlib.sha256(self.key.encode()).hexdigest()[:10]}.txt"


# --- which commands ---------------------------------------------------------------------------------------------------

# Prints what costsim lists, and texts of shipped files, as JSON.
_ASK = """
import contextlib, io, json, re, sys
import costsim
from costsim.cli import main
def run(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(words, standalone_mode=False)
    return out.getvalue()
def ops(workload):
    table = run("run", workload, "--by", "op", "--scope", "step", "--format", "csv").splitlines()
    column = table[0].split(",").index("op")
    return [op for op in dict.fromkeys(line.split(",")[column] for line in table[1:]) if not re.search(r"\\.[1-9]", op)]
asked = json.loads(sys.argv[1])
names = {what: [line.split()[0] for line in run("list", what).splitlines()] for what in asked["catalogue"]}
names["complete"] = [name for name in names["policies"] if costsim.load_policy(name).complete]
names["partial"] = sorted(set(names["policies"]) - set(names["complete"]))
names |= {f"ops-of-{workload}": ops(workload) for workload in asked["workloads"]}
print(json.dumps([names, {name: run("show", name) for name in asked["shown"]}]))
"""


def ask(plan: dict[str, Any]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The names that stand for several words in a plan, and the texts of the shipped files that it edits."""
    asked = {
        "catalogue": plan["names"]["catalogue"],
        "workloads": re.findall(r"\{ops-of-([^{}]+)\}", plan["commands"]),
        "shown": [part["shipped"] for part in plan["edited"]],
    }
    program = [sys.executable, "-P", "-c", _ASK, json.dumps(asked)]
    names, texts = json.loads(subprocess.run(program, stdout=subprocess.PIPE, check=True, text=True).stdout)
    names["configs"] = sorted(path.name for path in CONFIGS.glob("*.json"))
    names["every"] = [" ".join(f"--policy {name}" for name in names["complete"])]
    return {**names, **plan["names"]}, texts


def expanded(line: str, names: dict[str, list[str]]) -> Iterator[str]:
    """A line with each {a|b} or {name} replaced by one of its words, in all combinations."""
    texts = re.split(r"\{([^{}]*)\}", line)  # text, choice, text, choice, text
    choices = [choice.split("|") if "|" in choice else names[choice] for choice in texts[1::2]]
    for chosen in itertools.product(*choices):
        texts[1::2] = chosen
        yield "".join(texts)


def planned(plan: dict[str, Any]) -> Iterator[Command]:
    """The commands of tests/data/recorded.yaml."""
    names, texts = ask(plan)
    available = {**plan["files"], **{path.name: path.read_text(encoding="utf-8") for path in CONFIGS.glob("*.json")}}
    for line in f"{plan['commands']}\n{plan['refused']}".splitlines():
        for text in expanded(line, names) if line else ():
            yield Command(text, {name: content for name, content in available.items() if name in text})
    for part in plan["edited"]:
        for edit in part["edits"].splitlines():
            old, new = edit.replace("\\n", "\n").replace("\\t", "\t").split(" => ")
            if old not in texts[part["shipped"]]:
                raise ValueError(f"{part['shipped']} has no {old!r}")
            changed = texts[part["shipped"]].replace(old, new, 1)
            yield Command(part["command"], {"bad.yaml": changed}, f"{part['shipped']}: {edit}")
    for part in plan["whole"]:
        for content in part["texts"]:
            yield Command(part["command"], {"bad.yaml": content}, repr(content))
    for code in plan["python"]:
        yield Command(code, {})


def blocks(checkout: Path) -> list[tuple[str, str]]:
    """The code blocks of a checkout's README and docs: language and text."""
    pages = [checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))]
    return [
        block for page in pages for block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    ]


def documented(checkout: Path) -> Iterator[Command]:
    """The commands, policies, profiles and programs of the documentation, run as tests/test_readme.py does."""
    found: dict[str, list[str]] = {}
    for language, block in blocks(checkout):
        found.setdefault(language, []).append(block)
    policies, profiles = found.get("yaml", []), found.get("yml", [])
    files = {
        "losses.csv": "step,loss\n1000,4.1\n2000,3.9\n3000,3.9\n4000,4.0\n",
        "table.csv": "layer,bits\nencoder.0,4\n",
        "config.json": (CONFIGS / "gpt2.json").read_text("utf-8"),
        **dict(zip(("mine.yaml",), policies, strict=False)),
        **dict(zip(("my-board.yaml",), profiles, strict=False)),
    }
    lines = [line.partition("#")[0].strip() for block in found.get("sh", []) for line in block.splitlines()]
    shown = [line[2:] for block in found.get("console", []) for line in block.splitlines() if line.startswith("$ ")]
    for text in (*lines, *shown, "costsim run iwslt17-dsq --bits table.csv"):
        if text.startswith("costsim ") and not re.search("calibrate|--measure", text):
            yield Command(text, files, "of the documentation")
    for block in policies:
        for by in ("policy", "assumption"):
            text = f"costsim run iwslt17-dsq --policy mine.yaml --by {by}"
            yield Command(text, {**files, "mine.yaml": block}, block)
    for block in profiles:
        text = "costsim run glue-mrpc-dsq --policy dsq --hardware my-board.yaml"
        yield Command(text, {**files, "my-board.yaml": block}, block)
    for block in found.get("python", []):
        yield Command(block, files, "of the documentation")


# --- running one ------------------------------------------------------------------------------------------------------


class _Terminal(io.TextIOWrapper):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def redirect(folder: Path, terminal: bool) -> None:
    """Sends what this process prints into the files `stdout` and `stderr` of a folder."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = (folder / name).open("wb")
        os.dup2(file.fileno(), number)
        stream = _Terminal if terminal and name == "stdout" else io.TextIOWrapper
        setattr(sys, name, stream(file, encoding="utf-8", line_buffering=True))


def outcome(text: str) -> str:
    """Runs a command line or a piece of Python in this process; the exit code, or the exception."""
    try:
        if "\n" in text or not re.match(r"([A-Z_]+=\S+ )*costsim\b", text):
            exec(compile(text, "<recorded>", "exec"), {"__name__": "__main__"})
            return "0"
        words = shlex.split(text)
        start = words.index("costsim")
        os.environ |= dict(word.split("=", 1) for word in words[:start])
        sys.argv = words[start:]
        importlib.import_module("costsim.cli").main(prog_name="costsim")
    except SystemExit as end:
        return str(end.code or 0)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no exit"


def written(folder: Path, given: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The files of a folder that were not given, or no longer are what was: name and content, or its hash."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        if name not in given or content != given[name].encode():
            digest = hashlib.sha256(content).hexdigest()
            yield name, f"sha256 {digest}\n".encode() if path.suffix in BINARY else content
    for name in given:
        if not (folder / name).exists():
            yield name, b"is gone\n"


def perform(command: Command, folder: Path, root: Path) -> bytes:
    """Runs a command in this process and a folder of its own: what it did, without paths that differ."""
    place = folder / "place"
    place.mkdir(parents=True)
    for name, content in command.files.items():
        (place / name).write_bytes(content.encode())
    os.chdir(place)
    redirect(folder, terminal=command.text.startswith("COLUMNS="))
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    signal.alarm(SECONDS)
    ended = outcome(command.text)
    sys.stdout.flush()
    sys.stderr.flush()
    parts = [("exit", f"{ended}\n".encode())]
    parts += [(name, (folder / name).read_bytes()) for name in ("stdout", "stderr")]
    parts += [(f"file {name}", content) for name, content in written(place, command.files)]
    told = b"".join(f"--- {name}\n".encode() + content for name, content in parts)
    told = told.replace(str(place).encode(), b"<folder>").replace(str(root).encode(), b"<checkout>")
    shutil.rmtree(folder)
    return f"$ {command.key}\n".encode() + told


# --- record and compare -----------------------------------------------------------------------------------------------


def fork(command: Command, folder: Path, root: Path, target: Path) -> int:
    """Starts a process that runs a command and writes the file of its recording; the process's number."""
    pid = os.fork()
    if pid == 0:
        errors = os.dup(2)
        try:
            target.write_bytes(perform(command, folder, root))
            os._exit(0)
        except BaseException as error:
            os.write(errors, f"{command.key}: {error!r}\n".encode())
            os._exit(1)
    return pid


def reap(running: dict[int, tuple[Command, Path]]) -> None:
    """Waits for a process to end; one that was killed, by its alarm say, leaves a recording that says so."""
    pid, status = os.wait()
    command, target = running.pop(pid)
    if status:
        target.write_text(f"$ {command.key}\n--- ended with status {status}\n", encoding="utf-8")
        print(f"ended with status {status}: {command.key}", file=sys.stderr)


def record(folder: Path, jobs: int, docs: Path, only: str) -> int:
    """Records the costsim that imports into an empty folder."""
    started = time.monotonic()
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder}: is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ |= ENVIRONMENT
    for library in LIBRARIES:
        importlib.import_module(library)
    root = Path(str(importlib.util.find_spec("costsim").origin)).parent.parent
    plan = yaml_of(Path(__file__).parent / "data" / "recorded.yaml")
    commands = {its.file: its for its in (*documented(docs), *planned(plan)) if only in its.key}
    print(f"{len(commands)} commands of the costsim in {root}", flush=True)
    running: dict[int, tuple[Command, Path]] = {}
    with tempfile.TemporaryDirectory() as places:
        for number, (name, command) in enumerate(commands.items()):
            if len(running) == jobs:
                reap(running)
            target = folder.absolute() / name
            running[fork(command, Path(places) / f"{number:05}", root, target)] = (command, target)
        while running:
            reap(running)
    print(f"{len(commands)} recorded in {time.monotonic() - started:.0f} s")
    return 0


def yaml_of(path: Path) -> Any:
    """What a YAML file holds."""
    return importlib.import_module("yaml").safe_load(path.read_text(encoding="utf-8"))


def difference(old: str, new: str) -> list[str]:
    """The first lines of a unified diff."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    same = next((i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), 0)
    near = slice(max(0, same - 2), same + 4 * SHOWN)  # the whole of a large file would take minutes
    lines = difflib.unified_diff(before[near], after[near], n=1)
    return [line.rstrip("\n")[:200] for line in itertools.islice(lines, 2, 2 + SHOWN)]


def compare(old: Path, new: Path) -> int:
    """Prints where two recordings differ, byte for byte; 1 if they do."""
    names = [{path.name for path in folder.iterdir()} for folder in (old, new)]
    differing = 0
    for name in sorted(names[0] & names[1]):
        before, after = ((folder / name).read_bytes() for folder in (old, new))
        if before != after:
            differing += 1
            texts = (content.decode(errors="backslashreplace") for content in (before, after))
            print(before.decode(errors="replace").split("\n--- ")[0], *difference(*texts), "", sep="\n")
    for folder, alone in ((old, names[0] - names[1]), (new, names[1] - names[0])):
        for name in sorted(alone):
            print(f"only in {folder}: {(folder / name).read_text('utf-8', 'replace').splitlines()[0]}")
    alone = len(names[0] ^ names[1])
    print(f"{len(names[0] & names[1])} commands compared, {differing} differ, {alone} in one recording only")
    return 1 if differing or alone else 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record", help="record the costsim that imports")
    recording.add_argument("folder", type=Path, help="to write into; empty or new")
    recording.add_argument("--jobs", type=int, default=2, help="commands at a time")
    recording.add_argument("--docs", type=Path, default=CHECKOUT, help="checkout whose documentation is run")
    recording.add_argument("--only", default="", help="commands that hold this text")
    recording.set_defaults(run=record)
    comparing = commands.add_parser("compare", help="tell where two recordings differ")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.set_defaults(run=compare)
    given = vars(parser.parse_args())
    return int(given.pop("run")(**given))


if __name__ == "__main__":
    sys.exit(main())
