"""What the observer of traffic says of single calls, by hand: bytes read and bytes written."""

import pytest
import torch

from costsim.trace.traffic import TrafficCounter

X, W, B = torch.zeros(6, 4), torch.zeros(4, 5), torch.zeros(5)
IDS = torch.tensor([1, 1, 3])
ROW = torch.zeros(1, 4)

# By what is done: the call, bytes read, bytes written.
CALLS = {
    "a product and its bias": (lambda: torch.addmm(B, X, W), (24 + 20 + 5) * 4, 30 * 4),
    "the same tensor twice": (lambda: X * X, 24 * 4, 24 * 4),
    "the same memory in another shape": (lambda: X + X.t().t(), 24 * 4, 24 * 4),
    "a tensor and its transpose, the same elements": (lambda: torch.mm(X, X.t()), 24 * 4, 36 * 4),
    "a row that is expanded": (lambda: X + ROW.expand(6, 4), (24 + 4) * 4, 24 * 4),
    "a copy of a row that is expanded": (lambda: ROW.expand(6, 4).clone(memory_format=torch.contiguous_format), 16, 96),
    "a part": (lambda: X[:, 1:3] + 1, 12 * 4, 12 * 4),
    "views": (lambda: X.view(4, 6).t().unsqueeze(0).detach(), 0, 0),
    "rows of a table": (lambda: torch.nn.functional.embedding(IDS, X), 3 * 4 * 4 + 3 * 8, 3 * 4 * 4),
    "places of a tensor": (lambda: torch.gather(X, 0, IDS[:, None]), 3 * 4 + 3 * 8, 3 * 4),
    "zeros of a shape": (lambda: torch.zeros_like(X), 0, 24 * 4),
    "memory": (lambda: torch.empty_like(X), 0, 0),
    "in place": (lambda: torch.Tensor.add_(X, 0.0), 24 * 4, 24 * 4),
    "overwritten": (lambda: torch.Tensor.copy_(X, ROW.expand(6, 4)), 4 * 4, 24 * 4),
    "three results": (
        lambda: torch.native_layer_norm(X, [4], torch.ones(4), None, 1e-5),
        (24 + 4) * 4,
        (24 + 6 + 6) * 4 + 4 * 4,  # and the weight that is made here
    ),
    "a loss": (lambda: torch.nn.functional.nll_loss(X[:3], IDS), 3 * 4 + 3 * 8, 2 * 4),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_reads_and_writes(name):
    call, read, written = CALLS[name]
    counter = TrafficCounter((X, W, B, IDS, ROW))
    with counter:
        call()
    assert (sum(m.read_bytes for m in counter.moved), sum(m.written_bytes for m in counter.moved)) == (read, written)


def test_a_number_that_is_made_on_the_way_is_written_once():
    counter = TrafficCounter((X,))
    with counter:
        two = torch.tensor(2.0)
        (X * two) * two
    assert counter.moved[0] == ("constant", 0, 4)
    assert [moved.op for moved in counter.moved] == ["constant", "mul", "mul"]
    assert counter.bytes == 4 + 2 * (2 * 96 + 4)
