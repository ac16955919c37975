"""Why a rule matches nothing in a graph, as far as one of its fields alone says it, and what may have been meant."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from costsim.errors import near, one_line
from costsim.graph.graph import Graph
from costsim.inputs.schema_policy import Rule


def why(rule: Rule, graph: Graph) -> str:
    """A clause: which glob nothing has, with the nearest part of a name; that none is frozen, or a GEMM's; or ""."""
    if rule.trainable is False and graph.trainable_parameters == graph.parameters:
        return ", which freezes no weight (training.trainable does)"
    named = {
        "op": (rule.op, [op.name for op in graph.ops]),
        "name": (rule.name, list(graph.tensors)),
        "layer": (rule.layer, [op.layer for op in graph.ops]),
    }
    for field, (glob, names) in named.items():
        if glob is not None and not any(fnmatchcase(name, glob) for name in names):
            by = {"name": "tensor"}.get(field, field)
            return f": no {by} is {one_line(glob)!r} ({_meant(glob, names)}costsim run WORKLOAD --by {by} lists them)"
    if rule.collective is not None and (lacking := _not_sent(rule, graph)):
        return lacking
    multiplied = {name for op in graph.ops if op.gemm for name in op.inputs}
    of_gemms = rule.copy_ == "operand" and rule.op is None and rule.name
    if of_gemms and not any(fnmatchcase(name, of_gemms) for name in multiplied):
        return f": no GEMM reads {one_line(of_gemms)!r}; what other ops read is selected by op"
    return ""


def _not_sent(rule: Rule, graph: Graph) -> str:
    """That nothing is sent, or none of what a rule of collectives names; or "", where another field is why."""
    if not graph.mesh:
        return ", which is of one device and sends nothing (parallel splits it)"
    named = rule.collective or ()
    ops, asked = [op for op in graph.ops if op.kind.collective in named], " or ".join(named)
    roles = {graph.tensors[name].role for op in ops for name in (op.inputs if rule.copy_ else op.outputs)}
    if not ops:
        return f": ranks do no {asked} here"
    if rule.role is not None and roles.isdisjoint(rule.role):
        return f": {asked} is of {', '.join(sorted(roles))} here"
    return ""


def _parts(names: list[str]) -> Iterator[str]:
    """The parts of dotted names: decoder, 0, ffn, fc1."""
    return (part for name in dict.fromkeys(names) for part in name.split("."))


def _meant(glob: str, names: list[str]) -> str:
    """Of the glob's parts that are in no name: those of names that are near."""
    known = set(_parts(names))
    wrong = [part for part in (each.strip("*?") for each in glob.split(".")) if part and part not in known]
    close = [part for each in wrong for part in near(each, known)]
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""
