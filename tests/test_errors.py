"""Names that are offered for a misspelled one: near ones only."""

from itertools import product

import pytest

from costsim.errors import nearest, within

LETTERS = "ab"


def one_edit(name):
    """All names that one edit makes, by doing each edit."""
    for i in range(len(name) + 1):
        yield from (name[:i] + letter + name[i:] for letter in LETTERS)
        if i < len(name):
            yield name[:i] + name[i + 1 :]
            yield from (name[:i] + letter + name[i + 1 :] for letter in LETTERS)
        if i + 1 < len(name):
            yield name[:i] + name[i + 1] + name[i] + name[i + 2 :]


def test_one_edit_is_what_one_edit_makes():
    names = ["".join(letters) for length in range(7) for letters in product(LETTERS, repeat=length)]
    for name in (name for name in names if len(name) < 6):
        made = {name, *one_edit(name)}
        assert {other for other in names if within(1, name, other)} == made
        assert {other for other in names if within(0, name, other)} == {name}
        assert all(within(2, name, other) for one in made for other in one_edit(one))


NAMES = ["fp16", "fp32", "bf16", "int8", "dsq", "dsq-output", "intermediate_size", "head.logits.weight", "bert", "bart"]


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("fp33", "'fp32'"),
        ("dqs", "'dsq'"),
        ("dsq2", "'dsq'"),
        ("itn8", "'int8'"),
        ("FP32", "'fp32'"),
        ("brt", "'bart' or 'bert'"),
        ("intermediat_szie", "'intermediate_size'"),
        ("head.logit", "'head.logits.weight'"),
        ("head.lgits", "'head.logits.weight'"),
        ("dsq-", "'dsq-output'"),
        ("moe_intermediate_size", None),  # other things with words in common
        ("fp_other", None),
        ("xy", None),
        ("x", None),
        ("", None),
        (None, None),
    ],
)
def test_near_names_only_are_offered(name, offered):
    assert nearest(name, NAMES, most=0) == (f"; did you mean {offered}?" if offered else "")


def test_what_stands_before_a_hyphen_is_taken_as_meant():
    devices = ["a100-40gb", "a100-80gb", "h100-pcie", "h100-sxm"]
    assert nearest("a100-sxm", devices, most=0) == "; did you mean 'a100-40gb' or 'a100-80gb'?"
    assert nearest("h100-sxn", devices, most=0) == "; did you mean 'h100-sxm'?"
    assert nearest("g100-sxm", devices, most=0) == "; did you mean 'h100-sxm'?"
