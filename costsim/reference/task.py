"""A real task to train on, small: a translation model and a corpus, as the numbers that the model reads.

The sentences are those of `corpus`; `training` trains on them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from costsim.graph.graph import Graph
from costsim.reference import corpus
from costsim.reference.numpy_ops import Array
from costsim.run.job import Request, prepare

Batch = dict[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A workload of the family encoder-decoder and the sentences to train it on, as numbers."""

    graph: Graph
    evaluation: Graph  # the same without dropout
    training: Batch
    validation: Batch
    unigram_entropy: float  # nats per word of the validation targets, by how often words occur in training
    steps: int


def _columns(sentences: Sequence[Sequence[int]], length: int) -> Array:
    """Numbers of words, padded to one length."""
    table = np.full((len(sentences), length), corpus.PADDING)
    for row, sentence in zip(table, sentences, strict=True):
        row[: len(sentence)] = sentence
    return table


def _sentences(
    parts: list[tuple[list[str], list[str]]], source: corpus.Vocabulary, target: corpus.Vocabulary, graph: Graph
) -> Batch:
    """All sentences as the data tensors of one large batch."""
    read = _columns([source.encode(german) for german, _ in parts], graph.sizes["source"])
    encoded = [target.encode(english) for _, english in parts]
    written = _columns([[corpus.START, *sentence] for sentence in encoded], graph.sizes["target"])
    labels = _columns([[*sentence, corpus.END] for sentence in encoded], graph.sizes["target"])
    return {
        "embedding.source_ids": read,
        "embedding.target_ids": written,
        "embedding.source_keep": read != corpus.PADDING,
        "embedding.target_keep": written != corpus.PADDING,
        "head.labels": np.where(labels == corpus.PADDING, -1, labels),
    }


def _unigram_entropy(training: Array, validation: Array, words: int) -> float:
    counts = np.bincount(training[training >= 0], minlength=words) + 1.0  # words that never occur count once
    chances = counts / counts.sum()
    return float(-np.log(chances[validation[validation >= 0]]).mean())


def load_task(pairs: Sequence[corpus.Pair], workload: str = "translation-small", sets: Sequence[str] = ()) -> Task:
    """A workload and a corpus. Raises InputError for a workload that does not fit."""
    job, still = (
        prepare(Request(workload, assignments=sets)),
        prepare(Request(workload, assignments=[*sets, "model.dropout=0.0"])),
    )
    graph = job.graph
    parts = corpus.split(pairs, longest=min(graph.sizes["source"], graph.sizes["target"] - 1))
    source = corpus.vocabulary((german for german, _ in parts.training), graph.sizes["source_vocab"])
    target = corpus.vocabulary((english for _, english in parts.training), graph.sizes["target_vocab"])
    training, validation = (_sentences(part, source, target, graph) for part in (parts.training, parts.validation))
    entropy = _unigram_entropy(training["head.labels"], validation["head.labels"], graph.sizes["target_vocab"])
    return Task(graph, still.graph, training, validation, entropy, job.convention.steps)


@cache
def _sinusoids(positions: int, width: int) -> Array:
    """Vaswani et al. 2017, section 3.5, sines then cosines."""
    angles = np.arange(positions)[:, None] / 10000 ** (2 * np.arange(width // 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def make_batch(graph: Graph, sentences: Batch, rows: Array) -> Batch:
    """The data tensors of some sentences."""
    batch = {name: values[rows] for name, values in sentences.items()}
    for side in ("source", "target"):
        length = graph.sizes[side]
        batch[f"embedding.{side}_positions"] = np.broadcast_to(np.arange(length), (len(rows), length))
        batch[f"embedding.{side}_position_table"] = _sinusoids(graph.sizes["positions"], graph.sizes["model"])
    return batch


def shuffled(sentences: Batch, size: int, seed: int) -> Iterator[Array]:
    """Rows of batches without end; each epoch in another order."""
    number, epoch = len(sentences["head.labels"]), 0
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(number)
        for start in range(0, number - size + 1, size):
            yield order[start : start + size]
        epoch += 1
