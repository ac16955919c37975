"""Time and energy that kernels spend on a device, in parts, which add up."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

BOUNDS = ("arithmetic", "vector", "dram", "link", "launch")


def plus(a: float | None, b: float | None) -> float | None:
    """The sum, if both are known."""
    return None if a is None or b is None else a + b


def product(n: float, a: float | None) -> float | None:
    """The product, if `a` is known."""
    return None if a is None else n * a


@dataclass(frozen=True, slots=True)
class Spent:
    """Time and energy of some kernels on a device. None: a pair, a rate or the bandwidth is lacking.

    They add up, and multiply by how often kernels run: a run's are `sum((phase.steps * step for ...), Spent())`.
    """

    mac_s: float = 0.0
    vector_s: float | None = 0.0
    dram_s: float | None = 0.0
    link_s: float | None = 0.0
    hidden_s: float = 0.0  # of link_s: behind the rest of the step, so that it is no part of time_s
    launch_s: float = 0.0
    time_s: float | None = 0.0
    arithmetic_j: float | None = 0.0
    on_chip_j: float | None = 0.0
    dram_j: float | None = 0.0
    static_j: float | None = 0.0
    macs: int = 0
    vector_ops: int = 0
    dram_bits: int = 0
    bound_s: Mapping[str, float] = field(default_factory=dict)  # time by what bounds it
    unsupported: frozenset[str] = frozenset()  # pairs that the device cannot multiply
    upcast: frozenset[tuple[str, str]] = frozenset()  # pairs and what they run as
    unverified: frozenset[str] = frozenset()  # what of the energy is scaled from other widths, or weak
    lacks: frozenset[str] = frozenset()  # what the profile does not know, without which traffic is not known
    spread_s: float = 0.0  # how far time_s may be off, of kernels that were measured
    not_measured: frozenset[str] = frozenset()  # kinds that take a roofline's time, where a profile has others measured

    @property
    def bound(self) -> str:
        """What most of the time is bound by, one of BOUNDS; unsupported, or n/a."""
        if self.unsupported:
            return "unsupported"
        if self.time_s is None or not self.bound_s:
            return "n/a"
        return max(BOUNDS, key=lambda name: self.bound_s.get(name, 0.0))

    @property
    def energy_j(self) -> float | None:
        """Arithmetic, on-chip buffer, DRAM, and static power over the time where the profile has one."""
        parts = (self.arithmetic_j, self.on_chip_j, self.dram_j, self.static_j)
        return None if self.unsupported or None in parts else sum(part or 0.0 for part in parts)

    @property
    def op_per_byte(self) -> float | None:
        """Arithmetic intensity: 2 operations a MAC, and those on elements, per byte of DRAM traffic."""
        return (2 * self.macs + self.vector_ops) * 8 / self.dram_bits if self.dram_bits else None

    def __add__(self, other: "Spent") -> "Spent":
        """Both after each other."""
        bounds = {**self.bound_s, **other.bound_s}
        return Spent(
            mac_s=self.mac_s + other.mac_s,
            vector_s=plus(self.vector_s, other.vector_s),
            dram_s=plus(self.dram_s, other.dram_s),
            link_s=plus(self.link_s, other.link_s),
            hidden_s=self.hidden_s + other.hidden_s,
            launch_s=self.launch_s + other.launch_s,
            time_s=plus(self.time_s, other.time_s),
            arithmetic_j=plus(self.arithmetic_j, other.arithmetic_j),
            on_chip_j=plus(self.on_chip_j, other.on_chip_j),
            dram_j=plus(self.dram_j, other.dram_j),
            static_j=plus(self.static_j, other.static_j),
            macs=self.macs + other.macs,
            vector_ops=self.vector_ops + other.vector_ops,
            dram_bits=self.dram_bits + other.dram_bits,
            bound_s={name: self.bound_s.get(name, 0.0) + other.bound_s.get(name, 0.0) for name in bounds},
            unsupported=self.unsupported | other.unsupported,
            upcast=self.upcast | other.upcast,
            unverified=self.unverified | other.unverified,
            lacks=self.lacks | other.lacks,
            spread_s=self.spread_s + other.spread_s,
            not_measured=self.not_measured | other.not_measured,
        )

    def __rmul__(self, times: int) -> "Spent":
        """So many times the same."""
        return Spent(
            mac_s=times * self.mac_s,
            vector_s=product(times, self.vector_s),
            dram_s=product(times, self.dram_s),
            link_s=product(times, self.link_s),
            hidden_s=times * self.hidden_s,
            launch_s=times * self.launch_s,
            time_s=product(times, self.time_s),
            arithmetic_j=product(times, self.arithmetic_j),
            on_chip_j=product(times, self.on_chip_j),
            dram_j=product(times, self.dram_j),
            static_j=product(times, self.static_j),
            macs=times * self.macs,
            vector_ops=times * self.vector_ops,
            dram_bits=times * self.dram_bits,
            bound_s={name: times * seconds for name, seconds in self.bound_s.items()},
            unsupported=self.unsupported,
            upcast=self.upcast,
            unverified=self.unverified,
            lacks=self.lacks,
            spread_s=times * self.spread_s,
            not_measured=self.not_measured,
        )

    def without_traffic(self, lacks: str) -> "Spent":
        """The same where what depends on DRAM traffic is not known, for the profile lacks something."""
        unknown = replace(self, dram_s=None, time_s=None, on_chip_j=None, dram_j=None, static_j=None)
        return replace(unknown, dram_bits=0, bound_s={}, spread_s=0.0, lacks=self.lacks | {lacks})

    def exposed(self, seconds: float, static_w: float | None) -> "Spent":
        """The same where so much of its messages is hidden no more."""
        if not seconds or self.time_s is None:
            return self
        return replace(
            self,
            hidden_s=max(0.0, self.hidden_s - seconds),
            time_s=self.time_s + seconds,
            static_j=plus(self.static_j, (static_w or 0.0) * seconds),
            bound_s={**self.bound_s, "link": self.bound_s.get("link", 0.0) + seconds},
        )
