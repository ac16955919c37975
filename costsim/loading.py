"""What runs are made of, by name and in Python: policies, devices, number formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costsim.arguments import speaking
from costsim.devices import profile
from costsim.devices.profile import Hardware
from costsim.formats.format import Format
from costsim.formats.named import parse_format
from costsim.policy import load
from costsim.policy.policy import Policy


@speaking
def load_policy(name: str | Path) -> Policy:
    """A policy by path or shipped name; `a+b` composes two. `Policy.with_` changes one. Raises InputError."""
    return load.load_policies(load.find_policy(str(name)))


@speaking
def make_policy(name: str, fields: Mapping[str, Any]) -> Policy:
    """The policy with the fields that its file would have, under a name. Raises InputError."""
    return load.make_policy(name, fields)


@speaking
def load_hardware(name: str | Path) -> Hardware:
    """The device of a hardware profile, by path or shipped name. Raises InputError."""
    return profile.load_hardware(str(name))


@speaking
def load_format(name: str) -> Format:
    """The number format of a name, as policies spell it: "bfp4", "fp8-e4m3-tensor". Raises InputError."""
    return parse_format(name)
