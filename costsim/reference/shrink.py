"""Smaller copies of a workload, to be run on this machine: `shrink` for counts, `moderate` for times.

The one has tiny dims, for `validate`; the other has real widths, for `measure`.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from costsim.errors import InputError
from costsim.formats.hadamard import block_of
from costsim.graph.graph import Graph
from costsim.graph.pairs import Pairs, pairs_of
from costsim.inputs import schema, schema_workload
from costsim.inputs.parse import override
from costsim.models.build import build, sections
from costsim.models.families import family
from costsim.models.head import CHUNK_DIMS, chunk_sizes
from costsim.policy.policy import Policy
from costsim.run.job import Job, with_fields

LAYERS = CHUNKS = 2
_PATTERNS = ("windows", "rotated")  # fields of a model that say something of its layers, one by one
MICRO_BATCHES = 2
PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 37)  # dims: odd, so that blocks of every size are cut off somewhere
WIDE = (2, 3, 37, 131, 137, 139, 263, 521)  # dims that hold whole blocks, of 128 too
MOST_MACS = 5 * 10**10  # of a step: a second or two at the rates of a few cores, and as long for the other ops
_LEAST_TOKENS = 16


def check_memory(
    graph: Graph,
    bytes_each: int = 8 * 3,  # float64, copies, bits
    runner: str = "the reference",
    hint: str = "",
) -> None:
    """Raise InputError, with the number, if a run that takes so many bytes an element would not fit into memory."""
    needed = bytes_each * sum(graph.elements(tensor.dims) for tensor in graph.tensors.values())
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise InputError(f"{runner} would need about {needed} bytes of memory, {free} are free{hint}")


def _check_alone(job: Job) -> None:
    """Raise InputError for a step on many devices."""
    if job.graph.mesh:
        raise job.document.error(("parallel",), "this machine is one device; leave parallel out to run a step here")


def _few_layers(model: Mapping[str, Any]) -> dict[str, object]:
    """The fields of a model section that leave few layers, but one of each sort that it has, and few chunks."""
    patterns = {name: model[name] for name in _PATTERNS if model.get(name)}
    dense = (model.get("experts") or {}).get("dense_layers")
    if dense:
        patterns["dense"] = [i in dense for i in range(model["layers"])]
    sorts = {tuple(p[i % len(p)] for p in patterns.values()): None for i in range(model.get("layers", 1))}
    least = max(LAYERS, len(sorts))
    layers = {name: n for name, n in model.items() if name.endswith("layers") and isinstance(n, int)}
    fields: dict[str, object] = {f"model.{name}": least for name, n in layers.items() if n > least}
    if fields:
        few = dict(zip(patterns, zip(*sorts, strict=True), strict=True))
        if "dense" in few:
            few["experts.dense_layers"] = tuple(i for i, is_dense in enumerate(few.pop("dense")) if is_dense)
        fields |= {f"model.{name}": json.dumps(of) for name, of in few.items()}
    chunks = (model.get("head") or {}).get("chunks", 1)
    return fields | {"model.head.chunks": CHUNKS} if chunks > CHUNKS else fields


# --- of tiny dims -----------------------------------------------------------------------------------------------------


def small_dims(sizes: Mapping[str, int], ladder: Sequence[int] = PRIMES) -> dict[str, int]:
    """The sizes of a ladder in the order of the real ones; what is smaller stays."""
    ordered = sorted(sizes, key=lambda dim: (sizes[dim], dim))
    spare = max(0, len(ordered) - len(ladder))
    small = {dim: ladder[max(0, i - spare)] for i, dim in enumerate(ordered)}
    return {dim: min(size, small[dim]) for dim, size in sizes.items()}


def _filled(sizes: Mapping[str, int], small: Mapping[str, int]) -> dict[str, int]:
    """Small sizes of all dims: of those that have none, that of the next smaller one that has."""
    known = sorted((sizes[dim], small[dim]) for dim in sizes if dim in small)
    return {
        dim: small[dim] if dim in small else max((few for real, few in known if real <= size), default=1)
        for dim, size in sizes.items()
    }


def _small_chunks(graph: Graph, small: Mapping[str, int]) -> dict[str, int]:
    """The dims of chunks of rows, which make up all rows."""
    labels = next((op.inputs[0] for op in graph.ops if op.kind.name == "count_labels"), None)
    if labels is None:
        return {}
    rows = math.prod(small[dim] for dim in graph.tensors[labels].dims)
    return dict(zip(CHUNK_DIMS, chunk_sizes(rows, CHUNKS), strict=True))


def _small_pairs(graph: Graph, small: Mapping[str, int]) -> dict[str, Pairs]:
    """The pairs that meet, of fewer tokens."""
    return {name: pairs.resized(small[pairs.dim] * pairs.ranks) for name, pairs in graph.pairs.items()}


def _with_whole_blocks(graph: Graph, small: Mapping[str, int], policies: Iterable[Policy]) -> dict[str, int]:
    """Small sizes of which transforms by the policies have whole blocks, where the real ones have.

    Of what a GEMM sums over, the last dim grows to the next multiple of a block.
    """
    sizes = dict(small)
    rules = (rule for policy in policies for rule in policy.file.rules)
    block = max((block_of(rule.transform) for rule in rules if rule.transform), default=0)
    for op in graph.ops if block else ():
        summed = [graph.tensors[op.inputs[0]].dims[axis] for axis in op.kind.contracted[0]] if op.gemm else []
        if summed and not any(map(pairs_of, summed)):
            real, few = (math.prod(of[dim] for dim in summed) for of in (graph.sizes, sizes))
            if real % block == 0 and few % block:
                sizes[summed[-1]] = -(-sizes[summed[-1]] // block) * block
    return sizes


def shrink(job: Job, dims: Mapping[str, int] | None = None, policies: Sequence[Policy] | None = None) -> Graph:
    """The graph of the workload with few layers, two micro-batches and small dims: `dims`, by default those of PRIMES.

    Blocks of transforms by the policies, by default those of the job, are whole where they are in the workload. Raises
    InputError if that would leave out a kind of op in some phase.
    """
    _check_alone(job)
    module = family(job.file.model["family"])
    if hasattr(module, "smaller"):
        return _own_copy(job, module)
    fields = [f"{name}={value}" for name, value in _few_layers(job.file.model).items()]
    if job.file.training.micro_batches > MICRO_BATCHES:
        fields.append(f"training.micro_batches={MICRO_BATCHES}")
    document = override(job.document, fields, schema_workload.ABSENT)
    graph = build(schema.validate(schema_workload.Workload, document), document)
    sizes = {dim: size for dim, size in graph.sizes.items() if dim not in CHUNK_DIMS}
    small = small_dims(sizes) if dims is None else _filled(sizes, dims)
    small = _with_whole_blocks(graph, small, job.policies if policies is None else policies)
    small |= _small_chunks(graph, small)
    graph = replace(graph, sizes=small, pairs=_small_pairs(graph, small))
    lost = {(op.kind.name, op.phase) for op in job.graph.ops} - {(op.kind.name, op.phase) for op in graph.ops}
    if lost:
        kind, phase = min(lost)
        raise InputError(f"{job.workload}: shrinking it would leave out the op {kind} of the {phase}")
    return graph


def _own_copy(job: Job, module: Any) -> Graph:
    """The graph of a small copy that the family makes itself: by fields of the workload, its dims being as they are."""
    fields: dict[str, object] = module.smaller(*sections(job.file, job.document))
    if job.file.training.micro_batches > MICRO_BATCHES:
        fields["training.micro_batches"] = MICRO_BATCHES
    copy, _ = _copy(job, fields)
    return copy.graph


# --- of real widths ---------------------------------------------------------------------------------------------------


def macs_of(graph: Graph) -> int:
    """MACs of a step."""
    return sum(graph.work(op)[0] for op in graph.ops)


def _halve(job: Job, fields: dict[str, object]) -> bool:
    """Halve sequences while there are several, then every length, in `fields`; whether there was something left."""
    batch = {**job.document.data["batch"]}
    batch.update({name.removeprefix("batch."): value for name, value in fields.items() if name.startswith("batch.")})
    tokens = [name for name in batch if name.endswith("tokens") and isinstance(batch[name], int)]
    names = ["sequences"] if isinstance(batch.get("sequences"), int) and batch["sequences"] > 1 else tokens
    least = 1 if names == ["sequences"] else _LEAST_TOKENS
    names = [name for name in names if batch[name] // 2 >= least]
    fields.update({f"batch.{name}": batch[name] // 2 for name in names})
    return bool(names)


def _copy(job: Job, fields: Mapping[str, object]) -> tuple[Job, tuple[str, ...]]:
    """A copy with some fields changed, and these as `field=value` each."""
    assignments = tuple(f"{name}={value}" for name, value in fields.items())
    return with_fields(job, assignments), assignments


def moderate(job: Job, most_macs: int = MOST_MACS) -> tuple[Job, tuple[str, ...]]:
    """A copy with few layers, one micro-batch and real widths, with fewer sequences and tokens if it has to be.

    Attention is run op by op, as NumPy runs it. Also the fields that differ, `field=value` each. Raises InputError if
    the fields do not go together.
    """
    _check_alone(job)
    model = job.file.model
    fields = _few_layers(model)
    if model.get("attention") == "flash":
        fields["model.attention"] = "eager"
    if job.file.training.micro_batches > 1:
        fields["training.micro_batches"] = 1
    copy, assignments = _copy(job, fields)
    while macs_of(copy.graph) > most_macs and _halve(job, fields):
        copy, assignments = _copy(job, fields)
    return copy, assignments
