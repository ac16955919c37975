"""Links of a mesh: groups against ranks laid out one by one, hierarchical collectives against ones that run."""

from fractions import Fraction
from itertools import pairwise, product
from math import prod

import pytest

from costsim.cost.collectives import Message, sent_bits
from costsim.devices.links import Link, levels, sent_over, time_of
from costsim.devices.profile import load_hardware

NVLINK = Link("nvlink", 8, 450 * 10**9, 3e-6, 1.0)
LEAF = Link("leaf", 32, 50 * 10**9, 1e-5, 0.5)
SPINE = Link("spine", None, 25 * 10**9, 2e-5, 1.0)
LINKS = (NVLINK, LEAF, SPINE)
AXES = ("tensor", "expert", "data", "pipeline")


def groups(mesh, axis):
    """The ranks of each group along an axis, of ranks that are numbered with the first axis fastest."""
    names, found = list(mesh), {}
    for rank, place in enumerate(product(*[range(mesh[name]) for name in reversed(names)])):
        at = dict(zip(reversed(names), place, strict=True))
        found.setdefault(tuple(at[name] for name in names if name != axis), []).append(rank)
    return list(found.values())


def joined(group, link):
    """How many of a group's ranks lie with its first one below a link."""
    return len(group) if link.devices is None else sum(r // link.devices == group[0] // link.devices for r in group)


@pytest.mark.parametrize("sizes", list(product((1, 2, 4, 8), (1, 2, 8), (1, 2, 16), (1, 4))))
def test_groups_cross_the_links_that_their_ranks_cross(sizes):
    mesh = dict(zip(AXES, sizes, strict=True))
    for axis in mesh:
        for group in groups(mesh, axis):
            apart = prod(mesh[name] for name in AXES[: AXES.index(axis)])
            assert [b - a for a, b in pairwise(group)] == [apart] * (len(group) - 1)
            expected, inside = [], 1
            for link in LINKS:
                here = joined(group, link)
                if here > inside:
                    expected.append((link, here // inside))
                inside = here
            assert levels(len(group), apart, LINKS) == tuple(expected)


def test_groups_that_do_not_fit_evenly():
    """A group of 6 lies in one node of 8; of 12 ranks 4 lie in each of 3 nodes, of 10 ranks 2 in each of 5."""
    assert levels(6, 1, LINKS) == ((NVLINK, 6),)
    assert levels(12, 1, LINKS) == ((NVLINK, 4), (LEAF, 3))
    assert levels(10, 1, LINKS) == ((NVLINK, 2), (LEAF, 5))
    assert levels(3, 3, LINKS) == ((LEAF, 3),)  # of 9 ranks side by side a node holds 8, so each is in one of its own
    assert levels(7, 8, LINKS) == ((SPINE, 7),)


@pytest.mark.parametrize("ranks", range(1, 70))
def test_levels_multiply_to_the_group(ranks):
    for apart in range(1, 20):
        assert prod(here for _, here in levels(ranks, apart, LINKS)) == ranks
        bounded = levels(ranks, apart, LINKS[:2])
        assert (bounded is None) == (
            levels(ranks, apart, LINKS)[-1:] != () and SPINE in dict(levels(ranks, apart, LINKS))
        )


# --- hierarchical collectives -----------------------------------------------------------------------------------------


class Hierarchy:
    """Ranks as places in levels, which pass shards around rings of a level; counts what each sends in each level."""

    def __init__(self, sizes):
        self.sizes, self.ranks = sizes, list(product(*map(range, sizes)))
        self.sent = [dict.fromkeys(self.ranks, 0) for _ in sizes]
        self.sums = {r: {shard: self.value(r, shard) for shard in self.ranks} for r in self.ranks}
        self.has = {r: {r} for r in self.ranks}

    def value(self, rank, shard):
        return (self.ranks.index(rank) + 1) * 1000 ** self.ranks.index(shard)

    def next(self, rank, level):
        return (*rank[:level], (rank[level] + 1) % self.sizes[level], *rank[level + 1 :])

    def reduce_scatter(self, level):
        """In each step the neighbour adds up one part more; at the end each has what lies at its own place."""
        for k in range(self.sizes[level] - 1):
            moves = []
            for r in self.ranks:
                part = (r[level] - 1 - k) % self.sizes[level]
                moves.append((r, {shard: self.sums[r][shard] for shard in self.sums[r] if shard[level] == part}))
            for r, shards in moves:
                self.sent[level][r] += len(shards)
                for shard, value in shards.items():
                    self.sums[self.next(r, level)][shard] += value
        for r in self.ranks:
            self.sums[r] = {shard: value for shard, value in self.sums[r].items() if shard[level] == r[level]}

    def all_gather(self, level):
        """Each passes on what it got last, first of all what it has."""
        moving = {r: set(self.has[r]) for r in self.ranks}
        for _ in range(self.sizes[level] - 1):
            for r, shards in moving.items():
                self.sent[level][r] += len(shards)
                self.has[self.next(r, level)] |= shards
            moving = {self.next(r, level): shards for r, shards in moving.items()}


def run_hierarchical(collective, sizes):
    """Shards that the busiest rank sends in each level."""
    run = Hierarchy(sizes)
    if collective in ("reduce_scatter", "all_reduce"):
        for level in range(len(sizes)):
            run.reduce_scatter(level)
        assert all(run.sums[r] == {r: sum(run.value(each, r) for each in run.ranks)} for r in run.ranks)
    if collective in ("all_gather", "all_reduce"):
        for level in reversed(range(len(sizes))):
            run.all_gather(level)
        assert all(run.has[r] == set(run.ranks) for r in run.ranks)
    if collective == "all_to_all":
        for a, b in product(run.ranks, run.ranks):
            apart = [level for level in range(len(sizes)) if a[level] != b[level]]
            if apart:
                run.sent[apart[-1]][a] += 1  # straight, over the outermost link in which they differ
    return [max(each.values()) for each in run.sent]


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all"])
@pytest.mark.parametrize(("ranks", "sizes"), [(8, [8]), (16, [8, 2]), (32, [8, 4]), (64, [8, 4, 2]), (12, [4, 3])])
def test_what_is_sent_over_each_link(collective, ranks, sizes):
    message = Message(collective, "tensor", ranks, 1000, 3)
    over = sent_over(message, LINKS)
    assert [sent.link for sent in over] == list(LINKS[: len(sizes)])
    assert [sent.bits for sent in over] == [3 * 1000 * n for n in run_hierarchical(collective, sizes)]
    assert sum(sent.bits for sent in over) == sent_bits(message)  # split over links, no more and no less


def test_what_crosses_nodes_is_a_share_of_the_node():
    """ZeRO++ (arXiv:2306.10209): with hierarchy each GPU sends 1/8 of its node's part between nodes."""
    inner, outer = sent_over(Message("all_gather", "data", 64, 10, 1), (NVLINK, SPINE))
    assert (inner.bits, outer.bits) == (7 * 8 * 10, 7 * 10)
    assert (inner.steps, outer.steps) == (7, 7)


def test_point_to_point_goes_over_the_outermost_link():
    [sent] = sent_over(Message("send", "pipeline", 4, 800, 5, apart=4), LINKS)
    assert (sent.link, sent.bits, sent.steps) == (LEAF, 4000, 5)
    [sent] = sent_over(Message("send", "pipeline", 2, 800, 5, apart=4), LINKS)
    assert sent.link == NVLINK


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_is_steps_of_latency_and_the_slowest_link():
    message = Message("all_reduce", "data", 16, 8 * 10**9, 2)
    nvlink_s, leaf_s = 2 * 2 * 7 * 2 * 1e9 / 450e9, 2 * 2 * 1e9 / (50e9 * 0.5)
    latency_s = 2 * (2 * 7 * 3e-6 + 2 * 1e-5)
    assert time_of(message, LINKS) == pytest.approx(max(nvlink_s, leaf_s) + latency_s, rel=1e-12)


def test_where_no_link_is_no_time_is_known():
    message = Message("all_gather", "data", 64, 8, 1)
    assert time_of(message, ()) is None
    assert time_of(message, (NVLINK, LEAF)) is None
    assert sent_over(message, (NVLINK, LEAF)) is None
    assert time_of(message._replace(ranks=1), ()) == 0.0


def test_against_nccls_model_in_a_node():
    """NCCL's tuning.cc: a ring's time is its steps times latency, and bytes * steps / ranks at the bus bandwidth."""
    links = load_hardware("h100-node").links
    for collective, steps in (("all_gather", 7), ("reduce_scatter", 7), ("all_reduce", 14)):
        size = 2**30
        message = Message(collective, "tensor", 8, size * 8 // 8, 1)
        model = steps * 3.4e-6 + size * Fraction(steps, 8) / (450 * 10**9)
        assert time_of(message, links) == pytest.approx(float(model), rel=1e-12)


def test_more_is_never_faster():
    links = load_hardware("a100-node").links
    times = [time_of(Message("all_reduce", "data", n, -(-(10**9) // n), 1), links) for n in (2, 4, 8, 16, 64)]
    assert times == sorted(times)
