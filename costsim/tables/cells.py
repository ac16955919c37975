"""Numbers as tables print them, short; None is n/a."""

from __future__ import annotations


def short(value: float | str | None) -> str:
    """Two decimals, or two digits below 0.1; exact integers (decimal strings) beyond six digits as 1.23e45."""
    if value is None:
        return "n/a"
    if isinstance(value, float):
        return f"{value:.2g}" if value < 0.1 else f"{value:.2f}" if value < 1000 else f"{value:.0f}"
    digits = f"{int(value):.2e}" if isinstance(value, str) and len(value) > 6 else str(value)
    return digits.replace("e+", "e").replace("e0", "e")


def percent(value: float | None) -> str:
    """A part of one in percent, with one decimal."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def signed(value: float | None) -> str:
    """A change in percent; nothing if it rounds to none."""
    return "n/a" if value is None else f"{100 * value:+.1f}" if abs(value) >= 0.0005 else ""


def three_digits(value: float | None) -> str:
    """Three significant digits, of more than three all."""
    return "n/a" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


# The least value that is printed in a unit, the unit in seconds or joules, and its name.
Units = tuple[tuple[float, float, str], ...]
TIMES: Units = (
    (2 * 86400, 86400, "d"),
    (2 * 3600, 3600, "h"),
    (2 * 60, 60, "min"),
    (1, 1, "s"),
    (1e-3, 1e-3, "ms"),
    (0, 1e-6, "us"),
)
ENERGIES: Units = ((1e9, 1e9, "GJ"), (1e6, 1e6, "MJ"), (1e3, 1e3, "kJ"), (1, 1, "J"), (0, 1e-3, "mJ"))


def _quantity(value: float | None, units: Units) -> str:
    if value is None:
        return "n/a"
    _, size, unit = next((row for row in units if value >= row[0]), units[-1])
    return f"{value / size:.3g} {unit}"


def duration(seconds: float | None) -> str:
    """A time in the unit that leaves one to four digits before the point."""
    return _quantity(seconds, TIMES)


def joules(value: float | None) -> str:
    """An energy in the largest unit that it has one of, or in mJ."""
    return _quantity(value, ENERGIES)


BYTES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "B"))  # a unit in bytes, and its name


def size(count: str | None) -> str:
    """Bytes, a decimal string, in the largest decimal unit that they have one of."""
    if count is None:
        return "n/a"
    divisor, unit = next((row for row in BYTES if int(count) >= row[0]), BYTES[-1])
    return f"{three_digits(int(count) / divisor)} {unit}"


BYTE_UNITS = {"kB": 10**3, "GB": 10**9}


def byte_unit(most: int) -> str:
    """The unit in which a table has its bytes, of which the largest is so many: kB below 10 MB."""
    return "kB" if most < 10**7 else "GB"


def in_unit(unit: str, size: int) -> str:
    """Bytes in a unit, in at most five characters up to 99 thousands of it; `-` for none."""
    if not size:
        return "-"
    value = size / BYTE_UNITS[unit]
    return f"{value:.{max(0, 3 - max(0, len(str(int(value))) - 1))}f}"
