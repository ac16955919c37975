"""What ops are, in words that the field uses: q_proj, attention scores, lm_head: wgrad."""

from collections.abc import Iterable

from costsim.graph.graph import Op

WORDS = {  # of the parts of op names; others are words already
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "out": "out_proj",
    "scores": "attention scores",
    "context": "attention context",
    "logits": "lm_head",
}
_SCOPES = ("self_attention", "cross_attention", "ffn")  # which their parts name well enough


def word(op: Op) -> str:
    """The layer whose product an op is: q_proj, also for its gradients; of an op that is no product, its kind."""
    if op.gemm is None:
        return op.kind.name.replace("_", " ")
    name = (op.recomputes or op.name).removeprefix(f"{op.layer}.")
    if op.gemm in ("dgrad", "wgrad"):
        name = name.removesuffix(".dx").removesuffix(".dw")
    parts = [part for part in name.split(".") if part not in _SCOPES and not part.isdecimal()]
    return ".".join(WORDS.get(part, part) for part in parts) or name


def _product(op: Op) -> str:
    """Which product of its layer an op is; "" for that of the forward."""
    if op.gemm is None:
        return ""
    return "recompute" if op.phase == "recompute" else "" if op.gemm == "forward" else op.gemm


def words(ops: Iterable[Op]) -> str:
    """What some ops are, each word once, those of gradients after the others: `fc1, fc2; v_proj: dgrad`."""
    groups: dict[str, dict[str, None]] = {}
    for op in ops:
        groups.setdefault(_product(op), {})[word(op)] = None
    return "; ".join(", ".join(group) + (f": {product}" if product else "") for product, group in groups.items())
