"""Texts of all figures of all shipped workloads are inside and apart, at three widths. Run on request.

Every workload has each kind of figure at one of the widths, in turn; DIFFERENT ones have all, as their figures differ.
"""

import pytest
from conftest import one_layer
from overlaps import faults
from test_look import WIDTHS

from costsim import names, plots
from costsim.inputs.files import list_shipped
from costsim.plots.findings import draw_survey
from costsim.plots.look import look_of
from costsim.results.survey import prepared, survey
from costsim.run.job import Request
from costsim.run.simulate import run

WORKLOADS = list(list_shipped("workloads"))
DIFFERENT = ("iwslt17-dsq", "gpt2-small", "micro-keywords")  # phases and published figures; many policies; kilobytes
MOST = {"sensitivity": 2, "roofline": 3}  # policies: more are more of the same
CASES = [
    (workload, kind, width)
    for i, workload in enumerate(WORKLOADS)
    for j, kind in enumerate(names.FIGURES)
    for k, width in enumerate(WIDTHS)
    if workload in DIFFERENT or (i + j + k) % len(WIDTHS) == 0
]


@pytest.fixture(scope="module")
def results():
    """Results by workload and number of policies, each counted once."""
    known = {}

    def of(workload, most):
        if (workload, most) not in known:
            every = run(workload, assignments=one_layer(workload)).job.policies
            chosen = [policy.name for policy in every][:most] if most else ()
            known[workload, most] = run(
                workload, chosen, assignments=one_layer(workload), hardware=["h100-sxm", "jetson-orin-nano"]
            )
        return known[workload, most]

    return of


@pytest.mark.parametrize(("workload", "kind", "width"), CASES)
def test_texts_are_inside_and_apart(workload, kind, width, results):
    figure = plots.draw(results(workload, MOST.get(kind, 6)), kind, look_of(width=width, font_size=8))
    assert faults(figure) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_of_recipes_are_inside_and_apart(width):
    made = survey(prepared(Request("translation-small", hardware=["h100-sxm"])))
    assert faults(draw_survey(made, look_of(width=width, font_size=8))) == []
