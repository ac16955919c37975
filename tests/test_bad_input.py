"""Bad input of every kind ends in one line on stderr and exit code 2, quickly, with nothing written.

A case is a shipped text and edits of it. In an edit, `¶` stands where the message must point (file:line:column); `§` is
another place, whose line the message names. Neither is in the file that is written.
"""

import inspect
import re
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costsim.cli import main
from costsim.inputs.files import find

RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))
TRANSLATION = find("iwslt17-dsq", "workloads", "workload").read_text(encoding="utf-8")
CLASSIFIER = find("glue-mrpc-dsq", "workloads", "workload").read_text(encoding="utf-8")
DSQ = (Path(__file__).parent / "data" / "dsq-by-hand.yaml").read_text(encoding="utf-8")
AT_MODEL = TRANSLATION.replace("\nmodel:", "\n¶model:")
AT_BATCH, CLASSIFIER_AT_BATCH = (text.replace("\nbatch:", "\n¶batch:") for text in (TRANSLATION, CLASSIFIER))
NO_MODEL = re.sub("(?m)^model:\n(  .*\n)+", "¶model:\n", TRANSLATION)
FIXED16 = find("fixed16", "policies", "policy").read_text(encoding="utf-8")
WORKLOAD_FILE, POLICY_FILE = ["bad.yaml"], ["iwslt17-dsq", "--policy", "bad.yaml"]


class Case(NamedTuple):
    """Arguments of `costsim run` beside a file bad.yaml, and what the one line on stderr says."""

    name: str
    says: list[str]
    args: list[str]
    content: bytes = b""
    place: str = ""  # the message starts with it
    file: str = "bad.yaml"


def edited(text, edits):
    """A text after edits, pairs of old (there once) and new."""
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def file_case(name, args, text, *says):
    """A case whose message points to the pilcrow in a text, or starts with the file's name if there is none."""
    first, place = text.replace("¶", ""), "bad.yaml:"
    if "§" in first:
        line = first[: first.index("§")].count("\n") + 1
        says = [part.replace("§", f"{line}") for part in says]
    if "¶" in text:
        before = text.replace("§", "").partition("¶")[0]
        place = f"bad.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "
    return Case(name, list(says), args, first.replace("§", "").encode(), place)


def workload(name, *edits_and_says, base=TRANSLATION, **kwargs):
    *edits, says = edits_and_says
    return file_case(name, WORKLOAD_FILE, edited(base, edits), *([says] if isinstance(says, str) else says), **kwargs)


def policy(name, *edits_and_says, base=FIXED16, **kwargs):
    *edits, says = edits_and_says
    return file_case(name, POLICY_FILE, edited(base, edits), *([says] if isinstance(says, str) else says), **kwargs)


def dsq(name, *edits_and_says, **kwargs):
    return policy(name, *edits_and_says, base=DSQ, **kwargs)


def value(name, text, says, **kwargs):
    """A wrong value of training.steps, whose message points to the key."""
    return workload(f"steps: {name}", "steps: 9100", f"¶steps: {text}", ["training.steps", says], **kwargs)


def scalar(name, text, says, **kwargs):
    """A scalar that is refused as it is read: the message points to the value."""
    return workload(f"steps: {name}", "steps: 9100", f"steps: ¶{text}", ["training.steps", says], **kwargs)


def raw(name, content, *says, **kwargs):
    if isinstance(content, bytes):
        return Case(name, list(says), WORKLOAD_FILE, content, **{"place": "bad.yaml: ", **kwargs})
    return file_case(name, WORKLOAD_FILE, content, *says, **kwargs)


def given_args(name, args, *says, **kwargs):
    return Case(name, list(says), args, **kwargs)


def assigned(name, assignment, *says, before=(), **kwargs):
    """An assignment that is refused by its name, after assignments that are fine."""
    shown = ascii(assignment)[1:-1]
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    args = [word for text in (*before, assignment) for word in ("--set", text)]
    return Case(f"--set {name}", list(says), ["iwslt17-dsq", *args], place=f"--set {shown}: ", **kwargs)


SMALL = ["--set", "model.layers=1"]


def bits(name, table, says, line=None, policy=(), **kwargs):
    """A table of widths that is refused at a line, or as a whole."""
    place = "bad.csv: " if line is None else f"bad.csv:{line}: "
    args = ["glue-mrpc-dsq", *SMALL, *(("--policy", policy) if policy else ()), "--bits", "bad.csv"]
    content = table if isinstance(table, bytes) else table.encode()
    return Case(f"--bits {name}", [says], args, content, **{"place": place, "file": "bad.csv", **kwargs})


def assuming(name, cases, says, base=DSQ):
    """A policy or a workload with an assumption that has such cases."""
    args = [*WORKLOAD_FILE, "--policy", "dsq"] if base is CLASSIFIER else ["glue-mrpc-dsq", "--policy", "bad.yaml"]
    text = f"{base}assumptions: [{{name: a, here: b, cases: [{cases}]}}]\n"
    return file_case(f"case {name}", [*args, *SMALL, "--by", "assumption"], text, says)


ALIAS_BOMB = "a0: ¶&a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
NO_ALIAS, NO_TAG = "YAML aliases are not allowed; write the value out", "is not allowed\n"
TIED = "tied: all needs one vocabulary, got 8192 and 16384"
FAMILY = "model.family: unknown model family 'encoder-decodr'; did you mean 'encoder-decoder'?"
LONG_PATH = "".join(f"{' ' * i}{'k' * 60}:\n" for i in range(30)) + " " * 30
NESTED = "model: " + "[" * 31 + "¶" + "[" * 969 + "]" * 1000  # the file itself is one level, 32 are allowed
HOSTILE = [
    raw("alias bomb", ALIAS_BOMB, NO_ALIAS),
    raw("nesting 1,000 deep", NESTED, "nested more than 32 deep"),
    scalar("integer of 10,000 digits", "9" * 10_000, "an integer of 10000 digits is out of range"),
    raw("file over 1 MB", b"# " + b"x" * 1_000_000, "larger than 1000000 bytes"),
    raw("file under 1 MB, one text", "¶model: " + "x" * 990_000, ""),
    raw("key of 900,000 letters", "? ¶" + "k" * 900_000 + "\n: 1", f"unknown key '{'k' * 57}...'"),
    raw("field path of 1,800 letters", LONG_PATH + "¶" + "9" * 30, f".{'k' * 60}.", "...\n"),
    raw("100,001 YAML events", "model: [" + "1, " * 99_996 + "¶1]", "more than 100000 values"),
    raw("file under 1 MB, many items", "model: [" + "[]," * 49_998 + "¶" + "[]," * 280_000 + "1]", "more than 100000"),
]
LATER = "description: x\nlevels: [a]\nrules: [{format: fp32}]\nphases: [{until_step: 9, levels: [8]}, {levels: [9]}]\n"

CASES = [
    # Files as a whole.
    given_args("missing file", ["nowhere.yaml"], "workload 'nowhere.yaml': no such file", "iwslt17-dsq"),
    given_args("workload near a shipped one", ["iwslt17-dqs"], "did you mean 'iwslt17-dsq'?"),
    given_args("folder as workload", ["."], "is a folder, expected a YAML file"),
    given_args("folder as policy", ["iwslt17-dsq", "--policy", "."], "is a folder, expected a YAML file"),
    given_args("workload without name", [""], "workload ''"),
    given_args("path too long", ["x" * 5000], "no such file"),
    workload("policy name too long", "baseline: ", f"¶baseline: {'x' * 5000} # ", "no such file"),
    raw("empty file", b"", "the file is empty"),
    raw("blank file", b"  \n\n \n", "the file is empty"),
    raw("comments only", b"# nothing\n# here\n", "the file is empty"),
    raw("binary", b"\x7fELF\0\0\1", "a binary file, expected text"),
    raw("invalid UTF-8", b"x: \xc3\xa9\ny: \xff\xfe\n", "not a UTF-8 text file (byte 9)", place="bad.yaml:2:4: "),
    raw("UTF-16", "description: x".encode("utf-16"), "a binary file, expected text"),
    *(
        raw(f"control character {code}", f"x: é\ndescription: é¶{code}\n", "not valid YAML", f"#x{ord(code):04x}")
        for code in "\x01\x1b\x7f\x9b\ufffe"
    ),
    *HOSTILE,
    # YAML.
    raw("top-level list", "¶- a\n- b\n", "expected fields (`name: value`)"),
    raw("top-level text", "¶iwslt17\n", "expected fields (`name: value`)"),
    raw("empty mapping", "¶{}\n", "description: missing"),
    workload("duplicate key", "\nlaw:", "\n§law: product\n¶law:", "duplicate key 'law', first on line §"),
    workload("duplicate key, nested", "  heads: 4", "  §heads: 4\n  # again\n  ¶heads: 8", "'heads', first on line §"),
    workload("tab", "  heads:", "¶\theads:", ["not valid YAML: ", "found character that cannot start any"]),
    workload("unclosed bracket", "policies: [", "policies: ¶[", ", dsq]", ", dsq", "did not find expected ',' or ']'"),
    workload("unclosed brace", "\nmodel:", "\nx: ¶{a: [1]\nmodel:", ["not valid YAML: ", "expected ',' or '}'"]),
    workload(
        "unclosed quote",
        "law: product",
        "law: 'product",
        ["not valid YAML: ", "quoted", "unexpected end of stream"],
        base=TRANSLATION.replace("'", ""),
    ),
    workload("second document", "\nlaw:", "\n¶---\nlaw:", "not valid YAML"),
    workload("alias", "law: product", "law: ¶*product", NO_ALIAS),
    workload("anchor and alias", "kind: adamw", "kind: ¶&kind adamw", "law: product", "law: *kind", NO_ALIAS),
    workload("merge key", "\nmodel:", "\n<<: ¶*base\nmodel:", NO_ALIAS),
    workload("anchor", "kind: adamw", "kind: ¶&kind adamw", NO_ALIAS),
    workload("anchor of fields", "\nmodel:", "\nmodel: ¶&model", NO_ALIAS),
    workload("integer key", "\nlaw:", "\n¶5: x\nlaw:", "expected a name as key"),
    workload("boolean key", "\nlaw:", "\n¶true: x\nlaw:", "expected a name as key"),
    workload("null key", "\nlaw:", "\n¶~: x\nlaw:", "expected a name as key"),
    workload("list as key", "\nlaw:", "\n? ¶[a]\n: x\nlaw:", "expected a name as key"),
    *(
        workload(f"tag {tag}", "law: product", f"law: ¶{tag} {text}", [f"the YAML tag {says}", NO_TAG])
        for tag, text, says in (
            ("!!python/name:os.system", "x", "tag:yaml.org,2002:python/name:os.system"),
            ("!!binary", "aGk=", "tag:yaml.org,2002:binary"),
            ("!!str", "product", "tag:yaml.org,2002:str"),
            ("!!null", "5", "tag:yaml.org,2002:null"),
            ("!mine", "product", "!mine"),
            ("!", "product", "!"),
        )
    ),
    workload("tag !!int", "steps: 9100", "steps: ¶!!int 9100", NO_TAG),
    workload("tag !!bool", "padding_mask: true", "padding_mask: ¶!!bool maybe", NO_TAG),
    workload("tag of a key", "\nlaw:", "\n¶!!str law:", NO_TAG),
    workload("tag of fields", "\nmodel:", "\nmodel: ¶!!python/object:a.b", NO_TAG),
    workload("tag of a list", "policies: [", "policies: ¶!!python/tuple [", NO_TAG),
    # Keys.
    workload("unknown key", "\nlaw:", "\n¶lwa: product\nlaw:", "unknown key 'lwa'; did you mean 'law'? (known: "),
    workload(
        "unknown key, model",
        "  heads:",
        "  ¶headz: 4\n  heads:",
        "unknown key 'headz'; did you mean 'head' or 'heads'?",
    ),
    workload("unknown key, batch", "  sequences:", "  ¶sequence: 1\n  sequences:", "did you mean 'sequences'?"),
    workload("unknown key, list item", "stated: 20.95", "¶statd: 20.95", "published.0.statd: unknown key 'statd'; did"),
    dsq("unknown key, rule", "gemm: [forward], format: bfp<q0>}", "¶gem: [forward], format: bfp<q0>}", "mean 'gemm'?"),
    dsq("unknown key, phase", "until_fraction: 0.999", "¶until: 0.999", "phases.1.until: unknown key 'until'"),
    workload("unknown key with a quote", "\nlaw:", "\n¶it's: x\nlaw:", """unknown key "it's" (known"""),
    workload("key missing", "description:", "¶description:", "baseline: fixed16", "# ", "baseline: missing"),
    workload("family missing", "family: encoder-decoder", "# ", "model.family", base=AT_MODEL),
    workload("key with a line break", "\nlaw:", f'\n"a\\nb": ¶{"9" * 30}\nlaw:', "a\\nb: an integer of 30 digits"),
    # Values.
    value("text for integer", "many", "expected an integer, got 'many'"),
    value("long text", "z" * 500, f"expected an integer, got '{'z' * 56}...\n"),
    value("quoted integer", "'9100'", "expected an integer, got '9100'"),
    value("float for integer", "9100.0", "expected an integer, got 9100.0"),
    value("exponent", "1e5", "expected an integer, got 100000.0"),
    value("bool for integer", "true", "expected an integer, got true"),
    value("list for integer", "[9100]", "expected an integer, got a list"),
    value("fields for integer", "{n: 9100}", "expected an integer, got fields"),
    value("nothing", "", "expected an integer, got nothing (null)"),
    value("base 60 is text", "16:4:4:16", "expected an integer, got '16:4:4:16'"),
    value("hexadecimal is text", "0x10", "expected an integer, got '0x10'"),
    value("zero", "0", "expected at least 1, got 0"),
    value("negative", "-3", "expected at least 1, got -3"),
    value("beyond 10^18", "1000000000000000001", "expected at most 1000000000000000000, got 1000000000000000001"),
    scalar("not a number", ".nan", "expected a finite number, got .nan"),
    scalar("infinite", ".inf", "expected a finite number, got .inf"),
    scalar("minus infinite", "-.inf", "expected a finite number, got -.inf"),
    scalar("float too large", "1e999", "expected a finite number, got 1e999"),
    workload("nan for float", "lr: 5.0e-4", "lr: ¶.nan", "optimizer.lr: expected a finite number, got .nan"),
    workload("text for float", "lr: 5.0e-4", "¶lr: fast", "optimizer.lr: expected a number, got 'fast'"),
    workload("rate of 1", "dropout: 0.3 ", "¶dropout: 1.0 ", "model.dropout: expected less than 1.0, got 1.0"),
    workload("yes is text", "padding_mask: true", "¶padding_mask: yes", "expected true or false, got 'yes'"),
    workload("no is text", "padding_mask: true", "¶padding_mask: no", "expected true or false, got 'no'"),
    workload("integer for bool", "padding_mask: true", "¶padding_mask: 1", "expected true or false, got 1"),
    workload("list for fields", "model:", "model: [512]", "model: expected fields", base=NO_MODEL),
    workload("text for fields", "model:", "model: big", "model: expected fields", base=NO_MODEL),
    policy("list for fields, rule", "- {format: fixed16}", "- ¶[fixed16]", "rules.0: expected fields"),
    policy("text for fields, rule", "- {format: fixed16}", "- ¶fixed16", "rules.0: expected fields"),
    workload(
        "text for list", "policies: [", "¶policies: dsq # [", "policies: expected a list, got 'dsq'; write ['dsq']"
    ),
    workload("integer for text", "kind: adamw", "¶kind: 1", "optimizer.kind: expected one of adam, adamw, sgd,"),
    workload(
        "no policies", "policies: [", "¶policies: [] # [", "policies: expected at least 1 item, got an empty list"
    ),
    workload("unknown optimizer", "kind: adamw", "¶kind: adamx", "muon, galore, soap, got 'adamx'; did you"),
    workload(
        "unknown law",
        "law: product",
        "¶law: bop",
        "expected one of product, magnitude, bops, msfp, hbfp, fast, energy, got 'bop'; did you mean",
    ),
    workload("layer count of 0", "encoder_layers: 6", "¶encoder_layers: 0", "encoder_layers: expected at least 1"),
    *(
        workload(
            f"1001 {name}", f"  {name}: ", f"  ¶{name}: 1001 # ", f"model.{name}: expected at most 1000", base=base
        )
        for base, name in ((TRANSLATION, "encoder_layers"), (TRANSLATION, "decoder_layers"), (CLASSIFIER, "layers"))
    ),
    *(
        workload(f"stated {stated}", "stated: 20.95", f"¶stated: {stated}", f"published.0.stated: expected at {says}")
        for stated, says in (("0.9e-6", "least 1e-06"), ("-1", "least 1e-06"), ("1.1e+6", "most 1000000.0, got 11"))
    ),
    workload("negative batch", "sequences: 160", "¶sequences: -160", "batch.sequences: expected at least 1, got"),
    # What does not fit together.
    workload("heads", "heads: 4", "heads: 5", "d_model 512 does not divide into 5 heads", base=AT_MODEL),
    workload(
        "long sentences",
        " source_tokens: 25",
        " source_tokens: 1025",
        "1024 is less than the sentences' 1025 tokens, for which it has to be 1025",
        base=AT_BATCH,
    ),
    workload("long sequences", " tokens: 128", " tokens: 515", "514 is less than", base=CLASSIFIER_AT_BATCH),
    workload(
        "tied vocabularies",
        "tied: decoder",
        "tied: all",
        "source_vocab: 16384",
        "source_vocab: 8192",
        TIED,
        base=AT_MODEL,
    ),
    workload("model family", "encoder-decoder", "encoder-decodr", "family: ", "¶family: ", FAMILY),
    # Names of policies.
    workload("policy", "stash-bfp, dsq]", "stash-bfp, ¶dqs]", ["policies.6: policy 'dqs'", "did you mean 'dsq'?"]),
    workload("baseline", "baseline: fixed16", "¶baseline: fixed-16", ["baseline", "did you mean 'fixed16'?"]),
    given_args("--policy", ["iwslt17-dsq", "--policy", "dsq2"], "policy 'dsq2'", "did you mean 'dsq'?"),
    given_args("--baseline", ["iwslt17-dsq", "--baseline", "fixd16"], "policy 'fixd16'", "did you mean 'fixed16'?"),
    given_args("empty baseline", ["iwslt17-dsq", "--baseline", ""], "policy ''"),
    *(
        given_args(
            f"two policies of one name, {name}",
            ["iwslt17-dsq", "--policy", f"{name}.yaml", *more],
            f"two policies are named '{name}': ",
            f"policies/{name}.yaml",
            content=FIXED16.encode(),
            file=f"{name}.yaml",
        )
        for name, more in (("dsq", ["--policy", "dsq"]), ("fixed16", []))  # fixed16 is the baseline
    ),
    # Policies.
    *(
        policy(f"format {name}", "format: fixed16", f"¶format: {name}", ["rules.0.format", says])
        for name, says in {
            "fixd16": "unknown format 'fixd16'; did you mean 'fixed16'?",
            "fixed1": "format 'fixed1': bits must be from 2 to 32",
            "fixed33": "format 'fixed33': bits must be from 2 to 32",
            "fixed9999999999": "bits must be from 2 to 32",
            "bfp64": "format 'bfp64': bits must be from 2 to 32",
            "bfp4-box0": "format 'bfp4-box0': box must be from 1 to 65536",
            "bfp4-exp17": "format 'bfp4-exp17': exponent bits must be from 0 to 16",
            "bfp<q0>": "unknown level or number 'q0'",
        }.items()
    ),
    policy("format of floats, index", "format: fixed16", "¶format: index64", "index64 holds index values, the rule"),
    policy(
        "format of floats, mask", "format: fixed16", "¶format: mask8", "mask8 holds mask values, the rule is for float"
    ),
    policy(
        "format of masks", "format: fixed16}", "format: fixed16}\n  - {values: mask, ¶format: fp32}", "rule is for mask"
    ),
    policy(
        "format of the accumulator",
        "\nsetup:",
        "\n¶accumulator: index64\nsetup:",
        "accumulator",
    ),
    policy("accumulator", "\nsetup:", "\n¶accumulator: fp33\nsetup:", "accumulator: unknown format 'fp33'"),
    policy("format missing", "{format: fixed16}", "¶{role: [weight]}", "rules.0: expected a format (or a placement, "),
    policy("no rules", "rules:", "¶rules: []\n# ", "- {format", "# - {format", "rules: expected at least one rule"),
    policy("unknown role", "{format", "{role: [¶weights], format", "expected one of data, weight, activation, grad"),
    policy("placement without copy", "{format", "{¶placement: on_chip, format", "only a copy has a placement"),
    policy("operand without copy", "{format", "{¶operand: [x], format", "only a copy has an operand; say"),
    policy(
        "rule that matches nothing", "\nrules:", "\nrules:\n  - ¶{name: x, format: fp32}", "rules.0: this rule match"
    ),
    policy("tensors without rule", "\nrules:", "\n¶rules:", "{", "{role: [weight], ", "rules: no rule gives tensor"),
    dsq(
        "unknown level",
        "q1>, placement: at_producer}\nphases:",
        "q9>}\nphases:",
        "format: bfp<q9",
        "¶format: bfp<q9",
        "'q9'; did",
    ),
    dsq("level beyond 64", "[2, 2, 2, 16]", "[2, 2, 2, ¶65]", "phases.0.levels.3: expected at most 64, got 65"),
    dsq("level of 0", "[2, 2, 2, 16]", "[¶0, 2, 2, 16]", "phases.0.levels.0: expected at least 1, got 0"),
    dsq(
        "level no format has",
        "levels: [2, 2, 2, 16]",
        "¶levels: [2, 2, 2, 33]",
        "phases.0.levels: format 'bfp33': bits",
    ),
    dsq(
        "level no format has, later",
        "levels: [4, 4, 4, 16]",
        "¶levels: [4, 4, 4, 33]",
        "phases.1.levels: format 'bfp33'",
    ),
    policy(
        "level no accumulator has, later",
        "\nrules:",
        "\naccumulator: fixed<a>\nrules:",
        "{levels: [9]}",
        "{¶levels: [33]}",
        "phases.1.levels: format 'fixed33'",
        base=LATER,
    ),
    policy(
        "unknown format with a level",
        "{format: fp32}",
        "{¶format: bpf<a>}",
        "rules.0.format: unknown format",
        base=LATER,
    ),
    dsq("text as level", "[2, 2, 2, 16]", "[2, 2, 2, ¶16:4:4:16]", "expected an integer, got '16:4:4:16'"),
    dsq("too few levels", "levels: [2, 2, 2, 16]", "¶levels: [2, 2, 2]", "phases.0.levels: expected 4 numbers for ["),
    dsq("too many levels", "levels: [2, 2, 2, 16]", "¶levels: [2, 2, 2, 2, 2]", "phases.0.levels: expected 4 numbers"),
    dsq("level named twice", "levels: [q0, q1, q2, q3]", "¶levels: [q0, q1, q2, q3, q3]", "a level is named twice"),
    dsq("level that falls", "levels: [4, 4, 4, 16]", "¶levels: [4, 4, 1, 16]", "level q2 falls from 2 to 1, but"),
    dsq("phases overlap", "{until_fraction: 0.999", "¶{until_fraction: 0.5", "ends at step 4550, before it starts"),
    dsq("steps overlap", "{until_fraction: 0.999", "¶{until_step: 9000", "ends at step 9000, before it starts"),
    dsq("last phase ends", "{levels: [16", "¶{until_fraction: 1.0, levels: [16", "phases.2: the last phase has no end"),
    dsq(
        "phase without end",
        "{until_fraction: 0.999, ",
        "¶{",
        "expected one of until_fraction, until_step and until_plateau",
    ),
    dsq("phase with two ends", "{until_fraction: 0.999", "¶{until_step: 9, until_fraction: 0.999", "expected one of"),
    given_args(
        "file named as its message starts",
        ["iwslt17-dsq", "--policy", "f"],
        content=FIXED16.replace("fixed16}", "fixed33}").encode(),
        place="f:7:6: ",
        file="f",
    ),
    policy(
        "nothing to change",
        "{format: fixed16}",
        "{format: fixed16}\n  - ¶{copy: stash}",
        "rules.1: expected a format (or",
    ),
    policy("scale_time without copy", "{format", "{¶scale_time: current, format", "only a copy has a scale_time"),
    policy(
        "scale_time", "{format", "{copy: stash, ¶scale_time: now, format", "expected one of current, delayed, got 'now'"
    ),
    policy(
        "container", "{format", "{¶container: bf61, format", "rules.0.container: unknown format 'bf61'; did you mean"
    ),
    policy(
        "container that is too small",
        "{format",
        "{¶container: bf16, format",
        "bf16 does not hold the values of fixed16",
    ),
    policy(
        "number",
        "\nrules:",
        "\nnumbers: {¶bits: 33}\nrules:",
        "fixed16}",
        "fixed<bits>}",
        "numbers.bits: format 'fixed33'",
    ),
    policy(
        "unknown number",
        "\nrules:",
        "\nnumbers: {bits: 8}\nrules:",
        "{format: fixed16",
        "{¶format: fixed<bit>",
        "'bit'; did",
    ),
    policy(
        "negative number", "\nrules:", "\nnumbers: {¶bits: -1}\nrules:", "numbers.bits: expected at least 0, got -1"
    ),
    policy("name of a number", "\nrules:", "\nnumbers: {¶B: 8}\nrules:", "expected lower-case letters, digits, dots"),
    policy("number and level", "\nrules:", "\nnumbers: {¶a: 8}\nrules:", "is the name of a level too", base=LATER),
    # What does nothing, and would be shown as if it did.
    policy(
        "level without use", "levels: [a]", "levels: [¶a]", "levels.0: no format has the level a; write <a>", base=LATER
    ),
    policy(
        "number without use", "\nrules:", "\nnumbers: {¶box: 8}\nrules:", "numbers.box: no format has the number box"
    ),
    policy(
        "phases without levels",
        "\nrules:",
        "\nphases:\n  - ¶{until_fraction: 0.5}\n  - {}\nrules:",
        "phases.0: changes nothing, for the policy has no levels; leave phases out",
    ),
    policy("a phase without levels", "\nrules:", "\nphases: [¶{grade: recalled}]\nrules:", "phases.0: changes nothing"),
    dsq(
        "phase as the one before",
        "levels: [4, 4, 4, 16]",
        "¶levels: [2, 2, 2, 16]",
        "phases.1.levels: changes nothing: these are the levels of the phase before",
    ),
    # --bits.
    given_args("--bits, no such file", ["glue-mrpc-dsq", *SMALL, "--bits", "nope.csv"], place="nope.csv: No such file"),
    given_args("--bits, a folder", ["glue-mrpc-dsq", *SMALL, "--bits", "."], ".: is a folder"),
    bits(
        "unknown layer",
        "layer,bits\nencoder.0,4\nencodr.0,4\n",
        "unknown layer 'encodr.0'; did you mean 'encoder.0'?",
        3,
    ),
    bits(
        "unknown tensor", "tensor,bits\nhead.logit,4\n", "unknown tensor 'head.logit'; did you mean 'head.logits' or", 2
    ),
    bits("nameless layer", "layer,bits\n,4\n", "unknown layer ''", 2),
    bits("empty", "", "expected a header like layer,bits or tensor,bits, got ''", 1),
    *(
        bits(f"header {header}", f"{header}\nencoder.0,4\n", f"layer,bits or tensor,bits, got '{header}'", 1)
        for header in ("layer", "bits,layer", "Layer,bits", "layer,bits,bits", "layer,layer", "layer,", "encoder.0,4")
    ),
    bits("semicolons", "layer;bits\nencoder.0;4\n", "got 'layer;bits'", 1),
    bits("no rows", "layer,bits\n\n", "no rows under the header"),
    bits("duplicate row", "layer,bits\nhead,4\nencoder.0,4\nhead,8\n", "layer 'head' stands on line 2 already", 4),
    *(
        bits(
            f"cells {cells}",
            f"layer,bits\nencoder.0{cells}\n",
            f"expected a layer and 1 whole number, got 'encoder.0{cells}'",
            2,
        )
        for cells in (",four", ",-4", ",+4", ",4.0", ",4,5", ",", "", ",1e1", ",0x4", ",٤", ",9999999", ",4;")
    ),
    bits("too few cells", "layer,w,x\nencoder.0,4\n", "expected a layer and 2 whole numbers, got 'encoder.0,4'", 2),
    *(
        bits(f"width {n}", f"layer,bits\nencoder.0,8\nhead,{n}\n", f"format 'fixed{n}': bits must be from 2 to 32", 3)
        for n in (0, 1, 33)
    ),
    bits("over 1 MB", "layer,bits\n" + "encoder.0,4\n" * 90_000, "larger than 1000000 bytes"),
    bits("NUL", "layer,bits\nencoder.0,\0\n", "a binary file"),
    bits("invalid UTF-8", b"layer,bits\n\xff,4\n", "not a UTF-8 text file (byte 11)", place="bad.csv:2:1: "),
    bits(
        "no policy takes it",
        "layer,bits\nhead,4\n",
        "no policy takes bits; say",
        policy="dsq",
        place="--bits bad.csv: ",
    ),
    bits(
        "no policy takes that",
        "layer,bist\nhead,4\n",
        "no policy takes bist; say numbers: {bist: 16}",
        place="--bits bad.csv: ",
    ),
    bits(
        "no policy takes both",
        "layer,bits,w\nhead,4,4\n",
        "takes bits, w; say numbers: {bits: 16, w: 16}",
        place="--bits bad.csv: ",
    ),
    # Assumptions.
    assuming("without name", "¶{numbers: {}}", "assumptions.0.cases.0.name: missing"),
    assuming(
        "unknown key", "{name: c, ¶rule: []}", "assumptions.0.cases.0.rule: unknown key 'rule'; did you mean 'rules'?"
    ),
    assuming("rule matches nothing", "{name: c, rules: [¶{name: nope, format: fp32}]}", "this rule matches nothing"),
    assuming("format", "{name: c, rules: [{¶format: bfp<q9>}]}", "unknown level or number 'q9'; did you mean 'q"),
    assuming("rule", "{name: c, rules: [{¶operand: [x], format: fp32}]}", "only a copy has an operand"),
    assuming("container", "{name: c, rules: [{¶container: bf16}]}", "bf16 does not hold the values of bfp16"),
    assuming("levels", "{name: c, phases: [{¶levels: [2, 2]}]}", "phases.0.levels: expected 4 numbers for ["),
    assuming("level", "{name: c, phases: [{¶levels: [2, 2, 2, 33]}]}", "phases.0.levels: format 'bfp33': bits must"),
    assuming(
        "levels fall",
        "{name: c, phases: [{until_step: 9, levels: [4, 4, 4, 4]}, {¶levels: [4, 4, 2, 4]}]}",
        "level q2 falls",
    ),
    assuming("phases", "{name: c, ¶phases: []}", "expected at least 1 item"),
    assuming(
        "second case",
        "{name: c, numbers: {}}, {name: d, phases: [¶{until_step: 9, levels: [2, 2, 2, 2]}]}",
        "the last phase has no end",
    ),
    assuming("no cases", "", "assumptions.0.cases: expected at least 1 item"),
    assuming(
        "field",
        "¶{name: c, set: [model.headz=4]}",
        "--set model.headz=4: unknown key 'headz'; did you mean 'head' or 'heads'?",
        base=CLASSIFIER,
    ),
    assuming("section", "¶{name: c, set: [modl.heads=4]}", "no section 'modl'; did you mean 'model'?", base=CLASSIFIER),
    assuming(
        "value",
        "{name: c, set: [model.heads=4]}, ¶{name: d, set: [model.heads=5]}",
        "does not divide into 5 heads",
        base=CLASSIFIER,
    ),
    assuming("without =", "¶{name: c, set: [model.heads]}", "expected FIELD=VALUE", base=CLASSIFIER),
    assuming("nothing set", "{name: c, ¶set: []}", "expected at least 1 item, got an empty list", base=CLASSIFIER),
    # --set.
    assigned("without =", "model.heads", "expected FIELD=VALUE, such as"),
    assigned("without field", "=4", "expected FIELD=VALUE"),
    assigned("unknown section", "modell.heads=4", "no section 'modell'; did you mean 'model'?"),
    assigned("section of a number", "model.heads.x=4", "no section 'model.heads'"),
    assigned("number for fields", "batch=2", "expected fields (`name: value`), got 2"),
    assigned("unknown field", "model.headz=4", "unknown key 'headz'; did you mean 'head' or 'heads'?"),
    assigned("another's name", "seq_len=4", "unknown key 'seq_len'; did you mean 'batch.source_tokens' or 'batch.t"),
    assigned("another's name inside", "model.num-key-value-heads=4", "did you mean 'model.kv_heads'?"),
    assigned("field of a section", "ffn_dim=4", "unknown key 'ffn_dim'; did you mean 'model.ffn_dim'?"),
    assigned("section that is left out", "tp=4", "unknown key 'tp'; did you mean 'parallel.tensor'?"),
    assigned("number that is none of several", "parallel.zero=4", "expected one of 0, 1, 2, 3, got 4"),
    assigned("unknown field on top", "lwa=product", "unknown key 'lwa'; did you mean 'law'?"),
    assigned("text for integer", "model.heads=four", "expected an integer, got 'four'"),
    assigned("nothing", "model.heads=", "expected an integer"),
    assigned("zero", "model.heads=0", "expected at least 1, got 0"),
    *(
        assigned(name, f"optimizer.lr={text}", f"expected a finite number, got {text}")
        for name, text in (("nan", ".nan"), ("infinite", "1e999"))
    ),
    assigned("unclosed bracket", "policies=[dsq", "not valid YAML: "),
    assigned("alias", "policies=*a", NO_ALIAS),
    assigned("anchor", "policies=&a [dsq]", NO_ALIAS),
    assigned("tag", "training.steps=!!int 5", NO_TAG),
    assigned("two fields", "training.steps=5\nlaw: product", "not valid YAML: "),
    assigned("field in a text", "description=a: b", "expected text, got fields"),
    assigned("nesting", "policies=" + "[" * 1000, "nested more than 32 deep"),
    assigned("lone surrogate", "model.heads=\udcff", "not valid YAML: "),
    assigned("line break", "model.heads=x\n y", "expected an integer, got 'x y'\n"),
    assigned("long name", f"model.{'k' * 900}=4", "unknown key 'kkk"),
    assigned("baseline", "baseline=fixd16", "policy 'fixd16'", "did you mean 'fixed16'?"),
    assigned("no policies", "policies=[]", "expected at least 1 item, got an empty list"),
    assigned("policy", "policies=[dsq, dqs]", "policy 'dqs'", "did you mean 'dsq'?"),
    assigned("field inside", "optimizer={kind: adam, lrr: 1}", "unknown key 'lrr'; did you mean 'lr'?"),
    assigned("heads", "model.heads=5", "d_model 512 does not divide into 5 heads"),
    assigned("layers", "model.encoder_layers=1001", "expected at most 1000, got 1001"),
    assigned("missing field", "training={}", "steps"),
    assigned(
        "second of two",
        "model.heads=5",
        "d_model 512 does not divide into 5 heads",
        before=["model.dropout=0.1"],
    )._replace(place="--set model.dropout=0.1 --set model.heads=5: "),  # which of the two is not known
    assigned(
        "sentences",
        "batch.source_tokens=2000",
        "max_positions 1024 is less than",
    ),
]


SEVERAL = {  # cases in which more than one thing is wrong
    *("alias bomb", "file under 1 MB, one text", "key of 900,000 letters", "field path of 1,800 letters"),
    *("empty mapping", "anchor and alias", "level no format has", "level no format has, later", "level that falls"),
    *("level named twice", "number and level"),
}


def params(cases):
    return [pytest.param(case, id=case.name) for case in cases]


def run(case, *more):
    return RUNNER.invoke(main, ["run", *case.args, *more])


def check_refused(result, case):
    assert result.exit_code == 2, result.exception
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    faults = result.stderr.splitlines()
    assert len(faults) == 1 or case.name in SEVERAL
    assert all(fault.startswith("costsim: ") and len(fault) <= 609 for fault in faults)
    assert any(fault.startswith(f"costsim: {case.place}") for fault in faults)
    for said in case.says:
        assert said in result.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(case, folder):
    (folder / case.file).write_bytes(case.content)


@pytest.mark.parametrize("case", params(CASES))
def test_refused_in_one_line_and_nothing_written(case, folder):
    write(case, folder)
    results = {"bad.csv": b"old", "bad.json": b"{}", "iwslt17-dsq.csv": b"old", "iwslt17-dsq.txt": b"old"}
    (folder / "old").mkdir()
    for name, content in results.items():
        (folder / "old" / name).write_bytes(content)
    for out in ((), ("--out", "new"), ("--out", "old")):
        check_refused(run(case, *out), case)
    assert not (folder / "new").exists()
    assert {path.name: path.read_bytes() for path in (folder / "old").iterdir()} == results


@pytest.mark.parametrize("case", params(HOSTILE))
def test_hostile_files_take_little_memory(case, folder):
    """And little time: benchmarks/test_speed.py measures that."""
    write(case, folder)
    tracemalloc.start()
    try:
        run(case)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


USAGE = [
    [],
    ["iwslt17-dsq", "dsq"],
    ["iwslt17-dsq", "--format", "yaml"],
    ["iwslt17-dsq", "--by", "nothing"],
    ["iwslt17-dsq", "--traffic", "none"],
    ["iwslt17-dsq", "--scope", "all"],
    ["iwslt17-dsq", "--law", "none"],
    ["iwslt17-dsq", "--polcy", "dsq"],
]


@pytest.mark.parametrize("args", USAGE, ids=" ".join)
def test_usage_errors(args, folder):
    result = RUNNER.invoke(main, ["run", *args, "--out", "new"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr
    assert "Error: " in result.stderr
    assert not (folder / "new").exists()


def test_unwritable_out(folder):
    (folder / "file").write_text("old")
    result = RUNNER.invoke(main, ["run", "glue-mrpc-dsq", "--policy", "dsq", "--out", "file"])
    assert (result.exit_code, result.stdout, (folder / "file").read_text()) == (2, "", "old")
    assert result.stderr == "costsim: --out file: expected a folder, got a file\n"


ACCEPTED = {
    "optional rule that matches nothing": FIXED16 + "  - {name: nope, format: fp32, optional: true}\n",
    "byte order mark": "\ufeff" + FIXED16,
    "Windows line ends": FIXED16.replace("\n", "\r\n"),
    "all tensors but ids and masks by role": FIXED16.replace(
        "{format", "{role: [data, weight, activation, gradient, weight_gradient, state], format"
    ),
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_with_the_same_counts(text, folder):
    (folder / "good.yaml").write_text(text, encoding="utf-8", newline="")
    args = ["run", "iwslt17-dsq", "--scope", "step", "--format", "csv", "--policy"]
    results = [RUNNER.invoke(main, [*args, name]) for name in ("good.yaml", "fixed16")]
    assert [result.exit_code for result in results] == [0, 0]
    assert results[0].stdout.replace("good,", "fixed16,") == results[1].stdout


NO_TRACEBACK = {  # numbers to divide by, and phases to tell; whether the files are refused is not for this test to say
    "no arithmetic cost": ("dsq.yaml", FIXED16.replace("fixed16}", "index64}")),
    "phases without levels": (
        "dsq.yaml",
        FIXED16.replace("\nsetup:", "\nphases: [{until_fraction: 0.5}, {}]\nsetup:"),
    ),
    "infinite difference": ("w.yaml", TRANSLATION.replace("20.95", "1e-320")),
    "large difference": ("w.yaml", TRANSLATION.replace("20.95", "1e-6")),
    "small difference": ("w.yaml", TRANSLATION.replace("20.95", "1e+6")),
}


@pytest.mark.parametrize(("name", "text"), NO_TRACEBACK.values(), ids=NO_TRACEBACK)
def test_no_traceback(name, text, folder):
    (folder / "w.yaml").write_text(TRANSLATION, encoding="utf-8")
    (folder / "dsq.yaml").write_text(DSQ, encoding="utf-8")
    (folder / name).write_text(text, encoding="utf-8")
    args = ["run", "w.yaml", "--policy", "dsq.yaml", "--format"]
    assert {RUNNER.invoke(main, [*args, style]).exit_code for style in ("table", "json")} <= {0, 2}


@pytest.mark.parametrize("name", ["nope", "dqs", "Dsq", "", "fixed99", "bfp4-box0", "no\nsuch", "../dsq", "x" * 5000])
def test_show_unknown(name):
    result = RUNNER.invoke(main, ["show", name])
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("costsim: ")


def test_show_unknown_says_no_empty_list():
    assert "(known: ," not in RUNNER.invoke(main, ["show", "nope"]).stderr


# --- fuzz -------------------------------------------------------------------------------------------------------------

SMALLER = ("[fixed32, fixed16, bfp32, bfp16, stash-fixed, stash-bfp, dsq]", "[fixed16, dsq]")  # what is valid runs fast
ONE_LAYER = ("encoder_layers: 6", "encoder_layers: 1", "decoder_layers: 6", "decoder_layers: 1")
ASSUMING = """\
assumptions:
  - name: levels
    here: as they are
    grade: fitted
    cases:
      - {name: all low, phases: [{levels: [2, 2, 2, 16]}]}
      - {name: formats, rules: [{format: fp32}, {copy: stash, placement: stored, optional: true}], numbers: {n: 4}}
"""
SETTING = """\
assumptions:
  - name: sizes
    here: "16"
    cases:
      - {name: "8", set: [batch.sequences=8, model.heads=6]}
"""
TABLE = "layer,bits\nencoder.0,4\nembedding,8\nhead,16\n"
TINY = edited(CLASSIFIER, ("  layers: 12", "  layers: 1", *SMALLER))
# Arguments, what stays as it is, and what is mutated.
FUZZED = [
    (WORKLOAD_FILE, "", edited(TRANSLATION, (*ONE_LAYER, *SMALLER))),
    (WORKLOAD_FILE, "", TINY),
    (["small.yaml", "--policy", "bad.yaml"], "", DSQ),
    (["small.yaml", "--policy", "bad.yaml"], "", FIXED16),
]
SECTIONS = [
    (["tiny.yaml", "--bits", "bad.yaml"], "", TABLE),
    (["tiny.yaml", "--by", "assumption", "--policy", "bad.yaml"], DSQ, ASSUMING),
    (["bad.yaml", "--by", "assumption"], TINY, SETTING),
]
WORDS = r"""~ yes true -1 0 1.5 .nan -.inf 1e999 16:4:4:16 nope . ../../x *a [] {} [[[ ' | >- %s {hint} {a:{b:c}}
bfp<q9> bfp<q0><q0> bfp< "\0" "\ud800" "\x85" """
HOSTILE_SCALARS = [
    *WORDS.split(),
    *("", "\t", "\u2028", "&a x", "- x", "? x", "# x", "!!python/name:os.system x", "!!binary aGk="),
    *("9" * 5000, "x" * 200, "é" * 30),
]
CELL = re.compile(r"[^,\n]+")
SCALAR = re.compile(r"(?<=: )[^,{}\[\]#\n]+|(?<=\[)[^,{}\[\]#\n]+")
PUNCTUATION = [bytes([byte]) for byte in b":-?#*&!|>%@'\"`[]{},~.<\\ \t\n\r"]
INSERTED = st.sampled_from(PUNCTUATION) | st.binary(min_size=1, max_size=4).map(
    lambda found: re.sub(rb"[0-9]", b"?", found)  # sizes do not grow
)


@st.composite
def mutated(draw, files):
    """Arguments of `costsim run` and the bytes of bad.yaml: a file (or the end of one) with one to three mutations."""
    args, kept, text = draw(st.sampled_from(files))
    parts = CELL if text is TABLE else SCALAR
    inserted = []
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split("\n")
        i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match draw(st.sampled_from(["delete", "duplicate", "swap", "replace", "replace", "truncate", "insert"])):
            case "delete":
                del lines[i]
            case "duplicate":
                lines.insert(j, lines[i])
            case "swap":
                lines[i], lines[j] = lines[j], lines[i]
            case "truncate":
                lines = ["\n".join(lines)[: draw(st.integers(0, len(text)))]]
            case "insert":
                inserted.append((draw(st.floats(0, 1)), draw(INSERTED)))
            case "replace" if found := list(parts.finditer(text)):
                at = draw(st.sampled_from(found))
                lines = [text[: at.start()] + draw(st.sampled_from(HOSTILE_SCALARS)) + text[at.end() :]]
        text = "\n".join(lines)
    content = text.encode()
    for share, piece in inserted:
        at = int(share * len(content))
        content = content[:at] + piece + content[at:]
    return args, kept.encode() + content


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "small.yaml").write_text(FUZZED[0][2], encoding="utf-8")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


FUZZ = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def check_run_or_refused(folder, args, content):
    (folder / "bad.yaml").write_bytes(content)
    result = RUNNER.invoke(main, ["run", *args])
    assert result.exit_code in (0, 2), result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code == 2:
        assert result.stdout == ""
        assert re.fullmatch(r"(costsim: [^\n]+\n)+", result.stderr)


@settings(FUZZ, max_examples=150)
@given(mutated(FUZZED))
def test_mutated_files_run_or_are_refused(fuzz_folder, found):
    check_run_or_refused(fuzz_folder, *found)


@settings(FUZZ, max_examples=100)
@given(mutated(SECTIONS))
def test_mutated_widths_and_assumptions_run_or_are_refused(fuzz_folder, found):
    check_run_or_refused(fuzz_folder, *found)


def test_all_clashes_of_a_model_are_told():
    """Those that its family and all Transformers share: none hides the next."""
    clashes = {
        "heads=7": "does not divide into 7 heads",
        "kv_heads=3": "do not divide into 3 kv_heads",
        "norm_kind=layer": "zero_centered_norm is of RMS norms",
        "fused_norm=false": "a layer norm comes as one kernel only",
        "zero_centered_norm=true": "zero_centered_norm is of RMS norms",
        "positions=learned": "local_rotary is of rotary positions",
        "local_rotary=true": "local_rotary is of rotary positions",
    }
    sets = [argument for field in clashes for argument in ("--set", f"model.{field}")]
    result = CliRunner().invoke(main, ["run", "llama-2-7b", *sets])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == len(set(clashes.values()))
    assert all(message in result.stderr for message in clashes.values())
