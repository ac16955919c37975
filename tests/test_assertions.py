"""`--assert`: the language against Python's own, what it refuses, and what it names in a result."""

import inspect
import operator
import subprocess
import sys

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from costsim.cli import main
from costsim.errors import InputError
from costsim.results.assertions import failures, read
from costsim.results.expressions import DEEPEST, LONGEST, evaluate, parse
from costsim.results.records import full_records
from costsim.run import simulate

RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))

# --- the language -----------------------------------------------------------------------------------------------------

VALUES = {
    ("dsq", "macs"): 10**30 + 1,
    ("dsq", "ratio"): 4.5,
    ("stash-bfp", "macs"): 0,
    ("a+b", "h100-sxm", "time_s"): 1e-3,
    ("not", "x"): 7,
}
SPELLED = {
    ("dsq", "macs"): ["dsq.macs", "'dsq' . macs", 'dsq."macs"'],
    ("dsq", "ratio"): ["dsq.ratio"],
    ("stash-bfp", "macs"): ['"stash-bfp".macs', "'stash-bfp'.macs"],
    ("a+b", "h100-sxm", "time_s"): ['"a+b"."h100-sxm".time_s'],
    ("not", "x"): ['"not".x'],
}
SPACE = st.sampled_from(["", " ", "  ", "\t"])


@st.composite
def numbers(draw, depth=3):
    """A number as it is spelled here and as Python spells it, in parentheses wherever Python might disagree."""
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        if draw(st.booleans()):
            text = draw(st.sampled_from(["0", "1", "2", "12", "1.5", ".5", "3.", "1e9", "2E-3", "1.25e+2"]))
            return text, text
        name = draw(st.sampled_from(sorted(VALUES)))
        return draw(st.sampled_from(SPELLED[name])), f"v[{name!r}]"
    sort = draw(st.sampled_from(["-", "+", "(", "*", "/", "a+", "a-"]))
    text, pythons = draw(numbers(depth - 1))
    if sort in "-+":
        return f"{sort}{text}", f"{sort}{pythons}"
    if sort == "(":
        return f"({text})", f"({pythons})"
    others, theirs = draw(numbers(depth - 1))
    space, sign = draw(SPACE), sort[-1]
    return f"{text}{space}{sign}{space}{others}", f"{pythons} {sign} {theirs}"


@st.composite
def truths(draw, depth=2):
    """A truth in both spellings."""
    sort = draw(st.sampled_from(["compare", "chain", "and", "or", "not", "("])) if depth else "compare"
    if sort in ("compare", "chain"):
        both = [draw(numbers()) for _ in range(3 if sort == "chain" else 2)]
        signs = [draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="])) for _ in both[1:]]
        texts = ["", ""]
        for (text, pythons), sign in zip(both, [*signs, ""], strict=True):
            texts[0] += f"{text}{sign}"
            texts[1] += f"{pythons} {sign} "
        return tuple(texts)
    text, pythons = draw(truths(depth - 1))
    if sort == "not":
        return f"not {text}", f"not {pythons}"
    if sort == "(":
        return f"({text})", f"({pythons})"
    others, theirs = draw(truths(depth - 1))
    return f"{text} {sort} {others}", f"{pythons} {sort} {theirs}"


@settings(max_examples=600, deadline=None)
@given(truths())
def test_the_language_is_pythons(both):
    text, pythons = both
    if len(text) > LONGEST:
        return
    try:
        expected = eval(pythons, {"v": VALUES, "__builtins__": {}})
    except (ZeroDivisionError, OverflowError) as error:
        message = "division by zero" if isinstance(error, ZeroDivisionError) else "too large for a float"
        with pytest.raises(InputError, match=message):
            evaluate(parse(text), VALUES)
        return
    assert evaluate(parse(text), VALUES) is expected


def refused(text):
    """Why an expression is no truth or has no value; None if it has one. Any other exception is a fault."""
    try:
        expression = parse(text)
        known = {field.name: VALUES.get(field.name, 1) for field in expression.fields}
        return None if evaluate(expression, known) in (True, False) else "no truth"
    except InputError as error:
        return str(error)


TOKENS = [
    *("dsq", ".", "macs", '"stash-bfp"', "'dsq'", "and", "or", "not", "(", ")", "<", ">=", "==", "=", "+", "-", "*"),
    *(
        "/",
        "**",
        "//",
        "1",
        "2.5",
        "1e9",
        "1e999",
        "0",
        "__import__",
        "lambda",
        "[",
        "]",
        "{",
        '"',
        "'",
        "\\",
        "é",
        ";",
    ),
    *(
        ",",
        ":",
        "!",
        "!=",
        "%",
        "@",
        "\n",
        "\0",
        "\x1b",
        "None",
        "True",
        "if",
        "else",
        "0x1",
        "1_0",
        "1j",
        "\u00a0",
        "٣",
    ),
]


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from(TOKENS)).map(" ".join), st.lists(st.sampled_from(TOKENS)).map("".join)
    )
)
def test_any_text_is_evaluated_or_refused_in_one_line(text):
    message = refused(text)
    if message is not None:
        assert message.startswith("--assert")
        assert message.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "(" * 400 + "1" + ")" * 400 + " > 0",
        "-" * 900 + "1 < 2",
        "not " * 240 + "1 < 2",
        "1" + "+1" * 450 + " > 2",
        "1 < 2" + " and 1 < 2" * 90,
        "9" * 990 + " > 1",
        "*".join(["9" * 200] * 4) + " > 1e300",
        "1e300*1e300 > 1",
        "9" * 900 + "/3 > 1",
        "(" * DEEPEST + "1 < 2" + ")" * DEEPEST,
    ],
)
def test_nothing_is_too_much(text):
    message = refused(text)
    assert message is None or (message.startswith("--assert") and len(message) <= 600)


@pytest.mark.parametrize("prefix", ["not ", "-", "+"])
def test_signs_and_nots_cancel_out(prefix):
    for n in range(4):
        text = f"{prefix * n}1 < 2" if prefix == "not " else f"{prefix * n}1 < 0"
        assert evaluate(parse(text), {}) is eval(text)


def test_integers_are_exact_where_floats_are_not():
    values = {("a", "x"): 10**30 + 1, ("a", "y"): 10**30}
    assert evaluate(parse("a.x > a.y and a.x != 1e30 and a.x - a.y == 1"), values)
    assert float(10**30 + 1) == float(10**30)


def test_what_need_not_be_looked_at_is_not():
    assert evaluate(parse("0 == 0 or 1 / 0 > 1"), {})
    assert not evaluate(parse("0 == 1 and 1 / 0 > 1"), {})
    assert not evaluate(parse("1 < 0 < 1 / 0"), {})


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("dsq.macs", 1, "expected a comparison"),
        ("1 + (2 < 3) > 1", 5, "expected a number, got a comparison"),
        ("(1 < 2) < 3", 1, "expected a number to compare, got a comparison"),
        ("(1 < 2) + 3 > 1", 1, "expected a number to calculate with"),
        ("1 and 2 < 3", 1, "expected a comparison before and"),
        ("2 < 3 and 1", 11, "expected a comparison"),
        ("not 1", 5, "expected a comparison"),
        ("-(1 < 2) < 3", 2, "expected a number, got a comparison"),
        ("dsq.macs = 1", 10, "unexpected '='"),
        ("1 < 2 3", 7, "expected and, or, an operator, or the end, got '3'"),
        ("dsq.macs >", 11, "but it ends"),
        ("(1 < 2", 7, "expected ), but it ends"),
        ("1 < )", 5, "expected a number, POLICY.FIELD or (, got ')'"),
        ("stash-bfp.macs > 1", 1, "names with hyphens in quotes"),
        ("a.b.c.d > 1", 1, "expected POLICY.FIELD or POLICY.DEVICE.FIELD"),
        ("a.5 > 1", 1, "expected POLICY.FIELD"),
        ("dsq.(1) > 1", 5, "expected a name, got '('"),
        ('"dsq > 1', 1, "a quote that is not closed"),
        ("1e999 > 1", 1, "too large"),
        ("1 / (1 - 1) > 1", 3, "division by zero"),
        ("x() > 1", 1, "expected POLICY.FIELD"),
        ("1 < 2 and and", 11, "got 'and'"),
    ],
)
def test_errors_name_the_column(text, column, message):
    with pytest.raises(InputError) as error:
        evaluate(parse(text), {})
    assert f"column {column}: " in str(error.value)
    assert message in str(error.value)


def test_too_long_and_empty():
    with pytest.raises(InputError, match="at most 1000 characters, got 1001"):
        parse("1" * 1001)
    with pytest.raises(InputError, match="got nothing"):
        parse("  ")


# --- results ----------------------------------------------------------------------------------------------------------

OPTIONS = ("--set", "model.encoder_layers=1", "--set", "model.decoder_layers=1")
JOB = {"assignments": OPTIONS[1::2]}


def run(*args):
    return RUNNER.invoke(main, ["run", "iwslt17-dsq", *OPTIONS, *args])


@pytest.fixture(scope="module")
def result():
    return simulate.run("iwslt17-dsq", ["dsq", "bfp16"], hardware=["h100-sxm"], **JOB)


def test_every_number_of_a_record_has_a_name(result):
    """Each is equal to itself as the export has it, and no other by more than nothing."""
    for row in full_records(result, "policy"):
        flat = {(name,): value for name, value in row.items()}
        flat |= {(device, name): value for device, its in row["hardware"].items() for name, value in its.items()}
        named = 0
        for name, value in flat.items():
            if isinstance(value, (dict, list)) or name[-1] in ("policy", "setup", "grade", "bound"):
                continue
            text = ".".join(f'"{part}"' for part in (row["policy"], *name))
            if value is None:
                [line] = failures(read([f"{text} == {text}"], result.job), result)
                assert "is n/a)" in line
                continue
            named += 1
            assert failures(read([f"{text} == {value!r}".replace("'", "")], result.job), result) == []
            [line] = failures(read([f"{text} != {text}"], result.job), result)
            assert line.endswith(f" is {value})")
        assert named > 15


def test_the_baseline_may_be_named(result):
    assert failures(read(["fixed16.dram_reduction == 1 and dsq.macs == fixed16.macs"], result.job), result) == []


@pytest.mark.parametrize("compare", ["<", ">", "=="])
def test_exit_codes_and_what_is_printed(compare):
    sign = {"<": operator.lt, ">": operator.gt, "==": operator.eq}[compare]
    plain = run()
    done = run("--assert", f'dsq.dram_reduction {compare} "stash-bfp".dram_reduction', "--assert", "1 < 2")
    assert done.stdout == plain.stdout
    result = simulate.run("iwslt17-dsq", **JOB)
    ratios = {row["policy"]: row["dram_reduction"] for row in full_records(result, "policy")}
    holds = sign(ratios["dsq"], ratios["stash-bfp"])
    assert done.exit_code == (0 if holds else 1)
    failed = (
        f'costsim: assertion failed: dsq.dram_reduction {compare} "stash-bfp".dram_reduction (dsq.dram_reduction is '
    )
    assert done.stderr == "" if holds else done.stderr.startswith(failed)
    assert len(done.stderr.splitlines()) == (0 if holds else 1)


def test_one_line_for_each_that_fails(tmp_path):
    args = ["--policy", "dsq", "--law", "msfp", "--out", str(tmp_path)]
    done = run(*args, "--assert", "dsq.arithmetic_cost > 1", "--assert", "dsq.macs > 1", "--assert", "2 < 1")
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "costsim: assertion failed: dsq.arithmetic_cost > 1 (dsq.arithmetic_cost is n/a)",
        "costsim: assertion failed: 2 < 1",
    ]
    assert len(done.stdout.splitlines()) == len(list(tmp_path.iterdir())) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dqs.macs > 1", "column 1: unknown policy 'dqs'; did you mean 'dsq'?"),
        ("dsq.dram_reducton > 1", "column 5: unknown field 'dram_reducton'; did you mean 'dram_reduction'?"),
        ("dsq.setup > 1", "column 5: unknown field 'setup'"),
        ("dsq.time_s > 1", "unknown field 'time_s'; it is of a device: dsq.DEVICE.time_s"),
        ("dsq.h100.time_s > 1", "column 5: unknown device 'h100'; did you mean 'h100-sxm'?"),
        ('dsq."h100-sxm".times > 1', "column 16: unknown field 'times'; did you mean 'time_s'?"),
        ("1 > 0 or bfp8.macs > 1", "column 10: unknown policy 'bfp8'"),
        ("dsq.macs / (dsq.macs - dsq.macs) > 1", "column 10: division by zero"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_counted(text, message, monkeypatch):
    if "division" not in message:
        monkeypatch.setattr(simulate, "execute", None)
    done = run("--hardware", "h100-sxm", "--assert", text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_device_at_all():
    done = run("--assert", 'dsq."h100-sxm".time_s > 1')
    assert done.exit_code == 2
    assert "unknown device 'h100-sxm'; none was named with --hardware" in done.stderr


def test_nothing_heavy_is_loaded():
    code = (
        "import sys; from costsim.cli import main\n"
        "main(['run', 'glue-mrpc-dsq', '--assert', 'dsq.dram_reduction > 1'], standalone_mode=False)\n"
        "print('LOADED', *(m for m in ('numpy', 'pandas', 'matplotlib') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rpartition("LOADED")[2].split() == []
