"""Options that several commands share, and how their values are read. Imports nothing heavy."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from costsim import names

Command = Callable[..., Any]

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{end}": base**power
    for power, prefix in enumerate(("k", "M", "G", "T"), 1)
    for end, base in (("B", 1000), ("iB", 1024))
}


def byte_count(least: int) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Reads bytes as a whole number, or with a unit: 24000000000, 24e9, 24GB, 24GiB."""

    def read(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
        import re
        from fractions import Fraction

        if text is None:
            return None
        match = re.fullmatch(r"(\d{1,20}(?:\.\d{1,20})?(?:e\d{1,2})?) ?([A-Za-z]*)", text)
        units = {name.lower(): size for name, size in _UNITS.items()}
        if match and match[2].lower() in units:
            size = Fraction(match[1]) * units[match[2].lower()]
            if size.denominator == 1 and least <= size < 2**63:
                return int(size)
        message = f"expected bytes, {least} or more, such as 24000000000, 24GB or 24GiB, got {text!r}"
        raise click.BadParameter(message, ctx=ctx, param=param)

    return read


WORKLOAD = (
    click.argument("workload"),
    click.option("--policy", "policies", multiple=True, help="Policy to run instead of the workload's; repeatable."),
    click.option("--traffic", type=click.Choice(names.TRAFFIC_MODELS), help="DRAM traffic model."),
    click.option(
        "--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="Override a field of the workload."
    ),
    click.option("--bits", metavar="CSV", help="Widths per layer or tensor: layer,bits (or tensor,bits)."),
)
SWEEP = (
    click.option(
        "--sweep",
        multiple=True,
        metavar="FIELD=V,...",
        help="A run for each value of a field, or of levels.NAME and numbers.NAME.",
    ),
)
SPREAD = (
    click.option("--executor", metavar="WHERE", help="Who works out a sweep: local (all cores), dask:ADDRESS."),
    click.option("--resume", metavar="FILE", help="Keep a sweep's finished points there, and go on from them."),
)
BUFFER = (
    click.option(
        "--buffer-bytes", callback=byte_count(1), metavar="N", help="On chip, for traffic tiled; else the device's."
    ),
)
HARDWARE = (
    click.option("--hardware", multiple=True, metavar="NAME", help="Device for time and energy; repeatable."),
    click.option(
        "--overlap/--no-overlap", default=True, help="Arithmetic and DRAM traffic at the same time.", show_default=True
    ),
)
DEVICE = (
    click.option("--device", type=click.Choice(names.PROCESSORS), help="What runs and is measured.  [default: cpu]"),
)
RATIOS = (
    click.option("--baseline", help="Policy that ratios compare with."),
    click.option("--law", type=click.Choice(names.LAWS), help="What a MAC costs."),
    click.option("--scope", type=click.Choice(names.SCOPES), help="Which ops count."),
)

FIGURE = (
    click.option("--width", metavar="LENGTH", help="Width of the figure: 84mm, 17.4cm, 3.3in, 240pt."),
    click.option("--font-size", type=float, metavar="PT", help="Points of its letters.  [default: 9]"),
    click.option("--no-title", is_flag=True, help="Leave out its title, for a caption says it."),
    click.option(
        "--style",
        "figure_style",
        type=click.Choice(names.FIGURE_STYLES),
        help="paper: 84mm, 8 points, no title; slide: 254mm, 16 points.",
    ),
)


def engine_option(engines: Sequence[str]) -> tuple[Callable[[Command], Command], ...]:
    """What something runs through: `--engine`."""
    return (
        click.option(
            "--engine",
            type=click.Choice(engines),
            help="What it runs through; torch needs costsim[torch].  [default: numpy, on cuda torch]",
        ),
    )


def chosen(default: tuple[str, ...], takes: str, apart: str) -> tuple[Callable[[Command], Command], ...]:
    """What formats are chosen for: `--vary`, with its default and help, and `--group`, with its help."""
    return (
        click.option(
            "--vary",
            "varied",
            multiple=True,
            type=click.Choice(names.VARIED),
            default=default,
            show_default=True,
            help=takes,
        ),
        click.option(
            "--group",
            "groups",
            default="role,gemm,operand",
            show_default=True,
            metavar="FIELD,...",
            help=apart,
        ),
    )


OUTPUT = (
    click.option(
        "--format",
        "style",
        type=click.Choice(tuple(names.STYLES)),
        help="Output format.  [default: table, or the ending of --out]",
    ),
    click.option(
        "--out", type=click.Path(), help="File to write: .tex .md .csv .json .txt .xlsx, or folder for all but .xlsx."
    ),
)


def options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Options that several commands share, as one decorator."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def apart(given: dict[str, Any], out: str | None, figure: bool = False) -> tuple[Any, dict[str, Any]]:
    """The look that the options of FIGURE ask for, and the other options.

    Raises InputError for a look that cannot be, and if one is asked for and no figure drawn: it is if `figure`, and if
    `out` names a figure or a folder.
    """
    from costsim.errors import InputError
    from costsim.tables.styles import style_of

    others = dict(given)
    asked = {name: others.pop(name) for name in ("figure_style", "width", "font_size")}
    asked["title"] = False if others.pop("no_title") else None
    if figure or (out is not None and style_of(out) is None):
        from costsim.plots.look import look_of

        style = asked.pop("figure_style")
        return look_of(style, **asked), others
    for name, value in asked.items():
        if value is not None:
            option = {"figure_style": "style", "title": "no-title"}.get(name, name.replace("_", "-"))
            raise InputError(f"--{option}: says how a figure looks, and none is drawn; add --out FIGURE.svg")
    return None, others


def path_of(out: str, option: str = "--out") -> Any:
    """The Path that an option names. Raises InputError for an empty name."""
    from pathlib import Path

    from costsim.errors import InputError

    if not out:
        raise InputError(f"{option}: expected a name")
    return Path(out)


def whole_numbers(name: str, text: str | None) -> list[int | None]:
    """The numbers of a list such as 4,8,16."""
    from costsim.errors import InputError, one_line

    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < len(part) < 10 and int(part) for part in parts):
        raise InputError(f"{name}: expected whole numbers above 0, such as 4,8,16, got {one_line(text)!r}")
    return [int(part) for part in dict.fromkeys(parts)]
