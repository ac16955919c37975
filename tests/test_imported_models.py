"""Imported configs against transformers: parameters, FLOPs, losses, gradients: data/transformers_losses.py."""

import json
from pathlib import Path

import numpy as np
import pytest
from data import gemma_losses
from data import transformers_losses as given

from costsim.huggingface.importer import workload_of
from costsim.reference.accuracy import gradient_of
from costsim.reference.execute import run
from costsim.run.job import Request, prepare

DATA = Path(__file__).parent / "data"
STORED = json.loads((DATA / "transformers_losses.json").read_text())


def prepared(tmp_path, config, *assignments):
    """The job of an imported config, by the YAML that is written."""
    given_as, path = tmp_path / "config.json", tmp_path / "model.yaml"
    given_as.write_text(json.dumps(config))
    path.write_text(workload_of(given_as).text)
    return prepare(Request(str(path), assignments=assignments))


def capacity_of(config):
    """Room in every expert for all tokens, which are not spread evenly."""
    number = next(
        (config[name] for name in ("num_experts", "num_local_experts", "n_routed_experts") if name in config), 0
    )
    return (f"model.experts.capacity_factor={number / config['num_experts_per_tok']}",) if number else ()


def tiny(tmp_path, stored, *assignments, whole=True):
    """The job of a tiny model, as transformers ran it: op by op, all pairs of tokens, without padding."""
    batch = {"sequences": given.SEQUENCES, "padding_mask": "false"}
    if stored["class"].startswith("Whisper"):
        batch |= {"target_tokens": given.TARGETS}
    elif stored["class"].endswith("ForConditionalGeneration"):
        batch |= {"source_tokens": given.TOKENS, "target_tokens": given.TARGETS}
    elif stored["class"].endswith("ForImageClassification"):
        del batch["padding_mask"]
    else:
        batch["tokens"] = given.TOKENS
    fixed = (f"batch.{name}={value}" for name, value in batch.items())
    dropless = capacity_of(stored["config"]) if whole else ()
    return prepared(tmp_path, stored["config"], *fixed, "attention_pairs=square", *dropless, *assignments)


def rotary(tokens, width, theta=1e4):
    """Cosines and sines as LlamaRotaryEmbedding makes them."""
    angles = np.outer(np.arange(tokens), theta ** (-np.arange(0, width, 2) / width))
    return np.tile(np.cos(angles), 2), np.tile(np.sin(angles), 2)


def distances(tokens, config):
    """By query and key: the row of DeBERTa's table. Far ones share rows, by the logarithm."""
    farthest = max(config.get("max_relative_positions", -1), 0) or config["max_position_embeddings"]
    buckets = config.get("position_buckets", 0)
    found = np.zeros((tokens, tokens), int)
    for query in range(tokens):
        for key in range(tokens):
            distance = abs(query - key)
            if (middle := buckets // 2) and distance > middle:
                far = np.log(distance / middle) / np.log((farthest - 1) / middle)
                distance = int(np.ceil(far * (middle - 1))) + middle
            span = buckets or farthest
            found[query, key] = np.clip(np.sign(query - key) * distance + span, 0, 2 * span - 1)
    return found


T5_BUCKETS = [given.T5[f"relative_attention_{name}"] for name in ("num_buckets", "max_distance")]


def buckets(tokens, number, farthest, both_ways):
    """Buckets [queries, keys] of distances: half of them one each, the others by the logarithm; T5, section 2.1."""
    found = np.zeros((tokens, tokens), int)
    share = number // 2 if both_ways else number
    for query in range(tokens):
        for key in range(tokens):
            distance = abs(key - query) if both_ways else max(query - key, 0)
            exact = share // 2
            if distance >= exact:
                far = exact + int(np.log(distance / exact) / np.log(farthest / exact) * (share - exact))
                distance = min(far, share - 1)
            found[query, key] = distance + (share if both_ways and key > query else 0)
    return found


def data_of(job, stored):
    """What transformers was given, by the names of the graph's tensors."""
    graph, batch = job.graph, given.batch_of(stored["class"])
    data = {}
    for tensor in graph.tensors.values():
        if tensor.role != "data" or tensor.name in graph.producer:
            continue
        shape, name = graph.shape(tensor.name), tensor.name.rpartition(".")[2]
        if name.endswith(("cos", "sin")):
            theta = 16e4 if stored["class"].startswith("Modern") and "local" not in name else 1e4
            data[tensor.name] = rotary(*shape, theta)[name.endswith("sin")]
        elif (name in ("ids", "source_ids") and ".tokens" in tensor.name) or name == "source_ids":
            data[tensor.name] = batch["input_ids"]
        elif name == "target_ids":
            data[tensor.name] = batch["decoder_input_ids"]
        elif name in ("labels", "targets"):
            labels = batch["labels"]
            if stored["class"].endswith("ForCausalLM"):
                labels = np.concatenate([labels[:, 1:], np.full((len(labels), 1), -1)], axis=1)
            data[tensor.name] = labels.reshape(shape)
        elif name == "pixels":  # patches row by row, each channel by channel
            images = batch["pixel_values"].reshape(given.SEQUENCES, 3, 3, 2, 3, 2)
            data[tensor.name] = images.transpose(0, 2, 4, 1, 3, 5).reshape(shape)
        elif name == "spectrograms":
            data[tensor.name] = batch["input_features"].transpose(0, 2, 1)
        elif name == "source_position_table":
            data[tensor.name] = gemma_losses.weight(tensor.name, np.prod(shape)).reshape(shape)
        elif name == "ids" and ".distances" in tensor.name:
            data[tensor.name] = distances(shape[0], stored["config"])
        elif name == "keep":
            data[tensor.name] = np.ones(shape, bool)
        elif name == "buckets":
            data[tensor.name] = buckets(shape[0], *T5_BUCKETS, both_ways="source" in tensor.name)
        elif "positions" in tensor.name:
            first = job.file.model.get("position_offset", 0)
            data[tensor.name] = np.broadcast_to(np.arange(shape[-1]) + first, shape)
        else:
            data[tensor.name] = np.zeros(shape, int if tensor.values == "index" else float)
    return data


@pytest.mark.parametrize("name", STORED["parameters"])
def test_parameters_of_real_configs_are_those_of_transformers(name, tmp_path):
    config = json.loads((DATA / "configs" / f"{name}.json").read_text())
    assert prepared(tmp_path, config).graph.parameters == STORED["parameters"][name]


@pytest.mark.parametrize("name", STORED["models"])
def test_parameters_and_flops_of_tiny_models(name, tmp_path):
    stored = STORED["models"][name]
    graph = tiny(tmp_path, stored, "model.attention=eager", whole=False).graph
    forward, backward = (
        sum(2 * graph.work(op)[0] for op in graph.ops if op.phase == phase) for phase in ("forward", "backward")
    )
    assert (graph.parameters, forward, backward) == (
        stored["parameters"],
        stored["flops_forward"],
        stored["flops_backward"],
    )


WAYS = [
    (name, way) for name in STORED["models"] for way in ("flash", "eager") if way == "eager" or "deberta" not in name
]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_losses_and_gradients_are_those_of_transformers(name, way, tmp_path):
    stored = STORED["models"][name]
    job = tiny(tmp_path, stored, f"model.attention={way}")
    graph = job.graph
    weights = {
        tensor.name: gemma_losses.weight(tensor.name, graph.elements(tensor.dims)).reshape(graph.shape(tensor.name))
        for tensor in graph.weights
    }
    assert set(weights) == set(stored["gradients"])
    ran = run(graph, weights, [data_of(job, stored)])
    assert ran.losses == [pytest.approx(stored["loss"], rel=1e-9)]
    for weight, kept in stored["gradients"].items():
        gradient = ran.values[gradient_of(graph, weight)].reshape(-1)
        norm, projection = gemma_losses.described(weight, gradient)
        assert norm == pytest.approx(kept[0], rel=1e-8, abs=1e-12), weight
        assert projection == pytest.approx(kept[1], rel=1e-8, abs=1e-8 * kept[0] + 1e-12), weight
