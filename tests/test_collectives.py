"""Collectives against ranks that really pass their shards on: what each sends, and how often one waits for another."""

from fractions import Fraction
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest

from costsim.cost.collectives import ALGORITHMS, Message, algorithm_of, sent_bits, steps
from costsim.devices.profile import load_hardware
from costsim.errors import InputError
from costsim.inputs.schema_workload import Algorithms
from costsim.results.sent import link_records, sent_records
from costsim.run.job import Request, prepare
from costsim.run.simulate import execute

RANKS = (1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 32)


class Network:
    """Ranks in rounds: what is sent in a round was there before it. Counts the shards that each rank sends."""

    def __init__(self, ranks):
        self.sent, self.rounds = [Fraction(0)] * ranks, 0

    def round(self, sends):
        """Deliver (from, to, {shard: value}) all at once; a shard may be a pair, of which the second is its size."""
        sends = [send for send in sends if send[2]]
        for source, target, shards in sends:
            assert source != target
            self.sent[source] += sum(shard[1] if isinstance(shard[1], Fraction) else 1 for shard in shards)
        self.rounds += bool(sends)
        return sends


def gather(network, n, partners):
    """Every rank starts with its own shard; `partners(step, rank, held)` says to whom it sends what of it."""
    held = [{(rank, 0): rank * rank} for rank in range(n)]
    step = 0
    while any(len(each) < n for each in held):
        sends = [(rank, *partners(step, rank, held[rank])) for rank in range(n)]
        for _, target, shards in network.round([s for s in sends if s[1] != s[0]]):
            held[target] = held[target] | shards
        step += 1
    assert all(each == {(rank, 0): rank * rank for rank in range(n)} for each in held)


def ring_all_gather(network, n):
    gather(network, n, lambda k, r, held: ((r + 1) % n, {((r - k) % n, 0): held[(r - k) % n, 0]}))


def recursive_all_gather(network, n):
    gather(network, n, lambda k, r, held: (r ^ (1 << k), dict(held)))


def bruck_all_gather(network, n):
    def partner(k, r, held):
        first = [((r + i) % n, 0) for i in range(min(1 << k, n - (1 << k)))]
        return (r - (1 << k)) % n, {shard: held[shard] for shard in first}

    gather(network, n, partner)


def direct_all_gather(network, n):
    sends = [(a, b, {(a, 0): a}) for a in range(n) for b in range(n) if a != b]
    held = [{a} for a in range(n)]
    for source, target, _ in network.round(sends):
        held[target].add(source)
    assert all(each == set(range(n)) for each in held)


def parts(n):
    """Of each rank: a value for each shard, and what each shard sums up to."""
    values = [{(shard, 0): (rank + 1) * 100**shard for shard in range(n)} for rank in range(n)]
    return values, {(shard, 0): 100**shard * n * (n + 1) // 2 for shard in range(n)}


def add(values, sends):
    for _, target, shards in sends:
        for shard, value in shards.items():
            values[target][shard] += value


def ring_reduce_scatter(network, n):
    values, sums = parts(n)
    for k in range(n - 1):
        turn = [(r, (r + 1) % n, {((r - 1 - k) % n, 0): values[r][(r - 1 - k) % n, 0]}) for r in range(n)]
        add(values, network.round(turn))
    assert all(values[r][r, 0] == sums[r, 0] for r in range(n))
    return values


def recursive_reduce_scatter(network, n):
    values, sums = parts(n)
    left = [set(range(n)) for _ in range(n)]
    half = n // 2
    while half:
        turn = []
        for r in range(n):
            away = {shard for shard in left[r] if shard & half != r & half}
            left[r] -= away
            turn.append((r, r ^ half, {(shard, 0): values[r][shard, 0] for shard in away}))
        add(values, network.round(turn))
        half //= 2
    assert all(values[r][r, 0] == sums[r, 0] for r in range(n))


def direct_reduce_scatter(network, n):
    values, sums = parts(n)
    add(values, network.round([(a, b, {(b, 0): values[a][b, 0]}) for a in range(n) for b in range(n) if a != b]))
    assert all(values[r][r, 0] == sums[r, 0] for r in range(n))


def ring_all_reduce(network, n):
    ring_reduce_scatter(network, n)
    ring_all_gather(network, n)


def recursive_all_reduce(network, n):
    recursive_reduce_scatter(network, n)
    recursive_all_gather(network, n)


def parents(n):
    """In-order binary tree: odd ranks are leaves, the lowest set bit of the others is their height; 0 is the root."""

    def parent(r):
        bit = r & -r
        above = (r - bit) | (bit << 1)
        return above if above < n else r - bit

    return {r: parent(r) for r in range(1, n)}


def tree_all_reduce(network, n):
    """Up and down two trees at once, each with half of all shards: a leaf of the one is none of the other."""
    first = parents(n)
    other = (lambda r: (r + 1) % n) if n % 2 else (lambda r: n - 1 - r)
    trees = [first, {other(r): other(parent) for r, parent in first.items()}]
    values, half = [[rank + 1, 7 * rank] for rank in range(n)], Fraction(n, 2)
    waiting = [{r: {c for c, p in tree.items() if p == r} for r in range(n)} for tree in trees]
    up = [dict(tree) for tree in trees]
    while any(up):
        ready = [(t, r) for t in (0, 1) for r in up[t] if not waiting[t][r]]
        for r, p, shards in network.round([(r, up[t][r], {(t, half): values[r][t]}) for t, r in ready]):
            for (t, _), value in shards.items():
                values[p][t] += value
                waiting[t][p].discard(r)
                del up[t][r]
    down = [dict(tree) for tree in trees]
    while any(down):
        ready = [(t, r) for t in (0, 1) for r, p in down[t].items() if p not in down[t]]
        for _, r, shards in network.round([(down[t][r], r, {(t, half): values[down[t][r]][t]}) for t, r in ready]):
            for (t, _), value in shards.items():
                values[r][t] = value
                del down[t][r]
    assert all(each == [n * (n + 1) // 2, 7 * n * (n - 1) // 2] for each in values)


def exchange(network, n, rounds):
    """Shards (from, to), each at its rank; each of `rounds(rank, held)` says to whom a rank sends which of them."""
    held = [{(a, str(b)) for b in range(n)} for a in range(n)]
    for partner in rounds:
        sends = [(r, *send) for r in range(n) for send in partner(r, held[r])]
        for source, target, shards in network.round(sends):
            held[source] = held[source] - set(shards)
            held[target] = held[target] | set(shards)
    assert all(held[b] == {(a, str(b)) for a in range(n)} for b in range(n))


def direct_all_to_all(network, n):
    exchange(network, n, [lambda r, held: [(int(s[1]), {s: 0}) for s in held if int(s[1]) != r]])


def ring_all_to_all(network, n):
    def turn(k):
        return lambda r, held: [((r + k) % n, {s: 0 for s in held if int(s[1]) == (r + k) % n})]

    exchange(network, n, [turn(k) for k in range(1, n)])


def bruck_all_to_all(network, n):
    def turn(k):
        return lambda r, held: [((r + (1 << k)) % n, {s: 0 for s in held if (int(s[1]) - r) % n >> k & 1})]

    exchange(network, n, [turn(k) for k in range((n - 1).bit_length())])


def direct_send(network, n):
    network.round([(0, 1, {("all", 0): 0})])


ROWS = [(collective, name) for collective, rows in ALGORITHMS.items() for name in rows]


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize(("collective", "name"), ROWS)
def test_what_ranks_send_is_what_is_counted(collective, name, n):
    algorithm = ALGORITHMS[collective][name]
    if not algorithm.takes(n) or (collective == "send" and n == 1):
        return
    network = Network(n)
    globals()[f"{name}_{collective}"](network, n)
    assert max(network.sent) == algorithm.shards(n)
    if (collective, name) == ("all_reduce", "tree"):
        assert sum(network.sent) == 2 * (n - 1) * n  # of all ranks as much as of a ring; the busiest sends more
        assert network.rounds <= algorithm.steps(n) <= network.rounds + 2
    else:
        assert network.rounds == algorithm.steps(n)
        assert name == "bruck" or len(set(network.sent[: 1 if collective == "send" else n])) == 1


@pytest.mark.parametrize("n", [n for n in range(2, 40) if n not in RANKS])
def test_trees_of_any_size(n):
    network = Network(n)
    tree_all_reduce(network, n)
    assert max(network.sent) == ALGORITHMS["all_reduce"]["tree"].shards(n)


def test_bits_are_whole_and_times_count():
    """Each run is packed by itself: 3 ranks of a tree send 9/2 shards, of 5 bits 22.5, in each of 2 runs."""
    message = Message("all_reduce", "data", 3, 5, 2)
    assert sent_bits(message._replace(algorithm="tree")) == 2 * 23
    assert sent_bits(message) == 2 * (2 * 2) * 5
    assert steps(message) == 2 * 4


def test_the_share_of_a_ring_that_vendors_print():
    """2 (n - 1) / n of an all-reduced tensor, (n - 1) / n of one that is gathered: nccl-tests, PERFORMANCE.md."""
    for n in (2, 8, 64):
        tensor = 64 * 1024
        assert sent_bits(Message("all_reduce", "data", n, tensor // n, 1)) == Fraction(2 * (n - 1), n) * tensor
        assert sent_bits(Message("all_gather", "data", n, tensor // n, 1)) == Fraction(n - 1, n) * tensor


def test_where_an_algorithm_is_none_the_first_of_the_collective_runs():
    for collective, rows in ALGORITHMS.items():
        message = Message(collective, "data", 4, 1, 1, algorithm="tree")
        assert algorithm_of(message) is rows.get("tree", next(iter(rows.values())))
    message = Message("all_gather", "data", 6, 1, 1, algorithm="recursive")
    assert algorithm_of(message) is ALGORITHMS["all_gather"]["ring"]


def test_files_name_the_algorithms_that_there_are():
    named = {name: get_args(of) for name, of in get_type_hints(Algorithms).items() if name in ALGORITHMS}
    assert named == {name: tuple(rows) for name, rows in ALGORITHMS.items() if name != "send"}
    assert all(getattr(Algorithms(), name) == first for name, (first, *_) in named.items())


def run(*sets, device="h100-node"):
    assignments = ["model.layers=2", "batch.tokens=64", *sets]
    return execute(prepare(Request("llama-small", ["bf16-mixed"], assignments=assignments, hardware=[device])))


def test_what_is_chosen_reaches_what_is_sent_and_its_time():
    """Trees send more and wait less; recursive doubling sends as much as a ring, in log2 as many steps."""
    ring, tree, halving = (
        run("parallel.data=8", f"parallel.algorithms.all_reduce={name}") for name in ("ring", "tree", "recursive")
    )
    bits = [sum(int(row["sent_bits"]) for row in sent_records(result)) for result in (ring, tree, halving)]
    assert bits[0] == bits[2] < bits[1]
    assert Fraction(bits[1], bits[0]) == pytest.approx(
        Fraction(2 * 8, 2 * 7), rel=1e-3
    )  # 2 whole tensors for 2 (n - 1) / n
    runs = sum(int(row["runs"]) for row in sent_records(ring))
    waiting = [result.spent["bf16-mixed", "h100-node"].link_s for result in (ring, halving)]
    latency_s = load_hardware("h100-node").links[0].latency_s
    assert waiting[0] - waiting[1] == pytest.approx(runs * (2 * 7 - 2 * 3) * latency_s, rel=1e-6)


def test_one_ring_over_nodes_sends_all_over_the_outer_link():
    """16 ranks in nodes of 8: in levels 2 (2 - 1) shares of a rank, as one ring 2 (16 - 1), between nodes."""
    levels, flat = (run("parallel.data=16", f"parallel.algorithms.levels={so}") for so in ("true", "false"))
    outer = [{row["link"]: int(row["sent_bits"]) for row in link_records(result)} for result in (levels, flat)]
    assert "nvlink" not in outer[1]
    assert outer[1]["infiniband"] == 15 * outer[0]["infiniband"] == sum(outer[0].values())
    assert flat.spent["bf16-mixed", "h100-node"].link_s > levels.spent["bf16-mixed", "h100-node"].link_s


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["parallel.data=6", "parallel.algorithms.all_reduce=recursive"],
         "parallel.algorithms.all_reduce=recursive: recursive is not of 6 ranks; ring, tree are (of data)"),
        (["parallel.data=2", "parallel.algorithms.all_gather=tree"], "expected one of ring, recursive, bruck, direct"),
        (["parallel.data=2", "parallel.algorithms.all_gather=bruck", "parallel.algorithms.levels=false"],
         "parallel.algorithms.levels=false: false is about rings; bruck works in levels, say true"),
        (["parallel.data=2", "parallel.algorithms.all_redue=tree"], "did you mean 'all_reduce'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(sets, message):
    with pytest.raises(InputError) as error:
        run(*sets)
    assert message in str(error.value)


def test_what_is_counted_rises_with_ranks():
    for rows in ALGORITHMS.values():
        for algorithm in rows.values():
            counts = [algorithm.shards(n) for n in range(1, 70) if algorithm.takes(n)]
            assert all(less <= more for less, more in pairwise(counts))
