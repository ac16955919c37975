"""Speed of the HTML report, as a process. Run with: python -m pytest tests/benchmarks -n 0"""

import subprocess
import sys
from pathlib import Path

import pytest

COSTSIM = str(Path(sys.executable).with_name("costsim"))
REPORTS = {
    "iwslt17": ["iwslt17-dsq"],
    "llama-2-7b-two-devices": ["llama-2-7b", "--hardware", "h100-sxm", "--hardware", "a100-80gb"],
}


@pytest.mark.parametrize("name", REPORTS)
def test_report(benchmark, name, tmp_path):
    command = [COSTSIM, "report", *REPORTS[name], "--out", str(tmp_path / "page.html")]
    benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True), rounds=5, warmup_rounds=1)
