"""Parts that all Transformer families share. Their dims are batch, model, heads, head, ffn and the lengths."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from costsim.errors import apart
from costsim.graph import builder
from costsim.graph.builder import GraphBuilder
from costsim.graph.kinds import Dims
from costsim.inputs.schema import Clash, Count, Positive, Rate, Strict, clash
from costsim.models.head import Head
from costsim.models.meeting import Mask, counted, mask_scores, meeting, scores_dims

Tokens = Annotated[int, Field(ge=1, le=10**9)]


class Lora(Strict):
    """Low-rank adapters beside linear layers; say in training.trainable what is trained."""

    rank: Count
    alpha: Positive = 16.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="globs over names of linear layers")


class Transformer(Strict):
    """What every family has. Rates are dropout rates; 0 leaves the op out."""

    d_model: Count
    ffn_dim: Count
    heads: Count
    kv_heads: Count | None = Field(default=None, description="heads of keys and values, shared by groups of queries")
    head_dim: Count | None = Field(default=None, description="d_model / heads if not said")
    qk_norm: bool = Field(default=False, description="normalize queries and keys, each over a head")
    qkv_bias: bool = True
    out_bias: bool = Field(default=True, description="of attention's output projection")
    ffn_bias: bool = True
    norm: Literal["post", "pre", "sandwich"] = Field(
        default="post", description="a norm after the residual add, before the part, or before and after the part"
    )
    norm_kind: Literal["layer", "rms"] = "layer"
    zero_centered_norm: bool = Field(default=False, description="RMS norms scale by 1 + weight: Gemma")
    activation: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    gated: bool = Field(default=False, description="the activation of one linear layer gates another: SwiGLU")
    norm_eps: Positive = 1e-5
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    query_pre_attn_scalar: Positive | None = Field(
        default=None, description="queries are divided by its square root; the size of a head if not said"
    )
    attention_softcap: Positive | None = Field(
        default=None, description="caps scores: cap tanh(score / cap), before masks: Gemma 2"
    )
    attention: Literal["eager", "flash"] = Field(
        default="eager", description="flash: one kernel, which keeps no scores and makes them again for the backward"
    )
    fused_activation: bool = Field(
        default=True, description="one kernel for the activation (and its gate); if not, op by op as Python writes it"
    )
    fused_norm: bool = Field(
        default=True, description="one kernel for an RMS norm; if not, op by op as transformers writes it"
    )
    upcast: bool = Field(
        default=False,
        description="norms op by op, and softmax outside of flash, are float32 in the code: tensors *.float32",
    )
    head: Head = Head()
    checkpointing: Literal["none", "selective", "full"] = Field(
        default="none", description="made again for the backward: nothing, scores and softmax, or whole layers"
    )
    lora: Lora | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        clash(self, apart(self._heads_divide, self._kv_heads_divide, self._fused_norms, self._zero_centered_norms))
        return self

    def _heads_divide(self) -> Iterator[Clash]:
        if self.head_dim is None and self.d_model % self.heads:
            yield (), f"d_model {self.d_model} does not divide into {self.heads} heads"

    def _kv_heads_divide(self) -> Iterator[Clash]:
        if self.kv_heads is not None and self.heads % self.kv_heads:
            yield (), f"{self.heads} heads do not divide into {self.kv_heads} kv_heads"

    def _fused_norms(self) -> Iterator[Clash]:
        if self.norm_kind == "layer" and not self.fused_norm:
            yield (), "a layer norm comes as one kernel only: fused_norm must be true"

    def _zero_centered_norms(self) -> Iterator[Clash]:
        if self.zero_centered_norm and self.norm_kind == "layer":
            yield (), "zero_centered_norm is of RMS norms: say norm_kind: rms"
        elif self.zero_centered_norm and not self.fused_norm and not self.upcast:
            yield (), "zero_centered_norm op by op is float32, as transformers has it: say upcast: true"

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.head_dim or self.d_model // self.heads

    @property
    def grouped(self) -> bool:
        """Whether several heads of queries share a head of keys and values."""
        return self.kv_heads is not None and self.kv_heads != self.heads

    def sizes(self) -> dict[str, int]:
        """The dims that all families name alike."""
        sizes = {"model": self.d_model, "ffn": self.ffn_dim, "head": self.head_size}
        if self.grouped:
            assert self.kv_heads is not None
            sizes |= {"kv_heads": self.kv_heads, "group": self.heads // self.kv_heads}
        else:
            sizes["heads"] = self.heads
        return sizes if self.lora is None else {**sizes, "rank": self.lora.rank}

    def adapters(self) -> builder.Lora | None:
        """The adapters as the graph builder takes them, None if there are none."""
        return None if self.lora is None else builder.Lora(self.lora.targets, self.lora.alpha, self.lora.rank)


class Length(Strict):
    """So many sequences of so many tokens."""

    tokens: Tokens
    sequences: Tokens


class Padded(Strict):
    """One micro-batch of sequences, padded to the longest: a number and a length, or a histogram of lengths."""

    sequences: Tokens | None = None
    tokens: Tokens | None = Field(default=None, description="per sequence, padding included")
    lengths: tuple[Length, ...] = Field(default=(), description="a histogram, in place of sequences and tokens")
    padding_mask: bool = Field(default=True, description="mask padded keys in every attention")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Padded":
        if bool(self.lengths) == (self.sequences is not None and self.tokens is not None) or (
            self.lengths and (self.sequences or self.tokens)
        ):
            raise PydanticCustomError("value_error", "expected sequences and tokens, or lengths", {})
        return self

    @property
    def rows(self) -> int:
        """Sequences of the micro-batch."""
        return self.sequences or sum(length.sequences for length in self.lengths)

    @property
    def columns(self) -> int:
        """Tokens of each, padding included."""
        return self.tokens or max(length.tokens for length in self.lengths)

    @property
    def real_tokens(self) -> int:
        """Tokens of all sequences, without known padding."""
        return sum(length.tokens * length.sequences for length in self.lengths) or self.rows * self.columns


class Rotary(NamedTuple):
    """The tables that rotate queries and keys: tensors [length, head]."""

    cos: str
    sin: str


def norm(b: GraphBuilder, config: Transformer, x: str, name: str) -> str:
    """The model's norm over the last dim of x, [..., model] to the same."""
    if not config.fused_norm:
        return _rms_norm_by_steps(b, config, x, name)
    if config.norm_kind == "rms":
        return b.rms_norm(x, name, config.norm_eps, config.zero_centered_norm)
    return b.layer_norm(x, name, config.norm_eps)


FLOAT32 = ".float32"  # in the name of what is in float32 in the model's code; policies give it its format


def _rms_norm_by_steps(b: GraphBuilder, config: Transformer, x: str, name: str) -> str:
    """w x / sqrt(mean(x^2) + eps) as transformers' LlamaRMSNorm; upcast, all but the product with w in float32.

    Zero-centred it is GemmaRMSNorm: the product with 1 + w is in float32, too, and its result is converted back.
    """
    weight = b.given(f"{name}.weight", b.tensors[x].dims[-1:], role="weight")
    inner = name
    if config.upcast:
        inner = name + FLOAT32
        x = b.op("convert", x, name=inner)
    variance = b.op("mean", b.op("square", x, name=f"{inner}.square"), name=f"{inner}.mean")
    rstd = b.op("rsqrt", b.op("shift", variance, name=f"{inner}.eps", by=config.norm_eps), name=f"{inner}.rstd")
    if not config.zero_centered_norm:
        return b.op("scale_columns", b.op("scale_rows", x, rstd, name=f"{name}.scaled"), weight, name=name)
    scaled = b.op("scale_rows", x, rstd, name=f"{inner}.scaled")
    weight = b.op("shift", b.op("convert", weight, name=f"{inner}.weight"), name=f"{inner}.one_plus", by=1.0)
    return b.op("convert", b.op("scale_columns", scaled, weight, name=f"{inner}.product"), name=name)


_EQUATIONS = {  # scores, context; b batch, q and k positions, h heads, g groups' heads, r queries of a group, e head
    False: ("bqhe,bkhe->bhqk", "bhqk,bkhe->bqhe"),
    True: ("bqgre,bkge->bgrqk", "bgrqk,bkge->bqgre"),
}


def _projected(b: GraphBuilder, config: Transformer, x: str, name: str, dims: Dims, rotary: Rotary | None) -> str:
    """Queries or keys of x, [batch, length, model] to [batch, length, *dims]: projected, normalized, rotated."""
    y = b.linear(x, name, dims, bias=config.qkv_bias)
    if config.qk_norm:
        y = norm(b, config, y, f"{name}_norm")
    return y if rotary is None else b.op("rope", y, *rotary, name=f"{name}_rope")


def attention(
    b: GraphBuilder,
    config: Transformer,
    name: str,
    query: str,
    memory: str,
    mask: Mask,
    rotary: Rotary | None = None,
) -> str:
    """Multi-head attention of `query` over `memory`, both [batch, length, model], to [batch, length, model].

    All scores are computed, masked or not, unless the workload counts only pairs that meet. The query is scaled before
    the product. Source: Vaswani et al. 2017, section 3.2; the scaling as torch.nn.MultiheadAttention; groups of
    queries: Ainslie et al., arXiv:2305.13245; flash: Dao, arXiv:2307.08691, which keeps q, k, v, the result and the
    logarithms of the sums.
    """
    query_dims: Dims = ("kv_heads", "group", "head") if config.grouped else ("heads", "head")
    key_dims: Dims = ("kv_heads", "head") if config.grouped else ("heads", "head")
    flash = config.attention == "flash"
    with b.scope(name):
        # Ops on the result of a projection come right after it, so that they can be its epilogue.
        q = _projected(b, config, query, "q", query_dims, rotary)
        q = b.op("scale", q, name="scale", factor=1 / math.sqrt(config.query_pre_attn_scalar or config.head_size))
        k = _projected(b, config, memory, "k", key_dims, rotary)
        v = b.linear(memory, "v", key_dims, bias=config.qkv_bias)
        recomputed = flash or config.checkpointing == "selective"
        with b.segment_if(recomputed, "flash" if flash else "core", kernel=flash) as kept:
            scores_equation, context_equation = _EQUATIONS[config.grouped]
            scores = _scores(b, config, scores_equation, (q, k), mask)
            wide = FLOAT32 if config.upcast and not flash else ""  # flash attention's softmax never leaves the chip
            p = b.op("softmax_lse" if flash else "softmax", scores, name=f"softmax{wide}")
            if flash:
                kept.add(f"{p}.lse")
            p = b.dropout(p, config.attention_dropout)
            context = b.op(context_equation, p, v, name="context")
        return b.linear(context, "out", ("model",), inner=len(query_dims), bias=config.out_bias)


def _scores(b: GraphBuilder, config: Transformer, equation: str, operands: tuple[str, str], mask: Mask) -> str:
    """The capped and masked scores of queries and keys. Those of a dim with itself are self attention."""
    q, k = operands
    (batch, length, *_), keys = b.tensors[q].dims, b.tensors[k].dims[1]
    dims: Dims = (batch, *b.tensors[q].dims[2:-1], length, keys)
    meets = meeting(b, mask, length) if length == keys else None
    if meets is not None:
        dims = scores_dims(b, dims, counted(b, meets))
    scores = b.op(equation, q, k, name="scores", dims=dims)
    return mask_scores(b, softcap(b, scores, config.attention_softcap), mask, meets)


def softcap(b: GraphBuilder, x: str, cap: float | None) -> str:
    """Append cap tanh(x / cap), op by op as transformers' Gemma 2 has it; x itself if there is no cap.

    Keeps the tanh. Source: arXiv:2408.00118, section 2, of scores and of logits.
    """
    if cap is None:
        return x
    inner = b.op("tanh", b.op("scale", x, name="softcap.divide", factor=1 / cap), name="softcap.tanh")
    return b.op("scale", inner, name="softcap", factor=cap)


def _gelu_new_by_steps(b: GraphBuilder, x: str) -> str:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) as transformers' NewGELUActivation has it: five tensors kept."""
    inner = b.op("scale", b.op("cube", x, name="cube"), name="cubic", factor=0.044715)
    inner = b.op("scale", b.op("add", x, inner, name="inner"), name="root", factor=math.sqrt(2 / math.pi))
    one = b.op("shift", b.op("tanh", inner, name="tanh"), name="one", by=1.0)
    return b.op("mul", b.op("scale", x, name="half", factor=0.5), one, name="gelu_new")


_GATED = {"silu": "swiglu", "gelu_new": "geglu_new"}  # the op that is an activation and its gate in one kernel


def activate(b: GraphBuilder, config: Transformer, x: str, gate: Callable[[], str] | None = None) -> str:
    """The model's activation of x, times the gate if there is one; all [..., ffn].

    Op by op, a gated gelu_new is PyTorch's GELU by tanh, as Gemma has it, and a plain one is GPT-2's.
    """
    if gate is not None and config.fused_activation and config.activation in _GATED:
        kind = _GATED[config.activation]
        return b.op(kind, x, gate(), name=kind)
    if config.activation == "gelu_new" and gate is None and not config.fused_activation:
        y = _gelu_new_by_steps(b, x)
    else:
        y = b.op(config.activation, x, name=config.activation)
    return y if gate is None else b.op("mul", y, gate(), name="gate")


def feed_forward(b: GraphBuilder, config: Transformer, x: str) -> str:
    """fc2(activation(fc1(x))), or fc2(activation(fc1(x)) fc3(x)) if gated; [batch, length, model] to the same."""
    with b.scope("ffn"):
        y = b.linear(x, "fc1", ("ffn",), bias=config.ffn_bias)
        gate = (lambda: b.linear(x, "fc3", ("ffn",), bias=config.ffn_bias)) if config.gated else None
        y = activate(b, config, y, gate)
        y = b.dropout(y, config.activation_dropout)
        return b.linear(y, "fc2", ("model",), bias=config.ffn_bias)


def residual(b: GraphBuilder, config: Transformer, x: str, name: str, part: Callable[[str], str]) -> str:
    """x + dropout(part(x)), with norms before the part, after the part or the sum; all [batch, length, model].

    Source of the norms before and after a part: Gemma 2, arXiv:2408.00118, section 2.
    """
    branch = part(x if config.norm == "post" else norm(b, config, x, f"{name}_norm"))
    if config.norm == "sandwich":
        branch = norm(b, config, branch, f"{name}_post_norm")
    branch = b.dropout(branch, config.dropout, name=f"{name}_dropout")
    total = b.op("add", branch, x, name=f"{name}_residual")
    return norm(b, config, total, f"{name}_norm") if config.norm == "post" else total


def layers(
    b: GraphBuilder, config: Transformer, stack: str, number: int, x: str, layer: Callable[[str, int], str]
) -> str:
    """The result of a number of layers on top of each other; each is a segment if whole layers are recomputed.

    `layer` appends one to its input and number, from 0 on.
    """
    for i in range(number):
        with b.scope(f"{stack}.{i}", layer=True), b.segment_if(config.checkpointing == "full", "layer"):
            x = layer(x, i)
    return x


def residual_attention(
    b: GraphBuilder,
    config: Transformer,
    name: str,
    x: str,
    memory: str | None,
    mask: Mask,
    rotary: Rotary | None = None,
) -> str:
    """`attention` of x over `memory`, None: over itself, in a residual."""
    return residual(b, config, x, name, lambda y: attention(b, config, name, y, memory or y, mask, rotary))


def encoder_layer(b: GraphBuilder, config: Transformer, x: str, keep: str | None) -> str:
    """Self attention and feed forward, each in a residual; [batch, length, model] to the same."""
    x = residual_attention(b, config, "self_attention", x, None, Mask(keep))
    return residual(b, config, x, "ffn", lambda y: feed_forward(b, config, y))


def decoder_layer(
    b: GraphBuilder, config: Transformer, x: str, memory: str, keep: str | None, memory_keep: str | None
) -> str:
    """Causal self attention, attention over the encoder's output `memory`, feed forward, each in a residual."""
    x = residual_attention(b, config, "self_attention", x, None, Mask(keep, causal=True))
    x = residual_attention(b, config, "cross_attention", x, memory, Mask(memory_keep))
    return residual(b, config, x, "ffn", lambda y: feed_forward(b, config, y))
