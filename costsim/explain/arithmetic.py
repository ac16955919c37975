"""What the MACs of a GEMM cost, step by step: how their products add up, and the price of both under a law."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from costsim.cost.laws import LAWS
from costsim.explain.formula import Part, Step, Term, undefined, worked
from costsim.explain.pairs import run_lengths
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.graph.graph import Graph, Op
from costsim.policy.assign import Assignment

INTEGER, FLOAT = parse_format("int32"), parse_format("fp32")

# --- how products add up ----------------------------------------------------------------------------------------------


def _ends(graph: Graph, assignment: Assignment, op: Op, operand: int) -> tuple[int, int] | None:
    """How many blocks of an operand so many products go through; None if one scale spans every sum."""
    format = assignment.multiplied(op, operand)
    sides = [scale.contracted for scale in format.scales if not (scale.contracted is None and scale.free is None)]
    if not sides:
        return None
    chain, dims = assignment.chain(op, operand), graph.tensors[op.inputs[operand]].dims
    axes = chain[-1].axes if chain else tuple(range(len(dims))) if format.flat else (len(dims) - 1,)
    summed = op.kind.contracted[operand]
    if any(axis not in summed for axis in axes):
        return 1, 1
    if len(axes) == len(summed) and not any(sides):
        return None
    runs = run_lengths(graph, dims, axes)
    side = min(side or max(runs) for side in sides)
    return sum(len(range(0, run, side)) for run in runs), sum(runs)


def _additions(graph: Graph, assignment: Assignment, op: Op, macs: int) -> dict[Format, Step]:
    """The additions of a GEMM's products, as many as MACs, by the format of the sums."""

    def every(format: Format, why: str) -> dict[Format, Step]:
        return {format: worked(f"additions in {format.name}", [[Part("MACs", macs)]], "op", why)}

    named = assignment.accumulator(op)
    if named is not None:
        return every(named, "the accumulator that the policy names")
    if any(not assignment.multiplied(op, operand).whole for operand in (0, 1)):
        return every(FLOAT, "products of floats add as floats")
    ends = {operand: _ends(graph, assignment, op, operand) for operand in (0, 1)}
    finest = max((end for end in ends.values() if end), key=lambda end: end[0] / end[1], default=None)
    if finest is None:
        return every(INTEGER, "products of whole numbers add as integers: one unit spans each sum")
    blocks, of = finest
    what, why = f"additions in {FLOAT.name}", "a sum of floats takes in each block of the finer operand"
    result = -(-macs * blocks // of)
    across = Step(what, "ceil(MACs * blocks / products)", f"ceil({macs} * {blocks} / {of})", result, "op", why)
    if result == macs:
        return {FLOAT: across}
    text, why = f"additions in {INTEGER.name}", "products add as integers inside a block"
    within = Step(text, f"MACs - {what}", f"{macs} - {result}", macs - result, "op", why)
    return {INTEGER: within, FLOAT: across}


# --- what that costs --------------------------------------------------------------------------------------------------


def doublings(n: int) -> int:
    """How often 1 must be doubled to reach n: the logarithm of n to base 2, rounded up."""
    return next(k for k in range(n.bit_length() + 1) if 2**k >= n)


def _unsigned(name: str, format: Format) -> Part:
    return Part(f"bits of {name} without signs", format.element_bits - format.signs if format.whole else format.width)


# The price of a product from the widths that meet and the products summed, by law; other laws are tables.
_PRICE: Mapping[str, Callable[[Format, Format, int], list[Term]]] = {
    "product": lambda a, b, _: [[Part("width of a", a.width), Part("width of b", b.width)]],
    "magnitude": lambda a, b, _: [[_unsigned("a", a), _unsigned("b", b)]],
    "bops": lambda a, b, n: [
        [Part("width of a", a.width), Part("width of b", b.width)],
        [Part("width of a", a.width)],
        [Part("width of b", b.width)],
        [Part("ceil(log2(products summed))", doublings(n))],
    ],
}


class Arithmetic(NamedTuple):
    """The steps to what a GEMM's MACs cost, their additions by format, and the cost; None if it is not defined."""

    steps: list[Step]
    additions: dict[str, int]
    cost: int | None


def arithmetic(graph: Graph, assignment: Assignment, law_name: str, op: Op, macs: int, products: int) -> Arithmetic:
    """What a GEMM of so many MACs costs, `products` of which make each sum."""
    law = LAWS[law_name]
    a, b = (assignment.multiplied(op, i) for i in (0, 1))
    adds = _additions(graph, assignment, op, macs)
    steps, counted = list(adds.values()), {format.name: step.whole for format, step in adds.items()}
    unit, source = f"{law.unit}/MAC", f"law {law_name}: {law.source}"
    what = "cost of a product" if law.prices_additions else "cost of a MAC"
    figure = law.multiply(a, b, products)
    figures = {format: law.add(format) for format in adds}
    if figure is None or None in figures.values():
        why = f"law {law_name} is defined for {law.defined}; not for {a.name} x {b.name} + {' + '.join(counted)}"
        steps.append(undefined(what, "table of the law", unit, why))
        steps.append(undefined("arithmetic cost", f"MACs * {what}", law.unit, why))
        return Arithmetic(steps, counted, None)
    terms = _PRICE[law_name](a, b, products) if law_name in _PRICE else [[Part(f"table: {a.name} x {b.name}", figure)]]
    steps.append(worked(what, terms, unit, source))
    total: list[Term] = [[Part("MACs", macs), Part(what, steps[-1].whole)]]
    for format, each in figures.items() if law.prices_additions else ():
        price = f"cost of an addition in {format.name}"
        steps.append(worked(price, [[Part("table of the law", each or 0)]], f"{law.unit}/op", source))
        total.append([Part(f"additions in {format.name}", counted[format.name]), Part(price, each or 0)])
    steps.append(worked("arithmetic cost", total, law.unit, f"law {law_name}"))
    return Arithmetic(steps, counted, steps[-1].whole)
