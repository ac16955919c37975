"""The order of work of pipeline schedules against torch.distributed.pipelining, which runs them."""

from types import SimpleNamespace

import pytest
from torch.distributed.pipelining import schedules

from costsim.parallel.schedules import SCHEDULES, order

LETTERS = {"FORWARD": ["forward"], "BACKWARD_INPUT": ["dgrad"], "BACKWARD_WEIGHT": ["wgrad"]}
LETTERS["FULL_BACKWARD"] = ["dgrad", "wgrad"]


def theirs(of, stages, micro_batches, chunks, stage):
    """What PyTorch does on a rank, in our words."""
    given = SimpleNamespace(
        n_local_stages=chunks,
        microbatches_per_round=stages if chunks > 1 else micro_batches // max(1, micro_batches // stages),
        pp_group_size=stages,
        _n_microbatches=micro_batches,
    )
    actions = of._calculate_single_rank_operations(given, stage)
    return [
        (what, action.stage_index // stages, action.microbatch_index)
        for action in actions
        if action is not None
        for what in LETTERS[action.computation_type.name]
    ]


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize(
    ("name", "chunks", "micro_batches"),
    [("interleaved", 1, 8), ("interleaved", 2, 4), ("interleaved", 2, 8), ("interleaved", 3, 12)]
    + [("zb-h1", 1, 4), ("zb-h1", 1, 8), ("zb-h1", 2, 8), ("zb-h1", 3, 8)],
)
def test_the_order_is_pytorchs(name, chunks, micro_batches, stage):
    of = schedules.ScheduleInterleavedZeroBubble if SCHEDULES[name].split else schedules.ScheduleInterleaved1F1B
    ours = [tuple(work) for work in order(name, stage, 4, micro_batches, chunks)]
    assert ours == theirs(of, 4, micro_batches, chunks, stage)
