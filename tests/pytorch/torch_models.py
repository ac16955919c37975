"""All model families in plain PyTorch. Modules are named as the graph names its weights; dropout is left out."""

import itertools
import math
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn import functional as F


def attention_mask(keep, causal_length=None, window=None):
    """True where a query may look: [batch or 1, heads (1), queries or 1, keys]; None if it may everywhere."""
    mask = None if keep is None else keep[:, None, None, :]
    if causal_length is not None:
        past = torch.ones(causal_length, causal_length, dtype=torch.bool).tril()
        if window is not None:
            past = past.triu(1 - window)
        mask = past if mask is None else mask & past
    return mask


class ZeroCentered(nn.RMSNorm):
    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, 1 + self.weight, self.eps)


def norm(config, width):
    if config.zero_centered_norm:
        return ZeroCentered(width, config.norm_eps)
    return {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[config.norm_kind](width, config.norm_eps)


def capped(x, cap):
    return x if cap is None else cap * torch.tanh(x / cap)


def activate(config, x):
    if config.activation == "gelu_new":
        return F.gelu(x, approximate="tanh")
    return {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}[config.activation](x)


def rotate_half(x):
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


class Table(nn.Linear):
    """A head whose weight is an embedding's, or like one: [vocab, model] on both sides."""


class Attention(nn.Module):
    eager = False

    def __init__(self, config, sizes):
        super().__init__()
        self.cap = config.attention_softcap
        self.scale = (
            config.query_pre_attn_scalar or config.head_size
        ) ** -0.5  # of the real sizes, where these are shrunk
        self.head = sizes["head"]
        self.groups = sizes.get("group", 1)
        key_width = sizes["kv_heads" if config.grouped else "heads"] * self.head
        query_width = key_width * self.groups
        self.q = nn.Linear(sizes["model"], query_width, bias=config.qkv_bias)
        self.k, self.v = (nn.Linear(sizes["model"], key_width, bias=config.qkv_bias) for _ in range(2))
        self.q_norm, self.k_norm = (norm(config, self.head) if config.qk_norm else nn.Identity() for _ in range(2))
        self.out = nn.Linear(query_width, sizes["model"], bias=config.out_bias)

    def forward(self, query, memory, mask, rotary=None):
        projected = self.q(query), self.k(memory), self.v(memory)
        q, k, v = (x.unflatten(-1, (-1, self.head)).transpose(1, 2) for x in projected)  # batch, heads, tokens, head
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            cos, sin = rotary
            q, k = (x * cos + rotate_half(x) * sin for x in (q, k))
        by_hand = self.eager or self.cap is not None
        context = self.by_hand(q, k, v, mask) if by_hand else self.in_one(q, k, v, mask)
        return self.out(context.transpose(1, 2).flatten(2))

    def in_one(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale, enable_gqa=self.groups > 1)

    def by_hand(self, q, k, v, mask):
        k, v = (x.repeat_interleave(self.groups, dim=1) for x in (k, v))
        scores = capped(q @ k.transpose(-1, -2) * self.scale, self.cap)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        return scores.softmax(-1) @ v


class FeedForward(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        self.config = config
        d, inner = sizes["model"], sizes["ffn"]
        self.fc1, self.fc2 = nn.Linear(d, inner, bias=config.ffn_bias), nn.Linear(inner, d, bias=config.ffn_bias)
        if config.gated:
            self.fc3 = nn.Linear(d, inner, bias=config.ffn_bias)

    def forward(self, x):
        inside = activate(self.config, self.fc1(x))
        return self.fc2(inside * self.fc3(x) if self.config.gated else inside)


class Stack(nn.Module):
    """A matrix for each expert, [in, out] as in the graph."""

    def __init__(self, experts, inner, outer):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, inner, outer))


class Experts(nn.Module):
    """Expert by expert, as transformers' Mixtral; tokens beyond an expert's capacity are left out, the last first."""

    def __init__(self, config, sizes):
        super().__init__()
        self.config, self.chosen, self.capacity = config, sizes["chosen"], sizes["capacity"]
        d, inner, number = sizes["model"], sizes["ffn"], sizes["experts"]
        self.router = nn.Linear(d, number, bias=False)
        self.fc1, self.fc2 = Stack(number, d, inner), Stack(number, inner, d)
        if config.gated:
            self.fc3 = Stack(number, d, inner)
        self.dropped = 0

    def forward(self, x):
        tokens = x.flatten(0, 1)
        gates, index = self.router(tokens).softmax(-1).topk(self.chosen)
        if self.config.experts.renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        made = torch.zeros_like(tokens)
        for expert in range(self.router.out_features):
            all_rows, all_choices = torch.where(index == expert)
            rows, choices = all_rows[: self.capacity], all_choices[: self.capacity]
            self.dropped += len(all_rows) - len(rows)
            inside = activate(self.config, tokens[rows] @ self.fc1.weight[expert])
            if self.config.gated:
                inside = inside * (tokens[rows] @ self.fc3.weight[expert])
            made = made.index_add(0, rows, inside @ self.fc2.weight[expert] * gates[rows, choices, None])
        return made.view_as(x)


class Layer(nn.Module):
    """Of an encoder, or of a decoder; with attention over an encoder's output if `cross`."""

    def __init__(self, config, sizes, cross=False):
        super().__init__()
        self.pre, sandwich = config.norm != "post", config.norm == "sandwich"
        self.self_attention = Attention(config, sizes)
        self.self_attention_norm = norm(config, sizes["model"])
        if cross:
            self.cross_attention = Attention(config, sizes)
            self.cross_attention_norm = norm(config, sizes["model"])
        for part in ("self_attention", *(["cross_attention"] if cross else []), "ffn"):
            self.add_module(f"{part}_post_norm", norm(config, sizes["model"]) if sandwich else nn.Identity())
        if getattr(config, "experts", None) is not None:
            self.experts = Experts(config, sizes)
        else:
            self.ffn = FeedForward(config, sizes)
        self.ffn_norm = norm(config, sizes["model"])

    def residual(self, x, name, part):
        norm, post_norm = (getattr(self, f"{name}_{which}") for which in ("norm", "post_norm"))
        return x + post_norm(part(norm(x))) if self.pre else norm(x + part(x))

    def forward(self, x, mask, memory=None, memory_mask=None, rotary=None):
        x = self.residual(x, "self_attention", lambda y: self.self_attention(y, y, mask, rotary))
        if memory is not None:
            x = self.residual(x, "cross_attention", lambda y: self.cross_attention(y, memory, memory_mask))
        return self.residual(x, "ffn", self.ffn if hasattr(self, "ffn") else self.experts)


class EncoderDecoder(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.offset = config.position_offset
        d = sizes["model"]
        self.embedding = nn.ModuleDict({"target": nn.Embedding(sizes["target_vocab"], d)})
        target = self.embedding["target"]
        self.embedding["source"] = target if config.tied == "all" else nn.Embedding(sizes["source_vocab"], d)
        for side in ("source", "target"):
            if config.positions == "learned":
                self.embedding[f"{side}_position_table"] = nn.Embedding(sizes["positions"], d)
            self.embedding[f"{side}_norm"] = norm(config, d) if config.embedding_norm else nn.Identity()
        self.encoder = nn.ModuleList(Layer(config, sizes) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(Layer(config, sizes, cross=True) for _ in range(config.decoder_layers))
        self.encoder_final_norm, self.decoder_final_norm = (
            norm(config, d) if config.final_norm else nn.Identity() for _ in range(2)
        )
        self.head = nn.ModuleDict({"logits": Table(d, sizes["target_vocab"], bias=False)})
        if config.tied != "none":
            self.head["logits"].weight = target.weight

    def embed(self, side, batch):
        ids, name = batch[f"embedding.{side}_ids"], f"{side}_position_table"
        table = self.embedding[name].weight if name in self.embedding else batch[f"embedding.{name}"]
        x = self.embedding[side](ids) * self.scale + table[self.offset : self.offset + ids.shape[1]]
        return self.embedding[f"{side}_norm"](x)

    def forward(self, batch):
        x, y = self.embed("source", batch), self.embed("target", batch)
        mask = attention_mask(batch.get("embedding.source_keep"))
        target_mask = attention_mask(batch.get("embedding.target_keep"), y.shape[1])
        for layer in self.encoder:
            x = layer(x, mask)
        x = self.encoder_final_norm(x)
        for layer in self.decoder:
            y = layer(y, target_mask, x, mask)
        return self.head["logits"](self.decoder_final_norm(y)) + batch.get("head.logits.bias", 0)


class EncoderClassifier(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        d = sizes["model"]
        self.config = config
        rows = {"tokens": "vocab", "positions": "positions"} | ({"types": "types"} if config.token_types else {})
        self.tables = tuple(rows)
        self.embedding = nn.ModuleDict({table: nn.Embedding(sizes[dim], d) for table, dim in rows.items()})
        self.embedding["norm"] = norm(config, d)
        self.encoder = nn.ModuleList(Layer(config, sizes) for _ in range(config.layers))
        self.head = nn.ModuleDict({"norm": norm(config, d) if config.norm != "post" else nn.Identity()})
        if config.task_head == "masked-lm":
            self.head["dense"], self.head["dense_norm"] = nn.Linear(d, d), norm(config, d)
            self.head["logits"] = Table(d, sizes["vocab"])
            self.head["logits"].weight = self.embedding["tokens"].weight
        else:
            self.head["dense"] = nn.Linear(d, sizes["pooled"])
            self.head["logits"] = nn.Linear(sizes["pooled"], sizes["classes"])

    def forward(self, batch):
        x = sum(self.embedding[table](batch[f"embedding.{table}.ids"]) for table in self.tables)
        x = self.embedding["norm"](x)
        for layer in self.encoder:
            x = layer(x, attention_mask(batch.get("embedding.keep")))
        x = self.head["norm"](x)
        if self.config.task_head == "masked-lm":
            x = self.head["dense_norm"](activate(self.config, self.head["dense"](x)))
        else:
            x = torch.tanh(self.head["dense"](x[:, 0]))
        return self.head["logits"](x)


class Decoder(nn.Module):
    def __init__(self, config, sizes):
        super().__init__()
        d = sizes["model"]
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.windows, self.local, self.cap = config.windows or (None,), config.local_rotary, config.logits_softcap
        self.embedding = nn.ModuleDict({"tokens": nn.Embedding(sizes["vocab"], d)})
        if config.positions == "learned":
            self.embedding["positions"] = nn.Embedding(sizes["positions"], d)
        self.decoder = nn.ModuleList(Layer(config, sizes) for _ in range(config.layers))
        self.decoder_final_norm = norm(config, d) if config.final_norm else nn.Identity()
        self.head = nn.ModuleDict({"logits": Table(d, sizes["vocab"], bias=False)})
        if config.tied:
            self.head["logits"].weight = self.embedding["tokens"].weight

    def forward(self, batch):
        ids = batch["embedding.tokens.ids"]
        x = self.embedding["tokens"](ids) * self.scale
        if "positions" in self.embedding:
            x = x + self.embedding["positions"](torch.arange(ids.shape[1]))
        for layer, window in zip(self.decoder, itertools.cycle(self.windows), strict=False):
            mask = attention_mask(batch.get("embedding.keep"), ids.shape[1], window)
            prefix = "embedding.local_" if self.local and window else "embedding."
            tables = None if "positions" in self.embedding else (batch[f"{prefix}cos"], batch[f"{prefix}sin"])
            x = layer(x, mask, rotary=tables)
        return capped(self.head["logits"](self.decoder_final_norm(x)), self.cap)


def adapt(model, lora):
    """Low-rank adapters beside the linear layers that are named so, as peft adds them."""

    def add(linear, arguments, y):
        return y + linear.lora_b(linear.lora_a(*arguments)) * (lora.alpha / lora.rank)

    for name, linear in list(model.named_modules()):
        if type(linear) is nn.Linear and any(fnmatchcase(name, glob) for glob in lora.targets):
            linear.lora_a = nn.Linear(linear.in_features, lora.rank, bias=False)
            linear.lora_b = nn.Linear(lora.rank, linear.out_features, bias=False)
            linear.register_forward_hook(add)


_MODELS = {"encoder-decoder": EncoderDecoder, "encoder-classifier": EncoderClassifier, "decoder": Decoder}


def make_model(config, sizes, eager):
    """`eager` attention: scores, softmax and context one by one, keys repeated; if not, PyTorch's one function."""
    model = _MODELS[config.family](config, sizes)
    if config.lora is not None:
        adapt(model, config.lora)
    for module in model.modules():
        if isinstance(module, Attention):
            module.eager = eager
    return model
