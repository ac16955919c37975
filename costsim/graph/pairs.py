"""Which pairs of tokens meet in attention: of each query, the run of keys that it meets.

A dim of keys that only some queries meet is *ragged*, named `tokens~causal`: beside the queries' dim it stands for the
pairs that meet, not for all of them. What is ragged is counted by pairs: products, work, elements.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

RAGGED = "~"  # between the name of a dim and that of its pairs


def base_of(dim: str) -> str:
    """The dim without its pairs."""
    return dim.partition(RAGGED)[0]


def pairs_of(dim: str) -> str:
    """The name of a dim's pairs; "" if it is not ragged."""
    return dim.partition(RAGGED)[2]


def ragged_dim(dims: tuple[str, ...]) -> str | None:
    """The ragged dim among these that stands for pairs, as its queries' dim is there too."""
    return next((dim for dim in dims if RAGGED in dim and base_of(dim) in dims), None)


@dataclass(frozen=True)
class Pairs:
    """A rule: query i meets keys of its sentence, with `causal` none after i, with `window` only so many to each side.

    A window counts the token itself, as transformers' and FlashAttention's do. Source: Mistral 7B, arXiv:2310.06825,
    section 2; to both sides: ModernBERT, arXiv:2412.13663, section 2.1.2; packing: `cu_seqlens` of
    flash_attn_varlen_func.
    """

    dim: str  # of queries, and of keys
    tokens: int
    causal: bool = False
    window: int | None = None  # the last tokens that a query meets; without causal as many to the other side, too
    lengths: tuple[int, ...] = ()  # of sentences that lie one after another; (): one

    @property
    def label(self) -> str:
        """The name of the rule."""
        sides = "window" if self.causal else "around"
        within = f"{sides}{self.window}" if self.window else "causal" * self.causal
        return "-".join(filter(None, ("packed" * bool(self.lengths), within))) or "square"

    @cached_property
    def _sentences(self) -> tuple[tuple[int, int], ...]:
        """By token: where its sentence begins and ends."""
        bounds: list[tuple[int, int]] = []
        for length in self.lengths or (self.tokens,):
            bounds += [(len(bounds), len(bounds) + length)] * length
        return tuple(bounds)

    def keys(self, query: int) -> range:
        """The keys that a query meets."""
        first, end = self._sentences[query]
        if self.causal:
            end = query + 1
        elif self.window:
            end = min(end, query + self.window)
        return range(max(first, query + 1 - self.window) if self.window else first, end)

    def queries(self, key: int) -> range:
        """The queries that meet a key."""
        first, end = self._sentences[key]
        if self.causal:
            first = key
        elif self.window:
            first = max(first, key + 1 - self.window)
        return range(first, min(end, key + self.window) if self.window else end)

    @cached_property
    def runs(self) -> Mapping[int, int]:
        """How many queries meet so many keys, by that number; and, by symmetry, how many keys meet so many queries."""
        runs: Counter[int] = Counter()
        for length, times in Counter(self.lengths or (self.tokens,)).items():
            if not self.causal:
                far = min(self.window or length, length) - 1  # tokens to a side, where there are as many
                for query in range(length):
                    runs[min(query, far) + 1 + min(length - 1 - query, far)] += times
                continue
            longest = min(self.window or length, length)
            for shorter in range(1, longest):
                runs[shorter] += times
            runs[longest] += (length - longest + 1) * times
        return dict(sorted(runs.items()))

    @cached_property
    def number(self) -> int:
        """Pairs that meet: n² a sentence of n; n (n + 1) / 2 if causal; m (m + 1) / 2 + (n - m) w, m = min(n, w).

        To both sides of a window twice as many but n, the pairs of a token with itself.
        """
        return sum(run * times for run, times in self.runs.items())

    @property
    def longest(self) -> int:
        """The most keys that a query meets."""
        return max(self.runs)

    def keys_read(self, blocks: int) -> int:
        """Keys that blocks of consecutive queries read in all, each block those that any of its queries meets.

        More blocks than queries share the queries' heads out: each reads the keys of its query.
        """
        return -(-blocks // self.tokens) * self._read(blocks, self.keys)

    def queries_read(self, blocks: int) -> int:
        """As `keys_read`, of queries that blocks of consecutive keys meet."""
        return self._read(blocks, self.queries)

    def _read(self, blocks: int, meets: Callable[[int], range]) -> int:
        """Tokens that blocks of consecutive ones meet, each counted once a block."""
        each = -(-self.tokens // min(blocks, self.tokens))
        ends = [(at, min(at + each, self.tokens) - 1) for at in range(0, self.tokens, each)]
        return sum(meets(last).stop - meets(first).start for first, last in ends)

    def resized(self, tokens: int) -> Pairs:
        """The same rule for fewer tokens: window and sentences shrink along."""
        window = self.window and max(1, self.window * tokens // self.tokens)
        ends = [sum(self.lengths[: i + 1]) * tokens // self.tokens for i in range(len(self.lengths))]
        lengths = (end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)) if ends else ()
        return replace(self, tokens=tokens, window=window, lengths=tuple(length for length in lengths if length))
