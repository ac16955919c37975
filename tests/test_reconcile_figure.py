"""Where combinations come to: counts on a grid, its figure, and the same in Python."""

from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg

import costsim
from costsim.cli import main
from costsim.search.density import STEPS, Density

NAMED = ("law", "shared exponent", "ends of the phases")


@pytest.fixture(scope="module")
def made():
    return costsim.load("iwslt17-dsq").reconcile(0.2, NAMED, top=20)


def test_all_combinations_are_counted_once(made):
    assert sum(count for *_, count in made.found.density.cells()) == made.found.tried


def test_counts_are_those_of_all_ratios_by_enumeration():
    """An axis of length 1 stands for all its cases."""
    rng = np.random.default_rng(0)
    first, second = 2 ** rng.uniform(-3, 3, (4, 1, 3)), 2 ** rng.uniform(-3, 3, (1, 1, 3))
    defined = rng.random((4, 1, 3)) < 0.7
    sizes = (4, 5, 3)
    density = Density(2)
    density.add([first, second], defined, sizes)
    known: dict[tuple[int, int], int] = {}
    for place in np.ndindex(*sizes):
        i, k = place[0], place[2]
        if defined[i, 0, k]:
            cell = round(STEPS * np.log2(first[i, 0, k])), round(STEPS * np.log2(second[0, 0, k]))
            known[cell] = known.get(cell, 0) + 1
    found = {(round(STEPS * np.log2(x)), round(STEPS * np.log2(y))): n for x, y, n in density.cells()}
    assert found == known


def test_far_ratios_are_counted_at_the_edge():
    density = Density(1)
    density.add([np.array([1e-9, 1.0, 1e9])], np.ones(3, bool), (3,))
    assert [(x, n) for x, _, n in density.cells()] == [(2**-10, 1), (1.0, 1), (2**10, 1)]


def test_the_figure_names_every_departure_and_marks_the_hits(made):
    figure = made.plot()
    FigureCanvasAgg(figure).draw()
    cloud, matrix = figure.axes[0], figure.axes[1]
    names = [text.get_text() for text in matrix.get_yticklabels()]
    departures = {f"{d.assumption}: {d.case}" for hit in made.found.listed for d in hit.departures}
    assert set(names) == departures
    assert len(matrix.lines) == sum(len(hit.departures) for hit in made.found.listed)
    [hits] = [line for line in cloud.lines if line.get_label() == "hits"]
    assert list(zip(*hits.get_data(), strict=True)) == [hit.ratios for hit in made.found.listed]


def test_no_label_of_the_matrix_leaves_the_figure_or_covers_another(made):
    figure = made.plot()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[1].get_yticklabels()]
    assert all(box.x0 >= 0 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    bar = figure.axes[2].get_tightbbox(renderer)
    assert not any(box.overlaps(bar) for box in boxes)


def test_a_single_figure_has_a_histogram(tmp_path):
    one = costsim.load(
        "iwslt17-dsq", {"published": "[{policy: dsq, quantity: arithmetic_reduction, stated: 20.95, source: s}]"}
    )
    made = one.reconcile(Fraction(1, 5), NAMED)
    [path] = made.save(tmp_path / "one.svg")
    assert "combinations" in path.read_text()


def test_the_nearest_is_drawn_if_none_hits():
    made = costsim.load("iwslt17-dsq").reconcile(0.001, "law")
    assert len(made.table) == 0
    assert made.plot().axes[1].get_title() == "nearest"


def test_in_python_it_is_what_the_command_says(made, tmp_path):
    named = [part for name in NAMED for part in ("--assumption", name)]
    command = ("reconcile", "iwslt17-dsq", "--within", "20%", "--top", "20", *named)
    assert CliRunner().invoke(main, command).output == made.to_text()
    assert len(made.table) == len(made.found.listed) > 1
    assert made.by_chance[0] > 0
    done = CliRunner().invoke(main, (*command, "--out", str(tmp_path / "all")))
    assert "iwslt17-dsq-reconcile.svg" in done.output
    assert len(list((tmp_path / "all").iterdir())) == 6
    again = [made.save(tmp_path / name)[0].read_bytes() for name in ("a.svg", "b.svg")]
    assert again[0] == again[1]


def test_what_is_refused():
    with pytest.raises(costsim.InputError, match="within: expected a part above 0 and below 1"):
        costsim.load("iwslt17-dsq").reconcile(2)
    done = CliRunner().invoke(main, ["reconcile", "iwslt17-dsq", "--out", "a.svg", "--format", "json"])
    assert done.exit_code == 2
