"""The HTML report: whole, well-formed, escaped, the same each time, with the numbers of the records.

That it works in a browser is tested in tests/browser.
"""

import base64
import dataclasses
import hashlib
import html
import json
import re
from functools import cache
from html.parser import HTMLParser
from importlib.metadata import version

import pytest
from click.testing import CliRunner
from conftest import shipped_policy

from costsim import plots
from costsim.cli import main
from costsim.cli.report import report as report_command
from costsim.cost.memory import of_policy
from costsim.devices.profile import load_hardware
from costsim.inputs.files import list_shipped
from costsim.page import sources, tables
from costsim.page.inline import inline
from costsim.page.summary import summary
from costsim.results.records import (
    GROUP_SPENT,
    full_records,
    group_records,
    hardware_record,
    published,
    records,
    reduction_records,
)
from costsim.run import simulate
from costsim.run.job import Request
from costsim.tables.cells import size

SMALL = ("--set", "model.encoder_layers=1", "--set", "model.decoder_layers=2")
DEVICES = ("h100-sxm", "jetson-orin-nano")
VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = '"><img src=x onerror=alert(1)>'
FIELD = "<script>alert('2')</script> $\\LaTeX_& =cmd|' /C calc'!A0 {{ 7 * 7 }} </td></details></script>"
QUOTED = json.dumps(FIELD)
POLICY = f"""description: {QUOTED}
source: {QUOTED}
rules:
  - {{format: fixed16}} # {FIELD}
assumptions:
  - name: {QUOTED}
    here: {QUOTED}
    cases: [{{name: {QUOTED}, rules: [{{format: fixed8}}]}}]
"""


class Page(HTMLParser):
    """A page as elements: checks that every one is closed, in order; keeps tables, attributes and text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.attributes, self.tables, self.text, self.cell = [], [], {}, [], None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute twice: {attrs}"
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag == "table":
            self.tables[values["id"]] = {"heads": [], "rows": [], "caption": "", "scopes": []}
        if tag in ("th", "td"):
            self.cell = {"text": "", "value": values.get("data-value"), "sort": values.get("data-sort"), "tag": tag}
            self.tables[list(self.tables)[-1]]["scopes"].append((tag, values.get("scope")))
        if tag == "tr" and "tbody" in self.open:
            self.tables[list(self.tables)[-1]]["rows"].append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("th", "td"):
            table = self.tables[list(self.tables)[-1]]
            (table["rows"][-1] if "tbody" in self.open else table["heads"]).append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell["text"] += data
        elif "caption" in self.open:
            self.tables[list(self.tables)[-1]]["caption"] += data
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def column(self, table, name):
        """{first cell, or first two in a table of groups: the cell of that column}"""
        heads, rows = self.tables[table]["heads"], self.tables[table]["rows"]
        at = [head["text"] for head in heads].index(name)
        keys = 2 if table.startswith("by-") else 1
        return {tuple(cell["text"] for cell in row[:keys]): row[at] for row in rows}


def run(*args):
    return CliRunner().invoke(main, list(args))


@cache
def page_text(args, tmp):
    path = tmp / "page.html"
    done = run("report", *args, "--out", str(path))
    assert (done.exit_code, done.output) == (0, f"{path}\n"), done.output
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The text of a page with every section, the parsed page, and the result that the page shows."""
    args = ("iwslt17-dsq", *SMALL, *(part for name in DEVICES for part in ("--hardware", name)))
    text = page_text(args, tmp_path_factory.mktemp("page"))
    result = simulate.run("iwslt17-dsq", assignments=SMALL[1::2], hardware=DEVICES)
    return text, Page(text), result


def test_every_table_has_a_caption_and_scopes(small):
    _, page, _ = small
    assert len(page.tables) == 15
    for table in page.tables.values():
        assert table["caption"]
        assert all(scope in ("col", "row") for tag, scope in table["scopes"] if tag == "th")
        assert [row[0]["tag"] for row in table["rows"]] == ["th"] * len(table["rows"])
        assert {len(row) for row in table["rows"]} == {len(table["heads"])}


def test_nothing_comes_from_outside(small):
    text, page, _ = small
    assert len(text.encode()) < 2_000_000
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    for tag, key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value == "data:," or (value[0] == "#" and value[1:] in ids), (tag, key, value)
        if key in ("aria-labelledby", "aria-describedby"):
            assert value in ids
        assert not key.startswith("on"), (tag, key)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not {tag for tag, _, _ in page.attributes} & {"iframe", "object", "embed", "img", "form"}
    for name in re.findall(r"url\(#([^)]+)\)", text):
        assert name in ids


def test_the_only_script_is_the_one_allowed(small):
    text, page, _ = small
    scripts = re.findall(r"(?s)<script>(.*?)</script>", text)
    assert len(scripts) == text.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    [security] = [value for _, key, value in page.attributes if key == "content" and "default-src" in value]
    assert f"script-src 'sha256-{digest}';" in security
    assert "default-src 'none'" in security


def test_same_input_same_bytes_and_what_made_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("report", "glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "dsq")
    pages = []
    for _ in range(2):
        assert run(*args).output == "glue-mrpc-dsq.html\n"
        pages.append((tmp_path / "glue-mrpc-dsq.html").read_bytes())
    assert pages[0] == pages[1]
    footer = pages[0].decode().partition("<footer>")[2]
    assert "costsim report glue-mrpc-dsq --set model.layers=1 --policy dsq<" in footer
    assert f"costsim {version('costsim')} " in footer


# --- numbers ----------------------------------------------------------------------------------------------------------


def values(page, table, name):
    return {key[0] if len(key) == 1 else key: cell["value"] for key, cell in page.column(table, name).items()}


def test_policies_are_those_of_the_records(small):
    _, page, result = small
    for rows, columns in (
        (full_records(result, "policy"), {"arithmetic, bit^2": "arithmetic_cost", "DRAM, bit": "dram_bits",
                                          "peak memory": "peak_memory_bytes",
                                          "arithmetic \u00d7": "arithmetic_reduction",
                                          "DRAM \u00d7": "dram_reduction", "bit^2 per MAC": "square_bits_per_mac"}),
        (reduction_records(result), {"peak memory \u00d7": "memory_reduction"}),
    ):  # fmt: skip
        for name, key in columns.items():
            column = values(page, "policies", name)
            shown = {policy.removesuffix(" (baseline)"): value for policy, value in column.items()}
            assert shown == {row["policy"]: str(row[key]) for row in rows}
    assert [name for name in values(page, "policies", "grade") if "baseline" in name] == ["fixed16 (baseline)"]


@pytest.mark.parametrize("by", ["phase", "kind", "layer", "pair"])
def test_groups_add_up_to_the_policies(small, by):
    _, page, result = small
    every = group_records(result, by)
    known = {(record["policy"], record[by] or "none"): record for record in every}
    for name, key in {"MACs": "macs", "arithmetic, bit^2": "arithmetic_cost", "DRAM, bit": "dram_bits",
                      "vector ops": "vector_ops"}.items():  # fmt: skip
        shown, totals = values(page, f"by-{by}", name), {}
        for (policy, group), value in shown.items():
            totals[policy] = totals.get(policy, 0) + int(value)
            assert group.startswith("other (") or value == known[policy, group][key]
        for policy, total in totals.items():
            assert total == sum(int(record[key]) for record in every if record["policy"] == policy)
        most = tables.MOST_GROUPS
        assert all(sum(key[0] == policy for key in shown) <= most for policy in totals)
    shares = {}
    for (policy, _), value in values(page, f"by-{by}", "DRAM %").items():
        shares[policy] = shares.get(policy, 0.0) + float(value)
    assert all(share == pytest.approx(1) for share in shares.values())


def test_devices_are_those_of_the_records(small):
    _, page, result = small
    for device in result.job.hardware:
        for counted in result.policies:
            record = hardware_record(result, counted, device)
            for name, key in {"time": "time_s", "energy \u00d7": "energy_reduction", "op/byte": "op_per_byte"}.items():
                shown = values(page, f"on-{device.name}", name)[counted.policy.name]
                assert shown == ("" if record[key] is None else str(record[key]))
        assert page.column(f"on-{device.name}", "bound by")["fixed32",]["text"] == "unsupported"


def test_groups_as_one_keep_time_and_shares():
    result = simulate.run("glue-mrpc-dsq", ["bf16-mixed"], hardware=["h100-sxm"])
    every = group_records(result, "kind")
    assert len(every) > 5
    kept = tables.largest(every, "kind", 4)
    assert [record["kind"] for record in kept[3:]] == [f"other ({len(every) - 3})"]
    for key in ("time_s", "time_share", "energy_j"):
        assert key in GROUP_SPENT
        part, whole = (sum(row["hardware"]["h100-sxm"][key] for row in rows) for rows in (kept, every))
        assert part == pytest.approx(whole)
    names = {record["kind"] for record in kept}
    others = [record["dram_share"] for record in every if record["kind"] not in names]
    assert max(others) <= min(max(record["dram_share"], record["arithmetic_share"]) for record in kept[:3])


def test_memory_is_that_of_a_step(small):
    _, page, result = small
    for counted in result.policies:
        peak = of_policy(result.job.graph, counted.policy, result.job.convention.traffic)[1].peak_bytes
        assert values(page, "memory", "peak")[counted.policy.name] == str(peak)
        parts = [values(page, "memory", head["text"])[counted.policy.name]
                 for head in page.tables["memory"]["heads"][2:-1]]  # fmt: skip
        assert sum(map(int, parts)) == peak


def test_published_figures_are_beside_ours(small):
    _, page, result = small
    expected = [record for record in published(result) if (record["scope"], record["traffic"]) != ("gemm", "fused")]
    rows = page.tables["published"]["rows"]
    assert [(float(row[2]["value"]), float(row[3]["value"])) for row in rows] == [
        (record["stated"], record["ours"]) for record in expected
    ]
    text = "".join(page.text)
    assert "the paper states 20.95 times less arithmetic" in text
    assert text.count("as the workload says") == 2


def test_every_source_is_shown(small):
    _, page, result = small
    text = "".join(page.text)
    for policy in result.job.policies:
        assert policy.file.source in text
        assert all(assumption.entry.name in text for assumption in policy.assumptions)
    for name in DEVICES:
        device = load_hardware(name)
        rows = page.tables[f"figures-of-{name}"]["rows"]
        assert [row[3]["text"] for row in rows] == list(device.source.values())
        assert sum(row[2]["text"] == "unverified" for row in rows) == len(device.unverified)
    for kind, name in (("workloads", "iwslt17-dsq"), ("policies", "dsq"), ("policies", "stash-bfp")):
        assert list_shipped(kind)[name].read_text(encoding="utf-8") in text
    for grade in ("stated", "inferred", "recalled", "fitted", "ours"):
        assert grade in text


@pytest.mark.parametrize(
    ("text", "shown"), [("0", "0 B"), ("999", "999 B"), ("1000", "1 kB"), ("1380000000", "1.38 GB"), (None, "n/a")]
)
def test_sizes(text, shown):
    assert size(text) == shown


# --- hostile names ----------------------------------------------------------------------------------------------------


def test_hostile_names_are_text(tmp_path):
    (tmp_path / f"{HOSTILE}.yaml").write_text(POLICY, encoding="utf-8")
    (tmp_path / "=cmd|x.yaml").write_text(POLICY, encoding="utf-8")
    args = ("iwslt17-dsq", *SMALL, "--set", f"description={QUOTED}", "--hardware", "h100-sxm")
    names = (f"{HOSTILE}.yaml", "=cmd|x.yaml", "dsq")
    text = page_text(
        (*args, *(part for name in names for part in ("--policy", str(tmp_path / name) if "." in name else name))),
        tmp_path,
    )
    page = Page(text)
    assert text.count("<script") == text.count("</script") == 1
    assert not {tag for tag, _, _ in page.attributes} & {"img"}
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    shown = "".join(page.text)
    assert shown.count(FIELD) >= 8  # workload's and policies' descriptions, sources, assumptions, files
    assert "49" not in page.column("assumptions", "here")[HOSTILE,]["text"]
    assert {row[0]["text"] for row in page.tables["policies"]["rows"]} == {HOSTILE, "=cmd|x", "dsq"}


@pytest.mark.parametrize("name", ["a\nb", "a\x01b", "a\u202eb", "a\udcffb", "中\U0001f600"])
def test_names_that_are_no_text_are_escaped(name, tmp_path):
    try:
        (tmp_path / f"{name}.yaml").write_text("description: x\nrules: [{format: fixed16}]\n", encoding="utf-8")
    except OSError:
        pytest.skip("no such names on this file system")
    text = page_text(("glue-mrpc-dsq", "--set", "model.layers=1", "--policy", str(tmp_path / f"{name}.yaml")), tmp_path)
    Page(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800-\udfff]", text)
    plain = name if name.isprintable() else name.encode("unicode_escape").decode()
    assert f">{plain}</" in text.replace("\n", "\\n") if "\n" in name else f">{plain}</" in text


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_say_what_they_are(small):
    text, page, _ = small
    labels = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert len(labels) == text.count('role="img"') == 5
    assert all(label.count("DSQ") == 1 and label.endswith(".") for label in labels)


def test_titles_fit_their_figures():
    """Of few panels, a title is longer than the figure is wide: it takes two lines."""
    drawn = plots.svg(simulate.run("iwslt17-dsq", ["dsq"], assignments=SMALL[1::2]), "comparison")
    width = float(re.search(r'width="([\d.]+)pt"', drawn)[1])
    titles = [
        text
        for text in re.findall(r"<text[^>]*>([^<]*)", drawn)
        if "iwslt17-dsq" in text or "stated by the paper" in text
    ]
    assert len(titles) == 2
    assert max(map(len, titles)) * 4.9 < width  # points of a letter, on average


def test_inline_figures_have_names_of_their_own():
    svg = (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'width="72pt" height="36pt" viewBox="0 0 72 36"><metadata>x</metadata><defs><style>*{}</style>'
        '<path id="m1" d="M 0.123456 1"/><clipPath id="p1"/></defs><g id="unused"><use xlink:href="#m1" '
        'clip-path="url(#p1)"/><text>url(#p1) id="m1" &lt;b&gt; $x_1$</text></g></svg>'
    )
    element = inline(svg, "one", 'a "label"')
    assert 'id="one-m1"' in element
    assert 'href="#one-m1"' in element
    assert 'clip-path="url(#one-p1)"' in element
    assert 'aria-label="a &quot;label&quot;"' in element
    assert 'd="M 0.12 1"' in element
    assert '<text>url(#p1) id="m1" &lt;b&gt; $x_1$</text>' in element
    assert not any(word in element for word in ("unused", "metadata", "<style", "xlink", "pt"))
    assert "max-width:96px" in element


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.txt", "--out x.txt: expected a name that ends in .html or .htm"),
        ("folder.html", "--out folder.html: is a folder, expected a name for the page"),
        ("", "--out: expected a name"),
    ],
)
def test_where_it_cannot_be_written(out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    done = run("report", "iwslt17-dsq", "--out", out)
    assert (done.exit_code, done.output) == (2, f"costsim: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]


def test_it_takes_all_that_a_job_is_made_of():
    job = {field.name for field in dataclasses.fields(Request)}
    assert {option.name for option in report_command.params} == {*job, "out", "recipes", "noise"}


def test_other_conventions(tmp_path):
    """No devices, a law that is not defined for some, another baseline: n/a, and no published figures."""
    args = ("iwslt17-dsq", *SMALL, "--law", "msfp", "--baseline", "bfp32", "--policy", "dsq", "--policy", "fixed16")
    page = Page(page_text(args, tmp_path))
    assert values(page, "policies", "arithmetic \u00d7")["fixed16"] == ""
    assert page.column("policies", "arithmetic \u00d7")["fixed16",]["text"] == "n/a"
    assert "published" not in page.tables
    assert "they are relative to fixed16" in "".join(page.text)
    assert not [name for name in page.tables if name.startswith("on-")]


def test_the_summary_names_the_best_policy():
    result = simulate.run("glue-mrpc-dsq", ["dsq", "stash-bfp", "fixed16"], hardware=["h100-sxm"])
    rows = records(result, "policy")
    text = " ".join(summary(result))
    for key, quantity in (("arithmetic_reduction", "arithmetic"), ("dram_reduction", "DRAM traffic")):
        best = max(rows, key=lambda row: row[key])
        assert f"The least {quantity} is that of policy {best['policy']}, {best[key]:.2f} times less" in text
    fastest = min(rows, key=lambda row: row["hardware"]["h100-sxm"]["time_s"])
    assert f"On h100-sxm, policy {fastest['policy']} takes the least time" in text


@pytest.mark.parametrize("name", list_shipped("hardware_profiles"))
def test_every_figure_of_every_profile_is_listed(name):
    device = load_hardware(name)
    rows = sources.figures(device).rows
    assert len(rows) == len(device.source)


def test_links_are_listed_with_their_figures():
    text = str(sources.figures(load_hardware("h100-node")).rows)
    for said in ("link nvlink", "4.5e11 byte/s, joins 8 devices", "latency_s of infiniband", "9.6e-06 s"):
        assert said in text


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_recipes_have_a_section_if_asked_for(tmp_path, monkeypatch):
    """With the numbers that `costsim recipes --on` has of them; one that only changes others has its own source."""
    few = [shipped_policy(name) for name in ("adam8bit", "lns-madam", "muon", "coat")]
    monkeypatch.setattr("costsim.results.survey.recipes", lambda: few)
    given = ("--hardware", "b200", "--no-noise")
    path = tmp_path / "page.html"
    assert run("report", "translation-small", "--recipes", *given, "--out", str(path)).exit_code == 0
    text = path.read_text()
    page = Page(text)
    rows = json.loads(run("recipes", "--on", "translation-small", *given, "--format", "json").output)["rows"]
    columns = {
        "arithmetic \u00d7": lambda r: r["arithmetic_reduction"],
        "peak memory \u00d7": lambda r: r["memory_reduction"],
    }
    columns["time \u00d7, b200"] = lambda r: r["hardware"]["b200"]["time_reduction"]
    for head, value in columns.items():
        cells = page.column("recipes", head)
        assert {name: cell["value"] for (name,), cell in cells.items()} == {
            row["recipe"]: "" if value(row) is None else str(value(row)) for row in rows
        }
    assert "signal to noise, dB" not in [head["text"] for head in page.tables["recipes"]["heads"]]
    assert 'id="figure-recipes"' in text
    assert all(row["source"] in html.unescape(text) for row in rows)
    assert all(row["source"] for row in rows)


def test_recipes_are_no_part_of_a_page_that_does_not_ask(tmp_path):
    path = tmp_path / "page.html"
    done = run("report", "translation-small", "--no-noise", "--out", str(path))
    assert done.exit_code == 2
    assert "--no-noise: says how recipes are counted; add --recipes" in done.output + (done.stderr or "")
    assert not path.exists()
    assert run("report", "translation-small", "--out", str(path)).exit_code == 0
    assert "recipes-section" not in path.read_text()
