"""The files that costsim ships, known by their content: tests have checked them, and their data need no YAML parser.

To import the parser and to read nine files took a twelfth of a run. `shipped.jsonl` has a line for each file: the
digest of its text, its path in the project, and its data as JSON; `python tests/shipped.py` writes it.
"""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property, lru_cache
from pathlib import Path

from costsim.inputs.document import Document, Where, tuples

try:
    from _blake2 import blake2b  # as hashlib has it, which loads OpenSSL
except ImportError:
    from hashlib import blake2b

LIST = Path(__file__).with_name("shipped.jsonl")


def digest(text: str) -> str:
    """What tells a text from all others."""
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


@cache
def _lines() -> Mapping[str, str]:
    """By digest of a file: its data."""
    split = (line.split(" ", 2) for line in LIST.read_text("utf-8").splitlines())
    return {digest: data for digest, _, data in split}


class _Marks(Mapping[Where, tuple[int, int]]):
    """Where each field of a text stands; it is parsed when an error asks."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def read(self) -> Mapping[Where, tuple[int, int]]:
        """As a Document has them."""
        from costsim.inputs.yaml_text import read_document

        return read_document(self.text, "").marks

    def __getitem__(self, at: Where) -> tuple[int, int]:
        return self.read[at]

    def __iter__(self) -> Iterator[Where]:
        return iter(self.read)

    def __len__(self) -> int:
        return len(self.read)


@lru_cache(maxsize=256)  # policies that come with costsim compose each other
def shipped_document(text: str, path: str) -> Document | None:
    """The document of a text that is, to the byte, that of a file that comes with costsim; None for any other."""
    data = _lines().get(digest(text))
    if data is None:
        return None
    import json  # others do without

    return Document(path, tuples(json.loads(data)), _Marks(text), shipped=True)
