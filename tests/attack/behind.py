"""What is done with a mutant: commands as a user would type them, and what must hold of whatever they print.

A command either works or refuses with one clear line and exit code 2. What works must agree with itself: sums over
groups are the total, two runs print the same, an explanation arrives at the count.
"""

import json
import random
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner
from mutants import mutant, shipped

from costsim.cli import main
from costsim.names import BREAKDOWNS, GROUPINGS, LAWS, SCOPES, STYLES, TRAFFIC_MODELS


class Outcome(NamedTuple):
    """What became of one mutant under one command."""

    verdict: str  # accepted, refused or failed
    command: list[str]
    told: str  # of a failure, what went wrong


def _fault(result: Any) -> str:
    """What is wrong with how a command ended; "" if nothing is."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception))[-2000:]
    if result.exit_code not in (0, 2):
        return f"exit code {result.exit_code}: {result.stderr[-300:]}"
    if result.exit_code == 2 and not result.stderr.startswith(("costsim: ", "Usage: ")):
        return f"refused without a word: {result.stderr[:300]!r}"
    if "Value error" in result.stderr or "Traceback" in result.stderr:
        return f"refused in a library's words: {result.stderr[:300]!r}"
    if result.exit_code == 2 and result.stdout:
        return f"refused after printing {result.stdout[:100]!r}"
    if result.exit_code == 2 and any(len(line) > 2000 for line in result.stderr.splitlines()):
        return "refused at too great length"
    return ""


def _sums(result: Any, runner: CliRunner, command: list[str]) -> str:
    """Where sums over groups are not the totals of policies; "" if they are."""
    totals: dict[tuple[str, str], int] = {}
    whole = runner.invoke(main, [*command, "--by", "policy", "--format", "json"])
    if whole.exit_code:
        return f"by policy ends with {whole.exit_code}, by a group with 0"
    for row in json.loads(result.stdout)["rows"]:
        for name in ("macs", "dram_bits"):
            key = row["policy"], name
            totals[key] = totals.get(key, 0) + int(row[name])
    for row in json.loads(whole.stdout)["rows"]:
        for name in ("macs", "dram_bits"):
            if totals.get((row["policy"], name)) != int(row[name]):
                return f"{row['policy']}: {name} {row[name]}, its groups sum to {totals.get((row['policy'], name))}"
    return ""


def _options(rng: random.Random) -> list[str]:
    """A convention, or none."""
    options = []
    if rng.random() < 0.5:
        traffic = rng.choice(TRAFFIC_MODELS)
        options += [
            "--traffic",
            traffic,
            *(["--buffer-bytes", str(2 ** rng.randint(8, 30))] if traffic == "tiled" else []),
        ]
    if rng.random() < 0.5:
        options += ["--law", rng.choice(LAWS)]
    if rng.random() < 0.3:
        options += ["--scope", rng.choice(SCOPES)]
    return options


def _commands(rng: random.Random, kind: str, path: str) -> list[list[str]]:
    """A run by a group, as JSON, and another command; both read the mutant."""
    policies = sorted(shipped("policy"))
    devices = sorted(shipped("hardware"))
    workload = path if kind == "workload" else rng.choice(("llama-small", "translation-small", "gpt2-small"))
    small = [] if kind == "workload" else ["--set", f"model.{'encoder_' * (workload[0] == 't')}layers=2"]
    job = [workload, *small]
    if kind == "policy":
        job += ["--policy", path]
    elif rng.random() < 0.5:
        job += ["--policy", rng.choice((rng.choice(policies), "+".join(rng.sample(policies, 2))))]
    if kind == "hardware":
        job += ["--hardware", path]
    elif rng.random() < 0.3:
        job += ["--hardware", rng.choice(devices)]
    return [
        ["run", *job, *_options(rng), "--by", rng.choice(GROUPINGS), "--format", "json"],
        rng.choice(
            [
                ["run", *job, *_options(rng), "--by", "reduction", "--format", rng.choice(list(STYLES))],
                ["run", *job, *_options(rng), "--format", rng.choice(list(STYLES))],
                ["memory", *job, "--stash", "--format", rng.choice(list(STYLES))],
                ["explain", *job, rng.choice(("arithmetic", "dram", "*.q", "*", "time"))],
                ["run", *job, "--by", "assumption"],
                ["plot", *job, "breakdown", "--by", rng.choice(BREAKDOWNS), "--out", f"{path}.svg"],
            ]
        ),
    ]


def attack(rng: random.Random, folder: Path) -> list[Outcome]:
    """One mutant under some commands."""
    kind = rng.choice(("workload", "workload", "policy", "policy", "hardware"))
    path = folder / f"{kind}.yaml"
    path.write_text(mutant(rng, kind), encoding="utf-8")
    runner, outcomes = CliRunner(), []
    commands = _commands(rng, kind, str(path))
    for command in commands:
        result = runner.invoke(main, command)
        told = _fault(result)
        if not told and result.exit_code == 0:
            again = runner.invoke(main, command)
            if again.output != result.output:
                told = "says something else the second time"
            elif command is commands[0]:
                told = _sums(result, runner, command[: command.index("--by")])
        verdict = "failed" if told else "refused" if result.exit_code else "accepted"
        outcomes.append(Outcome(verdict, command, told))
    return outcomes
