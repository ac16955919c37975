"""LaTeX that costsim prints compiles as it is, with a real LaTeX. Run on request: pytest tests/typeset.

Needs pdflatex with booktabs and dcolumn (Debian: texlive-latex-base, texlive-latex-recommended).
"""

import re
import subprocess

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.names import BY

pytestmark = pytest.mark.typeset
HOSTILE = "a&b%c$d#e_f{g}h~i^j k<l>m|n\"o'p-`q` --[x]*ü\u00e7ß\u0160\u4e2d\U0001f600"
FIXED16 = "description: all 16 bits\nrules:\n  - {format: fixed16}\n"
DEVICES = ("--hardware", "h100-sxm", "--hardware", "jetson-orin-nano")
SMALL = ("--set", "model.encoder_layers=1", "--set", "model.decoder_layers=1")
TRIO = ("--policy", "dsq", "--policy", "fixed16")


def printed(*arguments):
    done = CliRunner().invoke(main, [*arguments, "--format", "latex"])
    assert done.exit_code == 0, done.output
    return done.stdout


TWO_COLUMNS = (  # of 84 mm, as those of journals
    "\\setlength{\\textwidth}{174mm}\\setlength{\\columnsep}{6mm}\\setlength{\\oddsidemargin}{-10mm}"
)


def compiled(tables, folder, kind="article", settings=""):
    """Compile documents that \\input the tables, with the packages that their first lines name; returns the log."""
    packages = sorted(
        {line.removeprefix("% ") for text in tables for line in text.splitlines() if "\\usepackage" in line}
    )
    assert packages == sorted(set(packages))
    body = []
    for i, text in enumerate(tables):
        assert text.isascii()
        (folder / f"table{i}.tex").write_text(text, encoding="ascii")
        body.append(f"\\input{{table{i}}}\\clearpage")
    source = "\n".join(
        [
            f"\\documentclass{kind}" if kind[0] == "[" else f"\\documentclass{{{kind}}}",
            *packages,
            settings,
            "\\begin{document}",
            *body,
            "\\end{document}",
            "",
        ]
    )
    (folder / "document.tex").write_text(source, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    for _ in range(2):  # a longtable knows its widths after the first
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
        except FileNotFoundError:
            pytest.fail("no pdflatex; Debian: apt-get install texlive-latex-base texlive-latex-recommended")
        log = (folder / "document.log").read_text(errors="replace")
        assert done.returncode == 0, "\n".join(re.findall(r"(?m)^!.*(?:\n.*){0,6}", log)) or done.stdout[-2000:]
    return log


def too_wide(log):
    """By how many points lines stick out of their boxes."""
    return [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt too wide", log)]


@pytest.mark.parametrize("by", BY)
def test_every_table_compiles(by, tmp_path):
    text = printed("run", "iwslt17-dsq", *SMALL, *TRIO, "--by", by, *DEVICES)
    log = compiled([text], tmp_path)
    assert "Float too large" not in log
    assert max(too_wide(log), default=0) < 15  # points: nothing that runs off the page
    assert "multiply defined" not in log


@pytest.mark.parametrize("by", BY)
def test_hostile_names_compile(by, tmp_path):
    path = tmp_path / f"{HOSTILE}.yaml"
    path.write_text(FIXED16, encoding="utf-8")
    compiled([printed("run", "iwslt17-dsq", *SMALL, "--policy", str(path), "--by", by, *DEVICES[:2])], tmp_path)


@pytest.mark.parametrize("first", ["[2pt]", "*", "-", "\\", "}", "$", "%", "?`", " "])
def test_hostile_first_characters_compile(first, tmp_path):
    """What a line break before them would read as its option."""
    for name in (f"{first}x", f"y{first}"):
        (tmp_path / f"{name}.yaml").write_text(FIXED16, encoding="utf-8")
    names = [option for name in (f"{first}x", f"y{first}") for option in ("--policy", str(tmp_path / f"{name}.yaml"))]
    compiled(
        [printed("run", "iwslt17-dsq", *SMALL, *names), printed("memory", "iwslt17-dsq", *SMALL, *names)], tmp_path
    )


def test_memory_compiles(tmp_path):
    text = printed(
        "memory", "gpt2-small", "--set", "model.layers=1", "--policy", "bf16-mixed", "--batch", "4,8", "--stash"
    )
    compiled([text, printed("memory", "gpt2-small", "--policy", "w8a8+deployed", "--hardware", "a100-80gb")], tmp_path)


@pytest.mark.parametrize(("workload", "widths"), [("iwslt17-dsq", {"table", "table*"}), ("gpt2-small", {"table*"})])
def test_the_tables_of_papers_fit_a_column_of_two(workload, widths, tmp_path):
    """A `table` in one column of 84 mm, a `table*` across both."""
    tables = [printed("run", workload, "--by", by, *DEVICES[: 2 * n]) for by in ("policy", "reduction") for n in (0, 1)]
    tables.append(printed("memory", workload))
    assert {name for text in tables for name in re.findall(r"\\begin\{(table\*?)\}", text)} == widths
    log = compiled(tables, tmp_path, "[twocolumn]{article}", TWO_COLUMNS)
    assert too_wide(log) == []


@pytest.mark.parametrize("workload", ["iwslt17-dsq", "gpt2-small"])
def test_the_tables_of_papers_fit_the_line(workload, tmp_path):
    tables = [printed("run", workload, "--by", by, *DEVICES) for by in ("policy", "reduction")]
    log = compiled([*tables, printed("run", workload, "--by", "phase")], tmp_path)
    assert too_wide(log) == []


def test_all_in_one_document_have_labels_of_their_own(tmp_path):
    tables = [printed("run", "glue-mrpc-dsq", "--set", "model.layers=1", *TRIO, "--by", by, *DEVICES) for by in BY]
    log = compiled([*tables, printed("memory", "glue-mrpc-dsq", *TRIO)], tmp_path)
    assert "multiply defined" not in log


def test_a_broken_table_is_noticed(tmp_path):
    text = printed("run", "glue-mrpc-dsq", "--set", "model.layers=1", *TRIO)
    with pytest.raises(AssertionError):
        compiled([text.replace("fixed 16 &", "fixed_16 &")], tmp_path)
