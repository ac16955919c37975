"""Hugging Face configs as workloads: parameters and MACs by arithmetic on the config, and what is refused."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import classifier_step, translation_step
from test_independent_model import gelu, layer, nll, norm

from costsim.cli import main
from costsim.errors import InputError
from costsim.huggingface import defaults
from costsim.huggingface.adapters import ADAPTERS, TEXT_MODELS
from costsim.huggingface.importer import workload_of
from costsim.models.families import family
from costsim.reference.draw import draw_batch, draw_weights
from costsim.reference.execute import run
from costsim.reference.validate import validate
from costsim.run.job import Request, prepare

CONFIGS = Path(__file__).parent / "data" / "configs"
RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))


def config_of(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


def write(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
    return path


def prepared(tmp_path, config):
    """The job of an imported config, by the YAML that is written."""
    path = tmp_path / "imported.yaml"
    path.write_text(workload_of(write(tmp_path, config)).text)
    return prepare(Request(str(path)))


def forward_macs(graph):
    return sum(graph.work(op)[0] for op in graph.ops if op.phase == "forward")


# --- parameters and MACs, by hand -------------------------------------------------------------------------------------
# Each gives (parameters, MACs of the forward) of a batch of b sequences of s tokens. Tables are counted once if tied;
# Marian's sinusoidal tables and the bias of BART's and Marian's logits are buffers, no parameters.


def gpt2(c, b, s):
    d, n, v = c["n_embd"], c["n_layer"], c["vocab_size"]
    weights = 3 * d * d + d * d + 2 * d * (4 * d)
    vectors = 3 * d + d + 4 * d + d + 2 * 2 * d
    parameters = v * d + c["n_positions"] * d + n * (weights + vectors) + 2 * d
    return parameters, b * s * (n * weights + v * d) + n * 2 * b * s * s * d


def llama(c, b, s, head=None, qkv_bias=False, qk_norm=False, experts=1, chosen=1, pairs=None):
    d, f, n, v = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["vocab_size"]
    h, k = c["num_attention_heads"], c["num_key_value_heads"]
    e = head or d // h
    attention = d * h * e + 2 * d * k * e + h * e * d
    router = d * experts if experts > 1 else 0
    vectors = 2 * d + (h + 2 * k) * e * qkv_bias + 2 * e * qk_norm
    tables = v * d if c["tie_word_embeddings"] else 2 * v * d
    parameters = tables + d + n * (attention + router + experts * 3 * d * f + vectors)
    macs = b * s * (n * (attention + router + chosen * 3 * d * f) + v * d) + n * 2 * b * h * (pairs or s * s) * e
    return parameters, macs


def mistral(c, b, s):
    """A window longer than the sequences leaves the triangle."""
    assert c["sliding_window"] >= s
    return llama(c, b, s, pairs=s * (s + 1) // 2)


def mixtral(c, b, s):
    return llama(c, b, s, experts=c["num_local_experts"], chosen=c["num_experts_per_tok"])


def gemma(c, b, s, norms=2, qk_norm=False, pattern=1):
    """Tied; a window in all layers but the last of each `pattern`, of which 1 stands for no windows at all."""
    d, n, h, e = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["head_dim"]
    parameters, macs = llama({**c, "tie_word_embeddings": True}, b, s, head=e, qk_norm=qk_norm)
    w = min(c.get("sliding_window", s), s)
    seen = {True: w * (w + 1) // 2 + (s - w) * w, False: s * (s + 1) // 2}
    pairs = sum(seen[i % pattern != pattern - 1] for i in range(n)) if pattern > 1 else n * s * s
    return parameters + n * (norms - 2) * d, macs + 2 * b * h * e * (pairs - n * s * s)


def encoder(c, b, s):
    """BERT's and RoBERTa's body: parameters and MACs."""
    d, f, n = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"]
    rows = c["vocab_size"] + c["max_position_embeddings"] + c["type_vocab_size"]
    weights, vectors = 4 * d * d + 2 * d * f, 4 * d + f + d + 2 * 2 * d
    return rows * d + 2 * d + n * (weights + vectors), n * (b * s * weights + 2 * b * s * s * d)


def masked_lm(c, b, s):
    d, v = c["hidden_size"], c["vocab_size"]
    parameters, macs = encoder(c, b, s)
    return parameters + (d * d + d) + 2 * d + v, macs + b * s * (d * d + d * v)


def classifier(c, b, s):
    d = c["hidden_size"]
    parameters, macs = encoder(c, b, s)
    return parameters + (d * d + d) + (d * 3 + 3), macs + b * (d * d + d * 3)


def seq2seq(c, b, s, learned):
    d, f, v = c["d_model"], c["encoder_ffn_dim"], c["vocab_size"]
    n, m = c["encoder_layers"], c["decoder_layers"]
    attention, ffn = 4 * d * d, 2 * d * f
    vectors = {"attention": 4 * d + 2 * d, "ffn": f + d + 2 * d}
    parameters = v * d + n * (attention + ffn) + m * (2 * attention + ffn)
    parameters += (n + 2 * m) * vectors["attention"] + (n + m) * vectors["ffn"]
    if learned:
        parameters += 2 * (c["max_position_embeddings"] + 2) * d + 2 * 2 * d  # rows, and layernorm_embedding
    square = 2 * b * s * s * d
    macs = n * (b * s * (attention + ffn) + square) + m * (b * s * (2 * attention + ffn) + 2 * square) + b * s * v * d
    return parameters, macs


GEMMAS = ("gemma-2b", "gemma-2-2b", "gemma-3-1b-it")
MODELS = {  # by config: the arithmetic, the published number of parameters
    "gpt2": (gpt2, 124_439_808),
    "llama-2-7b": (llama, 6_738_415_616),
    "llama-3-8b": (llama, 8_030_261_248),
    "mistral-7b-v0.1": (mistral, 7_241_732_096),
    "mixtral-8x7b": (mixtral, 46_702_792_704),
    "qwen2-0.5b": (lambda c, b, s: llama(c, b, s, qkv_bias=True), 494_032_768),
    "qwen2-7b": (lambda c, b, s: llama(c, b, s, qkv_bias=True), 7_615_616_512),
    "qwen3-0.6b": (lambda c, b, s: llama(c, b, s, head=128, qk_norm=True), 596_049_920),
    "gemma-2b": (gemma, 2_506_172_416),
    "gemma-2-2b": (lambda c, b, s: gemma(c, b, s, norms=4, pattern=2), 2_614_341_888),
    "gemma-3-1b-it": (lambda c, b, s: gemma(c, b, s, norms=4, qk_norm=True, pattern=6), 999_885_952),
    "bert-base-uncased": (masked_lm, 109_514_298),
    "roberta-base": (masked_lm, 124_697_433),
    "bart-base": (lambda c, b, s: seq2seq(c, b, s, learned=True), 139_420_416),
    "opus-mt-en-de": (lambda c, b, s: seq2seq(c, b, s, learned=False), 73_886_208),
}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_macs_of_real_models(name, tmp_path):
    config = config_of(name)
    arithmetic, published = MODELS[name]
    graph = prepared(tmp_path, config).graph
    longest = config.get("max_position_embeddings", config.get("n_positions"))
    usable = longest - 2 if config["model_type"] == "roberta" else longest
    assert (graph.parameters, forward_macs(graph)) == arithmetic(config, 8, min(usable, 1024))
    assert graph.parameters == published


NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))


def test_every_type_has_a_real_config():
    """Those without arithmetic here are held against transformers, in test_imported_models."""
    assert {config_of(name)["model_type"] for name in NAMES} == set(ADAPTERS)
    assert set(MODELS) <= set(NAMES)


@pytest.mark.parametrize(("name", "offset"), [("bert-base-uncased", 0), ("roberta-base", 2)])
def test_classification(name, offset, tmp_path):
    config = config_of(name)
    kind = {"bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification"}
    config |= {"architectures": [kind[config["model_type"]]], "id2label": {"0": "a", "1": "b", "2": "c"}}
    job = prepared(tmp_path, {**config, "classifier_dropout": None})
    assert job.file.model["head_dropout"] == 0.1  # hidden_dropout_prob
    graph = job.graph
    assert (graph.parameters, forward_macs(graph)) == classifier(config, 8, 512)
    dropouts = [op.name for op in graph.ops if op.phase == "forward" and re.match(r"head\..*dropout$", op.name)]
    assert dropouts == (["head.input_dropout"] if offset else []) + ["head.output_dropout"]
    job = prepared(tmp_path, {**config, "classifier_dropout": 0.0})
    assert not [op for op in job.graph.ops if op.name.startswith("head.") and op.kind.name == "dropout"]


SECTIONS = ("experts", "latent", "disentangled", "convolution")


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_complete(name, tmp_path):
    """Nothing is left to the family's defaults but adapters, and lengths that one number says."""
    job = prepared(tmp_path, config_of(name))
    assert [policy.name for policy in job.policies] == ["fp32", "bf16-mixed"]
    assert (job.baseline.name, job.convention.law, job.convention.traffic) == ("fp32", "product", "fused")
    assert (job.convention.scope, job.convention.steps) == ("step", 1000)
    module = family(job.file.model["family"])
    left_out = {"head", "tied", "swiglu_alpha", "max_positions"} | {
        name for name, field in module.Model.section_fields.items() if field.default is None
    }
    assert set(module.Model.section_fields) - set(job.file.model) <= left_out
    assert set(module.Batch.section_fields) - set(job.file.batch) <= {"lengths"}
    text = (tmp_path / "imported.yaml").read_text()
    for line in text.partition("\nbatch:")[2].splitlines():
        assert line == "" or line.endswith(":") or "# ours" in line, line
    headings = ("  family: " + job.file.model["family"], *(f"  {name}:" for name in SECTIONS))
    model = text.partition("\nmodel:")[2].partition("\nbatch:")[0]
    for line in model.splitlines():
        assert not line or "#" in line or line in headings, line


# --- traps ------------------------------------------------------------------------------------------------------------


def model_of(tmp_path, name, **changes):
    """The model section of a config with fields changed; those changed to `...` are left out."""
    config = {key: value for key, value in {**config_of(name), **changes}.items() if value is not ...}
    return prepared(tmp_path, config).file.model


@pytest.mark.parametrize(
    ("name", "changes", "ours"),
    [
        ("gpt2", {}, {"ffn_dim": 3072}),
        ("gpt2", {"n_inner": ...}, {"ffn_dim": 3072}),
        ("gpt2", {"n_inner": 1000}, {"ffn_dim": 1000}),
        ("gpt2", {"tie_word_embeddings": False}, {"tied": False}),
        ("gpt2", {"n_embd": ..., "hidden_size": 384}, {"d_model": 384, "ffn_dim": 1536}),
        ("llama-3-8b", {"num_key_value_heads": ...}, {"kv_heads": 32}),
        ("llama-3-8b", {"num_key_value_heads": None}, {"kv_heads": 32}),
        ("llama-3-8b", {"head_dim": 64}, {"head_dim": 64}),
        ("llama-3-8b", {"attention_bias": True}, {"qkv_bias": True, "out_bias": True, "ffn_bias": False}),
        ("llama-3-8b", {"mlp_bias": True}, {"qkv_bias": False, "ffn_bias": True}),
        ("llama-3-8b", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": ...}, {}),
        ("mistral-7b-v0.1", {"num_key_value_heads": ...}, {"kv_heads": 8}),
        ("qwen2-7b", {}, {"qkv_bias": True, "out_bias": False, "tied": False}),
        ("qwen2-7b", {"tie_word_embeddings": ...}, {"tied": False}),
        ("qwen3-0.6b", {"head_dim": ...}, {"head_dim": 128, "qk_norm": True}),
        ("qwen3-0.6b", {"layer_types": ["full_attention"] * 28}, {}),
        ("gemma-2b", {}, {"activation": "gelu_new", "head_dim": 256, "kv_heads": 1, "tied": True, "norm": "pre"}),
        ("gemma-2b", {"hidden_activation": None}, {"activation": "gelu_new", "zero_centered_norm": True}),
        ("gemma-2b", {"hidden_act": "silu"}, {"activation": "silu"}),
        ("gemma-2b", {"use_bidirectional_attention": False, "tie_word_embeddings": False}, {"tied": False}),
        ("gemma-2-2b", {}, {"norm": "sandwich", "attention_softcap": 50.0, "logits_softcap": 30.0, "qk_norm": False}),
        ("gemma-2-2b", {"attn_logit_softcapping": None, "final_logit_softcapping": ...}, {"attention_softcap": None}),
        ("gemma-2-2b", {"query_pre_attn_scalar": 144, "scale": ...}, {"query_pre_attn_scalar": 144.0}),
        ("gemma-2-2b", {"hidden_act": "silu"}, {"activation": "gelu_new", "scale_embedding": True}),
        ("gemma-3-1b-it", {}, {"qk_norm": True, "local_rotary": True, "logits_softcap": None, "norm": "sandwich"}),
        ("gemma-3-1b-it", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, {"local_rotary": True}),
        ("qwen3-30b-a3b", {"mlp_only_layers": [0, 2], "num_hidden_layers": 4}, {"ffn_dim": 6144, "head_dim": 128}),
        ("deepseek-v3", {}, {"head_dim": 192, "rotary_dim": 64, "query_pre_attn_scalar": 192 / 1.3688879454113936**4}),
        ("deepseek-v3", {"rope_scaling": None}, {"head_dim": 192}),
        ("roberta-base", {"hidden_act": "gelu_python"}, {"activation": "gelu"}),
        ("opus-mt-en-de", {}, {"activation": "silu", "scale_embedding": True, "tied": "all"}),
        (
            "opus-mt-en-de",
            {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 100},
            {"tied": "decoder", "source_vocab": 58101, "target_vocab": 100},
        ),
        ("opus-mt-en-de", {"decoder_vocab_size": None}, {"target_vocab": 58101}),
        ("bart-base", {}, {"max_positions": 1026, "position_offset": 2, "embedding_norm": True, "final_norm": False}),
    ],
)
def test_fields(name, changes, ours, tmp_path):
    model = model_of(tmp_path, name, **changes)
    assert {field: model[field] for field in ours} == ours


ACTIVE = {  # published, in billions (model cards and reports; without the embedding where they say so)
    "mixtral-8x7b": 12.9,
    "qwen1.5-moe-a2.7b": 2.7,
    "qwen3-30b-a3b": 3.3,
    "gpt-oss-20b": 3.6,
    "deepseek-v2-lite": 2.4,
    "deepseek-v3": 37,
}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name, tmp_path):
    graph = prepared(tmp_path, config_of(name)).graph
    config, table = config_of(name), graph.elements(graph.tensors["embedding.tokens.weight"].dims)
    ways = [graph.active_parameters - tables * table for tables in (0, 1)]
    assert min(abs(active / 1e9 - ACTIVE[name]) for active in ways) < 0.06 * ACTIVE[name]
    number = next(config[n] for n in ("num_experts", "num_local_experts", "n_routed_experts") if n in config)
    of_experts = [t for t in graph.weights if ".experts.fc" in t.name]
    idle = sum(graph.elements(t.dims) for t in of_experts) * (number - config["num_experts_per_tok"]) // number
    assert graph.parameters - graph.active_parameters == idle > 0


def test_experts(tmp_path):
    dense = [("qwen3-30b-a3b", {"mlp_only_layers": [0, 2], "num_hidden_layers": 4}), ("deepseek-v3", {})]
    assert [model_of(tmp_path, name, **more)["experts"]["dense_layers"] for name, more in dense] == [(0, 2), (0, 1, 2)]
    every_other = {"decoder_sparse_step": 2, "num_hidden_layers": 5}
    assert model_of(tmp_path, "qwen1.5-moe-a2.7b", **every_other)["experts"]["dense_layers"] == (0, 2, 4)
    model = model_of(tmp_path, "deepseek-v3")
    assert {name: model["experts"][name] for name in ("groups", "chosen_groups", "shared_ffn_dim", "scaling")} == {
        "groups": 8,
        "chosen_groups": 4,
        "shared_ffn_dim": 2048,
        "scaling": 2.5,
    }
    model = model_of(tmp_path, "mixtral-8x7b", num_local_experts=4)
    assert model["experts"] == {"number": 4, "chosen": 2, "renormalize": True, "capacity_factor": 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_older_and_newer_spellings_are_one_workload(name, tmp_path):
    config = config_of(name)
    spelled = {
        "torch_dtype": ("dtype", "bfloat16"),
        "rope_theta": ("rope_parameters", {"rope_type": "default", "rope_theta": 1e6}),
    }
    other = dict(config)
    for old, (new, value) in spelled.items():
        if other.pop(old, None) is not None:
            other[new] = value
    assert workload_of(write(tmp_path, other)) == workload_of(write(tmp_path, config))


WINDOWS = {  # what the config says, what the workload says: by layer, from the first again
    ("mistral-7b-v0.1", 512): ({"sliding_window": 512}, (512,), "window"),
    ("mistral-7b-v0.1", None): ({"sliding_window": None}, None, "square"),
    ("mixtral-8x7b", 512): ({"sliding_window": 512}, (512,), "window"),
    ("qwen2-7b", 512): (
        {"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 27},
        (*(None,) * 27, 512),
        "window",
    ),
    ("qwen3-0.6b", 512): (
        {
            "sliding_window": 512,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention", "full_attention"] * 14,
        },
        (512, None),
        "window",
    ),
    ("llama-2-7b", None): ({}, None, "square"),
    ("gemma-2b", None): ({}, None, "square"),
    ("gemma-2-2b", 4096): ({}, (4096, None), "window"),
    ("gemma-2-2b", 512): (
        {"sliding_window": 512, "layer_types": [*["full_attention"] * 25, "sliding_attention"]},
        (*(None,) * 25, 512),
        "window",
    ),
    ("gemma-2-2b", None): ({"sliding_window": None, "layer_types": ["full_attention"] * 26}, None, "square"),
    ("gemma-3-1b-it", 512): ({}, (*(512,) * 5, None), "window"),
    ("gemma-3-1b-it", 256): ({"sliding_window": 256, "sliding_window_pattern": 3}, (256, 256, None), "window"),
    ("gemma-3-1b-it", None): ({"sliding_window_pattern": 1}, None, "square"),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_and_the_pairs_that_are_counted(case, tmp_path):
    changes, windows, pairs = WINDOWS[case]
    job = prepared(tmp_path, {**config_of(case[0]), **changes})
    assert job.file.model.get("windows") == windows
    assert job.file.attention_pairs == pairs


def test_a_window_of_512_in_2048(tmp_path):
    """Megatron-LM, pull request 3280: 512 * 513 / 2 + 1536 * 512 pairs, where the square has 4,194,304."""
    path = tmp_path / "swa.yaml"
    path.write_text(workload_of(write(tmp_path, {**config_of("mistral-7b-v0.1"), "sliding_window": 512})).text)
    graph = prepare(Request(str(path), assignments=("batch.tokens=2048", "batch.sequences=1"))).graph
    for op in graph.ops:
        if op.name in ("decoder.0.self_attention.scores", "decoder.31.self_attention.context"):
            assert graph.work(op)[0] == 32 * 128 * 917_760


@pytest.mark.parametrize(
    ("name", "changes", "notes"),
    [
        ("mistral-7b-v0.1", {}, ()),
        ("mistral-7b-v0.1", {"sliding_window": ...}, ()),
        ("mistral-7b-v0.1", {"sliding_window": None}, ()),
        ("mixtral-8x7b", {"sliding_window": ...}, ()),
        ("qwen2-7b", {}, ("sliding_window 131072 is not used",)),
        ("qwen2-7b", {"use_sliding_window": True}, ("sliding_window 131072 is not used: no layer has it",)),
        ("qwen2-7b", {"use_sliding_window": True, "max_window_layers": 4}, ()),
        ("gemma-3-1b-it", {}, ()),
        ("gemma-3-1b-it", {"sliding_window_pattern": 1}, ("sliding_window 512 is not used: no layer has it",)),
        ("gpt2", {"architectures": ...}, ("architectures does not say the class; GPT2LMHeadModel is taken",)),
        ("bert-base-uncased", {"architectures": None}, ("architectures does not say the class; BertForMaskedLM",)),
        ("bart-base", {}, ("BartModel has no head; BartForConditionalGeneration is taken",)),
        ("bart-base", {"architectures": ["BartForConditionalGeneration"]}, ()),
    ],
)
def test_notes_are_in_the_file_and_on_stderr(name, changes, notes, tmp_path):
    config = {key: value for key, value in {**config_of(name), **changes}.items() if value is not ...}
    result = RUNNER.invoke(main, ["import", str(write(tmp_path, config))])
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert len(lines) == len(notes)
    for line, note in zip(lines, notes, strict=True):
        assert line.startswith(f"costsim: {note}")
        assert f"# Note: {line.removeprefix('costsim: ')}.\n" in result.stdout


# --- what transformers takes for keys that are not given -------------------------------------------------------------

WRITTEN = json.loads((CONFIGS.parent / "transformers_configs.json").read_text())  # by transformers, every key given
TYPES = json.loads((Path(defaults.__file__).with_suffix(".json")).read_text())["types"]


def fields_of(tmp_path, config):
    """What an imported workload says, without comments, names and notes."""
    fields = yaml.safe_load(workload_of(write(tmp_path, config)).text)
    model = fields["model"]
    if "head_dim" in model and model["head_dim"] is None:
        model["head_dim"] = model["d_model"] // model["heads"]
    return fields | {"description": ""}


def bare(name):
    """The least that a config of a type must say: what transformers leaves open, or its two versions disagree on."""
    return {"model_type": name, **({"num_experts_per_tok": 6, "vocab_size": 9} if name == "deepseek_v2" else {})}


@pytest.mark.parametrize("version", WRITTEN)
@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_writes_of_a_config_is_the_same_workload(name, version, tmp_path):
    assert fields_of(tmp_path, WRITTEN[version][name]) == fields_of(tmp_path, config_of(name))


@pytest.mark.parametrize("version", WRITTEN)
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_config_that_gives_only_its_type_has_the_defaults_of_transformers(name, version, tmp_path):
    assert fields_of(tmp_path, bare(name)) == fields_of(tmp_path, {**WRITTEN[version][name], **bare(name)})


DEFAULT_MODELS = {  # whose sizes the defaults are: published numbers of parameters
    "gpt2": 124_439_808,  # gpt2
    "llama": 6_738_415_616,  # llama-2-7b
    "mistral": 7_241_732_096,  # mistral-7b
    "mixtral": 46_702_792_704,  # mixtral-8x7b
    "gemma": 8_537_680_896,  # gemma-7b
    "gemma2": 2_614_341_888,  # gemma-2-2b
    "bert": 109_514_298,  # bert-base-uncased
    "bart": 406_291_456,  # bart-large
}


@pytest.mark.parametrize("name", DEFAULT_MODELS)
def test_the_model_that_the_defaults_are(name, tmp_path):
    assert prepared(tmp_path, {"model_type": name}).graph.parameters == DEFAULT_MODELS[name]


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_key_with_its_default_changes_nothing(name, tmp_path):
    plain = fields_of(tmp_path, bare(name))
    for key, value in defaults.defaults_of(name).items():
        assert fields_of(tmp_path, {key: value, **bare(name)}) == plain, key


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_key_that_we_know_nothing_of_is_refused_with_another_value(name, tmp_path):
    for key in ("is_decoder", "add_cross_attention", "tie_encoder_decoder"):
        assert defaults.defaults_of(name)[key] is False
        with pytest.raises(InputError, match=rf":\d+:\d+: {key}: not modelled: true \(known: false\)"):
            workload_of(write(tmp_path, {**bare(name), key: True}))


def test_sizes_that_a_config_does_not_give_are_named(tmp_path):
    left_out = ("d_model", "encoder_layers", "decoder_layers", "scale_embedding")
    config = {key: value for key, value in config_of("bart-base").items() if key not in left_out}
    sizes = {"num_hidden_layers": 12, "encoder_attention_heads": 16, "decoder_attention_heads": 16}
    notes = workload_of(write(tmp_path, {**config, **sizes})).notes  # encoder_layers has another spelling
    assert notes[1:] == ("not given, so transformers' defaults are taken: d_model 1024, decoder_layers 12",)


def test_types_of_transformers_are_no_misspellings(tmp_path):
    others = {name for names in TYPES.values() for name in names} - set(ADAPTERS) - set(TEXT_MODELS)
    assert len(others) > 800
    assert {"gpt_bigcode", "bloom", "beit", "llama4", "qwen3_5", "albert", "code_llama"} < others
    for name in others:
        with pytest.raises(InputError) as caught:
            workload_of(write(tmp_path, {"model_type": name}))
        version = "5.24.0" if name in TYPES["5.24.0"] else "4.57.6"
        end = f"model_type: {name} is a type of transformers {version} that costsim does not import {KNOWN}"
        assert str(caught.value).endswith(end)


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("lama", "'llama'"),
        ("qwen_2", "'qwen2'"),
        ("mistrl", "'mistral'"),
        ("mixtrl", "'mixtral'"),
        ("Llama", "'llama'"),
        ("gtp2", "'gpt2'"),
        ("robreta", "'roberta'"),
        ("gpt_oss2", "'gpt_oss'"),
        ("internlm2", None),
        ("chatglm", None),
        ("baichuan", None),
    ],
)
def test_types_that_are_near(name, offered, tmp_path):
    with pytest.raises(InputError) as caught:
        workload_of(write(tmp_path, {"model_type": name}))
    said = f"; did you mean {offered}?" if offered else ""
    assert str(caught.value).endswith(f'unknown type "{name}"{said} {KNOWN}')


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_or_writes_the_same(tmp_path):
    config = str(CONFIGS / "gpt2.json")
    printed = RUNNER.invoke(main, ["import", config])
    assert (printed.exit_code, printed.stderr) == (0, "")
    out = tmp_path / "gpt2.yaml"
    written = RUNNER.invoke(main, ["import", config, "--out", str(out)])
    assert (written.exit_code, written.stdout, written.stderr) == (0, f"{out}\n", "")
    assert out.read_text() == printed.stdout == workload_of(config).text


def test_run_takes_it_as_it_is(tmp_path):
    out = tmp_path / "model.yaml"
    out.write_text(workload_of(write(tmp_path, {**config_of("qwen3-0.6b"), "num_hidden_layers": 2})).text)
    result = RUNNER.invoke(main, ["run", str(out), "--format", "csv"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split(",")[0] for line in result.stdout.splitlines()] == ["policy", "fp32", "bf16-mixed"]


@pytest.mark.parametrize("name", ["a: b # c", "'\"\\{}[]&*", "x\ny", "é \u2028 \U0001f600", ""])
def test_a_name_cannot_break_the_file(name, tmp_path):
    config = {**config_of("gpt2"), "n_layer": 1, "_name_or_path": name}
    assert prepared(tmp_path, config).file.model["layers"] == 1


# --- what is refused --------------------------------------------------------------------------------------------------

KNOWN = f"(known: {', '.join(sorted(ADAPTERS))})"
REFUSED = {  # the config, fields changed, the error from its field on
    "no type": ("gpt2", {"model_type": ...}, f"model_type: missing {KNOWN}"),
    "type": ("gpt2", {"model_type": "xlnot"}, f'model_type: unknown type "xlnot" {KNOWN}'),
    "near type": ("gpt2", {"model_type": "lama"}, "model_type: unknown type \"lama\"; did you mean 'llama'?"),
    "type a list": ("gpt2", {"model_type": ["gpt2"]}, 'model_type: unknown type ["gpt2"]'),
    "class": (
        "gpt2",
        {"architectures": ["GPT2ForSequenceClassification"]},
        "architectures: the head of 'GPT2ForSequenceClassification' is not modelled (known: GPT2LMHeadModel)",
    ),
    "class of bert": (
        "bert-base-uncased",
        {"architectures": ["BertForPreTraining"]},
        "architectures: the head of 'BertForPreTraining' is not modelled "
        "(known: BertForMaskedLM, BertForSequenceClassification)",
    ),
    "base with a pooler": ("bert-base-uncased", {"architectures": ["BertModel"]}, "architectures: the head of"),
    "two classes": ("gpt2", {"architectures": ["A", "B"]}, "architectures: expected a list of one class"),
    "unknown field": (
        "llama-2-7b",
        {"attention_multiplier": 2.0},
        "attention_multiplier: not understood, and it may change the architecture",
    ),
    "mistyped field": ("gpt2", {"n_inners": 5}, "n_inners: not understood, and it may change the architecture; did"),
    "quantized": ("llama-2-7b", {"quantization_config": {"bits": 4}}, "quantization_config: not understood"),
    "half of two widths": ("bart-base", {"encoder_ffn_dim": ...}, "decoder_ffn_dim: 4096 (encoder_ffn_dim is not giv"),
    "null": ("llama-2-7b", {"hidden_size": None}, "hidden_size: expected an integer from 1 to"),
    "text": (
        "llama-2-7b",
        {"hidden_size": "4096"},
        "hidden_size: expected an integer from 1 to 1000000000000000000, g",
    ),
    "bool": ("llama-2-7b", {"num_hidden_layers": True}, "num_hidden_layers: expected an integer from 1"),
    "zero": ("llama-2-7b", {"num_hidden_layers": 0}, "num_hidden_layers: expected an integer from 1"),
    "layers": (
        "llama-2-7b",
        {"num_hidden_layers": 5000},
        "model.layers: expected at most 1000, got 5000 (layers is nu",
    ),
    "rate": ("gpt2", {"attn_pdrop": 1.5}, "attn_pdrop: expected a rate from 0 to below 1, got 1.5"),
    "huge rate": ("gpt2", {"attn_pdrop": 10**400}, "attn_pdrop: expected a rate from 0 to below 1, got 1000"),
    "window switch": ("qwen2-7b", {"use_sliding_window": "no"}, "use_sliding_window: not modelled"),
    "activation": ("llama-2-7b", {"hidden_act": "xielu"}, 'hidden_act: not modelled: "xielu"'),
    "heads": (
        "gpt2",
        {"n_head": 7},
        "model: d_model 768 does not divide into 7 heads (d_model is n_embd, heads is n_head)",
    ),
    "groups": (
        "llama-3-8b",
        {"num_key_value_heads": 5},
        "model: 32 heads do not divide into 5 kv_heads (heads is num_attention_heads, kv_heads is num_key_value_heads)",
    ),
    "experts": ("mixtral-8x7b", {"num_experts_per_tok": 9}, "model.experts: 9 experts chosen of 8"),
    "spellings": (
        "gpt2",
        {"hidden_size": 1024},
        "hidden_size: 768 (n_embd) and 1024 (hidden_size) differ, but the family has one d_model",
    ),
    "two dropouts": ("gpt2", {"embd_pdrop": 0.2}, "embd_pdrop: 0.1 (resid_pdrop) and 0.2 (embd_pdrop) differ"),
    "a dropout by default": (
        "gpt2",
        {"embd_pdrop": 0.2, "resid_pdrop": ...},
        "embd_pdrop: 0.1 (resid_pdrop is not given, transformers' default) and 0.2 (embd_pdrop) differ",
    ),
    "two widths": ("bart-base", {"decoder_ffn_dim": 1024}, "decoder_ffn_dim: 3072 (encoder_ffn_dim) and 1024"),
    "activation of the head": (
        "roberta-base",
        {"hidden_act": "relu"},
        "hidden_act: relu (hidden_act) and gelu (so in every roberta) differ, but the family has one activation",
    ),
    "scaled attention": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: not mod"),
    "a flag as a number": ("gpt2", {"scale_attn_weights": 1}, "scale_attn_weights: not modelled: 1 (known: true)"),
    "cross attention": (
        "gpt2",
        {"add_cross_attention": True},
        "add_cross_attention: not modelled: true (known: false)",
    ),
    "pruned": ("bert-base-uncased", {"pruned_heads": {"0": [1]}}, "pruned_heads: not modelled"),
    "relative": ("bert-base-uncased", {"position_embedding_type": "relative_key"}, "position_embedding_type: not mod"),
    "untied": ("bert-base-uncased", {"tie_word_embeddings": False}, "tie_word_embeddings: not modelled: false"),
    "a decoder": ("bert-base-uncased", {"is_decoder": True}, "is_decoder: not modelled: true (known: false)"),
    "regression": (
        "bert-base-uncased",
        {"architectures": ["BertForSequenceClassification"], "num_labels": 1},
        "num_labels: one class is a regression, whose loss is not modelled",
    ),
    "labels": (
        "bert-base-uncased",
        {"architectures": ["BertForSequenceClassification"], "num_labels": 3, "id2label": {"0": "a", "1": "b"}},
        "num_labels: 2 (id2label) and 3 (num_labels) differ",
    ),
    "many labels": (
        "bert-base-uncased",
        {"architectures": ["BertForSequenceClassification"], "problem_type": "multi_label_classification"},
        "problem_type: not modelled",
    ),
    "linear attention": (
        "qwen3-0.6b",
        {"layer_types": ["linear_attention"] * 28},
        'layer_types: not modelled: "linear_attention"',
    ),
    "layer types": ("qwen3-0.6b", {"layer_types": ["full_attention"]}, "layer_types: 1 layers, but num_hidden_layers"),
    "rope": ("llama-2-7b", {"rope_scaling": {"mrope_section": [1]}}, "rope_scaling: unknown field 'mrope_section'"),
    "rope type": ("llama-2-7b", {"rope_scaling": {"type": "mrope"}}, "rope_scaling: type is not modelled"),
    "part of a head": (
        "llama-2-7b",
        {"rope_parameters": {"partial_rotary_factor": 0.5}},
        "rope_parameters: not modell",
    ),
    "part of a head, older": ("llama-2-7b", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: not modelled"),
    "window": ("mistral-7b-v0.1", {"sliding_window": "big"}, "sliding_window: expected an integer"),
    "windows of no size": (
        "gemma-2-2b",
        {"sliding_window": None},
        "layer_types: sliding_attention without a window: sliding_window is null",
    ),
    "pattern of windows": ("gemma-3-1b-it", {"sliding_window_pattern": 0}, "sliding_window_pattern: expected an inte"),
    "both ways": (
        "gemma-3-1b-it",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention: not modelled: true (known: null, false)",
    ),
    "caps that transformers leaves out": (
        "gemma-3-1b-it",
        {"attn_logit_softcapping": 50.0},
        "attn_logit_softcapping: not modelled: 50.0 (known: null)",
    ),
    "cap": ("gemma-2-2b", {"final_logit_softcapping": 0}, "final_logit_softcapping: expected a number above 0, got 0"),
    "two activations": ("gemma-2b", {"hidden_activation": "silu"}, "hidden_activation: gelu_new (hidden_act; gelu by"),
    "rope of layers": (
        "gemma-3-1b-it",
        {"rope_parameters": {"full_attention": {"rope_type": "mrope"}}},
        "rope_parameters: rope_type is not modelled",
    ),
    "rope of other layers": (
        "gemma-3-1b-it",
        {"rope_parameters": {"chunked_attention": {}}},
        "rope_parameters: unknown field 'chunked_attention'",
    ),
    "auxiliary loss": ("mixtral-8x7b", {"output_router_logits": True}, "output_router_logits: not modelled: true"),
    "layer drop": ("bart-base", {"encoder_layerdrop": 0.1}, "encoder_layerdrop: not modelled: 0.1 (known: 0.0)"),
    "pre-norm": ("opus-mt-en-de", {"normalize_before": True}, "normalize_before: not modelled: true (known: false)"),
    "two vocabularies, tied": ("opus-mt-en-de", {"decoder_vocab_size": 9}, "model: tied: all needs one vocabulary"),
    "no room": ("roberta-base", {"max_position_embeddings": 2}, "batch.tokens: expected at least 1, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path):
    name, changes, expected = REFUSED[case]
    config = {key: value for key, value in {**config_of(name), **changes}.items() if value is not ...}
    path = write(tmp_path, config)
    out = tmp_path / "out.yaml"
    result = RUNNER.invoke(main, ["import", str(path), "--out", str(out)])
    assert (result.exit_code, result.stdout, out.exists()) == (2, "", False)
    match = re.fullmatch(rf"costsim: {re.escape(str(path))}:(\d+):(\d+): (.*)\n", result.stderr)
    assert match, result.stderr
    assert match[3].startswith(expected)
    field = expected.partition(":")[0]
    if field in config:  # the place is the field's
        assert path.read_text().splitlines()[int(match[1]) - 1].lstrip().startswith(f'"{field}"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"model_type": "gpt2",\n "n_embd" 7}', ":2:11: not valid JSON: expecting ':' delimiter"),
        ("", ":1:1: not valid JSON: expecting value"),
        ("model_type: gpt2\n", ":1:1: not valid JSON: expecting value"),
        ('["gpt2"]', ':1:1: expected an object, got ["gpt2"]'),
        *(
            (f'{{"a": ["NaN {{[\\"", 3e300],\n "n_embd": {number}}}', f":2:12: {message}")
            for number, message in (
                ("NaN", "not valid JSON: NaN is no JSON number"),
                ("-Infinity", "not valid JSON: -Infinity is no JSON number"),
                ("1" * 5000, "a number of 5000 digits is out of range"),
                ("0." + "1" * 5000, "a number of 5001 digits is out of range"),
            )
        ),
        ("[" * 100_000, ":1:33: nested more than 32 deep"),
        ('{"a":\n' + "[{" * 20, ":2:32: nested more than 32 deep"),
        ('{"a": "NaN', ":1:7: not valid JSON: unterminated string"),
        ('{"a": 1,\n  "a" : 2}', ":2:3: duplicate key 'a', first on line 1"),
        ('{"b": {"a": 1,\n  "c": {}, "a" : 2}}', ":2:12: duplicate key 'a', first on line 1"),
        ('\n { "model_type" :\n"x"}', ':2:4: model_type: unknown type "x"'),
        ('{"model_type": "gpt2"} x', ":1:24: not valid JSON: extra data"),
        ("{}", ":1:1: model_type: missing"),
    ],
)
def test_bad_json(text, expected, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        workload_of(path)
    assert any(fault.startswith(f"{path}{expected}") for fault in str(caught.value).split("\n"))


def test_no_such_file(tmp_path):
    result = RUNNER.invoke(main, ["import", str(tmp_path / "none.json")])
    assert (result.exit_code, result.stderr) == (2, f"costsim: {tmp_path}/none.json: No such file or directory\n")


# --- a text model inside another --------------------------------------------------------------------------------------

INSIDE = {  # as google/gemma-3-4b-it has it
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def test_the_text_model_inside_a_model_of_images(tmp_path):
    imported = workload_of(write(tmp_path, INSIDE))
    assert imported.notes[0] == "text_config of a gemma3 is taken; what reads images is not counted"
    graph = prepared(tmp_path, INSIDE).graph
    # keras-hub's gemma3_4b_text has 3,880,099,328 parameters; its table has 64 rows less.
    assert graph.parameters == 3_880_099_328 + 64 * 2560
    inner = {**INSIDE["text_config"], "_name_or_path": "google/gemma-3-4b-it"}
    assert fields_of(tmp_path, inner) == fields_of(tmp_path, {**INSIDE, "_name_or_path": "google/gemma-3-4b-it"})
    untyped = {key: value for key, value in INSIDE["text_config"].items() if key != "model_type"}
    assert fields_of(tmp_path, {**INSIDE, "text_config": untyped}) == fields_of(tmp_path, inner)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (..., 6, "model_type: the text model of a gemma3 is read from text_config, an object; or import a gemma3_text"),
        (None, 7, "text_config: the text model of a gemma3 is read from text_config, an object"),
        ({**INSIDE["text_config"], "hidden_size": 0}, 8, "hidden_size: expected an integer from 1"),
        ({**INSIDE["text_config"], "model_type": "gemma4_text"}, 10, "model_type: gemma4_text is a type of transform"),
    ],
)
def test_faults_of_a_text_model_have_their_own_lines(text, line, expected, tmp_path):
    config = {key: value for key, value in {**INSIDE, "text_config": text}.items() if value is not ...}
    with pytest.raises(InputError, match=rf":{line}:\d+: {re.escape(expected)}"):
        workload_of(write(tmp_path, config))


# --- the parts that importing added to the families -------------------------------------------------------------------


SHIPPED_ALIKE = ("gpt2", "llama-2-7b", "mistral-7b-v0.1", "qwen2-7b", "roberta-base")  # test_validate runs their kind


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SHIPPED_ALIKE])
def test_the_graph_runs_as_counted_with_right_gradients(name, tmp_path):
    validation = validate(prepared(tmp_path, config_of(name)), 1, 0)
    assert validation.passed


def masked_lm_by_hand(w, batch):
    x = sum(w[f"embedding.{t}.weight"][batch[f"embedding.{t}.ids"]] for t in ("tokens", "positions", "types"))
    x = norm(x, w, "embedding.norm")
    for i in range(2):
        x = layer(x, w, f"encoder.{i}", batch["embedding.keep"], gelu, False)
    x = gelu(x @ w["head.dense.weight"] + w["head.dense.bias"])
    x = norm(x, w, "head.dense_norm")
    return nll(x @ w["embedding.tokens.weight"].T + w["head.logits.bias"], batch["head.labels"], 0.0)


def bart_by_hand(w, batch):
    table = w["embedding.target.weight"]

    def embed(side):
        rows = w[f"embedding.{side}_position_table"][batch[f"embedding.{side}_positions"]]
        return norm(table[batch[f"embedding.{side}_ids"]] + rows, w, f"embedding.{side}_norm")

    keep = batch["embedding.source_keep"]
    x, y = embed("source"), embed("target")
    x = layer(x, w, "encoder.0", keep, gelu, False)
    for i in range(2):
        y = layer(y, w, f"decoder.{i}", batch["embedding.target_keep"], gelu, False, x, keep)
    return nll(y @ table.T + batch["head.logits.bias"], batch["head.labels"], 0.1)


BART = {
    "target_vocab": 11,
    "tied": "all",
    "positions": "learned",
    "scale_embedding": False,
    "embedding_norm": True,
    "logits_bias": True,
    "activation": "gelu",
}
BY_HAND = {
    "masked-lm": (
        classifier_step,
        {"task_head": "masked-lm", "classes": None, "activation": "gelu"},
        masked_lm_by_hand,
    ),
    "bart": (translation_step, BART, bart_by_hand),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_the_loss_is_that_of_plain_numpy(case):
    step, options, by_hand = BY_HAND[case]
    graph = step(**options)
    rng = np.random.default_rng(0)
    weights, batch = draw_weights(graph, rng), draw_batch(graph, rng)
    values = run(graph, weights, [batch]).values
    assert values["head.cross_entropy"] == pytest.approx(by_hand(weights, batch), rel=1e-12)


@pytest.mark.parametrize(
    ("step", "options", "batch", "expected"),
    [
        (
            classifier_step,
            {"position_offset": 2},
            {"tokens": 6},
            "max_positions 7, 2 of them unused, is less than the sequences' 6 tokens, for which it has to be 8",
        ),
        (
            translation_step,
            {"position_offset": 5},
            {},
            "max_positions 9, 5 of them unused, is less than the sentences'",
        ),
        (classifier_step, {"task_head": "masked-lm"}, {}, "task_head masked-lm has no classes"),
        (classifier_step, {"classes": None}, {}, "task_head roberta needs classes"),
    ],
)
def test_what_the_families_refuse(step, options, batch, expected):
    with pytest.raises((ValueError, InputError), match=expected):
        step(batch=batch, **options)
