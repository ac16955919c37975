"""Names of traced ops, tensors and dims, in costsim's words, so that policies written for its own models mean the same.

What a part of a model is shows in the graph: a product of two activations whose result goes through softmax makes the
scores of an attention, the last product with a weight makes logits, an addition of a tensor and of what was made of it
by a weight is a residual. The rest is the path of the module and what is done there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import count

from costsim.graph.ops import kind_of
from costsim.models.blocks import FLOAT32
from costsim.trace.recording import Recording
from costsim.trace.sizes import Size
from costsim.trace.tensors import Emitted, Held

_NORMS = ("layer_norm", "layer_norm_no_bias", "rms_norm")
_GEMM_WORDS = {"dgrad": "dx", "wgrad": "dw"}
_GRADIENTS = {
    "layer_norm_grad_weights": "dw_b",
    "layer_norm_grad_weight": "dw",
    "sum_leading": "db",
    "embed_grad": "dtable",
    "nll_loss_grad": "dx",
}
_LOSSES = {"log_softmax": "cross_entropy.logp", "nll_loss": "cross_entropy"}


def _is_product(op: Emitted) -> bool:
    return op.gemm is not None


class Parts:
    """What the ops of a forward are parts of."""

    def __init__(self, ops: Sequence[Emitted]) -> None:
        self.forward = [op for op in ops if op.call.phase == "forward"]
        self.producer = {id(held): op for op in self.forward for held in op.outputs}
        self.place = {id(op): number for number, op in enumerate(self.forward)}
        self.weights = self._weights()
        weighted = [op for op in self.forward if _is_product(op) and self.has_weight(op)]
        self.head = self.place[id(weighted[-1])] if weighted else len(self.forward)
        self.embedding = next((n for n, op in enumerate(self.forward) if self._is_inside(op, weighted)), 0)
        self.after_softmax = self._spread(self.forward, lambda op: (op.inputs, op.outputs))
        self.before_softmax = self._spread(reversed(self.forward), lambda op: (op.outputs, op.inputs))

    def _weights(self) -> set[int]:
        """Weights, copies and conversions of them, and what is looked up in them: those of a token's experts."""
        found: set[int] = set()
        for op in self.forward:
            found |= {id(held) for held in op.inputs if held.role == "weight"}
            of_one = len(op.inputs) == 1 or op.kind.startswith("index ")
            if of_one and id(op.inputs[0]) in found and not _is_product(op):
                found |= {id(held) for held in op.outputs}
        return found

    def has_weight(self, op: Emitted) -> bool:
        """Whether a product has a weight as operand."""
        return any(id(held) in self.weights for held in op.inputs)

    @staticmethod
    def _is_inside(op: Emitted, weighted: Sequence[Emitted]) -> bool:
        """Whether an op is in a layer that has a number, or multiplies a weight: behind the embedding."""
        return op in weighted or re.search(r"(^|\.)\d+(\.|$)", op.call.path) is not None

    @staticmethod
    def _spread(ops: Iterable[Emitted], ends: object) -> set[int]:
        """The tensors that softmax makes (or reads), and what is made of them (or they of) element by element."""
        found: set[int] = set()
        for op in ops:
            sources, results = ends(op)  # type: ignore[operator]
            if op.kind.startswith("softmax") or (not _is_product(op) and any(id(held) in found for held in sources)):
                found |= {id(held) for held in results}
        return found

    def is_residual(self, op: Emitted) -> bool:
        """Whether an addition is of a tensor and of what a weight has made of it."""
        if op.kind != "add" or len(op.inputs) != 2:
            return False
        a, b = op.inputs
        return self._descends(a, b) or self._descends(b, a)

    def _descends(self, held: Held, ancestor: Held) -> bool:
        made = self.producer.get(id(ancestor))
        least = self.place[id(made)] if made else -1
        stack, seen, weighted = [held], {id(held)}, False
        reached = False
        while stack:
            op = self.producer.get(id(stack.pop()))
            if op is None or self.place[id(op)] <= least:
                continue
            weighted = weighted or (_is_product(op) and self.has_weight(op))
            reached = reached or any(read is ancestor for read in op.inputs)
            new = [read for read in op.inputs if id(read) not in seen and id(read) not in self.weights]
            seen |= set(map(id, new))
            stack += new
        return reached and weighted

    def scope(self, op: Emitted) -> str:
        """The path of a forward op: its module's, within embedding or head if it is there."""
        at = self.place[id(op)]
        if at >= self.head:
            return "head"
        return ".".join(filter(None, ("embedding", op.call.path))) if at < self.embedding else in_stack(op.call.path)

    def word(self, op: Emitted) -> str:
        """What a forward op does, in a word; "" for the product of a module with its weight."""
        if _is_product(op):
            if self.place[id(op)] == self.head:
                return "logits"
            if self.has_weight(op):
                path = in_stack(op.call.path)
                own = any(held.role == "weight" and held.name.startswith(f"{path}.") for held in op.inputs)
                return "" if own and op.call.path else "product"
            if any(id(held) in self.after_softmax for held in op.inputs):
                return "self_attention.context"
            scores = any(id(held) in self.before_softmax for held in op.outputs)
            return "self_attention.scores" if scores else "product"
        if self.is_residual(op):
            return "add_residual"
        kind = op.kind.partition(" ")[0]
        return _LOSSES.get(kind, kind) if self.place[id(op)] >= self.head else kind


def in_stack(path: str) -> str:
    """A path of a module; within a stack of layers, which costsim has in an encoder or a decoder, it says so."""
    return f"decoder.{path}" if re.search(r"(^|\.)\d+(\.|$)", path) and "coder." not in path else path


def _unique(names: set[str], name: str) -> str:
    """The name, with a number if it is taken."""
    if name in names:
        name = next(f"{name}.{n}" for n in count(1) if f"{name}.{n}" not in names)
    names.add(name)
    return name


def layer_of(path: str) -> str:
    """The layer of an op or a weight by its path: embedding, head, or what leads to the number of the layer."""
    first = path.partition(".")[0]
    if first in ("embedding", "head"):
        return first
    match = re.match(r"(.*?\.)?\d+(?=\.|$)", path)
    return match[0] if match else path


def _name_weights(parts: Parts, given: Iterable[Held], names: set[str]) -> None:
    """Have tables be named as the embedding's, and weights of norms as norms'."""
    readers: dict[int, list[tuple[Emitted, int]]] = {}
    for op in parts.forward:
        for at, held in enumerate(op.inputs):
            readers.setdefault(id(held), []).append((op, at))
    for held in given:
        reading = readers.get(id(held), ())
        if held.role == "weight" and any(op.kind == "embed" and at == 0 for op, at in reading):
            held.name = f"embedding.{held.name}"
        elif held.role == "weight" and any(op.kind in _NORMS for op, _ in reading) and "norm." not in held.name:
            path, _, last = held.name.rpartition(".")
            held.name = f"{path}.norm.{last}"
        if held.role == "weight" and not held.name.startswith("embedding."):
            held.name = in_stack(held.name)
        held.name = _unique(names, held.name)
        held.layer = layer_of(held.name.rpartition(".")[0])


def name_all(recording: Recording, ops: Sequence[Emitted], given: Iterable[Held]) -> None:
    """Give every op and tensor its name and its layer."""
    parts, names = Parts(ops), set[str]()
    _name_weights(parts, given, names)
    of_call: dict[int, Emitted] = {}  # by identity of the call: its first op
    upcast = recording.dtype != "float32"
    for op in ops:
        forward = None if op.call.forward is None else of_call.get(id(recording.calls[op.call.forward]))
        wide = upcast and any(held.dtype == "float32" and held.values == "float" for held in op.outputs)
        if op.call.phase == "forward":
            path = parts.scope(op)
            name = ".".join(filter(None, (path, parts.word(op))))
            op.layer = layer_of(path)
        else:
            name = forward.name if forward else in_stack(op.call.path) or "backward"
            op.layer = forward.layer if forward else layer_of(in_stack(op.call.path))
        if wide and FLOAT32 not in name:
            name += FLOAT32
        if op.call.phase != "forward":
            name += f".{_later_word(op, forward)}"
        op.name = _unique(names, name)
        if not kind_of(op.kind).view:
            of_call.setdefault(id(op.call), op)
        _name_results(op, names)


def _later_word(op: Emitted, forward: Emitted | None) -> str:
    """What an op after the forward makes, as costsim's own graphs name it."""
    kind = op.kind.partition(" ")[0]
    if op.call.phase == "recompute":
        return "recompute"
    if op.gemm:
        return _GEMM_WORDS.get(op.gemm, kind)
    again = forward is not None and kind.removesuffix("_grad") == forward.kind.partition(" ")[0]
    return "dx" if again else _GRADIENTS.get(kind, kind)


def _name_results(op: Emitted, names: set[str]) -> None:
    suffix = ".grad" if op.call.phase == "backward" else ""
    for result, held in zip(kind_of(op.kind).outputs, op.outputs, strict=True):
        held.layer = op.layer
        first = held is op.outputs[0]
        if not held.name:
            name = f"{op.name}{suffix}" if first else f"{op.name}.{result.name}{suffix}"
            held.name = name if first and not suffix else _unique(names, name)


# --- dims -------------------------------------------------------------------------------------------------------------


def name_dims(recording: Recording, ops: Sequence[Emitted], given: Sequence[Held]) -> dict[Size, str]:
    """The name of a dim of each size: what it is, if that is said or shows, else its number of elements."""
    sizes: dict[Size, str] = {}

    def hint(held: Held, at: int, name: str) -> None:
        dims = held.dims()
        if -len(dims) <= at < len(dims) and not dims[at].axis.itself.size.names and name not in sizes.values():
            sizes.setdefault(dims[at].axis.itself.size, name)

    for held in given:
        for at, name in recording.marks.get(held.name, {}).items():
            hint(held, at, name)
    for op in ops:
        if op.kind == "embed":
            outside = op.inputs[1].role == "data"
            hint(op.inputs[0], 0, "vocab" if outside else "positions")
            hint(op.inputs[0], 1, "model")
        if op.name.endswith("self_attention.scores"):
            term = op.kind.partition(",")[0]
            y = op.kind.partition("->")[2]
            for at, letter in enumerate(term):
                if letter not in y:
                    hint(op.inputs[0], at, "head")
        if op.name.endswith("head.logits"):
            hint(op.outputs[0], -1, "classes")
    for held in (*given, *(held for op in ops for held in op.outputs)):
        for slot in held.dims():
            size = slot.axis.itself.size
            sizes.setdefault(size, _plain(str(size)) if size.names else f"dim{size}")
    return sizes


def _plain(expression: str) -> str:
    """An expression of sizes as a name."""
    for sign, word in (("+", "plus"), ("-", "minus"), ("*", "times"), ("//", "over")):
        expression = expression.replace(sign, f"_{word}_")
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9_]", "", expression)).strip("_")
