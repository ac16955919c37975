"""What a rank has: which dims an axis of the mesh divides, and so the sizes of the rank's own tensors.

A dim is divided everywhere, or nowhere. So a rank's step is the same step with smaller dims, and collectives stand
where something is summed over a divided dim, or wanted whole.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from costsim.graph.graph import Exchange, MeshAxis
from costsim.graph.pairs import WHOLE
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Algorithms, Parallel
from costsim.names import COLLECTIVES

# Divided by ranks of tensor: Shoeybi et al., arXiv:1909.08053, section 3; shared experts like feed forward.
BY_TENSOR = ("heads", "kv_heads", "ffn", "expert_ffn", "shared_ffn", "vocab", "source_vocab", "target_vocab")
# Divided by them where no dim of those is: Korthikanti et al., arXiv:2205.05198, section 4.2.2.
SEQUENCES = ("tokens", "source", "target")
SLICED = "tokens"  # of which ranks of context have a slice each, and pass keys and values of it round
SHARE = ".tensor"  # ends the name of a rank's share of a sequence
OF_EXPERTS = {"experts": "experts.expert", "capacity": "capacity.expert"}  # where experts are shared


class Layout(NamedTuple):
    """The mesh, the sizes of a rank's dims, and by dim of which a rank has a share the axis."""

    mesh: Mapping[str, MeshAxis]
    sizes: Mapping[str, int]
    divided: Mapping[str, str]


def mesh(parallel: Parallel) -> dict[str, MeshAxis]:
    """The axes of more than one rank: neighbours in tensor are next to each other, those in data farther apart."""
    tensor, expert, stages = parallel.tensor, parallel.expert, parallel.pipeline
    data = parallel.replicas
    axes = {
        "tensor": MeshAxis(tensor, 1),
        "context": MeshAxis(parallel.context, tensor),  # within data, as these have the same weights
        "expert": MeshAxis(expert, tensor),
        "data": MeshAxis(data, tensor),
        "secondary": MeshAxis(parallel.secondary, tensor),
        "expert_data": MeshAxis(data // expert, tensor * expert),  # ranks that have the same experts
        "pipeline": MeshAxis(stages, tensor * data),
        "tied": MeshAxis(min(stages, 2), tensor * data * (stages - 1)),  # the first stage and the last
    }
    return {name: axis for name, axis in axes.items() if axis.ranks > 1}


def exchange(algorithms: Algorithms) -> Exchange:
    """How ranks carry out collectives."""
    named = {name: getattr(algorithms, name) for name in COLLECTIVES if name in algorithms.section_fields}
    return Exchange(named, algorithms.levels)


def layers_of(layers: int, parts: int) -> list[range]:
    """The layers of each part of a pipeline, from the first on: as many each, or one more.

    >>> layers_of(7, 3)
    [range(0, 3), range(3, 5), range(5, 7)]
    """
    firsts = [-(-part * layers // parts) for part in range(parts + 1)]
    return [range(first, after) for first, after in pairwise(firsts)]


def parts_of(parallel: Parallel) -> range:
    """The parts of a pipeline that are the chunks of a rank's stage: part k lies on stage k % stages."""
    return range(parallel.stage, parallel.pipeline * parallel.chunks, parallel.pipeline)


def _near(size: int, ranks: int) -> int:
    """The number of ranks that is nearest to the one asked for and divides a size."""
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - ranks), n))


def _slice(ranks: int, sizes: dict[str, int]) -> None:
    """Make the sizes those of a rank that has a slice of each sequence. Raises FieldError if there is none to have."""
    at = ("parallel", "context")
    if SLICED not in sizes or "patches" in sizes:
        raise FieldError(at, "ranks share the sequence of a decoder, or of an encoder alone; leave context at 1")
    tokens = sizes[SLICED]
    if tokens % (2 * ranks):
        near = _near(tokens // 2, ranks) if tokens % 2 == 0 else 1
        message = f"{ranks} ranks have 2 runs each of a sequence, and do not divide {tokens} tokens; {near} do"
        raise FieldError(at, message)
    sizes |= {SLICED: tokens // ranks, f"{SLICED}{WHOLE}": tokens}
    if "capacity" in sizes:
        sizes["capacity"] = -(-sizes["capacity"] // ranks)


def _share_rows(ranks: int, rows: str, own: dict[str, int], divided: dict[str, str]) -> None:
    """Have ranks of tensor share the rows of experts, for each sends tokens of its own: as many each, filled up."""
    own[rows + SHARE] = -(-own[rows] // ranks)
    own[rows] = own[rows + SHARE] * ranks
    divided[rows + SHARE] = "tensor"


def layout(parallel: Parallel, sizes: Mapping[str, int]) -> Layout:
    """What one rank has of dims with these sizes. Raises FieldError for a dim that its ranks do not divide."""
    own, divided = dict(sizes), dict[str, str]()

    def divide(dim: str, share: str, axis: str, ranks: int) -> None:
        size = own[dim]
        if size % ranks:
            padded = f", or pad it: {-(-size // ranks) * ranks}" if "vocab" in dim else ""
            message = f"{ranks} ranks do not divide {dim}, which is {size}; {_near(size, ranks)} do{padded}"
            raise FieldError(("parallel", axis), message)
        own[share] = size // ranks
        divided[share] = axis

    if parallel.context > 1:
        _slice(parallel.context, own)
        divided[SLICED] = "context"
    if parallel.tensor > 1:
        for dim in BY_TENSOR:
            if dim in sizes:
                divide(dim, dim, "tensor", parallel.tensor)
        for dim in SEQUENCES:
            if dim in sizes and parallel.sequence:
                divide(dim, dim + SHARE, "tensor", parallel.tensor)
        if "capacity" in sizes and parallel.sequence:
            _share_rows(parallel.tensor, "capacity", own, divided)
    if parallel.expert > 1:
        if "experts" not in sizes:
            raise FieldError(("parallel", "expert"), "the model has no experts to share")
        divide("experts", OF_EXPERTS["experts"], "expert", parallel.expert)
        rows = OF_EXPERTS["capacity"]
        own[rows] = own["capacity"] * parallel.expert
        if "capacity" + SHARE in own:
            _share_rows(parallel.tensor, rows, own, divided)
    return Layout(mesh(parallel), own, divided)
