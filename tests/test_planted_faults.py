"""Faults of different sorts, planted at random places of shipped files: all are told, each at its place, no more."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from costsim.devices.profile import load_hardware
from costsim.errors import InputError
from costsim.huggingface.importer import workload_of
from costsim.inputs.files import list_shipped
from costsim.inputs.parse import parse_yaml
from costsim.inputs.widths import read_widths
from costsim.policy.load import load_policy
from costsim.policy.schedule import read_loss_log
from costsim.reference.training import read_evaluations
from costsim.run.job import Request, prepare

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """A fault, where fields of a file's data fit a pattern (`*`: any item of a list)."""

    at: str  # of the section or list that is changed
    plant: Callable[[Any], list[Place]]  # changes it; where the faults are, from there
    hides: tuple[str, ...] = ()  # other faults that nobody can know then


def below(key, places):
    """Places below a key, which are given with dots; the key's own if there are none."""
    parts = [tuple(int(part) if part.isdigit() else part for part in place.split(".")) for place in places]
    return [(key, *part) for part in parts or [()]]


def put(name, value, *places):
    """A field with a wrong value, or one that there is not."""

    def plant(section):
        section[name] = deepcopy(value)
        return below(name, places)

    return plant


def append(value, *places, times=1):
    """One more item of a list, or several, of which the last is wrong."""

    def plant(items):
        items.extend(deepcopy(value) for _ in range(times))
        return below(len(items) - 1, places)

    return plant


def drop(name):
    """A field that is left out; the fault is told of the section."""

    def plant(section):
        assume(name in section)
        del section[name]
        return [()]

    return plant


def rule(**fields):
    """A rule with a format, and more."""
    return {"format": "fp32", **fields}


def case(**fields):
    """A case of an assumption."""
    return {"name": "planted", **fields}


def rate(a, **fields):
    """How fast a device multiplies fp32 by another format."""
    plain = {"operands": ["fp32", a], "accumulator": "fp32", "mac_per_s": 10**12, "source": ["planted"]}
    return {**plain, **fields}


def link(name, devices):
    """A link that joins so many devices; None: any number."""
    joins = {} if devices is None else {"devices": devices}
    return {"name": name, **joins, "bytes_per_s": 10**9, "source": ["planted"]}


POLICY = {
    "wrong word": Fault("", put("grade", "our")),
    "unknown field": Fault("", put("colour", "red")),
    "wrong type": Fault("", put("monotone", 1)),
    "unreadable": Fault("", put("setup", float("inf"))),
    "missing base": Fault("compose", append("no-such-policy"), ("level", "numbers of a phase")),
    "format of a rule": Fault("rules", append(rule(format="bf17"), "format")),
    "word of a rule": Fault("rules", append(rule(role=["wieght"]), "role.0")),
    "unknown field of a rule": Fault("rules", append(rule(colour=1), "colour")),
    "clashes of a rule": Fault("rules", append(rule(placement="stored", operand=["x"]), "placement", "operand")),
    "all of a rule": Fault(
        "rules",
        append(
            rule(format="bf17", role=["x"], colour=1, placement="stored"), "format", "role.0", "colour", "placement"
        ),
    ),
    "values of a rule": Fault("rules", append(rule(values="index"), "format")),
    "accumulator": Fault("rules", append(rule(accumulator="index64"), "accumulator")),
    "accumulator of a copy": Fault("rules", append({"copy": "stash", "accumulator": "fp32"}, "accumulator")),
    "container": Fault("rules", append(rule(container="bf17"), "container")),
    "nothing said": Fault("rules", append({"role": ["state"]})),
    "level": Fault("rules", append(rule(format="bfp<nine>"), "format")),
    "end of a phase": Fault("phases.*", put("until_fraction", 2.0)),
    "no end of a phase": Fault("phases.0", drop("until_fraction")),
    "numbers of a phase": Fault("phases.*", put("levels", [8] * 9)),
    "rule of a case": Fault("assumptions.*.cases.*", put("rules", [{"format": "bf17"}], "0.format")),
    "field of a case": Fault("assumptions.*.cases.*", put("colour", 1)),
}
WORKLOAD = {
    "wrong word": Fault("", put("law", "prodct")),
    "unknown field": Fault("", put("colour", "red")),
    "out of bounds": Fault("", put("label_smoothing", 2)),
    "unreadable": Fault("", put("attention_pairs", float("inf"))),
    "missing policy": Fault("policies", append("no-such-policy")),
    "policy of two, one missing": Fault("policies", append("fp32+no-such-policy")),
    "missing baseline": Fault("", put("baseline", "no-such-policy")),
    "missing device": Fault("", put("hardware", ["t4", "no-such-device"], "1")),
    "steps": Fault("training", put("steps", 0)),
    "field of training": Fault("training", put("colour", 1)),
    "optimizer": Fault("optimizer", put("kind", "adan")),
    "unreadable of the optimizer": Fault("optimizer", put("lr", float("nan"))),
    "field of the model": Fault("model", put("colour", 1)),
    "type in the model": Fault("model", put("activation", 1)),
    "batch": Fault("batch", put("padding_mask", "many")),
    "case of nothing": Fault("assumptions.*.cases", append(case())),
    "format of a case": Fault("assumptions.*.cases", append(case(rules=[{"format": "bf17"}]), "rules.0.format")),
    "clash of a case": Fault("assumptions.*.cases", append(case(rules=[rule(operand=["x"])]), "rules.0.operand")),
}
SIZES = [{"macs": macs, "value": 0.5, "source": ["planted"]} for macs in (9, 8)]
PROFILE = {
    "unknown field": Fault("", put("colour", "red")),
    "wrong type": Fault("", put("description", 1)),
    "unreadable": Fault("", put("vendor", float("inf"))),
    "energy table": Fault("", put("energy_table", "horowitz-46nm")),
    "operand": Fault("rates", append(rate("bf17"), "operands.1")),
    "accumulator": Fault("rates", append(rate("fixed3", accumulator="nf4"), "accumulator")),
    "second rate": Fault("rates", append(rate("fixed5"), times=2)),
    "source of a rate": Fault("rates", append(rate("fixed7", source=["planted", "nobody"]), "source.1")),
    "field of a rate": Fault("rates", append(rate("fixed9", colour=1), "colour")),
    "all of a rate": Fault(
        "rates", append(rate("bf17", mac_per_s=1, source=["x"]), "operands.1", "mac_per_s", "source.0")
    ),
    "figure": Fault("dram_bytes", put("value", "many")),
    "source of a figure": Fault("dram_bytes_per_s", put("source", ["nobody"], "0")),
    "bare figure": Fault("", put("static_w", 3)),
    "no source": Fault("sources", put("nothing", " ")),
    "type of a source": Fault("sources", put("number", 1)),
    "sizes that fall": Fault("", put("gemm_efficiency", SIZES, "1.macs")),
    "efficiency": Fault("", put("efficiency", {"mac": {"value": 2, "source": ["planted"]}}, "mac.value")),
    "links": Fault("", put("links", [link("a", 8), link("b", 12), link("c", 12)], "1.devices", "2.devices")),
}
CLUSTER = {
    "unknown field": Fault("", put("colour", "red")),
    "field of a device": Fault("", put("static_w", 3)),
    "unreadable": Fault("", put("vendor", float("inf"))),
    "missing device": Fault("", put("device", "h100-sxn")),
    "one device": Fault("links.0", put("devices", 1)),
    "bandwidth in Gb": Fault("links.*", put("gb_per_s", 400)),
    "bandwidth": Fault("links.*", put("bytes_per_s", 450)),
    "source of a link": Fault("links.*", put("source", ["planted", "nobody"], "1")),
    "source of a latency": Fault("links.*.latency_s", put("source", ["nobody"], "0")),
    "no source": Fault("sources", put("nothing", " ")),
}
OTHER_LINKS = {  # one of these and none of the links that there were
    "links that do not rise": put("links", [link("a", 8), link("b", 8)], "1.devices"),
    "any number, then more": put("links", [link("a", None), link("b", 8)], "0"),
    "one name": put("links", [link("a", 2), link("a", 4)], "1.name"),
    "no links": put("links", []),
}
LINKS = [*OTHER_LINKS, *(name for name, fault in CLUSTER.items() if fault.at.startswith("links"))]
CLUSTER |= {name: Fault("", plant, tuple(x for x in LINKS if x != name)) for name, plant in OTHER_LINKS.items()}


def sites(data, pattern, at=()):
    """The places of a pattern in some data."""
    first, _, rest = pattern.partition(".")
    if not first:
        return [at] if isinstance(data, (dict, list)) else []
    keys = range(len(data)) if isinstance(data, list) else data
    chosen = [key for key in keys if first in ("*", str(key))]
    return [place for key in chosen for place in sites(data[key], rest, (*at, key))]


def follow(data, place):
    for key in place:
        data = data[key]
    return data


def told(error):
    """By field: the line at which it is told."""
    lines = [re.match(r"[^:]*:(\d+)(?::\d+)?: ([^ :]*): ", line) for line in str(error).split("\n")]
    assert all(lines), str(error)
    return {line[2]: int(line[1]) for line in lines}


def planted(draw, data, faults):
    """Plant two or three faults; where they are."""
    where = {name: sites(data, fault.at) for name, fault in sorted(faults.items())}
    fitting = st.sampled_from([name for name, places in where.items() if places])
    names = draw(st.lists(fitting, min_size=2, max_size=3, unique=True))
    assume(not any(other in faults[name].hides for name in names for other in names))
    places: list[Place] = []
    for name in names:
        at = draw(st.sampled_from(where[name]))
        places += [(*at, *place) for place in faults[name].plant(follow(data, at))]
    assume(not any(a == b[: len(a)] for i, a in enumerate(places) for j, b in enumerate(places) if i != j))
    return places


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


def run_workload(path):
    prepare(Request(str(path)))


def run_profile(path):
    load_hardware(str(path))


def shipped(folder, of=lambda data: True):
    """The data of shipped files by name, of those that a function picks."""
    files = {name: yaml.safe_load(path.read_text()) for name, path in list_shipped(folder).items()}
    return {name: data for name, data in files.items() if of(data)}


KINDS = {  # files, faults, and who reads them
    "policies": (shipped("policies"), POLICY, load_policy),
    "workloads": (shipped("workloads"), WORKLOAD, run_workload),
    "devices": (shipped("hardware_profiles", lambda data: "device" not in data), PROFILE, run_profile),
    "clusters": (shipped("hardware_profiles", lambda data: "device" in data), CLUSTER, run_profile),
}


def planted_file(draw, kind):
    """The text of a shipped file with faults, and the places of these."""
    files, faults, _ = KINDS[kind]
    data = deepcopy(files[draw(st.sampled_from(sorted(files)))])
    if kind in ("devices", "clusters"):
        data["sources"]["planted"] = "a test"
    places = planted(draw, data, faults)
    return yaml.safe_dump(data, sort_keys=False, width=10**6), places


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(draw=st.data())
def test_all_planted_faults_are_told(kind, draw, folder):
    text, places = planted_file(draw.draw, kind)
    path = folder / "planted.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        KINDS[kind][-1](path)
    marks = parse_yaml(text, "").marks
    assert told(caught.value) == {".".join(map(str, place)): marks[place][0] for place in places}


# --- CSV tables -------------------------------------------------------------------------------------------------------

# By sort of table: right rows, and wrong ones, each of which may stand anywhere below the first two lines.
TABLES = {
    "widths": (read_widths, "layer,bits", [f"encoder.{i},8" for i in range(9)],
               ["encoder.10", "encoder.11,8,8", "encoder.12,many", "encoder.0,4", "encoder.13,-8"]),
    "loss log": (read_loss_log, "step,loss", [f"{10 * i},{9 - i}.5" for i in range(1, 9)],
                 ["85", "many,3.5", "5,3.5", "86,nan", "-1,3.5"]),
    "evaluations": (read_evaluations, "policy,step,phase,training_loss,validation_loss,unigram_entropy",
                    [f"dsq,{10 * i},0,3.5,3.6,4.0" for i in range(1, 9)],
                    ["dsq,10", "dsq,many,0,3.5,3.6,4.0", "dsq,3,0,much,3.6,4.0"]),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
@settings(deadline=None)
@given(draw=st.data())
def test_all_planted_faults_of_a_table_are_told(table, draw, folder):
    read, header, right, wrong = TABLES[table]
    chosen = draw.draw(st.lists(st.sampled_from(wrong), min_size=2, max_size=3, unique=True))
    rows = list(right)
    for row in chosen:
        rows.insert(draw.draw(st.integers(1, len(rows))), row)
    head = draw.draw(st.sampled_from((header, header.replace("l", "x", 1))))
    path = folder / "planted.csv"
    path.write_text("\n".join((head, *rows)) + "\n")
    with pytest.raises(InputError) as caught:
        read(path)
    lines = {int(line.split(":")[1]) for line in str(caught.value).split("\n")}
    expected = {2 + rows.index(row) for row in chosen} | ({1} if head != header else set())
    if head != header:  # which says how many columns there are
        expected -= {2 + rows.index(row) for row in ("encoder.10", "encoder.11,8,8") if row in chosen}
    assert lines == expected


# --- config.json ------------------------------------------------------------------------------------------------------

CONFIG = {
    "unknown field": put("colour", "red"),
    "class": put("architectures", ["NoSuchModel"]),
    "classes": put("architectures", "GPT2LMHeadModel"),
    "vocabulary": put("vocab_size", "many"),
    "no number": put("vocab_size", float("nan")),
    "deep within": put("rope_scaling", {"factor": [float("inf")]}),
    "activation": lambda config: _first(config, ("hidden_activation", "hidden_act", "activation_function"), "swash"),
    "heads": lambda config: _first(config, ("num_attention_heads", "n_head", "encoder_attention_heads"), -1),
    "width": lambda config: _first(config, ("hidden_size", "n_embd", "d_model"), 3.5),
    "dropout": lambda config: _first(config, ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"), 2),
    "layers that differ": lambda config: _first(config, ("layer_types",), ["full_attention", "half_attention"]),
    "norm": lambda config: _first(config, ("rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"), 0),
}


def _first(config, names, value):
    """A wrong value for the field of the type, of some names that types have for it."""
    name = next((name for name in names if name in config), None)
    assume(name is not None)
    return put(name, value)(config)


CONFIGS = sorted((Path(__file__).parent / "data" / "configs").glob("*.json"))


@settings(deadline=None)
@given(draw=st.data())
def test_all_planted_faults_of_a_config_are_told(draw, folder):
    config = json.loads(draw.draw(st.sampled_from(CONFIGS)).read_text())
    names = draw.draw(st.lists(st.sampled_from(sorted(CONFIG)), min_size=2, max_size=3, unique=True))
    fields = {place[0] for name in names for place in CONFIG[name](config)}
    assume(len(fields) == len(names))
    text = json.dumps(config, indent=1)
    path = folder / "config.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        workload_of(path)
    lines = text.split("\n")
    expected = {next(i for i, line in enumerate(lines, 1) if line.startswith(f' "{field}"')) for field in fields}
    if "rope_scaling" in fields:  # where the number itself stands
        at = next(i for i, line in enumerate(lines, 1) if "Infinity" in line)
        expected = {at} | {line for line in expected if '"rope_scaling"' not in lines[line - 1]}
    assert {int(line.split(":")[1]) for line in str(caught.value).split("\n")} == expected
