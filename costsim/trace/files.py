"""What `costsim trace` writes: the traced graph, and a workload file that names it, with our choices for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.inputs.sorts import editor_lines
from costsim.models.traced_file import Traced
from costsim.trace.trace import trace

_WORKLOAD = """\
# Traced by `costsim trace {spec}`. What is not the model's is our choice: change it to what you train.
description: {description}
model:
  family: traced
  file: {file} # forward and backward, as PyTorch runs them
batch:{batch}
training:
  steps: 1000 # ours
  micro_batches: 1 # ours
optimizer: # ours
  kind: adamw
  lr: 0.0001
  weight_decay: 0.01
policies: [fp32, bf16-mixed] # ours
baseline: fp32 # ours
"""
_ENDINGS = (".json", ".yaml", ".yml")


def trace_files(spec: str, out: Path | None, dynamic: bool = True) -> dict[Path | None, bytes]:
    """The files of a trace by path, None for what is printed; nothing is written.

    Raises InputError for what cannot be traced, and, before anything is, for a path that cannot be written.
    """
    if out is not None and out.suffix not in _ENDINGS:
        raise InputError(f"--out {one_line(out)}: expected a name that ends with .json or .yaml")
    if out is not None:
        files.check_place(out)
    made = trace(spec, dynamic)
    graph = made.text().encode()
    if out is None or out.suffix == ".json":
        return {out: graph}
    model = out.with_suffix(".json")
    return {model: graph, out: workload_text(made, spec, model.name).encode()}


def write_all(made: Mapping[Path | None, bytes]) -> list[Path]:
    """Write files, each whole or not at all."""
    return [files.write(path, data) for path, data in made.items() if path is not None]


def workload_text(made: Traced, spec: str, file: str) -> str:
    """A workload of a traced graph, in the sizes of its example."""
    fields = {"batch": "sequences", "tokens": "tokens"}
    lines = [f"{fields[dim]}: {size}" for dim, size in made.examples.items() if dim in fields]
    others = {dim: size for dim, size in made.examples.items() if dim not in fields}
    if others:
        lines.append(f"sizes: {{{', '.join(f'{dim}: {size}' for dim, size in others.items())}}}")
    batch = "".join(f"\n  {line} # as in the example" for line in lines) or " {}"
    spec = one_line(spec)
    title = json.dumps(f"traced from {spec}")
    return editor_lines("workload") + _WORKLOAD.format(spec=spec, description=title, file=json.dumps(file), batch=batch)
