"""What a workload file holds of every Transformer: sizes and choices, adapters, batches of padded sequences."""

from collections.abc import Iterator
from typing import Annotated, Literal

from costsim.graph import builder
from costsim.inputs.section import Clash, Count, Field, Positive, Rate, Section, check
from costsim.models.head import Head

Tokens = Annotated[int, Field(ge=1, le=10**9)]


class Lora(Section):
    """Low-rank adapters beside linear layers; say in training.trainable what is trained."""

    rank: Count = Field(description="width between the two adapters of a layer")
    alpha: Positive = Field(default=16.0, description="what they add is times alpha / rank")
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = Field(description="globs over names of linear layers")


class Transformer(Section):
    """What every family has. Rates are dropout rates; 0 leaves the op out."""

    d_model: Count = Field(description="width of the residual stream, elements")
    ffn_dim: Count = Field(description="inner width of feed forward, elements")
    heads: Count = Field(description="heads of queries")
    kv_heads: Count | None = Field(
        default=None, unsaid="heads", description="heads of keys and values, shared by groups of queries"
    )
    head_dim: Count | None = Field(default=None, unsaid="head_size", description="d_model / heads if not said")
    qk_norm: bool = Field(default=False, description="normalize queries and keys, each over a head")
    qk_norm_heads: bool = Field(default=False, description="those norms are over all heads at once: OLMo 2")
    qkv_bias: bool = Field(default=True, description="of the projections to queries, keys and values")
    k_bias: bool | None = Field(
        default=None, unsaid="qkv_bias", description="of the projection to keys, if not as qkv_bias: Whisper has none"
    )
    out_bias: bool = Field(default=True, description="of attention's output projection")
    ffn_bias: bool = Field(default=True, description="of both layers of feed forward")
    norm: Literal["post", "pre", "sandwich", "branch"] = Field(
        default="post",
        description="a norm after the residual add, before the part, before and after the part, or after it only",
    )
    norm_kind: Literal["layer", "rms"] = Field(default="layer", description="layer norms, or RMS norms")
    zero_centered_norm: bool = Field(default=False, description="RMS norms scale by 1 + weight: Gemma")
    activation: Literal["relu", "gelu", "gelu_new", "silu"] = Field(
        default="relu", description="between the layers of feed forward; gelu_new is gelu by tanh"
    )
    gated: bool = Field(default=False, description="the activation of one linear layer gates another: SwiGLU")
    swiglu_limit: Positive | None = Field(
        default=None, description="SwiGLU with clamped operands, times the gate + 1, in one kernel: gpt-oss"
    )
    swiglu_alpha: Positive = Field(default=1.702, description="gain of the sigmoid of a clamped SwiGLU")
    norm_eps: Positive = Field(default=1e-5, description="what norms add to the variance")
    norm_bias: bool = Field(default=True, description="of layer norms")
    residual_multiplier: Positive | None = Field(
        default=None, description="what a part adds to the residual stream is times this: Granite"
    )
    dropout: Rate = Field(default=0.0, description="rate behind embeddings, attention and feed forward")
    attention_dropout: Rate = Field(default=0.0, description="rate of attention's probabilities")
    activation_dropout: Rate = Field(default=0.0, description="rate behind the activation of feed forward")
    query_pre_attn_scalar: Positive | None = Field(
        default=None,
        unsaid="head_size",
        description="queries are divided by its square root; the size of a head if not said",
    )
    scaled: Literal["queries", "scores"] = Field(
        default="queries", description="by that square root, as torch.nn.MultiheadAttention or as transformers has it"
    )
    attention_sinks: bool = Field(
        default=False, description="a trained score of each head that softmax has besides those of keys: gpt-oss"
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
    head: Head = Field(default=Head(), description="logits and loss at once, or in chunks of tokens")
    checkpointing: Literal["none", "selective", "full"] = Field(
        default="none", description="made again for the backward: nothing, scores and softmax, or whole layers"
    )
    lora: Lora | None = Field(default=None, description="low-rank adapters beside linear layers")

    @check
    def _norms_of_heads(self) -> Iterator[Clash]:
        if self.qk_norm_heads and (not self.qk_norm or self.norm_kind == "layer"):
            yield (), "qk_norm_heads is of RMS norms of queries and keys: say qk_norm: true, norm_kind: rms"

    @check
    def _heads_divide(self) -> Iterator[Clash]:
        if self.head_dim is None and self.d_model % self.heads:
            yield (), f"d_model {self.d_model} does not divide into {self.heads} heads"

    @check
    def _kv_heads_divide(self) -> Iterator[Clash]:
        if self.kv_heads is not None and self.heads % self.kv_heads:
            yield (), f"{self.heads} heads do not divide into {self.kv_heads} kv_heads"

    @check
    def _fused_norms(self) -> Iterator[Clash]:
        if self.norm_kind == "layer" and not self.fused_norm:
            yield (), "a layer norm comes as one kernel only: fused_norm must be true"

    @check
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


class Length(Section):
    """So many sequences of so many tokens."""

    tokens: Tokens = Field(description="of each sequence")
    sequences: Tokens = Field(description="so many of that length")


class Padded(Section):
    """One micro-batch of sequences, padded to the longest: a number and a length, or a histogram of lengths."""

    sequences: Tokens | None = Field(default=None, description="of one micro-batch")
    tokens: Tokens | None = Field(default=None, description="per sequence, padding included")
    lengths: tuple[Length, ...] = Field(default=(), description="a histogram, in place of sequences and tokens")
    padding_mask: bool = Field(default=True, description="mask padded keys in every attention")

    @check
    def _one_of_both(self) -> Iterator[Clash]:
        if bool(self.lengths) == (self.sequences is not None and self.tokens is not None) or (
            self.lengths and (self.sequences or self.tokens)
        ):
            yield (), "expected sequences and tokens, or lengths"

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


def too_long(what: str, tokens: int, positions: int, unused: int = 0) -> ValueError:
    """The error for sequences of more tokens than a model has positions for, `unused` of which are left out."""
    less = f", {unused} of them unused," if unused else ""
    wanted = f"{tokens} tokens, for which it has to be {tokens + unused}"
    return ValueError(f"model.max_positions {positions}{less} is less than the {what}' {wanted}")
