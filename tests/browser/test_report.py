"""The HTML report in a real browser. Run on request: pytest tests/browser.

Needs Chromium (Debian: chromium) and, for the rules of accessibility, axe-core: pip install -e '.[test,browser]'.
"""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from chromium import ENTER, SPACE, TAB, Chromium
from click.testing import CliRunner

from costsim.cli import main
from costsim.page.tables import largest
from costsim.results.records import full_records, group_records
from costsim.run import simulate

pytestmark = pytest.mark.browser
SMALL = ("--set", "model.encoder_layers=1", "--set", "model.decoder_layers=1")
DEVICES = ("--hardware", "h100-sxm", "--hardware", "jetson-orin-nano")
NAMES = ('"><img src=x onerror=window.hit=1>', "=cmd|x", "$\\LaTeX_&", "<svg onload=window.hit=1>")
HOSTILE = "<script>window.hit = 1</script> </script> =cmd|' /C calc'!A0 {{ 7 * 7 }} <img src=x onerror=window.hit=1>"


def report(folder, *args):
    path = folder / "page.html"
    done = CliRunner().invoke(main, ["report", *args, "--out", str(path)])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    started = Chromium(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return report(tmp_path_factory.mktemp("small"), "iwslt17-dsq", *SMALL, *DEVICES, "--recipes", "--no-noise")


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """The largest model that is shipped, on two devices."""
    return report(tmp_path_factory.mktemp("large"), "llama-2-7b", "--hardware", "h100-sxm", "--hardware", "a100-80gb")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    text = "\n".join(
        [
            *(f"{field}: {json.dumps(HOSTILE)}" for field in ("description", "source")),
            f"rules: [{{format: fixed16}}] # {HOSTILE}",
            f"assumptions: [{{name: {json.dumps(HOSTILE)}, here: {json.dumps(HOSTILE)}, "
            f"cases: [{{name: {json.dumps(HOSTILE)}, rules: [{{format: fixed8}}]}}]}}]",
        ]
    )
    for name in NAMES:
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    policies = [part for name in NAMES for part in ("--policy", str(folder / f"{name}.yaml"))]
    return report(folder, "iwslt17-dsq", *SMALL, "--set", f"description={json.dumps(HOSTILE)}", *policies)


@pytest.fixture(params=["small", "large", "hostile"])
def page(request, browser):
    """Each page, freshly opened."""
    path = request.getfixturevalue(request.param)
    browser.look()
    browser.open(path)
    return path


@pytest.fixture
def opened(browser, small):
    browser.look()
    browser.open(small)
    return browser


def test_a_usual_page_loads_at_most_a_megabyte(tmp_path):
    assert report(tmp_path, "iwslt17-dsq", *DEVICES).stat().st_size <= 1_000_000


def test_no_error_and_no_request(page, browser):
    assert browser.said() == []
    assert browser.requested() == [page.resolve().as_uri()]
    assert page.stat().st_size < 2_000_000


def test_errors_and_requests_would_be_noticed(browser, tmp_path):
    path = tmp_path / "broken.html"
    path.write_text("<!DOCTYPE html><img src=nothing.png><script>console.warn('w'); undefined.x</script>")
    browser.open(path)
    assert len(browser.said()) >= 2
    assert len(browser.requested()) == 2


def test_the_page_forbids_other_scripts_and_requests(opened):
    opened.js("(() => { const s = document.createElement('script'); s.textContent = 'window.hit = 1'; "
              "document.body.append(s); const i = document.createElement('img'); i.src = 'https://example.org/x.png'; "
              "document.body.append(i); return new Promise(done => setTimeout(done, 100)) })()")  # fmt: skip
    assert opened.js("window.hit") is None
    assert len([text for text in opened.said() if "Content Security Policy" in text]) == 2


def test_hostile_names_are_shown_as_text(browser, hostile):
    browser.open(hostile)
    assert browser.js("window.hit") is None
    assert browser.js("document.querySelectorAll('img, main script, iframe, object').length") == 0
    found = browser.js("[...document.querySelectorAll('#policies tbody th')].map(its => its.textContent)")
    assert found == list(NAMES)
    assert browser.js("document.querySelector('.lead').textContent") == HOSTILE
    figures = browser.js("[...document.querySelectorAll('svg text')].map(its => its.textContent)")
    assert set(NAMES) <= {text.removesuffix("*") for text in figures}
    assert all(HOSTILE in text for text in browser.js("[...document.querySelectorAll('details pre')].slice(1)"
                                                      ".map(its => its.textContent)")[: len(NAMES)])  # fmt: skip


# --- sorting ----------------------------------------------------------------------------------------------------------


def column(browser, table, index, what="dataset.value"):
    return browser.js(f"[...document.querySelectorAll('#{table} tbody tr')].map(row => row.cells[{index}].{what})")


def sorts(browser, table):
    return browser.js(f"[...document.querySelectorAll('#{table} thead th')].map(its => its.getAttribute('aria-sort'))")


def at(browser, table, name):
    names = browser.js(f"[...document.querySelectorAll('#{table} thead th')].map(its => its.textContent)")
    return names.index(name)


def header(table, index):
    return f"#{table} thead th:nth-child({index + 1}) button"


def test_a_click_sorts_and_another_turns_it_round(opened):
    index = at(opened, "policies", "DRAM, bit")
    before = column(opened, "policies", index)
    assert set(sorts(opened, "policies")) == {"none"}
    opened.click(header("policies", index))
    assert column(opened, "policies", index) == sorted(before, key=int) != before
    assert sorts(opened, "policies")[index] == "ascending"
    assert sorts(opened, "policies").count("none") == len(sorts(opened, "policies")) - 1
    assert opened.js("document.getElementById('said').textContent") == "sorted by DRAM, bit, ascending"
    opened.click(header("policies", index))
    assert column(opened, "policies", index) == sorted(before, key=int, reverse=True)
    assert sorts(opened, "policies")[index] == "descending"


@pytest.mark.parametrize("key", [ENTER, SPACE])
def test_keys_sort(opened, key):
    index = at(opened, "policies", "policy")
    before = column(opened, "policies", 0, "textContent")
    opened.js(f"document.querySelector('{header('policies', index)}').focus()")
    opened.press(key)
    assert column(opened, "policies", 0, "textContent") == sorted(before) != before
    assert sorts(opened, "policies")[0] == "ascending"
    opened.press(key)
    assert column(opened, "policies", 0, "textContent") == sorted(before, reverse=True)


def test_integers_sort_exactly_however_large(opened):
    """Neighbours that one double stands for, and n/a last in both directions."""
    large = ["", *(str(10**20 + i) for i in (3, 1, 2)), "9", ""]
    index = at(opened, "policies", "arithmetic, bit^2")
    opened.js(f"{json.dumps(large)}.forEach((value, i) => document.querySelectorAll('#policies tbody tr')[i]"
              f".cells[{index}].dataset.value = value); [...document.querySelectorAll('#policies tbody tr')].slice(6)"
              ".forEach(row => row.remove())")  # fmt: skip
    opened.click(header("policies", index))
    assert column(opened, "policies", index) == ["9", *(str(10**20 + i) for i in (1, 2, 3)), "", ""]
    opened.click(header("policies", index))
    assert column(opened, "policies", index) == [*(str(10**20 + i) for i in (3, 2, 1)), "9", "", ""]


def test_every_column_of_every_table_sorts(opened, small):
    tables = opened.js("[...document.querySelectorAll('main table')].map(its => its.id)")
    assert len(set(tables)) == small.read_text().count("<table")
    assert {"policies", "published", "memory", "by-phase", "assumptions", "defaults"} <= set(tables)
    for table in tables:
        kinds = opened.js(f"[...document.querySelectorAll('#{table} thead th')].map(its => its.dataset.sort)")
        for index, kind in enumerate(kinds):
            opened.js(f"document.querySelector('{header(table, index)}').click()")
            assert sorts(opened, table)[index] == "ascending"
            if kind != "words":
                values = [value for value in column(opened, table, index) if value]
                assert all(a <= b for a, b in pairwise(map(int if kind == "integer" else float, values)))


def test_numbers_are_those_of_the_result(browser, large):
    result = simulate.run("llama-2-7b", hardware=("h100-sxm", "a100-80gb"))
    browser.open(large)
    index = at(browser, "policies", "arithmetic, bit^2")
    found = column(browser, "policies", index)
    assert found == [row["arithmetic_cost"] for row in full_records(result, "policy")]
    assert max(map(int, found)) > 2**53
    every = group_records(result, "layer")
    assert column(browser, "by-layer", at(browser, "by-layer", "MACs")) == [
        its["macs"] for its in largest(every, "layer")
    ]


def test_without_scripts_the_page_is_whole(browser, small):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.look()
        browser.events.clear()
        browser("Page.navigate", url=small.resolve().as_uri())
        browser.wait("Page.loadEventFired")
        text = browser.js("document.body.innerText")
        assert "Where the numbers come from" in text
        assert browser.js("document.querySelectorAll('thead button').length") == 0
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)


# --- reading ----------------------------------------------------------------------------------------------------------

CONTRAST = """
(() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const over = (top, under) => [0, 1, 2].map(i => top[i] * (top[3] ?? 1) + under[i] * (1 - (top[3] ?? 1)));
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                       return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = el => { const chain = []; for (let e = el; e; e = e.parentElement) chain.unshift(e);
    return chain.reduce((under, e) => over(parts(getComputedStyle(e).backgroundColor), under), [255, 255, 255]); };
  const found = [];
  for (const el of document.querySelectorAll('body *')) {
    if (el.closest('svg') || !el.checkVisibility() || !['STYLE', 'SCRIPT'].every(n => n !== el.tagName)) continue;
    if (![...el.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const under = behind(el), text = over(parts(getComputedStyle(el).color), under);
    const [a, b] = [light(text), light(under)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), el.tagName, getComputedStyle(el).color, under.join()]);
  }
  return found;
})()
"""


def test_text_can_be_read_in_light_and_dark(opened, small):
    papers = []
    for scheme in ("light", "dark"):
        opened.look(scheme=scheme)
        opened.open(small)
        found = opened.js(CONTRAST)
        assert len(found) > 500
        assert min(found)[0] >= 4.5, min(found)
        papers.append(
            opened.js("getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color")
        )
        card = opened.js("getComputedStyle(document.querySelector('.card')).backgroundColor")
        assert card == "rgb(255, 255, 255)"  # figures are drawn for white
    assert papers[0] != papers[1]


LETTERS = """
[...document.querySelectorAll('figure svg text')].map(its =>
  parseFloat(getComputedStyle(its).fontSize) * Math.hypot(its.getScreenCTM().a, its.getScreenCTM().b))
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1280])
def test_figures_can_be_read_and_scroll_inside(page, browser, width, scheme):
    """Letters have at least 8 px, as wide as the window may be, and the page does not grow for it."""
    browser.look(width, scheme)
    browser.open(page)
    assert min(browser.js(LETTERS)) >= 8
    assert browser.js("document.documentElement.scrollWidth") <= width
    if width == 390:
        assert browser.js("[...document.querySelectorAll('figure .scroll')].every(i => i.scrollWidth > i.clientWidth)")


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_is_no_wider_than_the_window(page, browser, width):
    browser.look(width)
    browser.open(page)
    assert browser.js("document.documentElement.scrollWidth") <= width
    assert browser.js("document.querySelectorAll('.scroll').length") > 5
    if width == 390:
        assert browser.js("[...document.querySelectorAll('.scroll')].some(its => its.scrollWidth > its.clientWidth)")
        widest = browser.js("Math.max(...[...document.querySelectorAll('caption span')].map(its => its.offsetWidth))")
        assert widest <= width


def test_captions_scopes_and_landmarks(page, browser):
    assert browser.js("[...document.querySelectorAll('table')].every(its => its.caption && its.caption.textContent)")
    assert browser.js("[...document.querySelectorAll('thead th')].every(its => its.scope === 'col')")
    assert browser.js("[...document.querySelectorAll('tbody tr')].every(its => its.cells[0].scope === 'row')")
    assert (
        browser.js("['header', 'nav', 'main', 'footer', 'h1'].map(n => document.querySelectorAll(n).length)") == [1] * 5
    )
    assert browser.js("[...document.querySelectorAll('main svg')].every(its => its.getAttribute('role') === 'img')")
    assert browser.js("document.documentElement.lang") == "en"


def test_what_a_screen_reader_hears(opened):
    nodes = opened("Accessibility.getFullAXTree")["nodes"]
    said = {(its["role"]["value"], its.get("name", {}).get("value", "")) for its in nodes if not its.get("ignored")}
    assert ("heading", "iwslt17-dsq") in said
    assert ("table", "Peak memory of a step by component, of all ops whatever the scope.") in said
    assert ("button", "DRAM, bit") in {(role, re.sub(r"\s*[↕↑↓]", "", name).strip()) for role, name in said}
    images = {name for role, name in said if role in ("image", "img")}
    assert len(images) == 6
    assert all("a figure of" in name for name in images)


def test_tab_goes_through_the_page_and_shows_where_it_is(opened):
    opened.press(TAB)
    assert opened.js("document.activeElement.textContent") == "Skip to the results"
    assert opened.js("document.activeElement.getBoundingClientRect().left >= 0")
    opened.press(ENTER)
    assert opened.js("document.activeElement.id") == "main"
    seen = []
    for _ in range(12):
        opened.press(TAB)
        style = "getComputedStyle(document.activeElement)"
        assert opened.js(f"{style}.outlineStyle") == "solid"
        assert opened.js(f"parseFloat({style}.outlineWidth)") >= 2
        seen.append(opened.js("document.activeElement.tagName"))
    assert "BUTTON" in seen


def axe():
    import axe_core_python

    return (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, browser, scheme):
    """The rules of WCAG 2 A and AA, and best practices."""
    browser.look(scheme=scheme)
    browser.open(page)
    browser.js("document.querySelectorAll('details').forEach(its => { its.open = true })")
    browser.js(axe() + "; 0")
    found = browser.js("axe.run({resultTypes: ['violations']}).then(its => its.violations.map("
                       "v => [v.id, v.nodes.length, v.nodes[0].html, v.nodes[0].failureSummary]))")  # fmt: skip
    assert found == []


def test_axe_would_notice(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><html><body style='color:#ccc;background:#fff'><p>words to read</p><button></button>"
    )
    browser.open(path)
    browser.js(axe() + "; 0")
    assert {"color-contrast", "button-name", "html-has-lang"} <= set(
        browser.js("axe.run().then(its => its.violations.map(v => v.id))")
    )


# --- print ------------------------------------------------------------------------------------------------------------


def test_it_prints(page, browser):
    data = browser.pdf()
    assert data.startswith(b"%PDF")
    assert len(data) > 20_000
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 5 <= pages <= 80
    assert browser.js("document.querySelectorAll('details[open]').length") == 0  # closed again


def test_headers_are_repeated_on_the_next_page(opened):
    """As they are not in Chromium while they hold buttons: the copies make the file longer."""
    assert opened.js("document.querySelectorAll('#by-kind tbody tr').length") > 30  # more than a page
    data = opened.pdf()
    opened.js("document.querySelectorAll('thead button').forEach(its => { its.style.display = 'inline-block' })")
    assert len(data) > len(opened.pdf())  # buttons are not repeated


def test_paper_has_no_buttons_and_cuts_nothing(opened):
    opened("Emulation.setEmulatedMedia", media="print")
    assert opened.js("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert opened.js("getComputedStyle(document.querySelector('thead button'), '::after').content") == "none"
    assert opened.js(
        "[...document.querySelectorAll('.scroll')].every(its => getComputedStyle(its).overflowX === 'visible')"
    )
    opened("Emulation.setDeviceMetricsOverride", width=1032, height=700, deviceScaleFactor=1, mobile=False)  # A4, lying
    width = opened.js("Math.max(...[...document.querySelectorAll('table, figure, pre')]"
                      ".map(its => its.getBoundingClientRect().right))")  # fmt: skip
    assert width <= 1032
    opened.js("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.js("document.querySelectorAll('details:not([open])').length") == 0
    opened("Emulation.setEmulatedMedia", media="")


def test_screenshots(page, browser, tmp_path):
    """A picture of each look, none of them empty: looked at by hand, kept where pytest keeps its folders."""
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        browser.look(width, scheme)
        browser.open(page)
        path = tmp_path / f"{width}-{scheme}.png"
        browser.screenshot(path)
        assert path.stat().st_size > 50_000
