"""What a rank has: which dims an axis of the mesh divides, and so the sizes of the rank's own tensors.

A dim is divided everywhere, or nowhere. So a rank's step is the same step with smaller dims, and collectives stand
where something is summed over a divided dim, or wanted whole.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from costsim.graph.graph import Exchange, MeshAxis
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Algorithms, Parallel
from costsim.names import COLLECTIVES

# Divided by ranks of tensor: Shoeybi et al., arXiv:1909.08053, section 3; shared experts like feed forward.
BY_TENSOR = ("heads", "kv_heads", "ffn", "shared_ffn", "vocab", "source_vocab", "target_vocab")
# Divided by them where no dim of those is: Korthikanti et al., arXiv:2205.05198, section 4.2.2.
SEQUENCES = ("tokens", "source", "target")
SHARE = ".tensor"  # ends the name of a rank's share of a sequence
OF_EXPERTS = {"experts": "experts.expert", "capacity": "capacity.expert"}  # where experts are shared


class Layout(NamedTuple):
    """The mesh, the sizes of a rank's dims, and by dim of which a rank has a share the axis."""

    mesh: Mapping[str, MeshAxis]
    sizes: Mapping[str, int]
    divided: Mapping[str, str]


def mesh(parallel: Parallel) -> dict[str, MeshAxis]:
    """The axes of more than one rank: neighbours in tensor are next to each other, those in data farther apart."""
    tensor, expert, data, stages = parallel.tensor, parallel.expert, parallel.data, parallel.pipeline
    axes = {
        "tensor": MeshAxis(tensor, 1),
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


def layers_of(layers: int, stages: int) -> list[range]:
    """The layers of each stage, from the first on: as many each, or one more.

    >>> layers_of(7, 3)
    [range(0, 3), range(3, 5), range(5, 7)]
    """
    firsts = [-(-stage * layers // stages) for stage in range(stages + 1)]
    return [range(first, after) for first, after in pairwise(firsts)]


def in_flight(parallel: Parallel, micro_batches: int) -> int:
    """The most micro-batches that a stage has begun and not ended. Sources: see `run.pipeline`, which plays schedules.

    zb-h1 puts off gradients of weights until as many wait as in the first stage: arXiv:2401.10241, section 2.
    """
    behind = {"gpipe": micro_batches, "zb-h1": parallel.pipeline}
    return min(behind.get(parallel.schedule, parallel.pipeline - parallel.stage), micro_batches)


def _near(size: int, ranks: int) -> int:
    """The number of ranks that is nearest to the one asked for and divides a size."""
    return min((n for n in range(1, size + 1) if size % n == 0), key=lambda n: (abs(n - ranks), n))


def layout(parallel: Parallel, sizes: Mapping[str, int]) -> Layout:
    """What one rank has of dims with these sizes. Raises FieldError for a dim that its ranks do not divide."""
    own, divided = dict(sizes), dict[str, str]()

    def divide(dim: str, share: str, axis: str, ranks: int) -> None:
        if sizes[dim] % ranks:
            at = ("parallel", axis)
            padded = f", or pad it: {-(-sizes[dim] // ranks) * ranks}" if "vocab" in dim else ""
            near = _near(sizes[dim], ranks)
            raise FieldError(at, f"{ranks} ranks do not divide {dim}, which is {sizes[dim]}; {near} do{padded}")
        own[share] = sizes[dim] // ranks
        divided[share] = axis

    if parallel.tensor > 1:
        if "experts" in sizes:
            raise FieldError(("parallel", "tensor"), "experts are shared by ranks of expert alone; leave tensor at 1")
        for dim in BY_TENSOR:
            if dim in sizes:
                divide(dim, dim, "tensor", parallel.tensor)
        for dim in SEQUENCES:
            if dim in sizes and parallel.sequence:
                divide(dim, dim + SHARE, "tensor", parallel.tensor)
    if parallel.expert > 1:
        if "experts" not in sizes:
            raise FieldError(("parallel", "expert"), "the model has no experts to share")
        divide("experts", OF_EXPERTS["experts"], "expert", parallel.expert)
        own[OF_EXPERTS["capacity"]] = sizes["capacity"] * parallel.expert
    return Layout(mesh(parallel), own, divided)
