r"""LaTeX tables: escaped, aligned, labelled. That they compile is tested in tests/typeset."""

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from costsim.cli import main
from costsim.names import BY
from costsim.run.simulate import run
from costsim.tables.latex import cell, document, environment, escape, header, in_one_unit, number
from costsim.tables.run import document as run_document
from costsim.tables.styles import render
from costsim.tables.table import Column, Table

SMALL = ["model.encoder_layers=1", "model.decoder_layers=1"]


@pytest.fixture(scope="module")
def result():
    return run("iwslt17-dsq", ["dsq", "fixed16"], assignments=SMALL, hardware=["h100-sxm", "jetson-orin-nano"])


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 5%", r"a\_b \& 5\%"),
        ("#$", r"\#\$"),
        ("{x}", r"\{x\}"),
        ("\\x", r"\textbackslash{}x"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}"),
        ("a--b", "a-{}-b"),
        ("w8-channel", "w8-channel"),
        ("?`", r"?\textasciigrave{}"),
        ("\u00fc\u00c7\u0160", r"\"{u}\c{C}\v{S}"),
        ("\u00df\u00e6", r"\ss{}\ae{}"),
        ("\u4e2d", "[U+4E2D]"),
        ("\udcff", r"\textbackslash{}udcff"),
        ("\x1b", r"\textbackslash{}x1b"),
        ("\u00d7", r"$\times$"),
    ],
)
def test_escapes(text, escaped):
    assert escape(text) == escaped


@given(st.text())
def test_whatever_is_escaped_has_nothing_bare(text):
    """ASCII, braces in pairs, no special character without its backslash."""
    made = escape(text)
    assert made.isascii()
    assert made.isprintable()
    bare = re.sub(r"\\[&%$#_{}]", "", made)
    assert not re.search(r"[&%#_^]", re.sub(r"\\\^\{", "{", bare))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0


@given(st.text(alphabet="[]*ab-+._/\\", max_size=8), st.booleans())
def test_no_cell_begins_with_an_option_of_the_line_break(text, breakable):
    assert not cell(text, breakable).startswith(("[", "*"))


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("3.61e19", r"3.61\times10^{19}"),
        ("4e-05", r"4.0\times10^{-5}"),
        ("-10.7", "-10.7"),
        ("+223.7", "+223.7"),
        ("1024", "1024"),
        ("n/a", None),
        ("[2", None),
        ("1.2.3", None),
        ("", None),
    ],
)
def test_numbers(text, made):
    assert number(text) == made


def test_headers():
    assert header(Column("policy", "left")) == "policy"
    stacked = r"\multicolumn{1}{c}{\begin{tabular}[b]{@{}c@{}}arith.\\bit$^{2}$\end{tabular}}"
    assert header(Column("arith.\nbit^2")) == stacked
    assert header(Column("x ")) == r"\multicolumn{1}{c}{$\times$}"
    assert "x" not in header(Column("x"))


def test_quantities_are_brought_to_one_unit():
    table = Table(
        [Column("time"), Column("n", "left")], [["15.4 h", "3 pairs"], ["12 min", "-"], ["n/a", "-"], ["30 s", "-"]]
    )
    found = in_one_unit(table)
    assert [row[0] for row in found.rows] == ["15.4", "0.2", "n/a", "0.00833"]
    assert [column.header for column in found.columns] == ["time\nh", "n\npairs"]


def test_a_table_environment():
    table = Table(
        [Column("policy", "left"), Column("x", over="a_b"), Column("y", over="a_b")],
        [["p_1", "18.72", "3.6e19"], ["[2]", "1.00", "n/a"]],
        label="tab:costsim-\u4e2d x-policy",
        caption="50% of it",
        notes=["* recalled & fitted"],
    )
    text = environment(table)
    lines = text.splitlines()
    assert lines[0] == r"\begin{table}[tbp]"
    assert lines[-1] == r"\end{table}"
    assert r"\caption{50\% of it}" in lines
    assert r"\label{tab:costsim--x-policy}" in lines
    assert r"\begin{tabular}{lD{.}{.}{2.2}D{.}{.}{1.7}}" in lines
    assert [line for line in lines if "rule" in line] == [
        r"\toprule",
        r"\cmidrule(lr){2-3}",
        r"\midrule",
        r"\bottomrule",
    ]
    assert r"\multicolumn{1}{c}{} & \multicolumn{2}{c}{a\_b} \\" in lines
    assert r"p\_1 & 18.72 & 3.6\times10^{19} \\" in lines
    assert r"{[}2] & 1.00 & \multicolumn{1}{c}{n/a} \\" in lines
    assert r"{\footnotesize\raggedright {*} recalled \& fitted.\par}" in lines


def test_a_long_table_breaks_across_pages_and_says_what_it_needs():
    rows = [[str(i), "1.00"] for i in range(60)]
    text = document([Table([Column("op", "left"), Column("x")], rows, label="tab:a")], ["a comment \u4e2d"])
    assert text.splitlines()[:4] == [
        r"% \usepackage{booktabs}",
        r"% \usepackage{dcolumn}",
        r"% \usepackage{longtable}",
        "% a comment [U+4E2D]",
    ]
    assert r"\begin{longtable}" in text
    assert r"\begin{table}" not in text


@pytest.mark.parametrize("by", BY)
def test_every_table_says_all_that_its_numbers_depend_on(result, by):
    text = render(run_document(result, by), "latex")
    said = result.job.convention
    captions = re.findall(r"\\caption\{(.*?)\}(?:\n| )", text)
    notes = re.findall(r"\{\\footnotesize\\raggedright (.*?)\\par\}", text)
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert labels[0] == f"tab:costsim-iwslt17-dsq-{by}"
    assert len(set(labels)) == len(labels)
    assert max(map(len, captions)) < 100
    assert all("iwslt17-dsq" in caption for caption in captions)
    assert len(notes) == len(captions)
    for below in notes:
        for part in (f"law {said.law}", f"traffic {said.traffic}", f"scope {said.scope}", "9100 steps"):
            assert part in below
        assert r"$\times$: times less than fixed 16" in below
    assert "levels recalled" in notes[0]
    assert "where phases end is fitted" in text


def test_each_row_has_a_cell_for_each_column(result):
    for by in ("policy", "phase", "reduction"):
        for body in re.findall(r"(?s)\\midrule\n(.*?)\\bottomrule", render(run_document(result, by), "latex")):
            cells = {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines()}
            assert len(cells) == 1


def test_memory_goes_through_the_same_function():
    done = CliRunner().invoke(main, ["memory", "gpt2-small", "--set", "model.layers=1", "--stash", "--format", "latex"])
    assert done.exit_code == 0
    assert done.stdout.startswith("% \\usepackage{booktabs}\n% \\usepackage{dcolumn}\n")
    assert r"\label{tab:costsim-gpt2-small-memory}" in done.stdout
    assert r"\label{tab:costsim-gpt2-small-memory-stash-1}" in done.stdout


def test_only_latex_loads_pandas():
    program = (
        "import sys; from costsim.cli import main; main({args!r}, standalone_mode=False); "
        "print('LOADED', 'pandas' in sys.modules, 'jinja2' in sys.modules)"
    )
    for style in ("table", "markdown", "csv", "json"):
        args = ["run", "glue-mrpc-dsq", "--policy", "dsq", "--by", "phase", "--format", style]
        code = program.format(args=args)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("LOADED False False\n")
