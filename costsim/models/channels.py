"""Which output channels of a weight are trained, where that is a share of them: the first ones, a whole number."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from fractions import Fraction

from costsim.graph.builder import GraphBuilder
from costsim.graph.channels import Part
from costsim.graph.graph import Op
from costsim.inputs.field_error import FieldError


def _output_axes(op: Op, operand: int) -> set[int]:
    """The axes of an operand of a product that its result has, and the other operand not; none if it is no product."""
    if not op.kind.is_contraction:
        return set()
    own, other = op.kind.inputs[operand].pattern, op.kind.inputs[1 - operand].pattern
    return {axis for axis, letter in enumerate(own) if letter not in other}


def _part(b: GraphBuilder, weight: str, share: Fraction) -> Part:
    dims = b.tensors[weight].dims
    axes = [_output_axes(op, i) for op in b.ops for i, name in enumerate(op.inputs) if name == weight]
    kept = sorted(set.intersection(*axes)) if axes else []
    at = ("training", "trainable")
    if not kept:
        raise FieldError(at, f"{weight} has no output channels: a share is of weights that only products read")
    whole = [axis for axis in kept if (share * b.sizes[dims[axis]]).denominator == 1]
    if not whole:
        sizes = " x ".join(str(b.sizes[dims[axis]]) for axis in kept)
        raise FieldError(at, f"{weight} has {sizes} output channels, of which a share of {float(share):g} is not whole")
    number = int(share * b.sizes[dims[whole[0]]])
    dim = f"{dims[whole[0]]}.first.{number}"
    b.sizes[dim] = number
    return Part(whole[0], dim)


def _share(weight: str, shares: Mapping[str, Fraction]) -> Fraction:
    """What the last glob says that matches a weight."""
    return [share for glob, share in shares.items() if fnmatchcase(weight, glob)][-1]


def parts(b: GraphBuilder, shares: Mapping[str, Fraction]) -> dict[str, Part]:
    """By weight of which a share is trained: that part. `shares` are by glob over weights.

    Raises FieldError for a weight that has no such share.
    """
    weights = [name for name, tensor in b.tensors.items() if tensor.role == "weight" and b.is_trained(name)]
    shares = {name: _share(name, shares) for name in weights}
    return {name: _part(b, name, share) for name, share in shares.items() if share < 1}
