"""Writes `costsim/inputs/shipped.jsonl`: what costsim reads of the files that it ships, known by their content."""

import json
from pathlib import Path

from costsim.inputs import shipped
from costsim.inputs.yaml_text import read_document

ROOT = Path(__file__).parent.parent
FOLDERS = ("workloads", "costsim/policies", "hardware_profiles")


def line(path: Path) -> str:
    """The digest of a file's text, its path in the project, its data."""
    text = path.read_text("utf-8")
    data = json.dumps(read_document(text, str(path)).data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"{shipped.digest(text)} {path.relative_to(ROOT).as_posix()} {data}"


if __name__ == "__main__":
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.yaml"))]
    shipped.LIST.write_text("".join(f"{line(path)}\n" for path in paths), "utf-8")
