"""Tables of decoders with a mixture of experts."""

from collections.abc import Mapping

from costsim.huggingface.adapters.rotary import HEAD_DIM, ROTARY_CHECKS, ROTARY_FACTS, ROTARY_NO_EFFECT, ROTARY_READS
from costsim.huggingface.adapters.shared import NO_BIASES
from costsim.huggingface.fields import Adapter, Head, Read, count, window_everywhere

EXPERTS: Mapping[str, Adapter] = {
    "mixtral": Adapter(
        family="decoder",
        classes={"MixtralForCausalLM": Head()},
        reads=(
            *ROTARY_READS,
            HEAD_DIM,
            Read("experts.number", ("num_local_experts", "num_experts"), count),
            Read("experts.chosen", ("num_experts_per_tok",), count),
        ),
        facts={**ROTARY_FACTS, **NO_BIASES, "experts.renormalize": True},
        checks=ROTARY_CHECKS,
        no_effect=(*ROTARY_NO_EFFECT, "router_aux_loss_coef"),
        windows=window_everywhere,
        base="MixtralModel",
    ),
}
