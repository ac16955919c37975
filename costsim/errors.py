"""The one error a user meets for bad input, and the nearest valid name that it offers."""

from collections.abc import Iterable


class InputError(Exception):
    """Bad input, told in one line: where (file, line, column, field), what was expected, the nearest valid name.

    The command line prints it and exits with 2; nothing has been written by then.
    """


def nearest(name: object, valid: Iterable[str], most: int = 8) -> str:
    """A clause to end a message with: the nearest valid name if one is near, and what is valid."""
    import difflib  # only errors need it

    names = sorted(valid)
    close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    known = ", ".join(names[:most]) + (", ..." if len(names) > most else "")
    return (f"; did you mean {close[0]!r}?" if close else "") + (f" (known: {known})" if known else "")
