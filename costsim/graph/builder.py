"""GraphBuilder: appends ops and tensors, marks segments, adds adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from costsim.graph.channels import Part
from costsim.graph.graph import ALONE, Exchange, Graph, InFlight, MeshAxis, Op, Tensor
from costsim.graph.kinds import Dims, Env, Kind, bind, expand, linear_equation
from costsim.graph.ops import kind_of
from costsim.graph.pairs import Pairs
from costsim.names import AttentionPairs, Gemm, Values

# By the phase of the op that writes a tensor: its role, unless the caller gives another.
_ROLE_OF_PHASE = {"forward": "activation", "backward": "gradient", "update": "state"}


class Segment(NamedTuple):
    """A stretch of the forward. The backward finds some of its results kept, and recomputes the others."""

    name: str
    keep: set[str]  # results kept, besides those that ops outside read
    kernel: bool  # whether the stretch is one kernel, and its backward another
    ops: list[Op]
    at_once: bool = False  # whether its gradients are made right behind it: nothing is made again

    def __hash__(self) -> int:
        return id(self)


class Lora(NamedTuple):
    """Low-rank adapters: w x becomes w x + alpha/rank b a x. Source: Hu et al., arXiv:2106.09685, section 4.1."""

    targets: tuple[str, ...]  # globs over names of linear layers
    alpha: float
    rank: int


@lru_cache(maxsize=4096)
def _bound(kind: Kind, inputs: tuple[Dims, ...], outputs: tuple[Dims, ...] | None) -> tuple[Env, tuple[Dims, ...]]:
    """The environment and the dims of the results, bound once for all layers of the same dims."""
    env = bind(kind, inputs, outputs)
    return env, tuple(expand(operand.pattern, env) for operand in kind.outputs)


class Sizes(dict[str, int]):
    """The sizes of dims; notes which are read, for on these a graph may hang beside in its sizes."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__(sizes)
        self.read: set[str] = set()

    def __getitem__(self, dim: str) -> int:
        self.read.add(dim)
        return super().__getitem__(dim)

    def unread(self, dim: str) -> int:
        """A size on which no name and no op hangs."""
        return super().__getitem__(dim)


class GraphBuilder:
    """Appends ops to a graph and names their results. Model families and autodiff write through it."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        micro_batches: int = 1,
        trainable: Sequence[str] = ("*",),
        lora: Lora | None = None,
        attention_pairs: AttentionPairs = "square",
        sentences: tuple[int, ...] = (),
    ) -> None:
        self.trainable, self.lora = trainable, lora
        self.attention_pairs, self.sentences = attention_pairs, sentences
        self.channels: Mapping[str, Part] = {}  # by weight of which a share of the output channels is trained
        self.mesh: Mapping[str, MeshAxis] = {}
        self.divided: Mapping[str, str] = {}
        self.ring = 1  # ranks that have a slice of each sequence
        self.in_flight: InFlight = ALONE
        self.exchange = Exchange()
        self.dropped: set[str] = set()  # results that are not kept for the backward, which has them made again
        self.remade: dict[
            str, tuple[str, tuple[str, ...], Mapping[str, Any]]
        ] = {}  # of these, by which op of what, if not as before
        self.received: set[str] = set()  # from the stage before of a pipeline, which gets the gradient
        self.counted_elsewhere: set[str] = set()  # weights whose gradient another stage adds to the norm of all
        self.shared_over: dict[str, tuple[str, ...]] = {}  # by weight: axes over which ranks have other parts of it
        self.segments: dict[int, tuple[Segment, ...]] = {}  # by position of the op, the outermost first
        self.kernel = ""
        self._open: tuple[Segment, ...] = ()
        self.sizes = Sizes(sizes)
        self.micro_batches = micro_batches
        self.pairs: dict[str, Pairs] = {}
        self.tensors: dict[str, Tensor] = {}
        self.ops: list[Op] = []
        self.phase = "forward"
        self.times = micro_batches
        self.layer = ""
        self.layers_of: dict[str, int] = {}  # by stack: how many it has
        self.loss = ""
        self._prefix = self._suffix = ""

    def whole(self, x: str) -> str:
        """All positions of x [batch, tokens, ...]: x."""
        return x

    def all_keys(self, x: str) -> str:
        """Keys or values [batch, tokens, ...] of all positions that queries meet: those that there are."""
        return x

    @property
    def parts(self) -> int:
        """The losses of how many micro-batches a step takes the mean of."""
        return self.micro_batches

    def layers_built(self, stack: str, number: int) -> Sequence[int]:
        """Which layers of a stack are built: all."""
        self.layers_of[stack] = number
        return range(number)

    @contextmanager
    def scope(self, name: str, layer: bool = False) -> Iterator[None]:
        """Prefix the names made inside with `name.`; `layer=True` also makes that prefix their layer."""
        before = self._prefix, self.layer
        self._prefix += name + "."
        if layer:
            self.layer = self._prefix[:-1]
        yield
        self._prefix, self.layer = before

    @contextmanager
    def numbered(self, number: int) -> Iterator[None]:
        """Have the names of ops made inside end with a number, so that rules for `name*` see them all."""
        self._suffix = f".{number}"
        yield
        self._suffix = ""

    @contextmanager
    def segment_if(self, wanted: bool, name: str, kernel: bool = False, at_once: bool = False) -> Iterator[set[str]]:
        """If wanted, the backward recomputes the results made inside, but for those that the caller adds to the set.

        With `kernel` the ops inside are one kernel, and those that recompute them and their backward another. With
        `at_once` all is kept, and the backward of the ops inside runs right behind them.
        """
        before = self._open, self.kernel
        segment = Segment(self._prefix + name, set(), kernel, [], at_once)
        if wanted:
            self._open = (*self._open, segment)
            self.kernel = segment.name if kernel else self.kernel
        yield segment.keep
        self._open, self.kernel = before

    def tensor(self, tensor: Tensor) -> str:
        """Add a tensor under its full name. Raises ValueError on a name taken."""
        if tensor.name in self.tensors:
            raise ValueError(f"tensor {tensor.name!r} exists already")
        self.tensors[tensor.name] = tensor
        return tensor.name

    def full_name(self, name: str) -> str:
        """The name of an op, and of its first result, as the scope has it."""
        return f"{self._prefix}{name}{self._suffix}"

    def given(self, name: str, dims: Dims, role: str = "data", values: Values = "float") -> str:
        """Add a tensor that no op writes: data, a weight, a state. The scope prefixes its name.

        Raises ValueError on an unknown dim.
        """
        for dim in dims:
            if dim not in self.sizes:
                raise ValueError(f"tensor {name!r}: unknown dim {dim!r}")
        full_name = self._prefix + name
        trainable = role != "weight" or self.is_trained(full_name)
        return self.tensor(Tensor(full_name, dims, role, self.layer, values, trainable=trainable))

    def is_trained(self, weight: str) -> bool:
        """Whether a weight of that name gets a gradient."""
        return any(fnmatchcase(weight, glob) for glob in self.trainable)

    def op(
        self,
        kind: str,
        *inputs: str,
        name: str,
        outputs: Sequence[Tensor] | None = None,
        dims: Dims | None = None,
        gemm: Gemm | None = None,
        recomputes: str | None = None,
        joins: bool | None = None,
        **params: Any,
    ) -> str:
        """Append an op named `name` under the scope, and return the (first) tensor that it writes.

        The results' dims come from binding the inputs' dims to the kind's patterns. A kind whose result has an index
        that no input has needs `dims` (or whole `outputs`, as autodiff gives them). Raises ValueError.
        """
        record = kind_of(kind)
        if (params or record.params) and tuple(params) != record.params:
            raise ValueError(f"{kind}: takes params {record.params}, got {tuple(params)}")
        tensors = self.tensors
        input_dims = tuple([tensors[i].dims for i in inputs])
        given_dims = tuple([t.dims for t in outputs]) if outputs is not None else None if dims is None else (dims,)
        env, output_dims = _bound(record, input_dims, given_dims)
        full_name = self.full_name(name)
        if outputs is None:
            outputs = self._results(record, full_name, output_dims)
        for tensor in outputs:
            self.tensor(tensor)
        if gemm is None and record.is_contraction:
            gemm = "forward"
        names_out = tuple([t.name for t in outputs])
        place = (self.phase, self.layer, self.times, gemm)
        op = Op(
            full_name, record, inputs, names_out, *place, params, env, len(self.ops), self.kernel, recomputes, joins
        )
        if self._open:
            self.segments[op.position] = self._open
            for segment in self._open:
                segment.ops.append(op)
        self.ops.append(op)
        return names_out[0]

    def _results(self, kind: Kind, name: str, dims: Sequence[Dims]) -> list[Tensor]:
        """The tensors that an op of that name writes: the first has its name, others append the result's."""
        names = [f"{name}.{result.name}" if i else name for i, result in enumerate(kind.outputs)]
        gradients = {argument for rule in kind.grads if not rule.kind for argument in rule.arguments}
        roles = ["gradient" if result.name in gradients else _ROLE_OF_PHASE[self.phase] for result in kind.outputs]
        return [Tensor(names[i], dims[i], roles[i], self.layer, kind.values) for i in range(len(names))]

    def linear(self, x: str, name: str, outer: Dims, inner: int = 1, bias: bool = True, of: str = "") -> str:
        """Append y = x w (+ b) and the weights: sums over the last `inner` dims of x, and appends the dims `outer`.

        With `of` the weights are those of the layer of that name, which is there already.
        """
        x_dims = self.tensors[x].dims
        batch = len(x_dims) - inner
        weight = self._weight(f"{of or name}.weight", x_dims[batch:] + outer)
        y = self.op(linear_equation(batch, inner, len(outer)), x, weight, name=name)
        if self.lora and any(fnmatchcase(self._prefix + (of or name), glob) for glob in self.lora.targets):
            y = self._adapted(x, y, (name, of or name), outer, inner)
        if bias:
            y = self.op("add_bias", y, self._weight(f"{of or name}.bias", outer), name=f"{name}.add_bias")
        return y

    def _weight(self, name: str, dims: Dims) -> str:
        """A weight: the one of that name if it is there, else a new one."""
        full_name = self._prefix + name
        return full_name if full_name in self.tensors else self.given(name, dims, role="weight")

    def _adapted(self, x: str, y: str, names: tuple[str, str], outer: Dims, inner: int) -> str:
        """Append y + alpha/rank b a x, with low-rank adapters a and b; `names` are of the layer, and of its weights."""
        assert self.lora is not None
        x_dims, (name, of) = self.tensors[x].dims, names
        batch = len(x_dims) - inner
        a = self._weight(f"{of}.lora_a.weight", (*x_dims[batch:], "rank"))
        b = self._weight(f"{of}.lora_b.weight", ("rank", *outer))
        low = self.op(linear_equation(batch, inner, 1), x, a, name=f"{name}.lora_a")
        high = self.op(linear_equation(batch, 1, len(outer)), low, b, name=f"{name}.lora_b")
        scaled = self.op("scale", high, name=f"{name}.lora_scale", factor=self.lora.alpha / self.lora.rank)
        return self.op("add", y, scaled, name=f"{name}.lora_add")

    def rms_norm(self, x: str, name: str, eps: float = 1e-6, zero_centered: bool = False, over: int = 1) -> str:
        """Append an RMS norm over so many last dims of x, and its weight w; zero-centred, it scales by 1 + w."""
        w = self.given(f"{name}.weight", self.tensors[x].dims[-over:], role="weight")
        return self.op("rms_norm_1p" if zero_centered else "rms_norm", x, w, name=name, eps=eps)

    def layer_norm(self, x: str, name: str, eps: float = 1e-5, bias: bool = True) -> str:
        """Append a layer norm over the last dim of x, and its weight and bias."""
        dims = self.tensors[x].dims[-1:]
        w = self.given(f"{name}.weight", dims, role="weight")
        if not bias:
            return self.op("layer_norm_no_bias", x, w, name=name, eps=eps)
        b = self.given(f"{name}.bias", dims, role="weight")
        return self.op("layer_norm", x, w, b, name=name, eps=eps)

    def dropout(self, x: str, rate: float, name: str = "dropout") -> str:
        """Append dropout with a stored mask; nothing at all if the rate is 0."""
        if not rate:
            return x
        mask = self.op("bernoulli", name=f"{name}.mask", dims=self.tensors[x].dims, rate=rate)
        return self.op("dropout", x, mask, name=name, rate=rate)

    def build(self) -> Graph:
        """The finished graph."""
        return Graph(
            dict(self.sizes),
            self.tensors,
            tuple(self.ops),
            self.micro_batches,
            self.pairs,
            self.loss,
            self.mesh,
            self.divided,
            self.in_flight,
            self.layers_of,
            self.exchange,
        )
