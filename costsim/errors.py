"""The one error a user meets for bad input, and the nearest valid name that it offers."""

from collections.abc import Iterable

MAX_MESSAGE = 600


class InputError(Exception):
    """Bad input, told in one line: where (file, line, column, field), what was expected, the nearest valid name.

    The command line prints it and exits with 2; nothing has been written by then.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, MAX_MESSAGE))


def one_line(text: object, most: int = 60) -> str:
    """Text from a user, fit to be quoted in an error: control characters escaped, cut after `most` characters."""
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[: most + 1])
    return clean if len(clean) <= most else f"{clean[: most - 3]}..."


def nearest(name: object, valid: Iterable[str], most: int = 8) -> str:
    """A clause to end a message with: the nearest valid name, if one is near, and up to `most` of what is valid.

    Names that begin with what was said are nearer than those that are spelled like it: h100-sxm for h100.
    """
    import difflib  # only errors need it

    names, said = sorted(valid), str(name)[:60].lower()
    longer = [its for its in names if len(said) > 2 and its.lower().startswith(said)][:3]
    close = longer or difflib.get_close_matches(said, names, n=1, cutoff=0.5)
    known = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return meant + (f" (known: {known})" if names and most else "")
