"""Compiled counts against counting: any policy of a space, family, traffic model and scope, to the last digit."""

import random
from functools import lru_cache
from itertools import product

import numpy as np
import pytest
from conftest import POLICIES, SMALL_DECODER, STEPS, adamw, decoder_step, shipped_policy

from costsim.cost.compile import compile_step
from costsim.cost.count import count
from costsim.cost.laws import LAWS
from costsim.cost.terms import Alternative, Condition, Counts, Table, Terms, merged, weighed
from costsim.cost.tiling import tile_rows
from costsim.cost.totals import sum_rows
from costsim.errors import InputError
from costsim.graph.fusion import UNTILED
from costsim.graph.graph import GEMM_OPERANDS
from costsim.models import decoder
from costsim.models.training_step import training_step
from costsim.names import SCOPES, VARIED
from costsim.policy.assign import assign
from costsim.policy.groups import groups_of, space_of
from costsim.policy.space import Family, Space, Variable

FORMATS = ("bfp4", "int8-row", "fp16")
CONVENTIONS = [
    *((traffic, scope, ("gemms", ())) for traffic in UNTILED for scope in SCOPES),
    ("unfused", "gemm", ("none", ())),
    ("unfused", "gemm", ("operands", ())),
    ("unfused", "gemm", ("stashes", ())),
    ("unfused", "gemm", ("stashes-alone", ("*fc1*", "*attention.context*"))),
    ("unfused", "gemm", ("gradients", ())),
    ("unfused", "gemm", ("gemms", ("head.*", "*attention.scores"))),
    ("unfused", "gemm", ("operands", ("*fc1*", "*attention.context*"))),
]
steps = lru_cache(lambda family, **changes: STEPS[family](**changes))


def counted(graph, policy, traffic, scope, of_gemms, law):
    rows = count(graph, assign(graph, policy), traffic, scope, *of_gemms)
    total = sum_rows(rows, law)
    unpriced = sum(len(row.ops) * row.macs for row in rows if row.pair and row.cost(LAWS[law]) is None)
    return Counts(total.priced, unpriced, total.read_bits, total.written_bits, total.vector.get("quantize", 0))


def agree(graph, space, conventions=CONVENTIONS, laws=("product", "energy"), tried=4, seed=0):
    draw = random.Random(seed)
    policies = [tuple(draw.randrange(size) for size in space.sizes) for _ in range(tried)]
    for (traffic, scope, of_gemms), law in product(conventions, laws):
        terms = compile_step(graph, space, traffic, scope, of_gemms, law)
        table = merged(terms).evaluate(np.array(policies))
        for chosen, evaluated in zip(policies, table.tolist(), strict=True):
            policy = space.point(dict(enumerate(chosen)))
            expected = counted(graph, policy, traffic, scope, of_gemms, law)
            assert Counts(*evaluated) == terms.one(chosen) == expected, (traffic, scope, of_gemms, law, chosen)


# Every shipped policy as the base of a space, on one family each.
_FIELDS = (("role", "gemm", "operand"), ("role", "layer"), ("layer", "gemm"))
SPACES = [(sorted(STEPS)[i % len(STEPS)], name, _FIELDS[i % 3]) for i, name in enumerate(POLICIES)]


@pytest.mark.parametrize(("family", "name", "fields"), SPACES)
def test_any_policy_of_a_space(family, name, fields):
    graph, policy = steps(family), shipped_policy(name)
    space = space_of(policy, groups_of(graph, policy, fields, VARIED), FORMATS)
    assert len(space.variables) > 2
    agree(graph, space, random.Random(name).sample(CONVENTIONS, 2), laws=("energy",), tried=2)


@pytest.mark.parametrize("family", sorted(STEPS))
def test_every_convention(family):
    graph, policy = steps(family, micro_batches=2), shipped_policy("w8a8")
    space = space_of(policy, groups_of(graph, policy, ("role", "gemm"), VARIED), FORMATS)
    agree(graph, space, laws=("product",), tried=2)


@pytest.mark.parametrize("family", sorted(STEPS))
def test_tiles(family):
    """What a buffer makes GEMMs move again hangs on the formats of each; of buffers that make most of them do so."""
    graph, draw, again = steps(family), random.Random(family), 0
    for name in draw.sample(POLICIES, 3):
        policy, scope, buffer_bytes = shipped_policy(name), draw.choice(SCOPES), draw.choice((32, 64, 150))
        space = space_of(policy, groups_of(graph, policy, ("gemm", "operand"), VARIED), FORMATS)
        terms = compile_step(graph, space, "tiled", scope, ("gemms", ()), "product", 0, buffer_bytes)
        for _ in range(3):
            chosen = tuple(draw.randrange(size) for size in space.sizes)
            once = count(graph, assign(graph, space.point(dict(enumerate(chosen)))), "tiled", scope)
            total, least = (sum_rows(rows, "product") for rows in (tile_rows(graph, once, 8 * buffer_bytes), once))
            counted = terms.one(chosen)
            assert counted[2:4] == (total.read_bits, total.written_bits)
            assert counted.priced == total.priced
            again += total.dram_bits - least.dram_bits
    assert again > 0


def test_flash_attention_in_tiles_is_refused():
    graph, policy = decoder_step(attention="flash"), shipped_policy("dsq")
    space = space_of(policy, groups_of(graph, policy, ("gemm",), ("operand",)), FORMATS)
    with pytest.raises(InputError, match=r"^traffic tiled: blocks of flash attention are not searched"):
        compile_step(graph, space, "tiled", "step", ("gemms", ()), "product", 0, 1000)


SHAPES = {
    "flash": lambda: decoder_step(attention="flash"),
    "checkpointing": lambda: decoder_step(checkpointing="full"),
    "chunks": lambda: decoder_step(head={"chunks": 2}),
    "pairs": lambda: training_step(
        decoder.Model(**SMALL_DECODER), decoder.Batch(sequences=3, tokens=5), adamw(), attention_pairs="causal"
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_of_other_shapes(shape):
    graph, policy = SHAPES[shape](), shipped_policy("dsq")
    space = space_of(policy, groups_of(graph, policy, ("role", "gemm", "operand"), ("operand", "stash")), FORMATS)
    agree(graph, space, laws=("product",), tried=3)


def test_numbers_and_levels_of_a_policy():
    graph, policy = steps("encoder-decoder"), shipped_policy("dsq")
    variables = (*(Variable(f"q{i}", ("2", "4", "16")) for i in range(4)), Variable("box", ("8", "16")))
    agree(graph, Space(policy, variables), tried=6)


def test_a_space_assigns_what_its_policies_assign():
    graph, policy = steps("llama"), shipped_policy("fp8-tensor")
    space = space_of(policy, groups_of(graph, policy, ("role", "gemm"), VARIED), FORMATS)
    family, draw = Family(graph, space), random.Random(1)
    for _ in range(5):
        chosen = {i: draw.randrange(size) for i, size in enumerate(space.sizes)}
        ours, theirs = family.assignment(chosen), assign(graph, space.point(chosen))
        assert list(ours.stored) == list(theirs.stored)
        assert list(ours.chains) == list(theirs.chains)
        assert list(ours.accumulators) == list(theirs.accumulators)


def test_groups_tell_apart_what_is_asked():
    graph, policy = steps("decoder"), shipped_policy("fp32")
    names = [group.name for group in groups_of(graph, policy, ("gemm", "operand"), ("operand",))]
    assert sorted(names) == [
        f"operand/{gemm}/{of}" for gemm in sorted(set(GEMM_OPERANDS) - {"update"}) for of in sorted(GEMM_OPERANDS[gemm])
    ]
    layers = {name.split("/")[1] for name in (g.name for g in groups_of(graph, policy, ("layer",), ("operand",)))}
    assert layers == {op.layer for op in graph.ops if op.gemm}


@pytest.mark.parametrize("name", ["bf16-mixed", "fp8-block", "w8a8", "dsq", "qlora"])
def test_groups_are_told_apart_and_leave_copies_where_they_are(name):
    """Each group has a name of its own and a say; with the policy's own formats nothing but formats would change."""
    graph, policy = steps("llama"), shipped_policy(name)
    for fields in (("gemm", "operand"), ("gemm",), ("role",), ()):
        groups = groups_of(graph, policy, fields, ("operand", "stash"))
        assert len({group.name for group in groups}) == len(groups)
        space = space_of(policy, groups, FORMATS)
        family, before = Family(graph, space), assign(graph, policy)
        say = {i for chain in family.chains for i in chain.variables}
        assert say == set(range(len(groups)))
        after = family.assignment(dict.fromkeys(say, 0))
        for old, new in zip(before.chains, after.chains, strict=True):
            places = {copy.purpose: copy.placement for copy in old}
            assert all(places.get(copy.purpose, copy.placement) == copy.placement for copy in new)


def test_formats_without_numbers_are_refused():
    graph, policy = steps("decoder"), shipped_policy("fp32")
    with pytest.raises(InputError, match="mask8: holds mask values, not numbers"):
        space_of(policy, groups_of(graph, policy, ("role",), ("operand",)), ["fp16", "mask8"])


def test_unknown_numbers_of_a_policy_are_refused():
    with pytest.raises(InputError, match=r"policy dsq: no level or number 'q9'; did you mean"):
        Space(shipped_policy("dsq"), (Variable("q9", ("2", "4")),))


def test_sums_beyond_64_bits_are_exact():
    """Entries that int64 cannot add are added as Python integers; those that it can, as int64."""
    space = Space(shipped_policy("dsq"), (Variable("q0", ("2", "4")), Variable("q1", ("2", "4"))))

    def terms(largest):
        table = np.array([[largest, 0, 0, 0, 0], [1, 0, 0, 0, 0]], object)
        condition = Condition((1,), (False, True))
        return Terms(
            space, (Table((0,), table),), (Alternative(frozenset([condition]), np.array([largest] * 5, object)),)
        )

    for largest, dtype in ((2**61, np.int64), (2**62, object), (10**30, object)):
        many = merged(terms(largest))
        assert many.evaluate(np.array([[0, 1]])).dtype == dtype
        assert many.one((0, 1)) == Counts(2 * largest, largest, largest, largest, largest)
        assert many.one((1, 0)) == Counts(1)
        assert weighed([(3, terms(largest)), (4, terms(largest))]).one((0, 1)).priced == 14 * largest
