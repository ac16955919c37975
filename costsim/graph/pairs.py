"""Which pairs of tokens meet in attention: of each query, the run of keys that it meets.

A dim of keys that only some queries meet is *ragged*, named `tokens~causal`: beside the queries' dim it stands for the
pairs that meet, not for all of them. What is ragged is counted by pairs: products, work, elements. A rank that shares a
sequence with others has a slice of the queries, `tokens`, which meet all keys, `tokens.whole`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

RAGGED = "~"  # between the name of a dim and that of its pairs
WHOLE = ".whole"  # ends the name of all of a sequence, of which a rank has a slice


def base_of(dim: str) -> str:
    """The dim without its pairs."""
    return dim.partition(RAGGED)[0]


def pairs_of(dim: str) -> str:
    """The name of a dim's pairs; "" if it is not ragged."""
    return dim.partition(RAGGED)[2]


def queries_of(dim: str) -> str:
    """The dim of queries beside a dim of keys: the same, or the rank's slice of it."""
    return base_of(dim).removesuffix(WHOLE)


def ragged_dim(dims: tuple[str, ...]) -> str | None:
    """The ragged dim among these that stands for pairs, as its queries' dim is there too."""
    return next((dim for dim in dims if RAGGED in dim and queries_of(dim) in dims), None)


def slice_of(tokens: int, ranks: int, rank: int) -> tuple[range, range]:
    """The positions of a sequence that a rank has: of 2 n runs, the one at its place from either end.

    So all ranks have as many pairs of a causal mask. Source: the Llama 3 herd, arXiv:2407.21783, section 3.3.2.

    >>> slice_of(12, 3, 1)
    (range(2, 4), range(8, 10))
    """
    each = tokens // (2 * ranks)
    return range(rank * each, (rank + 1) * each), range(tokens - (rank + 1) * each, tokens - rank * each)


def _numbers(runs: Iterable[range]) -> dict[int, int]:
    """How many runs are so long, by length; those of none are left out."""
    lengths = Counter(map(len, runs))
    return {length: lengths[length] for length in sorted(lengths) if length}


@dataclass(frozen=True)
class Pairs:
    """A rule: query i meets keys of its sentence, with `causal` none after i, with `window` only so many to each side.

    A window counts the token itself, as transformers' and FlashAttention's do. Source: Mistral 7B, arXiv:2310.06825,
    section 2; to both sides: ModernBERT, arXiv:2412.13663, section 2.1.2; packing: `cu_seqlens` of
    flash_attn_varlen_func.
    """

    dim: str  # of queries, and, but for ranks that share a sequence, of keys
    tokens: int  # of a sequence, keys
    causal: bool = False
    window: int | None = None  # the last tokens that a query meets; without causal as many to the other side, too
    lengths: tuple[int, ...] = ()  # of sentences that lie one after another; (): one
    ranks: int = 1  # that have a slice of the queries each
    rank: int = 0  # whose queries these are

    @property
    def label(self) -> str:
        """The name of the rule."""
        sides = "window" if self.causal else "around"
        within = f"{sides}{self.window}" if self.window else "causal" * self.causal
        label = "-".join(filter(None, ("packed" * bool(self.lengths), within)))
        return label + f"-of-{self.ranks}" * (self.ranks > 1) if label else "square"

    @property
    def queries_number(self) -> int:
        """The queries that there are, of keys `tokens`."""
        return self.tokens // self.ranks

    @cached_property
    def _positions(self) -> Sequence[int]:
        """By query: its place in the sequence."""
        if self.ranks == 1:
            return range(self.tokens)
        first, second = slice_of(self.tokens, self.ranks, self.rank)
        return (*first, *second)

    @cached_property
    def _sentences(self) -> tuple[tuple[int, int], ...]:
        """By token: where its sentence begins and ends."""
        bounds: list[tuple[int, int]] = []
        for length in self.lengths or (self.tokens,):
            bounds += [(len(bounds), len(bounds) + length)] * length
        return tuple(bounds)

    def keys(self, query: int) -> range:
        """The keys that a query meets."""
        at = self._positions[query]
        first, end = self._sentences[at]
        if self.causal:
            end = at + 1
        elif self.window:
            end = min(end, at + self.window)
        return range(max(first, at + 1 - self.window) if self.window else first, end)

    def queries(self, key: int) -> range:
        """The queries that meet a key."""
        first, end = self._sentences[key]
        if self.causal:
            first = key
        elif self.window:
            first = max(first, key + 1 - self.window)
        end = min(end, key + self.window) if self.window else end
        if self.ranks == 1:
            return range(first, end)
        return range(bisect_left(self._positions, first), bisect_left(self._positions, end))

    @cached_property
    def runs(self) -> Mapping[int, int]:
        """How many queries meet so many keys, by that number."""
        if self.ranks > 1:
            return _numbers(map(self.keys, range(self.queries_number)))
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
    def runs_of_keys(self) -> Mapping[int, int]:
        """How many keys meet so many queries, by that number: by symmetry the same, but where a rank has a slice."""
        return self.runs if self.ranks == 1 else _numbers(map(self.queries, range(self.tokens)))

    @cached_property
    def number(self) -> int:
        """Pairs that meet: n² a sentence of n; n (n + 1) / 2 if causal; m (m + 1) / 2 + (n - m) w, m = min(n, w).

        To both sides of a window twice as many but n, the pairs of a token with itself.
        Of a slice of n (n + 1) / 2 its rank has the same part as all others.
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
        return -(-blocks // self.queries_number) * self._read(blocks, self.queries_number, self.keys)

    def queries_read(self, blocks: int) -> int:
        """As `keys_read`, of queries that blocks of consecutive keys meet."""
        return self._read(blocks, self.tokens, self.queries)

    def _read(self, blocks: int, tokens: int, meets: Callable[[int], range]) -> int:
        """Tokens that blocks of consecutive ones meet, each counted once a block."""
        each = -(-tokens // min(blocks, tokens))
        ends = [(at, min(at + each, tokens) - 1) for at in range(0, tokens, each)]
        return sum(meets(last).stop - meets(first).start for first, last in ends)

    def resized(self, tokens: int) -> Pairs:
        """The same rule for fewer tokens: window and sentences shrink along."""
        window = self.window and max(1, self.window * tokens // self.tokens)
        ends = [sum(self.lengths[: i + 1]) * tokens // self.tokens for i in range(len(self.lengths))]
        lengths = (end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)) if ends else ()
        return replace(self, tokens=tokens, window=window, lengths=tuple(length for length in lengths if length))
