"""What transformers takes for keys that a config leaves out, and the types that it knows: defaults.json, as data.

Source: transformers on PyPI, versions 4.57.6 and 5.24.0, which agree, but for the vocabulary of deepseek_v2 (the later
stands); written by tests/data/transformers_defaults.py.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _data() -> Any:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def defaults_of(model_type: str) -> Mapping[str, Any]:
    """The default of each key of a config; null is also for those that follow from other keys."""
    keys: Mapping[str, Any] = _data()["defaults"][model_type]
    return keys


def last_version_with(model_type: str) -> str | None:
    """The last version of transformers, of those that were asked, that knows a type."""
    types: Mapping[str, list[str]] = _data()["types"]
    return next((version for version, names in types.items() if model_type in names), None)
