"""The one error a user meets for bad input, and the nearest valid name that it offers."""

from collections.abc import Iterable

MAX_MESSAGE = 600


class InputError(Exception):
    """Bad input, in one line: where (file, line, column, field), what was expected, the nearest valid name.

    The command line prints the message and exits with 2; nothing has been written by then.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, MAX_MESSAGE))


def one_line(text: object, most: int = 60) -> str:
    """Text from a user, fit for a message: control characters are escaped, and at most `most` characters are left."""
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: most + 1])
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


def nearest(name: object, valid: Iterable[str], most: int = 8) -> str:
    """A clause that ends a message: the nearest valid name, if one is near, and up to `most` of the valid names.

    Names that begin with the given one are nearer than those with a like spelling: h100-sxm for h100.
    """
    import difflib  # only errors need it

    names, start = sorted(valid), str(name)[:60].lower()
    longer = [known for known in names if len(start) > 2 and known.lower().startswith(start)][:3]
    close = longer or difflib.get_close_matches(start, names, n=1, cutoff=0.5)
    question = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    known = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return question + (f" (known: {known})" if names and most else "")
