"""Tables on screens of any width, with colour and without; what names may hold; Markdown and CSV; where files go."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tabulate import tabulate

from costsim.cli import main
from costsim.inputs import files
from costsim.names import BY
from costsim.run.job import Request, prepare
from costsim.run.peaks import Asked
from costsim.run.simulate import run
from costsim.tables import memory as memory_tables
from costsim.tables import table as tables
from costsim.tables.run import document
from costsim.tables.styles import render
from costsim.tables.table import Column, Screen, Table, csv_cell, csv_text, markdown, markdown_text, shrink, terminal

pty = pytest.importorskip("pty", reason="no terminals on this system") if sys.platform == "win32" else __import__("pty")

HOSTILE = "a|b`c`<i>d*e*_f_~~g~~[h](i)&amp;$j$#k\\l\x1b[31m"
FIXED16 = "description: all 16 bits\nrules:\n  - {format: fixed16}\n"
SMALL = ["model.encoder_layers=1", "model.decoder_layers=1"]
WIDTHS = (20, 40, 59, 60, 66, 79, 80, 100, 200)


@pytest.fixture(scope="module")
def result():
    return run("iwslt17-dsq", ["dsq", "fixed16"], assignments=SMALL, hardware=["h100-sxm", "jetson-orin-nano"])


def words(text):
    return re.findall(r"[\w.+%-]+", text)


# --- a terminal of any width ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("by", BY)
def test_every_table_fits_its_screen(result, by, width):
    text = render(document(result, by), "table", Screen(width))
    assert max(map(len, text.splitlines())) <= width
    assert text.endswith("\n")


@pytest.mark.parametrize("width", WIDTHS)
def test_memory_fits_its_screen(width):
    job = prepare(Request("gpt2-small", ["w8a8+deployed"]))
    text = render(memory_tables.document(job, Asked(lists=["stash", "activations"])), "table", Screen(width))
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("by", ["policy", "phase", "reduction"])
def test_a_narrow_screen_has_every_number(result, by):
    """What 80 columns show is there in 40, in blocks, and each row begins one."""
    wide = render(document(result, by), "table").split("\n\n")[0]
    narrow = render(document(result, by), "table", Screen(40)).split("\n\nlaw ")[0]
    numbers = re.findall(r"(?<![\w.])\d+\.\d+(?:e\d+)?", wide)
    assert numbers
    for number in numbers:
        assert f": {number}" in narrow
    assert narrow.startswith("policy: dsq\n")


def test_colour_changes_nothing_else(result):
    for width in (40, 80):
        plain, colour = (render(document(result, "policy"), "table", Screen(width, on)) for on in (False, True))
        assert "\x1b[1m" in colour
        assert "\x1b[2m" in colour
        assert re.sub(r"\x1b\[\d+m", "", colour) == plain
        assert not re.search(r"\x1b\[(3|4)\dm", colour)  # bold and dim only, whatever the terminal's colours are


def test_a_wide_screen_shows_names_in_full(result):
    name = "decoder.0.cross_attention.scores"
    assert name not in render(document(result, "op"), "table", Screen(80))
    assert name in render(document(result, "op"), "table", Screen(100))


CELLS = st.lists(st.sampled_from(["word", "a longer text of words", "12.5", "x" * 50, ""]), min_size=3, max_size=3)


@given(rows=st.lists(CELLS, min_size=1, max_size=4), width=st.integers(20, 120))
def test_any_table_fits_any_screen_and_keeps_its_words(rows, width):
    columns = [Column("policy", "left"), Column("a\nheader"), Column("last", "left")]
    table = Table(columns, rows)
    lines = terminal(table, Screen(width))
    natural = max(map(len, tables.simple(table, rows)))
    assert max(map(len, lines)) <= (width if width < tables.WIDTH else max(width, natural))
    shown = "".join("".join(lines).split())
    for cell in {cell for row in rows for cell in row if cell and len(cell) < 8}:
        assert cell in shown


def test_a_long_word_breaks_behind_an_underscore():
    assert tables.wrap("of weight_gradient", 14) == "of weight_\ngradient"
    assert tables.wrap("state", 3) == "sta\nte"


COLUMNS = st.sampled_from(
    [Column(text, align) for text in ("a", "two words", "two\nlines") for align in ("left", "right")]
)


@settings(deadline=None)
@given(columns=st.lists(COLUMNS, min_size=1, max_size=4), data=st.data())
def test_tables_are_drawn_as_tabulate_draws_them(columns, data):
    cell = st.sampled_from(["", "1.5", "-", "a|b", "two words", "above\nbelow", " blank "])
    rows = data.draw(st.lists(st.tuples(st.just("x"), *[cell] * (len(columns) - 1)), min_size=1, max_size=4))
    table, align = Table(columns, rows), [column.align for column in columns]

    def drawn(style, rows, headers=()):
        return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True, colalign=align)

    assert tables.simple(table, rows) == drawn("simple", rows, table.headers).splitlines()
    assert tables.plain(table, rows) == [
        f"  {line}".rstrip() for line in drawn("plain", rows, table.headers).split("\n")
    ]
    lines = tables.dense(table, rows)
    del lines[table.header_height]  # of dashes
    assert lines == [line.rstrip() for line in drawn("plain", [table.headers, *rows]).splitlines()]
    flat = [[markdown_text(cell) for cell in row] for row in rows]
    assert markdown(table) == drawn("pipe", flat, [column.name for column in columns])


@given(widths=st.lists(st.integers(1, 60), min_size=1, max_size=6), least=st.integers(1, 20), room=st.integers(1, 200))
def test_shrinking_takes_from_the_widest(widths, least, room):
    limits = [min(least, width) for width in widths]
    found = shrink(widths, limits, room)
    if found is None:
        assert sum(limits) > room
        return
    assert sum(found) == min(sum(widths), room)
    assert all(low <= now <= was for low, now, was in zip(limits, found, widths, strict=True))
    cut = [now for now, was in zip(found, widths, strict=True) if now < was]
    assert all(now >= max(found, default=0) - 1 or now in limits for now in cut)


def on_a_terminal(*arguments, columns=80, **env):
    """What a command writes to a terminal."""
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "TERM")}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "costsim", *arguments],
        stdout=follower,
        stdin=subprocess.DEVNULL,
        env={**clean, "COLUMNS": str(columns), "TERM": "xterm", **env},
    ) as process:
        os.close(follower)
        found = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:
                break
            if not part:
                break
            found += part
    os.close(leader)
    assert process.returncode == 0
    return found.decode().replace("\r\n", "\n")


def test_on_a_real_terminal():
    args = ("run", "glue-mrpc-dsq", "--policy", "dsq")
    piped = CliRunner().invoke(main, args).stdout
    assert "\x1b" not in piped
    coloured = on_a_terminal(*args)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == piped != coloured
    assert on_a_terminal(*args, NO_COLOR="1") == piped
    assert on_a_terminal(*args, TERM="dumb") == piped
    assert max(map(len, on_a_terminal(*args, columns=40, NO_COLOR="1").splitlines())) <= 40


# --- what names may hold ----------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(tmp_path):
    path = tmp_path / f"{HOSTILE}.yaml"
    path.write_text(FIXED16, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("style", ["table", "markdown", "csv", "latex"])
@pytest.mark.parametrize("by", ["policy", "phase", "reduction"])
def test_no_control_character_gets_out(hostile, by, style):
    done = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--policy", hostile, "--by", by, "--format", style])
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert all(c.isprintable() or c == "\n" for c in done.stdout)


def rendered(cell):
    """A cell as GitHub renders it, if it has nothing but text: escapes undone; None if anything in it is markup."""
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", cell)
    if re.search(r"[`*<|~$&]|(?<!\w)_|_(?!\w)|\]\(", bare):
        return None
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1))
def test_markdown_renders_names_as_they_are(name):
    assert rendered(markdown_text(name)) == name
    table = markdown(Table([Column("policy", "left"), Column("x")], [[name, "1.00"]]))
    [row] = table.splitlines()[2:]
    assert [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1]][1] == "1.00"


def test_a_hostile_name_in_markdown(hostile):
    text = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--policy", hostile, "--format", "markdown"]).stdout
    row = text.splitlines()[2]
    assert row.startswith(r"| a\|b\`c\`\<i\>d\*e\*\_f\_\~\~g\~\~[h]\(i)\&amp;\$j\$\#k\\l\\x1b[31m |")
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"\|", text.splitlines()[1]))


def test_notes_in_markdown_are_not_cut_into_lines(result):
    bullets = [line for line in render(document(result, "policy"), "markdown").splitlines() if line.startswith("- ")]
    assert any(line.startswith("- dsq: 9009 steps") and line.endswith("where phases end is fitted") for line in bullets)
    assert not [line for line in bullets if line.startswith("-   ")]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("+SUM(A1)", "'+SUM(A1)"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("@x", "'@x"),
        ("\t=x", r"\t=x"),
        ("-1.5", "-1.5"),
        ("+12", "+12"),
        ("dsq", "dsq"),
        (-1.5, -1.5),
        (None, None),
        (True, True),
    ],
)
def test_a_formula_is_text_in_csv(text, safe):
    assert csv_cell(text) == safe


def test_csv_of_a_policy_named_like_a_formula(tmp_path):
    (tmp_path / "=1+2.yaml").write_text(FIXED16)
    args = ["run", "glue-mrpc-dsq", "--policy", str(tmp_path / "=1+2.yaml"), "--format"]
    [row] = csv.DictReader(io.StringIO(CliRunner().invoke(main, [*args, "csv"]).stdout))
    assert row["policy"] == "'=1+2"
    assert json.loads(CliRunner().invoke(main, [*args, "json"]).stdout)["rows"][0]["policy"] == "=1+2"
    assert csv_text([{"policy": "a", "hardware": {"=d": {"time_s": 1.0}}}]).splitlines()[0] == "policy,'=d.time_s"


@pytest.mark.parametrize(
    "env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
@pytest.mark.parametrize("style", ["table", "markdown", "csv"])
def test_no_traceback_without_utf8(tmp_path, env, style):
    (tmp_path / "p\u00e4\u4e2d.yaml").write_text(FIXED16)
    done = subprocess.run(
        [sys.executable, "-m", "costsim", "run", "glue-mrpc-dsq", "--policy", "p\u00e4\u4e2d.yaml", "--format", style],
        cwd=tmp_path,
        env={**os.environ, **env},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"p" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text")
def test_a_name_that_is_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/p\xff.yaml"
    with open(path, "w") as file:
        file.write(FIXED16)
    command = [sys.executable, "-m", "costsim", "run", "glue-mrpc-dsq", "--policy", path]
    for more in ([], ["--format", "csv"], ["--format", "latex"], ["--out", "out"]):
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((tmp_path / "out").iterdir())) == 5


# --- where files go ---------------------------------------------------------------------------------------------------


def refused(*arguments):
    done = CliRunner().invoke(main, ["run", "glue-mrpc-dsq", "--policy", "dsq", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    return done.stderr


def test_out_that_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("old")
    assert refused("--out", "file") == "costsim: --out file: expected a folder, got a file\n"
    assert refused("--out", "file/more") == "costsim: --out file/more: file is a file\n"
    assert refused("--out", "") == "costsim: --out: expected a name\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_out_with_a_folder_in_the_way_writes_nothing(tmp_path):
    (tmp_path / "glue-mrpc-dsq.tex").mkdir()
    (tmp_path / "glue-mrpc-dsq.txt").write_text("old")
    assert refused("--out", str(tmp_path)) == f"costsim: --out {tmp_path}: glue-mrpc-dsq.tex is a folder there\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glue-mrpc-dsq.tex", "glue-mrpc-dsq.txt"]
    assert (tmp_path / "glue-mrpc-dsq.txt").read_text() == "old"


def test_out_that_cannot_be_written_to(tmp_path, monkeypatch):
    """Root may write anywhere, so the answer of the system is made up."""
    monkeypatch.setattr(os, "access", lambda path, mode, **more: not mode & os.W_OK)
    assert refused("--out", str(tmp_path)) == f"costsim: --out {tmp_path}: cannot be written to\n"
    assert refused("--out", str(tmp_path / "a" / "b")) == (
        f"costsim: --out {tmp_path / 'a' / 'b'}: {tmp_path} cannot be written to\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300])
def test_out_with_a_name_too_long(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused("--out", name).endswith(": File name too long\n")
    assert list(tmp_path.iterdir()) == []


def test_out_is_checked_before_anything_is_counted(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr("costsim.run.simulate.run", lambda **job: pytest.fail("counted"))
    assert "expected a folder" in refused("--out", str(tmp_path / "file"))


def test_a_folder_to_be_made_is_fine(tmp_path):
    files.check_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
