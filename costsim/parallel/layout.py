"""What a rank has: which dims an axis of the mesh divides, and so the sizes of the rank's own tensors.

A dim is divided everywhere, or nowhere. So a rank's step is the same step with smaller dims, and collectives stand
where something is summed over a divided dim, or wanted whole.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from costsim.errors import nearest_divisor
from costsim.graph.graph import Exchange, MeshAxis
from costsim.graph.pairs import WHOLE
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Algorithms, Parallel
from costsim.names import COLLECTIVES

# Divided by ranks of tensor: Shoeybi et al., arXiv:1909.08053, section 3; shared experts like feed forward.
BY_TENSOR = ("heads", "kv_heads", "ffn", "expert_ffn", "shared_ffn", "vocab", "source_vocab", "target_vocab")
# Divided by them where no dim of those is: Korthikanti et al., arXiv:2205.05198, section 4.2.2.
SEQUENCES = ("tokens", "source", "target")
SLICED = frozenset(SEQUENCES)  # of which ranks of context have a slice each, and pass keys and values of it round
_NOT_OF_TEXT = ("patches", "frames")  # what a model hears or sees, of which a position looks at several
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
    }
    return {name: axis for name, axis in axes.items() if axis.ranks > 1}


def joining(stages: Sequence[int], between: int) -> MeshAxis:
    """The axis of ranks in some stages of a pipeline, two neighbours among which are so many places apart."""
    apart = max((after - before for before, after in pairwise(stages)), default=0)
    return MeshAxis(len(stages), apart * between, tuple(stages))


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


Stacks = Mapping[str, Mapping[int, range]]  # by stack of layers: the layers of each part of a pipeline that has some


def stacks_of(layers: Mapping[str, int], parallel: Parallel) -> Stacks:
    """The layers of each part of a pipeline by stack: of one with so many layers, or of an encoder and a decoder.

    Of these the first stages have the encoder's layers and those behind them the decoder's, none has both: the
    split rank of Megatron-LM (`--pipeline-model-parallel-split-rank`). Unless `encoder_stages` says how many stages the
    encoder has, it is so many that the stage with most layers has least. Raises FieldError for what cannot be cut so.
    """
    stages, at = parallel.pipeline, ("parallel", "pipeline")
    parts, total = stages * parallel.chunks, sum(layers.values())
    if stages > total:
        raise FieldError(at, f"{stages} stages of {total} layers; {total} do")
    if len(layers) > 1 and parallel.chunks > 1:
        raise FieldError(("parallel", "chunks"), "a stage of an encoder and a decoder has one chunk; leave it at 1")
    if parts > total:
        message = f"{stages} stages of {parallel.chunks} chunks of {total} layers; {total // stages} do"
        raise FieldError(("parallel", "chunks"), message)
    if len(layers) == 1:
        if parallel.encoder_stages:
            raise FieldError(("parallel", "encoder_stages"), "the model has one stack of layers; leave it out")
        return {stack: dict(enumerate(layers_of(number, parts))) for stack, number in layers.items()}
    (encoder, first), (decoder, second) = layers.items()
    here = _encoder_stages(first, second, parallel)
    return {
        encoder: dict(enumerate(layers_of(first, here))),
        decoder: dict(enumerate(layers_of(second, stages - here), here)),
    }


def _encoder_stages(encoder: int, decoder: int, parallel: Parallel) -> int:
    """How many stages an encoder of so many layers has before a decoder's. Raises FieldError for what does not go."""
    stages, wanted = parallel.pipeline, parallel.encoder_stages
    possible = range(max(1, stages - decoder), min(stages - 1, encoder) + 1)
    if wanted is not None and wanted not in possible:
        near = min(possible, key=lambda n: abs(n - wanted))
        message = f"{wanted} of {stages} stages for {encoder} layers, the others for {decoder}; {near} do"
        raise FieldError(("parallel", "encoder_stages"), message)
    return wanted or min(possible, key=lambda n: max(-(-encoder // n), -(-decoder // (stages - n))))


def parts_of(parallel: Parallel) -> range:
    """The parts of a pipeline that are the chunks of a rank's stage: part k lies on stage k % stages."""
    return range(parallel.stage, parallel.pipeline * parallel.chunks, parallel.pipeline)


def _slice(ranks: int, sizes: dict[str, int]) -> None:
    """Make the sizes those of a rank that has a slice of each sequence. Raises FieldError if there is none to have."""
    at = ("parallel", "context")
    sliced = {dim: sizes[dim] for dim in SEQUENCES if dim in sizes}
    if not sliced or any(dim in sizes for dim in _NOT_OF_TEXT):
        raise FieldError(at, "ranks share sequences of text; leave context at 1")
    for dim, tokens in sliced.items():
        if tokens % (2 * ranks):
            halves = gcd(*(size // 2 for size in sliced.values())) if not any(n % 2 for n in sliced.values()) else 1
            near, what = nearest_divisor(halves, ranks), "tokens" if len(sliced) == 1 else f"tokens of {dim}"
            message = f"{ranks} ranks have 2 runs each of a sequence, and do not divide {tokens} {what}; {near} do"
            raise FieldError(at, message)
        sizes |= {dim: tokens // ranks, f"{dim}{WHOLE}": tokens}
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
            message = f"{ranks} ranks do not divide {dim}, which is {size}; {nearest_divisor(size, ranks)} do{padded}"
            raise FieldError(("parallel", axis), message)
        own[share] = size // ranks
        divided[share] = axis

    if parallel.context > 1:
        _slice(parallel.context, own)
        divided |= {dim: "context" for dim in SEQUENCES if dim in own}
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
