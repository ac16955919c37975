"""What no schema sees of a hardware profile: each check yields what is wrong, maybe of one that was read in part."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

from costsim.devices.energy import TABLES
from costsim.devices.links import Link
from costsim.devices.measured import format_made, is_product
from costsim.errors import MAX_FAULTS, InputError, UnreadError, nearest, one_line
from costsim.formats.named import parse_format
from costsim.graph.ops import OPS
from costsim.inputs import schema_hardware
from costsim.inputs.document import Document
from costsim.inputs.section import Section

Profile = schema_hardware.Hardware | schema_hardware.Cluster
At = tuple[str | int, ...]
_OPERANDS = 3  # of a product: both, and the result


def figures(section: Section, at: At = ()) -> Iterator[tuple[At, schema_hardware.Sourced]]:
    """Every figure of a file that could be read, and where it stands."""
    for key, value in vars(section).items():
        parts = enumerate(value) if isinstance(value, tuple) else [(None, value)]
        for index, part in parts:
            where = (*at, key) if index is None else (*at, key, index)
            if isinstance(part, schema_hardware.Sourced):
                yield where, part
            if isinstance(part, Section):
                yield from figures(part, where)


def dotted(at: At) -> str:
    """A field's place in one text."""
    return ".".join(map(str, at))


def check_version(document: Document) -> None:
    """Before anything else: raises InputError, for a file of another version breaks the schema in misleading ways."""
    version = document.data.get("schema_version")
    if type(version) is not int or version != schema_hardware.HARDWARE_VERSION:  # true equals 1
        got = "got nothing" if version is None else f"got {one_line(version)}"
        expected = f"expected {schema_hardware.HARDWARE_VERSION}, {got}: a profile of another version of costsim"
        raise document.error(("schema_version",), f"{expected} (see costsim schema hardware)")


def energy_table(document: Document, file: schema_hardware.Hardware) -> Iterator[InputError]:
    """A table that is none of those in `energy`."""
    name = file.energy_table
    if name is not None and name not in TABLES:
        yield document.error(("energy_table",), f"unknown energy table {one_line(name)!r}{nearest(name, TABLES)}")


def sources(document: Document, file: Profile) -> Iterator[InputError]:
    """Sources that say nothing, and keys of sources that are not there; which are there is known, whatever they say."""
    known = document.data.get("sources")
    if not isinstance(known, dict):
        return
    for key, text in known.items():
        if isinstance(text, str) and not text.strip():
            yield document.error(("sources", key), "expected what the source is, got nothing")
    unknown = [
        ((*at, "source", i), key)
        for at, figure in figures(file)
        for i, key in enumerate(vars(figure).get("source", ()))
        if key not in known
    ]
    hints = {key: nearest(key, known, most=12) for _, key in unknown[:MAX_FAULTS]}  # others are not told
    for at, key in unknown:
        yield document.error(at, f"{one_line(key)!r} is not in sources{hints.get(key, '')}")


def second_rates(document: Document, file: schema_hardware.Hardware) -> Iterator[InputError]:
    """Rates of formats that another has, in either order of the operands."""
    first: dict[tuple[str, ...], int] = {}
    for i, given in enumerate(file.rates):
        with suppress(UnreadError):
            a, b, accumulator = (parse_format(name).name for name in (*given.operands, given.accumulator))
            before = first.setdefault((*sorted((a, b)), accumulator), i)
            if before != i:
                yield document.error(("rates", i), f"a second rate of {a} x {b} + {accumulator}, after rates.{before}")


def falling_sizes(document: Document, file: schema_hardware.Hardware) -> Iterator[InputError]:
    """Sizes of GEMMs that are not above those before them."""
    macs = [vars(point).get("macs") for point in file.gemm_efficiency]
    for i, (before, here) in enumerate(pairwise(macs), 1):
        if before is not None and here is not None and here <= before:
            yield document.error(
                ("gemm_efficiency", i, "macs"), f"expected more than the {before} before it, got {here}"
            )


def kernels(document: Document, file: schema_hardware.Hardware) -> Iterator[InputError]:
    """Kinds that are none or come twice, sizes that do not rise, and measured kernels that say neither way how long."""
    seen: dict[str, int] = {}
    for i, given in enumerate(file.kernels):
        with suppress(UnreadError):
            kind, at = given.kind, ("kernels", i)
            if seen.setdefault(kind, i) != i:
                yield document.error((*at, "kind"), f"a second entry of {kind}, after kernels.{seen[kind]}")
            product = is_product(kind)
            try:
                known = product or kind in OPS or format_made(kind) is not None
            except InputError as error:
                yield document.error((*at, "kind"), str(error))
                continue
            if not known:
                yield document.error((*at, "kind"), f"unknown kind of op {one_line(kind)!r}{nearest(kind, OPS)}")
            elif product and len(given.s_per_element) != _OPERANDS:
                expected = f"expected {_OPERANDS} numbers: of both operands and of the result"
                yield document.error((*at, "s_per_element"), f"{expected}, got {len(given.s_per_element)}")
            elif not product and not given.sizes:
                yield document.error((*at, "sizes"), f"expected at least one size: {kind} is no product")
            for n, (less, more) in enumerate(pairwise(point.elements for point in given.sizes), 1):
                if more <= less:
                    yield document.error((*at, "sizes", n, "elements"), f"expected more than the {less} before it")


def links(document: Document, file: Profile, before: tuple[Link, ...] = ()) -> Iterator[InputError]:
    """Links that do not join ever more devices, in whole groups of those before them; two of one name."""
    joined: list[tuple[At, str | None, int | None]] = [(("device",), link.name, link.devices) for link in before]
    own = [vars(link) for link in file.links]  # 0 and None stand for what could not be read
    joined += [(("links", i), link.get("name"), link.get("devices", 0)) for i, link in enumerate(own)]
    for n, ((inner_at, inner, few), (at, name, many)) in enumerate(pairwise(joined), 1):
        if at == ("device",):
            continue
        if name and name in [other for _, other, _ in joined[:n]]:
            yield document.error((*at, "name"), f"a second link named {name}")
        if few is None:
            yield document.error(inner_at, f"{inner} joins any number of devices, so none is left for {name}")
        elif few and many and (many <= few or many % few):
            expected = f"more than the {few}" if many <= few else f"a multiple of the {few}"
            yield document.error((*at, "devices"), f"expected {expected} that {inner} joins, got {many}")
