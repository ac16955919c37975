"""What others call fields of a workload: Hugging Face's configs, Megatron's options, papers. Errors offer our name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LENGTH = ("sequence_length", "seq_length", "seq_len", "seqlen")
_LAYERS = ("num_layers", "n_layers", "n_layer", "depth")
_VOCAB = ("vocab_size", "vocabulary")
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "batch.sequences": ("batch_size", "bs", "micro_batch_size", "mbs", "per_device_train_batch_size", "sentences"),
    "batch.tokens": (
        *(*_LENGTH, "max_seq_len", "max_seq_length", "max_length"),
        *("context_length", "context", "block_size", "length", "tokens_per_sequence", "n_ctx"),
    ),
    "batch.source_tokens": ("source_length", "src_len", *_LENGTH, "tokens"),
    "batch.target_tokens": ("target_length", "tgt_len", *_LENGTH, "tokens"),
    "model.d_model": (
        *("hidden_size", "hidden_dim", "hidden", "n_embd", "embed_dim", "embedding_size", "model_dim", "dim", "width"),
        "emb_dim",
    ),
    "model.ffn_dim": ("intermediate_size", "ffn_hidden_size", "ffn_size", "d_ff", "n_inner", "mlp_dim", "ffn"),
    "model.heads": ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "attention_heads"),
    "model.kv_heads": ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "num_query_groups", "kv_groups"),
    "model.layers": ("num_hidden_layers", *_LAYERS, "blocks", "num_blocks"),
    "model.encoder_layers": ("num_encoder_layers", "layers", *_LAYERS),
    "model.decoder_layers": ("num_decoder_layers", "layers", *_LAYERS),
    "model.vocab": (*_VOCAB, "vocabulary_size", "n_vocab"),
    "model.source_vocab": ("vocab", *_VOCAB, "src_vocab_size"),
    "model.target_vocab": ("vocab", *_VOCAB, "tgt_vocab_size"),
    "model.max_positions": ("max_position_embeddings", "n_positions", "max_context_length"),
    "model.activation": ("hidden_act", "activation_function", "act_fn"),
    "model.checkpointing": ("gradient_checkpointing", "activation_checkpointing", "recompute", "recomputation"),
    "training.steps": ("max_steps", "num_steps", "n_steps", "train_iters", "iterations", "updates", "train_steps"),
    "training.micro_batches": ("gradient_accumulation_steps", "gradient_accumulation", "grad_accum", "accumulation"),
    "optimizer.kind": ("optimizer_type", "optim", "optimiser", "optimizer_name"),
    "parallel.tensor": ("tp", "tensor_parallel", "tensor_parallel_size", "tensor_model_parallel_size"),
    "parallel.pipeline": ("pp", "pipeline_parallel", "pipeline_parallel_size", "pipeline_model_parallel_size"),
    "parallel.data": ("dp", "data_parallel", "data_parallel_size"),
    "parallel.context": ("cp", "context_parallel", "context_parallel_size"),
    "parallel.expert": ("ep", "expert_parallel", "expert_parallel_size", "expert_model_parallel_size"),
    "parallel.zero": ("zero_stage", "fsdp", "zero_optimization"),
}
_PARTS = ("model", "batch")  # that a workload has, and no other file; which fields they have depends on the family


def meant(key: object, data: Any, beside: Iterable[str], own: str) -> list[str]:
    """The fields of a workload, `model.heads`, that are called so elsewhere, or whose last part is the key.

    Of a model and a batch those that the file has, and those `beside` the key, for a family may lack others; not the
    key's `own` place. None if data are no workload.
    """
    if not (isinstance(data, dict) and all(isinstance(data.get(part), dict) for part in _PARTS)):
        return []
    name = str(key)[:60].lower().replace("-", "_")
    here = [f"{part}.{field}" for part, section in data.items() if isinstance(section, dict) for field in section]
    there = {*here, *beside}
    return [
        field
        for field in dict.fromkeys([*OTHER_NAMES, *here])
        if (name in OTHER_NAMES.get(field, ()) or name == field.partition(".")[2])
        and (field in there or not field.startswith(_PARTS))
        and field != own
    ]
