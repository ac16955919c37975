"""Examples in docstrings are run."""

import doctest
import importlib
from pathlib import Path

import pytest

import costsim

PACKAGE = Path(costsim.__file__).parent
WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_are_true(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0, "an example that no docstring has"
    assert not results.failed


def test_classes_are_taught_by_examples():
    assert {"costsim.policy.classes", "costsim.cost.classes"} <= set(WITH_EXAMPLES)
