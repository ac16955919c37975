"""Suites that need programs of their own are not part of the tests: this says which they are, and how to run them."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NEEDS = {
    "browser": "Chromium (Debian: apt-get install chromium) and pip install -e '.[test,browser]'",
    "typeset": "LaTeX (Debian: apt-get install texlive-latex-base texlive-latex-recommended)",
}


@pytest.mark.parametrize("suite", NEEDS)
def test_suite(suite, request):
    files = list((TESTS / suite).glob("test_*.py"))
    assert files
    assert all(f"pytestmark = pytest.mark.{suite}" in path.read_text(encoding="utf-8") for path in files)
    assert suite in request.config.getini("norecursedirs")
    pytest.skip(f"run it with: python -m pytest tests/{suite}; it needs {NEEDS[suite]}; .ci/run has it all")
