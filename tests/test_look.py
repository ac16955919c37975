"""How figures look: the width that is asked for, sizes of letters, texts that fit; what cannot be is refused."""

import re

import pytest
from click.testing import CliRunner
from conftest import one_layer
from matplotlib.figure import Figure
from overlaps import faults

import costsim
from costsim import names, plots
from costsim.cli import main
from costsim.errors import InputError
from costsim.inputs.files import list_shipped
from costsim.plots.look import SCREEN, STYLES, inches, look_of
from costsim.run.simulate import run

WIDTHS = ("84mm", "120mm", "174mm")


@pytest.fixture(scope="module")
def result():
    names = ("fixed16", "bfp16", "dsq")
    return run("iwslt17-dsq", names, assignments=one_layer("iwslt17-dsq"), hardware=["h100-sxm"])


@pytest.mark.parametrize("kind", names.FIGURES)
def test_texts_are_inside_and_apart(result, kind):
    """Of other workloads, and all widths: tests/figures."""
    for width in ("84mm", "174mm"):
        figure = plots.draw(result, kind, look_of(width=width, font_size=8))
        assert faults(figure) == [], width
        assert figure.get_figwidth() == pytest.approx(float(width[:-2]) / 25.4)


def test_faults_are_found():
    figure = Figure(figsize=(2, 1))
    figure.text(0.5, 0.5, "here")
    assert faults(figure) == []
    figure.text(0.55, 0.5, "there")
    figure.text(-0.1, 0.2, "outside")
    assert faults(figure) == ["outside: 'outside'", "on each other: 'here' and 'there'"]


def test_a_title_that_is_too_long_wraps():
    def make(look):
        figure = look.figure(8, 3)
        figure.subplots()
        look.head(figure, "words and " * 40)
        return figure

    for width in (None, "84mm"):
        figure = plots.drawn(make, look_of(width=width))
        assert faults(figure) == []
        assert figure.get_suptitle().count("\n") > 1


def test_names_turn_and_numbers_are_thinned_out():
    def make(look):
        figure = look.figure(3, 3)
        left, right = figure.subplots(1, 2)
        left.set_xticks(range(6), [f"a long name {i}" for i in range(6)])
        right.set_xticks([1000 * i for i in range(20)])
        return figure

    figure = plots.drawn(make, SCREEN)
    assert faults(figure) == []
    names, numbers = (axes.xaxis.get_ticklabels() for axes in figure.axes)
    assert [name.get_text() for name in names] == [f"a long name {i}" for i in range(6)]
    assert {name.get_rotation() for name in names} == {90}
    assert 1 < len([number for number in numbers if number.get_text()]) < 20


def test_letters_and_titles(result):
    figures = [plots.draw(result, "comparison", look) for look in (SCREEN, look_of(font_size=18, title=False))]
    sizes = [{text.get_fontsize() for axes in figure.axes for text in axes.texts} for figure in figures]
    assert [2 * size for size in sizes[0]] == list(sizes[1])
    assert [bool(figure.get_suptitle()) for figure in figures] == [True, False]
    assert figures[1].get_figwidth() == 2 * figures[0].get_figwidth()


def test_styles():
    assert tuple(STYLES) == names.FIGURE_STYLES
    paper, slide = (look_of(style) for style in ("paper", "slide"))
    assert paper.width == pytest.approx(84 / 25.4)
    assert not paper.title
    assert slide.points > paper.points
    assert look_of("paper", width="174mm", title=True) == paper._replace(width=174 / 25.4, title=True)


@pytest.mark.parametrize(("text", "wide"), [("84mm", 84), ("8.4cm", 84), ("3.3in", 83.82), ("241.14 pt", 84.75)])
def test_lengths(text, wide):
    assert inches(text) * 25.4 == pytest.approx(wide, rel=1e-4)


@pytest.mark.parametrize("text", ["84", "mm", "84 em", "-84mm", "0mm", "49mm", "3m", "1e3mm", "inf", "", "84mm84mm"])
def test_other_lengths_are_refused(text):
    with pytest.raises(InputError, match=r"--width: expected a length from 50mm to 2m with its unit, such as 84mm"):
        inches(text)


def plot(*more):
    return CliRunner().invoke(main, ["plot", "glue-mrpc-dsq", "--set", "model.layers=1", "--policy", "dsq", *more])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["comparison", "--width", "84"], "--width: expected a length"),
        (["comparison", "--font-size", "2"], "--font-size: expected points from 4 to 72, got 2"),
        (["comparison", "--font-size", "nan"], "--font-size: expected points from 4 to 72, got nan"),
        (["comparison", "--width", "50mm", "--font-size", "72"], "--width: 50mm is too narrow for this figure"),
        (["trace", "--width", "84mm"], "--width: says how a figure looks, and none is drawn"),
        (["trace", "--style", "paper"], "--style: says how a figure looks, and none is drawn"),
        (["comparison", "--relative"], "--relative: is of plot sweep, not of plot comparison"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = plot(*options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"costsim: {says}")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_table_has_no_width():
    done = CliRunner().invoke(main, ["reconcile", "iwslt17-dsq", "--assumption", "law", "--width", "84mm"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "costsim: --width: says how a figure looks, and none is drawn; add --out FIGURE.svg\n"


def test_files_are_as_wide_as_asked_and_the_same_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = []
    for name in ("first.svg", "again.svg"):
        assert plot("comparison", "--style", "paper", "--width", "100mm", "--out", name).exit_code == 0
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    width = re.search(rb'<svg[^>]* width="([\d.]+)pt"', written[0])
    assert float(width[1]) == pytest.approx(100 * 72 / 25.4, abs=0.01)
    assert b"law product" not in written[0]  # the title


def test_in_python():
    result = costsim.load("glue-mrpc-dsq", {"model.layers": 1}).run(["dsq", "fixed16"])
    figure = result.plot.comparison(width="84mm", font_size=8, title=False)
    assert figure.get_figwidth() == pytest.approx(84 / 25.4)
    assert not figure.get_suptitle()
    with pytest.raises(InputError, match=r"^style: expected one of paper, slide, got 'papr'; did you mean 'paper'"):
        result.plot.comparison(style="papr")


def test_labels_name_policies():
    dsq = costsim.load_policy("dsq").with_(called="mine", label="DSQ, mine", copy="stash", format="bfp8")
    assert dsq.with_(copy="stash", format="bfp4").label == "mine-stash-bfp4"
    figure = costsim.load("glue-mrpc-dsq", {"model.layers": 1}).run([dsq, "fixed16"]).plot.comparison()
    assert "DSQ, mine*" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_policies_of_one_label_have_their_names():
    dsq = costsim.load_policy("dsq")
    copied = dsq.with_(called="mine", label="DSQ", copy="stash", format="bfp8")
    result = costsim.load("glue-mrpc-dsq", {"model.layers": 1}).run([dsq, copied, "w8a8+deployed"])
    labels = [label.get_text() for label in result.plot.comparison().axes[0].get_yticklabels()]
    assert labels == ["dsq*", "mine*", "W8A8, deployed"]
    text = result.to_latex()
    assert "\nmine &" in text
    assert "\nW8A8, deployed &" in text


def test_shipped_policies_have_short_labels_of_their_own():
    labels = [costsim.load_policy(name).file.label for name in list_shipped("policies")]
    assert len(set(labels)) == len(labels)
    assert all(0 < len(label) <= 26 for label in labels)
