"""The steps of one kernel on one device, as they are collected."""

from collections.abc import Sequence

from costsim.devices.profile import Hardware
from costsim.explain.formula import Number, Part, Step, Term, undefined, worked


class Steps:
    """Collects the steps of one kernel on one device; a number that is not known is None, as are those made of it."""

    def __init__(self, device: Hardware) -> None:
        self.device = device
        self.listed: list[Step] = []

    def source(self, *figures: str) -> str:
        """Where figures of the profile come from, as far as it says."""
        sources = [f"{name}: {self.device.source[name]}" for name in figures if name in self.device.source]
        return "; ".join(sources) or f"profile {self.device.name}"

    def add(self, what: str, terms: Sequence[Term], unit: str, source: str, largest: bool = False) -> Number:
        """Add a number and return it."""
        step = worked(f"{self.device.name}, {what}", terms, unit, source, largest)
        self.listed.append(step)
        assert isinstance(step.result, (int, float))
        return step.result

    def add_unknown(self, what: str, formula: str, unit: str, why: str) -> Number | None:
        """Add a number that is not known: None."""
        self.listed.append(undefined(f"{self.device.name}, {what}", formula, unit, why))
        return None

    def add_sum(
        self, what: str, parts: dict[str, Number | None], unit: str, source: str, largest: bool = False
    ) -> Number | None:
        """Add a sum (or the largest) of numbers, if all are known."""
        lacking = [name for name, value in parts.items() if value is None]
        if lacking:
            return self.add_unknown(what, " + ".join(parts), unit, f"{', '.join(lacking)} is not known")
        return self.add(what, [[Part(name, value or 0)] for name, value in parts.items()], unit, source, largest)
