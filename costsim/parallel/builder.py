"""ShardedBuilder: appends the ops of one rank, and the collectives that they need, as a model family appends its own.

A family writes its forward as for one device. Dims that ranks divide are smaller. An op that sums over one of them
leaves a part of a sum, which a collective completes; an op that wants whole what ranks share has it gathered before.
Autodiff makes the backward of collectives as of any op: a gather's is a reduce-scatter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from costsim.graph.builder import GraphBuilder
from costsim.graph.graph import Tensor
from costsim.graph.kinds import Dims, Kind, bind
from costsim.graph.ops import kind_of
from costsim.graph.pairs import WHOLE
from costsim.inputs.field_error import FieldError
from costsim.inputs.schema_workload import Parallel
from costsim.names import Gemm, Values
from costsim.parallel.layout import OF_EXPERTS, SHARE, SLICED, Layout, Stacks, exchange, parts_of, stacks_of
from costsim.parallel.schedules import in_flight

NOTHING = "nothing"  # the dim, of no elements, of what is left where something is sent

# Kinds of op that do the same in each share of what ranks of tensor divide, though their patterns name the dim.
_IN_EACH_SHARE = {"add_bias", "scale_columns", "rope", "softmax", "softmax_lse", "softmax_sink", "softmax_sink_lse"}
_IN_EACH_SHARE |= {"add_bias_of_each"}
_LOSSES = {"cross_entropy", "cross_entropy_chunk", "cross_entropy_in_place"}
# Kinds that do the same for each position, or each query, though their patterns name the dim.
_ROW_BY_ROW = {"rope", "dispatch", "combine", "add_bias_of_each"}
_AT_EACH_POSITION = {"mask_pairs", "softmax_sink", "softmax_sink_lse", *_ROW_BY_ROW}
_OF_ALL_EXPERTS = ("combine",)  # kinds of op that want what all experts made of the rank's own tokens


@lru_cache(maxsize=4096)
def _has_share(dims: Dims) -> bool:
    return any(dim.endswith(SHARE) for dim in dims)


@lru_cache(maxsize=4096)
def _bound(record: Kind, dims: tuple[Dims, ...]) -> Mapping[str, Dims]:
    """As `ShardedBuilder._bound`, once for all layers of the same dims."""
    env = bind(record, dims)
    return {token: env[token] for operand in record.inputs for token in operand.pattern if token != "..."}


class ShardedBuilder(GraphBuilder):
    """Appends the step of one rank, of a model whose stacks have so many layers.

    `partial` are weights that each rank of tensor has, with a part of the gradient. Raises FieldError for stacks that a
    pipeline does not cut.
    """

    def __init__(self, parallel: Parallel, layout: Layout, layers: Mapping[str, int], *arguments: Any) -> None:
        super().__init__(layout.sizes, *arguments)
        self.parallel, self.mesh, self.divided = parallel, layout.mesh, layout.divided
        self.sizes[NOTHING] = 0
        self.ring = parallel.context
        flying = (parallel.schedule, parallel.stage, parallel.pipeline, self.micro_batches, parallel.chunks)
        self.in_flight = in_flight(*flying)
        self.exchange = exchange(parallel.algorithms)
        self.partial: set[str] = set()
        self.shares: dict[str, str] = {}  # by weight that ranks of data share: what this one keeps
        self.stacks: Stacks = stacks_of(layers, parallel) if parallel.pipeline > 1 else {}  # that a pipeline cuts
        self.tied: set[str] = set()  # weights that two stages of a pipeline have
        self._by_tensor = {dim for dim, axis in layout.divided.items() if axis == "tensor" and not dim.endswith(SHARE)}
        self._shares = {dim.removesuffix(SHARE): dim for dim in layout.divided if dim.endswith(SHARE)}
        self._gathered: set[str] = set()  # `whole`s, and rows of them: their gradients are summed as they are scattered
        self._made_of: dict[str, tuple[str, ...]] = {}  # by tensor that is made of weights alone: these
        self._made: dict[tuple[str, str, str], str] = {}  # by tensor, layer and word: what was made of it

    @property
    def parts(self) -> int:
        """The losses of how many micro-batches, or slices of them, a step takes the mean of: those of all ranks."""
        return self.micro_batches * self.parallel.replicas

    def layers_built(self, stack: str, number: int) -> Sequence[int]:
        """Of a stage of a pipeline, its layers and those beside them, which make and read what crosses.

        Of a stack of which it has none those that are next to its own: the last of an encoder, the first of a decoder.
        """
        every = super().layers_built(stack, number)
        if not self.stacks:
            return every
        parts, mine = self.stacks[stack], parts_of(self.parallel)
        own = [parts[part] for part in mine if part in parts]
        if not own:
            return every[-1:] if max(parts) < mine[0] else every[:1]
        return sorted({i for of in own for i in range(max(0, of.start - 1), min(number, of.stop + 1))})

    def of_other_stages(self, weights: Sequence[str]) -> list[str]:
        """What weights of layers that are built are called in the layers of their stack that are not."""
        of = {
            f"{stack}.{i}.": (stack, parts) for stack, parts in self.stacks.items() for of in parts.values() for i in of
        }
        names: dict[str, None] = {}
        for name in weights:
            layer = ".".join([*name.split(".", 2)[:2], ""])
            if layer in of:
                stack, parts = of[layer]
                rest = name.removeprefix(layer)
                names |= {f"{stack}.{i}.{rest}": None for layers in parts.values() for i in layers}
        return [name for name in names if name not in self.tensors]

    # --- what is given ------------------------------------------------------------------------------------------------

    def given(self, name: str, dims: Dims, role: str = "data", values: Values = "float") -> str:
        """Add a tensor that no op writes, or what a rank has of it; a weight that ranks of data share is gathered."""
        if role == "weight" and "expert" in self.mesh and dims[:1] == ("experts",) and len(dims) > 1:
            dims = (OF_EXPERTS["experts"], *dims[1:])
        if values == "index" and len(dims) == 1:
            dims = tuple(self._shares.get(dim, dim) for dim in dims)  # numbers of positions: each rank has its own
        if values == "mask" and self.ring > 1:
            dims = tuple(self._whole(dim) for dim in dims)  # padding of keys: each rank has all of it
        if role != "weight":
            return super().given(name, dims, role, values)
        self._check_along(name, dims)
        over = tuple(dict.fromkeys(self.divided[dim] for dim in dims if dim in self.divided))
        axis = self.axis_of(dims)
        if not self.parallel.zero or axis not in self.mesh or not self._is_to_share(name):
            made = super().given(name, dims, role, values)
            self.shared_over[made] = over
            return made
        made = self._gathered_weight(name, dims, axis)
        self.shared_over[self.shares[made]] = (*over, axis)
        return made

    def _whole(self, dim: str) -> str:
        """All of the sequence of which a rank has a slice; any other dim as it is."""
        return f"{dim}{WHOLE}" if dim in SLICED else dim

    def all_keys(self, x: str) -> str:
        """Keys or values of all positions, which pass round the ring; for the backward they do so again."""
        if self.ring == 1:
            return x
        x = self._gather(x, "all_gather_alike") if self._is_share(x) else x
        dims = tuple(map(self._whole, self.tensors[x].dims))
        ring = self._once(x, self.layer, "ring", lambda name: self._collective("ring_gather", x, name, dims, "context"))
        self.dropped.add(ring)
        return ring

    def _check_along(self, name: str, dims: Dims) -> None:
        """Raise FieldError for what is of each position, or of several: a rank has a slice of them."""
        if self.ring > 1 and not SLICED.isdisjoint(dims):
            message = f"{self.full_name(name)} looks at several positions of a sequence, of which ranks have slices"
            raise FieldError(("parallel", "context"), message)

    def _is_to_share(self, name: str) -> bool:
        """Whether ranks of data share a weight: with zero 1 and 2 one that is trained, for its optimizer's states."""
        return self.parallel.zero == 3 or self.is_trained(self._prefix + name)

    def _gathered_weight(self, name: str, dims: Dims, axis: str) -> str:
        """A weight of which each rank of data keeps a share; gathered once a step, or (zero 3) where it is used."""
        full_name = self._prefix + name
        trained = self.is_trained(full_name)
        part = super().given(f"{name}.share", (self._share(dims, axis),), role="weight")
        self.tensors[part] = self.tensors[part]._replace(trainable=trained, share_of=full_name)
        whole = Tensor(full_name, dims, "weight", self.layer, trainable=trained)
        before, self.times = self.times, self.micro_batches if self.parallel.zero == 3 else 1
        super().op("all_gather_flat", part, name=f"{name}.gather", outputs=[whole], axis=axis)
        if axis == "data" and "secondary" in self.mesh:
            self._keep_secondary(name, whole)
        self.times = before
        if self.parallel.zero == 3:
            self.dropped.add(full_name)
        self.shares[full_name] = part
        return full_name

    def _keep_secondary(self, name: str, whole: Tensor) -> None:
        """Keep this rank's part of a second copy, which the backward gathers. Source: ZeRO++, arXiv:2306.10209, 3.2."""
        part = whole._replace(name=f"{whole.name}.secondary", dims=(self._share(whole.dims, "secondary"),))
        part = part._replace(trainable=False, share_of=whole.name)
        super().op("take_flat_share", whole.name, name=f"{name}.secondary", outputs=[part], axis="secondary")
        self.remade[whole.name] = ("all_gather_flat", (part.name,), {"axis": "secondary"})

    def axis_of(self, dims: Dims) -> str:
        """The axis over whose ranks a weight with these dims, or its gradient, is the same."""
        return "expert_data" if OF_EXPERTS["experts"] in dims else "data"

    def _share(self, dims: Dims, axis: str) -> str:
        """The dim of a rank's share of a flattened weight; the last rank's is filled up."""
        elements = math.prod(self.sizes[dim] for dim in dims)
        size = -(-elements // self.mesh[axis].ranks)
        self.sizes[f"share.{size}"] = size
        return f"share.{size}"

    # --- ops ----------------------------------------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        *inputs: str,
        name: str,
        outputs: Sequence[Tensor] | None = None,
        dims: Dims | None = None,
        gemm: Gemm | None = None,
        recomputes: str | None = None,
        **params: Any,
    ) -> str:
        """Append an op of the forward with the collectives around it; an op of another phase as it is."""
        more: dict[str, Any] = {"outputs": outputs, "dims": dims, "gemm": gemm, "recomputes": recomputes}
        if self.phase != "forward":
            return super().op(kind, *inputs, name=name, **more, **params)
        if kind in _LOSSES and self._is_divided(inputs[0]):
            return self._cross_entropy(kind, name, inputs, **params)
        if kind == "embed" and self._is_divided(inputs[0]):
            kind, params = "embed_share", {"axis": "tensor"}
        record = kind_of(kind)
        inputs = self._meet(record, name, self._to_experts(record, name, inputs))
        if self.ring > 1 and not record.is_contraction and kind not in _AT_EACH_POSITION:
            of = self._bound(record, inputs)
            along = (dim for token, dims in of.items() if not token.startswith("*") for dim in dims)
            self._check_along(name, tuple(dim.removesuffix(SHARE) for dim in along))
        if dims is not None and any(map(self._is_share, inputs)):
            more["dims"] = tuple(self._shares.get(dim, dim) for dim in dims)
        y = super().op(kind, *inputs, name=name, **more, **params)
        made = self.tensors[y].dims
        if self.ring > 1 and sum(dim in SLICED for dim in made) > 1:  # pairs of which a rank has not all keys
            self._check_along(name, made)
        self._note_weights(inputs, y)
        if record.view and not self._gathered.isdisjoint(inputs):
            self._gathered.add(y)
        return self._completed(record, y, inputs, name)

    def _collective(
        self,
        kind: str,
        x: str,
        name: str,
        dims: Dims | None = None,
        axis: str = "tensor",
        outputs: Sequence[Tensor] | None = None,
    ) -> str:
        return super().op(kind, x, name=name, dims=dims, outputs=outputs, axis=axis)

    def _is_divided(self, name: str) -> bool:
        return not self._by_tensor.isdisjoint(self.tensors[name].dims)

    def _is_share(self, name: str) -> bool:
        return _has_share(self.tensors[name].dims)

    def _meet(self, record: Kind, name: str, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """The operands with which an op works: all of one share, or whole where it works on heads and the like."""
        if "tensor" not in self.mesh:
            return inputs
        divided, shares = [any(map(test, inputs)) for test in (self._is_divided, self._is_share)]
        if shares and not divided:
            own = tuple(x if self._is_share(x) else self._own_positions(x) for x in inputs)
            if not self._looks_across(record, own):
                return own
        if shares:
            gather = "all_gather" if divided else "all_gather_alike"
            return tuple(self._gather(x, gather) if self._is_share(x) else x for x in inputs)
        if divided:
            self._check_across(record, name, inputs)
            return tuple(x if self._is_divided(x) or x in self._gathered else self._divide_work(x) for x in inputs)
        return inputs

    def _bound(self, record: Kind, inputs: tuple[str, ...]) -> Mapping[str, Dims]:
        """By token of the operands' patterns but for `...`: its dims."""
        return _bound(record, tuple([self.tensors[x].dims for x in inputs]))

    def _looks_across(self, record: Kind, inputs: tuple[str, ...]) -> bool:
        """Whether an op looks at several positions of a sequence, as the one that takes the first."""
        if record.is_contraction or record.name in _ROW_BY_ROW or not inputs:
            return False
        of = self._bound(record, inputs)
        return any(dim.endswith(SHARE) for token, dims in of.items() if not token.startswith("*") for dim in dims)

    def _check_across(self, record: Kind, name: str, inputs: tuple[str, ...]) -> None:
        """Raise FieldError for an op that works across what ranks of tensor divide, as a norm over all heads."""
        if record.is_contraction or record.name in _IN_EACH_SHARE or record.name.startswith("embed"):
            return
        across = [dim for dims in self._bound(record, inputs).values() for dim in dims if dim in self._by_tensor]
        if across:
            message = f"{self.full_name(name)} ({record.name}) works across {across[0]}, which ranks of tensor divide"
            raise FieldError(("parallel", "tensor"), message)

    def _once(self, x: str, where: str, word: str, make: Callable[[str], str]) -> str:
        """What is made of a tensor under a name with that word, once for all who want it: in a layer, or anywhere."""
        key = (x, where, word)
        if key not in self._made:
            again = f".{where}" if where and any((known, said) == (x, word) for known, _, said in self._made) else ""
            before, self._prefix = self._prefix, ""
            self._made[key] = make(f"{x}.{word}{again}")
            self._prefix = before
        return self._made[key]

    def _gather(self, x: str, kind: str) -> str:
        """The whole of which ranks have shares, gathered once a layer; the backward gathers it again."""
        dims = tuple(dim.removesuffix(SHARE) for dim in self.tensors[x].dims)
        whole = self._once(x, self.layer, "gather", lambda name: self._collective(kind, x, name, dims))
        self.dropped.add(whole)
        return whole

    def whole(self, x: str) -> str:
        """All positions of which ranks of tensor have shares; it is kept for the backward."""
        if not self._is_share(x):
            return x
        whole = self._gather(x, "all_gather")
        self.dropped.discard(whole)
        self._gathered.add(whole)
        return whole

    def _own_positions(self, x: str) -> str:
        """The rank's share of what all ranks have."""
        tensor = self.tensors[x]
        own = tuple(self._shares.get(dim, dim) for dim in tensor.dims)
        if own == tensor.dims:
            return x
        kind = "take_rows_of_share" if own[0] != tensor.dims[0] else "take_share"
        view = tensor._replace(name=f"{x}.share", dims=own)
        return self._once(x, "", "share", lambda name: self._collective(kind, x, name, outputs=[view]))

    def _divide_work(self, x: str) -> str:
        """What all ranks have, where each goes on with a part of the work; its gradients are summed then."""
        if self.tensors[x].role != "activation" or self.tensors[x].values != "float":
            return x
        return self._once(x, self.layer, "divide", lambda name: self._collective("divide_work", x, name))

    def _note_weights(self, inputs: tuple[str, ...], result: str) -> None:
        """Note what is made of weights alone, and which weights of all ranks of tensor work here on a share only."""
        of = [(x,) if self.tensors[x].role == "weight" else self._made_of.get(x, ()) for x in inputs]
        if inputs and all(of):
            self._made_of[result] = tuple(dict.fromkeys(weight for weights in of for weight in weights))
        if any(map(self._is_divided, inputs)) or any(map(self._is_share, inputs)):
            whole = (
                weight for x, weights in zip(inputs, of, strict=True) if not self._is_divided(x) for weight in weights
            )
            self.partial.update(self.shares.get(weight, weight) for weight in whole)

    def _completed(self, record: Kind, y: str, inputs: tuple[str, ...], name: str) -> str:
        """The result of an op, which a collective completes if it is a part of a sum over what ranks divide."""
        x = self.tensors[inputs[0]].dims if inputs else ()
        summed = [x[axis] for axis in record.contracted[0]] if record.is_contraction else ()
        if self._by_tensor.isdisjoint(summed) and record.name != "embed_share":
            return y
        dims = self.tensors[y].dims
        own = tuple(self._shares.get(dim, dim) for dim in dims)
        if own == dims:
            return self._collective("all_reduce", y, f"{name}.all_reduce")
        return self._collective("reduce_scatter", y, f"{name}.reduce_scatter", own)

    def _cross_entropy(
        self, kind: str, name: str, inputs: Sequence[str], smoothing: float, ignore: int, share: float
    ) -> str:
        """The loss of logits whose words ranks divide: three numbers of each token are exchanged, no logits.

        Source: Shoeybi et al., arXiv:1909.08053, section 3. Raises FieldError for a loss whose kernel leaves gradients.
        """
        if kind == "cross_entropy_in_place":
            message = "ranks of tensor exchange sums within the loss, which is not one kernel: say at_once or recompute"
            raise FieldError(("model", "head", "backward"), message)
        op, axis, (logits, labels, *counted) = super().op, "tensor", inputs
        most = op("row_max", logits, name=f"{name}.max")
        most = self._collective("all_reduce_max", most, f"{name}.max.all_reduce")
        how: dict[str, Any] = {"smoothing": smoothing, "ranks": self.mesh[axis].ranks} if smoothing else {}
        exp = "exp_share_smoothed" if smoothing else "exp_share"
        sums = op(exp, logits, most, labels, name=f"{name}.exp", axis=axis, **how)
        picked = self._collective("all_reduce", f"{sums}.picked", f"{name}.picked.all_reduce")
        sums = self._collective("all_reduce", sums, f"{name}.sums.all_reduce")
        for segment in self._open:  # what was exchanged is not exchanged again
            segment.keep.update((most, picked, sums))
        of = "cross_entropy_sums_chunk" if counted else "cross_entropy_sums"
        return op(of, sums, picked, labels, *counted, name=name, ignore=ignore, share=share)

    # --- experts ------------------------------------------------------------------------------------------------------

    def _to_experts(self, record: Kind, name: str, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """The operands with which an op works: tokens go to the ranks that have their experts, and come back."""
        if "expert" not in self.mesh:
            return inputs
        here = set(OF_EXPERTS.values())
        at_experts = any(not here.isdisjoint(self.tensors[x].dims) for x in inputs)
        if not at_experts:
            return inputs
        there = OF_EXPERTS | {f"{dim}{SHARE}": f"{own}{SHARE}" for dim, own in OF_EXPERTS.items()}
        way = {own: dim for dim, own in there.items()} if record.name in _OF_ALL_EXPERTS else there
        return tuple(self._exchange(x, name, way) for x in inputs)

    def _exchange(self, x: str, name: str, way: dict[str, str]) -> str:
        """Tokens in the experts' rows, sent where `way` says; anything else as it is."""
        tensor = self.tensors[x]
        if tensor.role == "weight" or not set(tensor.dims) & set(way):
            return x
        dims = tuple(way.get(dim, dim) for dim in tensor.dims)
        sent = self.full_name(f"{name}.all_to_all")
        return self._once(x, "", "", lambda _: self._collective("all_to_all", x, sent, dims, "expert"))
