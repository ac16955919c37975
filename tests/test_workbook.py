"""Results as Excel workbooks: the printed tables, the exact data, text that stays text, the same bytes each time."""

import csv
import io
import zipfile
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from costsim.cli import main
from costsim.tables import workbook
from costsim.tables.document import Document, Drawn, Notes
from costsim.tables.table import Column, Table

openpyxl = pytest.importorskip("openpyxl", reason="openpyxl, of the extra excel, is not installed")
RUN = ("run", "glue-mrpc-dsq", "--policy", "dsq", "--hardware", "t4")


def run(*arguments, code=0):
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("book") / "of" / "mine.xlsx"
    run(*RUN, "--out", str(path))
    return path


def sheet(path, name):
    return list(openpyxl.load_workbook(path)[name].iter_rows(values_only=True))


def test_the_data_are_those_of_csv(book):
    rows = list(csv.reader(io.StringIO(run(*RUN, "--format", "csv").stdout)))
    cells = sheet(book, "data")
    assert list(cells[0]) == rows[0]
    for ours, theirs in zip(cells[1:], rows[1:], strict=True):
        for value, text in zip(ours, theirs, strict=True):
            if isinstance(value, (int, float)) and not text.isdecimal():
                assert value == pytest.approx(float(text), rel=1e-14)
            else:
                assert ("" if value is None else str(value)) == text


def test_integers_are_exact_whatever_their_size(book):
    """A spreadsheet keeps 15 digits: what has more is text."""
    [row] = [dict(zip(sheet(book, "data")[0], line, strict=True)) for line in sheet(book, "data")[1:]]
    [theirs] = csv.DictReader(io.StringIO(run(*RUN, "--format", "csv").stdout))
    for name, value in row.items():
        if theirs[name].isdecimal():
            assert int(value) == int(theirs[name])
            assert isinstance(value, int) == (len(theirs[name]) <= 15), name


def test_the_table_holds_numbers(book):
    head, *rows = sheet(book, "table")
    assert "policy" in head
    assert any(isinstance(cell, (int, float)) for cell in rows[0])
    assert any("law product" in row[0] for row in sheet(book, "notes"))


def test_the_same_bytes_for_the_same_input(book, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 2e9)
    run(*RUN, "--out", str(tmp_path / "again.xlsx"))
    assert (tmp_path / "again.xlsx").read_bytes() == book.read_bytes()
    with zipfile.ZipFile(book) as parts:
        assert {part.date_time for part in parts.infolist()} == {(1980, 1, 1, 0, 0, 0)}


HOSTILE = ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "#N/A", "a\x07b", "\ud800", "x" * 40_000]


def test_text_stays_text(tmp_path):
    table = Table([Column("name", "left"), Column("number")], [[text, text] for text in HOSTILE])
    document = Document(
        "x", screen=tuple, data=dict, page=lambda: [Drawn(table), Notes(HOSTILE)],
        records=lambda: [{"name": text} for text in HOSTILE],
    )  # fmt: skip
    path = tmp_path / "hostile.xlsx"
    path.write_bytes(workbook.workbook(document))
    cells = [cell for page in openpyxl.load_workbook(path) for row in page.iter_rows() for cell in row]
    assert len(cells) > 4 * len(HOSTILE)
    assert {cell.data_type for cell in cells} == {"s"}
    assert {cell.value for cell in cells} >= set(HOSTILE[:5])
    with zipfile.ZipFile(path) as parts:
        for name in parts.namelist():
            tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(parts.read(name)).iter()}
            assert name.endswith(".rels") or "f" not in tags, "a formula"


@pytest.mark.parametrize(
    "command",
    [
        ("run", "glue-mrpc-dsq", "--policy", "dsq", "--sweep", "batch=4,8"),
        ("run", "glue-mrpc-dsq", "--policy", "dsq", "--by", "reduction"),
        ("recipes", "nvfp4"),
        ("split", "llama-small", "--devices", "2", "--hardware", "h100-node", "--policy", "bf16-mixed"),
    ],
)
def test_other_results(command, tmp_path):
    run(*command, "--out", str(tmp_path / "x.xlsx"))
    assert len(sheet(tmp_path / "x.xlsx", "table")) > 1
    assert len(sheet(tmp_path / "x.xlsx", "data")) > 1


def test_without_openpyxl_it_is_said_before_counting(monkeypatch, tmp_path):
    def counted(*_):
        raise AssertionError("counted")

    monkeypatch.setattr(workbook, "find_spec", lambda _: None)
    monkeypatch.setattr("costsim.run.job.prepare", counted)
    done = run(*RUN, "--out", str(tmp_path / "x.xlsx"), code=2)
    assert "pip install 'costsim[excel]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
