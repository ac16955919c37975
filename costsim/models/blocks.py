"""Parts that all Transformer families share. Their dims are batch, model, heads, head, ffn and the lengths."""

import math
from collections.abc import Callable

from costsim.graph.builder import GraphBuilder
from costsim.models.sections import Transformer


def norm(b: GraphBuilder, config: Transformer, x: str, name: str, over: int = 1) -> str:
    """The model's norm of x, [..., model] to the same; RMS norms may be over more than the last dim."""
    if not config.fused_norm:
        return _rms_norm_by_steps(b, config, x, name, over)
    if config.norm_kind == "rms":
        return b.rms_norm(x, name, config.norm_eps, config.zero_centered_norm, over)
    return b.layer_norm(x, name, config.norm_eps, config.norm_bias)


FLOAT32 = ".float32"  # in the name of what is in float32 in the model's code; policies give it its format


def _rms_norm_by_steps(b: GraphBuilder, config: Transformer, x: str, name: str, over: int) -> str:
    """w x / sqrt(mean(x^2) + eps) as transformers' LlamaRMSNorm; upcast, all but the product with w in float32.

    Zero-centred it is GemmaRMSNorm: the product with 1 + w is in float32, too, and its result is converted back.
    """
    rows, width = b.tensors[x].dims[:-over], b.tensors[x].dims[-over:]
    weight = b.given(f"{name}.weight", width, role="weight")
    inner = name
    if config.upcast:
        inner = name + FLOAT32
        x = b.op("convert", x, name=inner)
    variance = b.op("mean", b.op("square", x, name=f"{inner}.square"), name=f"{inner}.mean", dims=rows)
    rstd = b.op("rsqrt", b.op("shift", variance, name=f"{inner}.eps", by=config.norm_eps), name=f"{inner}.rstd")
    if not config.zero_centered_norm:
        return b.op("scale_columns", b.op("scale_rows", x, rstd, name=f"{name}.scaled"), weight, name=name)
    scaled = b.op("scale_rows", x, rstd, name=f"{inner}.scaled")
    weight = b.op("shift", b.op("convert", weight, name=f"{inner}.weight"), name=f"{inner}.one_plus", by=1.0)
    return b.op("convert", b.op("scale_columns", scaled, weight, name=f"{inner}.product"), name=name)


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


# The op that is an activation and its gate in one kernel.
_GATED = {"silu": "swiglu", "gelu": "geglu", "gelu_new": "geglu_new"}


def activate(b: GraphBuilder, config: Transformer, x: str, gate: Callable[[], str] | None = None) -> str:
    """The model's activation of x, times the gate if there is one; all [..., ffn].

    Op by op, a gated gelu_new is PyTorch's GELU by tanh, as Gemma has it, and a plain one is GPT-2's.
    """
    if gate is not None and config.swiglu_limit is not None:
        alpha, limit = config.swiglu_alpha, config.swiglu_limit
        return b.op("clamped_swiglu", x, gate(), name="clamped_swiglu", alpha=alpha, limit=limit)
    if gate is not None and config.fused_activation and config.activation in _GATED:
        kind = _GATED[config.activation]
        return b.op(kind, x, gate(), name=kind)
    if config.activation == "gelu_new" and gate is None and not config.fused_activation:
        y = _gelu_new_by_steps(b, x)
    else:
        y = b.op(config.activation, x, name=config.activation)
    return y if gate is None else b.op("mul", y, gate(), name="gate")


def convolution(b: GraphBuilder, x: str, name: str, outer: str, dims: tuple[str, str], stride: int = 1) -> str:
    """A convolution of x [batch, length, channels] to [batch, dims[0], outer], with patches of dims[1] rows and a bias.

    There is padding of half a patch. The product reads patches, which overlap: the kernel makes them on chip, and that
    of the backward makes them again. So x alone is kept, as by PyTorch.
    """
    (batch, _, channels), (patches, places) = b.tensors[x].dims, dims
    padding = b.sizes[places] // 2
    with b.segment_if(True, name, kernel=True):
        cut = b.op(
            "unfold",
            x,
            name=f"{name}.patches",
            dims=(batch, patches, places, channels),
            stride=stride,
            padding=padding,
        )
        return b.linear(cut, name, (outer,), inner=2)


def feed_forward(b: GraphBuilder, config: Transformer, x: str, name: str = "ffn", width: str = "ffn") -> str:
    """fc2(activation(fc1(x))), or fc2(activation(fc1(x)) fc3(x)) if gated; [batch, length, model] to the same."""
    with b.scope(name):
        y = b.linear(x, "fc1", (width,), bias=config.ffn_bias)
        gate = (lambda: b.linear(x, "fc3", (width,), bias=config.ffn_bias)) if config.gated else None
        y = activate(b, config, y, gate)
        y = b.dropout(y, config.activation_dropout)
        return b.linear(y, "fc2", ("model",), bias=config.ffn_bias)
