"""Writes gemma_losses.json: the loss and the gradients that transformers computes for tiny Gemmas.

python tests/data/gemma_losses.py > tests/data/gemma_losses.json, with torch 2.13.0 and transformers 5.24.0. Weights and
tokens are sines, which the test makes once more; of each gradient its norm and its projection on sines are kept.
Norms, softmax and loss, which transformers converts to float32, are kept in float64 here; only the frequencies of
positions are of float32, so what is written is right to seven digits or so.
"""

import json
import sys
import zlib

import numpy as np

SEQUENCES, TOKENS, VOCAB = 2, 7, 11
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 16,
}
CAPPED = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.7, "query_pre_attn_scalar": 3}
CONFIGS = {
    "gemma": {"model_type": "gemma", **SIZES, "tie_word_embeddings": False, "attention_bias": True},
    "gemma2": {"model_type": "gemma2", **SIZES, **CAPPED, "sliding_window": 3},
    "gemma3_text": {"model_type": "gemma3_text", **SIZES, "sliding_window": 3, "sliding_window_pattern": 3},
}
LAYER = {  # by the name in a layer of transformers: that in costsim
    "self_attn.q_proj": "self_attention.q",
    "self_attn.k_proj": "self_attention.k",
    "self_attn.v_proj": "self_attention.v",
    "self_attn.o_proj": "self_attention.out",
    "self_attn.q_norm": "self_attention.q_norm",
    "self_attn.k_norm": "self_attention.k_norm",
    "mlp.gate_proj": "ffn.fc1",
    "mlp.up_proj": "ffn.fc3",
    "mlp.down_proj": "ffn.fc2",
    "input_layernorm": "self_attention_norm",
    "post_attention_layernorm": "self_attention_post_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "ffn_post_norm",
}
OUTSIDE = {
    "model.embed_tokens": "embedding.tokens",
    "model.norm": "decoder.final.norm",
    "lm_head": "head.logits",
}


def sines(name, number):
    """Numbers from -1 to 1, by a name."""
    return np.sin(np.arange(1, number + 1) * 1.7 + zlib.crc32(name.encode()) % 1000)


def weight(name, number):
    """The elements of a weight, in the order that costsim has them: [in, out]."""
    return 0.4 * sines(name, number)


def tokens():
    """Ids [sequences, tokens]; the labels of the graph are those one to the right, and none of the last.

    None is 0, the padding of Gemma, whose row gets no gradient from the embedding.
    """
    return 1 + np.arange(SEQUENCES * TOKENS).reshape(SEQUENCES, TOKENS) ** 2 % (VOCAB - 1)


def described(name, gradient):
    """What is kept of a gradient, in the order that costsim has it."""
    return [float(np.linalg.norm(gradient)), float(gradient @ sines(f"{name} seen", gradient.size))]


def name_of(parameter, sandwich):
    """The name of a parameter of transformers in costsim."""
    module, _, kind = parameter.rpartition(".")
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    if inner == "post_attention_layernorm" and not sandwich:  # Gemma's only norm between attention and FFN
        inner = "pre_feedforward_layernorm"
    return f"decoder.{layer}.{LAYER[inner]}.{kind}"


def losses(config):
    """The loss of a config's model, and what is kept of the gradient of each parameter."""
    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    kind._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(kind).double()
    names = {name: name_of(name, config["model_type"] != "gemma") for name, _ in model.named_parameters()}
    turned = {name for name in names if "_proj.weight" in name}  # [out, in]
    for name, parameter in model.named_parameters():
        values = torch.tensor(weight(names[name], parameter.numel()))
        shape = parameter.shape[::-1] if name in turned else parameter.shape
        parameter.data = values.reshape(shape).T.contiguous() if name in turned else values.reshape(shape)
    model.tie_weights()
    ids = torch.tensor(tokens())
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.T if name in turned else parameter.grad
        gradients[names[name]] = described(names[name], gradient.flatten().numpy())
    return {"config": config, "loss": loss.item(), "gradients": gradients}


def main():
    import torch
    import transformers

    softmax = torch.nn.functional.softmax
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.nn.functional.softmax = lambda x, dim, **_: softmax(x, dim)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    models = {name: losses(config) for name, config in CONFIGS.items()}
    json.dump({"origin": "gemma_losses.py", "versions": versions, "models": models}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
