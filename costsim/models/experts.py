"""Mixtures of experts in place of feed-forward layers: routers, chosen and shared experts."""

from collections.abc import Iterator
from typing import Annotated, Literal

from costsim.graph.builder import GraphBuilder
from costsim.graph.kinds import Dims
from costsim.inputs.section import Clash, Count, Field, Positive, Section, check
from costsim.models.blocks import activate, feed_forward
from costsim.models.sections import Transformer


class Experts(Section):
    """A mixture of experts in place of feed-forward layers. Tokens are spread evenly: what is counted is balanced.

    Each expert takes capacity_factor x tokens x chosen / number tokens, rounded up; 1 is dropless if all are balanced.
    """

    number: Count = Field(description="of experts")
    chosen: Count = Field(description="experts that each token goes to")
    capacity_factor: Positive = Field(
        default=1.0, description="1: as many tokens as an expert gets if they are spread evenly"
    )
    ffn_dim: Count | None = Field(default=None, description="width of each expert; the model's ffn_dim if not said")
    bias: bool = Field(default=False, description="of each expert's linear layers: gpt-oss")
    dense_layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=1000)] | None = Field(
        default=None, description="numbers, from 0 on, of layers that have a feed-forward layer of ffn_dim in place"
    )
    shared_ffn_dim: Count | None = Field(default=None, description="width of the expert that all tokens go to, besides")
    shared_gate: bool = Field(default=False, description="a sigmoid of the token scales what it makes: Qwen")
    router: Literal["softmax", "sigmoid", "softmax_of_chosen"] = Field(
        default="softmax", description="what makes weights of the router's result, of which those chosen are taken"
    )
    router_bias: bool = Field(default=False, description="of the router's linear layer")
    correction_bias: bool = Field(
        default=False, description="data added to the weights where experts are chosen: DeepSeek-V3"
    )
    groups: Count | None = Field(default=None, description="experts are chosen from chosen_groups of so many groups")
    chosen_groups: Count | None = Field(default=None, description="groups that experts are chosen from")
    group_score: Literal["max", "top2"] = Field(default="max", description="of a group: its largest, or two, summed")
    renormalize: bool = Field(default=True, description="the weights of the chosen experts sum to 1")
    scaling: Positive | None = Field(default=None, description="those weights are times this: DeepSeek")

    @check
    def _enough(self) -> Iterator[Clash]:
        if self.chosen > self.number:
            yield (), f"{self.chosen} experts chosen of {self.number}"

    @check
    def _grouped(self) -> Iterator[Clash]:
        if (self.groups is None) != (self.chosen_groups is None):
            yield (), "groups and chosen_groups go together: say both"
        elif self.groups is not None and self.chosen_groups is not None:
            if self.number % self.groups:
                yield (), f"{self.number} experts do not divide into {self.groups} groups"
            if self.chosen_groups > self.groups:
                yield (), f"{self.chosen_groups} groups chosen of {self.groups}"

    @check
    def _shared(self) -> Iterator[Clash]:
        if self.shared_gate and self.shared_ffn_dim is None:
            yield (), "shared_gate is of a shared expert: say shared_ffn_dim"

    def sizes(self, tokens: int) -> dict[str, int]:
        """The dims, for so many tokens."""
        share = self.capacity_factor * tokens * self.chosen / self.number
        dims = {"experts": self.number, "chosen": self.chosen, "capacity": max(1, -int(-share // 1))}
        given = {"expert_ffn": self.ffn_dim, "shared_ffn": self.shared_ffn_dim}
        given |= {"groups": self.groups, "chosen_groups": self.chosen_groups}
        return dims | {dim: size for dim, size in given.items() if size is not None}


def _routed(b: GraphBuilder, config: Experts, x: str) -> tuple[str, str]:
    """Which experts each token of x [batch, tokens, model] goes to, and their weights; both [batch, tokens, chosen]."""
    chosen: Dims = ("batch", "tokens", "chosen")
    p = b.linear(x, "router", ("experts",), bias=config.router_bias)
    if config.router != "softmax_of_chosen":
        p = b.op(config.router, p, name=f"router.{config.router}")
    choice = p
    if config.correction_bias:
        choice = b.op("add_bias", p, b.given("router.correction", ("experts",)), name="router.corrected")
    if config.groups is not None:
        of_groups = b.op(f"group_{config.group_score}", choice, name="groups", dims=("batch", "tokens", "groups"))
        kept = b.op("top_k", of_groups, name="groups.top_k", dims=("batch", "tokens", "chosen_groups"))
        choice = b.op("keep_groups", choice, of_groups, kept, name="groups.kept")
    index = b.op("top_k", choice, name="top_k", dims=chosen)
    gates = b.op("pick", p, index, name="gates")
    if config.router == "softmax_of_chosen":
        gates = b.op("softmax", gates, name="gates.softmax")
    elif config.renormalize:
        gates = b.op("normalize", gates, name="gates.normalize")
    if config.scaling is not None:
        gates = b.op("scale", gates, name="gates.scale", factor=config.scaling)
    return index, gates


def experts(b: GraphBuilder, config: Transformer, own: Experts, x: str) -> str:
    """Each token through the experts that its router chooses, and the shared one; [batch, tokens, model] to the same.

    Source: Mixtral, arXiv:2401.04088, section 2.1; shared experts: DeepSeekMoE, arXiv:2401.06066, section 3.2; groups
    and the bias that balances: DeepSeek-V3, arXiv:2412.19437, section 2.1.2.
    """
    width = "ffn" if own.ffn_dim is None else "expert_ffn"
    with b.scope("experts"):
        index, gates = _routed(b, own, x)
        y = b.op("dispatch", x, index, name="dispatch", dims=("experts", "capacity", "model"))

        def linear(x: str, name: str, inner: str, outer: str) -> str:
            weight = b.given(f"{name}.weight", ("experts", inner, outer), role="weight")
            made = b.op("ecd,edf->ecf", x, weight, name=name)
            if not own.bias:
                return made
            bias = b.given(f"{name}.bias", ("experts", outer), role="weight")
            return b.op("add_bias_of_each", made, bias, name=f"{name}.add_bias")

        gate = (lambda: linear(y, "fc3", "model", width)) if config.gated else None
        z = activate(b, config, linear(y, "fc1", "model", width), gate)
        z = b.dropout(z, config.activation_dropout)
        out = b.op("combine", linear(z, "fc2", width, "model"), gates, index, name="combine")
        if own.shared_ffn_dim is None:
            return out
        shared = feed_forward(b, config, x, "shared", "shared_ffn")
        if own.shared_gate:
            scale = b.op("sigmoid", b.linear(x, "shared_gate", (), bias=False), name="shared_gate.sigmoid")
            shared = b.op("scale_rows", shared, scale, name="shared.scaled")
        return b.op("add", out, shared, name="add_shared")
