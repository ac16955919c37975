"""Real training on a sample of the corpus: fp32 learns, a plateau moves the schedule, costs follow the phases."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from costsim.errors import InputError
from costsim.policy.load import find_policy, load_policies
from costsim.reference import corpus
from costsim.reference.task import load_task
from costsim.reference.training import read_evaluations, spent, train, write_evaluations
from costsim.run import simulate
from costsim.run.job import Request, prepare

SAMPLE = corpus.read_pairs(Path(__file__).parent / "data" / "translation-sample.tsv")
PLATEAU = Path(__file__).parent.parent / "notebooks" / "training" / "dsq-plateau.yaml"
TINY = [
    *("model.d_model=16", "model.ffn_dim=24", "model.source_vocab=200", "model.target_vocab=150"),
    *("batch.sequences=8", "optimizer.lr=0.01"),
]


def task(steps):
    return load_task(SAMPLE, sets=[*TINY, f"training.steps={steps}"])


def plateau(folder):
    (folder / "dsq-plateau.yaml").write_text(PLATEAU.read_text().replace("threshold: 0.01", "threshold: 10.0"))
    return load_policies(find_policy(str(folder / "dsq-plateau.yaml")))


def test_fp32_learns_more_than_how_often_words_occur():
    words = task(120)
    last = train(words, load_policies(find_policy("fp32")), every=60)[-1]
    assert last.validation_loss < words.unigram_entropy


def test_a_plateau_of_this_very_run_raises_the_levels(tmp_path):
    policy = plateau(tmp_path)
    evaluations = train(task(12), policy, every=2)
    # Nothing gains 10 nats: the first evaluation is the best, the next two fill the patience, and so in each phase.
    assert [evaluation.phase for evaluation in evaluations] == [0, 0, 0, 1, 1, 2]
    assert (tmp_path / "dsq-plateau-losses.csv").read_text().startswith("step,loss\n2,")
    job = prepare(Request("translation-small", [str(tmp_path / "dsq-plateau.yaml")], assignments=["training.steps=12"]))
    counted = simulate.execute(job).policies[0]
    assert [phase.steps for phase in counted.phases] == [6, 4, 2]  # the recorded log is the schedule
    curve = spent(job, policy, evaluations)
    base = simulate.execute(job).baseline.total
    assert curve[-1].dram == pytest.approx(counted.total.dram_bits / base.dram_bits, rel=1e-12)
    assert curve[-1].arithmetic == pytest.approx(counted.total.arithmetic_cost / base.arithmetic_cost, rel=1e-12)


def test_the_same_seed_gives_the_same_losses():
    runs = [train(task(4), load_policies(find_policy("stash-bfp")), every=2, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_no_message_is_on_both_sides():
    parts = corpus.split(SAMPLE, 12, one_in=5)
    english = [{tuple(target) for _, target in part} for part in (parts.training, parts.validation)]
    assert english[0].isdisjoint(english[1])
    assert min(map(len, english)) > 20


def test_words_and_numbers():
    assert corpus.words("Save %(name)s <b>now</b>, {x}!") == ["save", "§", "§", "now", "§", ",", "§", "!"]
    known = corpus.vocabulary([["a", "b", "a"], ["c"]], 6)
    assert known.words[4:] == ("a", "b")
    assert known.encode(["b", "c"]) == [5, corpus.UNKNOWN]


def test_data_is_what_the_model_reads():
    words = task(1)
    ids, labels = words.training["embedding.target_ids"], words.training["head.labels"]
    assert (ids[:, 0] == corpus.START).all()
    lengths = (labels >= 0).sum(axis=1)
    assert (labels[np.arange(len(labels)), lengths - 1] == corpus.END).all()
    np.testing.assert_array_equal(ids[:, 1:][labels[:, 1:] >= 0], labels[:, :-1][labels[:, 1:] >= 0])


def catalogue(messages):
    """A .mo file, little-endian, as msgfmt writes it."""
    keys, values = zip(*sorted(messages.items()), strict=True)
    data, tables = io.BytesIO(), []
    start = 28 + 16 * len(keys)
    for side in (keys, values):
        table = []
        for text in side:
            raw = text.encode()
            table.append((len(raw), start + data.tell()))
            data.write(raw + b"\0")
        tables.append(table)
    head = struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, 0)
    return head + b"".join(struct.pack("<2I", *entry) for table in tables for entry in table) + data.getvalue()


def test_catalogues_are_read_from_wheels(tmp_path):
    header = "Content-Type: text/plain; charset=UTF-8\n"
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/locale/de/LC_MESSAGES/a.mo", catalogue({"": header, "Save": "Speichern", "Ä\nb": "c\td"}))
        wheel.writestr("a/locale/fr/LC_MESSAGES/a.mo", catalogue({"": header, "Save": "Enregistrer"}))
    pairs = corpus.read_packages(tmp_path)
    assert pairs == [("Save", "Speichern"), ("Ä\nb", "c\td")]
    path = corpus.write_pairs(tmp_path / "pairs.tsv", pairs)
    assert corpus.read_pairs(path) == [("Save", "Speichern"), ("Ä b", "c d")]


def test_logs_are_read_back(tmp_path):
    evaluations = train(task(2), load_policies(find_policy("fp32")), every=1)
    path = write_evaluations(tmp_path / "log.csv", evaluations, 5.0)
    again, entropy = read_evaluations(path)
    assert ([evaluation.step for evaluation in again], entropy) == ([1, 2], 5.0)
    assert again[-1].validation_loss == pytest.approx(evaluations[-1].validation_loss, abs=1e-6)
    path.write_text(path.read_text() + "x,1\n")
    with pytest.raises(InputError, match=r"log.csv:4: expected policy, step"):
        read_evaluations(path)


def test_bad_pairs(tmp_path):
    (tmp_path / "pairs.tsv").write_text("a\tb\nno tab\n")
    with pytest.raises(InputError, match=r"pairs.tsv:2: expected two sentences"):
        corpus.read_pairs(tmp_path / "pairs.tsv")
    with pytest.raises(InputError, match="No such file"):
        corpus.read_pairs(tmp_path / "missing.tsv")
