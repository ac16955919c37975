"""Sections of files: checked by pydantic or taken unchecked, they are the same; shipped files are known to be right."""

import hashlib
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

from costsim.errors import InputError, UnreadError
from costsim.inputs import files, schema_hardware, schema_policy, schema_workload, shipped
from costsim.inputs.document import Document
from costsim.inputs.other_names import OTHER_NAMES
from costsim.inputs.parse import override, parse_yaml
from costsim.inputs.schema import read, validate
from costsim.inputs.section import After, Before, Clash, Field, Section, WrongError, check
from costsim.inputs.yaml_text import read_document
from costsim.models.families import families, family

FOLDERS = {
    "workloads": schema_workload.Workload,
    "policies": schema_policy.Policy,
    "hardware_profiles": schema_hardware.Hardware,  # or a Cluster
}
ROOT = Path(__file__).parent.parent
SHIPPED = [(folder, path) for folder in FOLDERS for path in files.list_shipped(folder).values()]


def test_shipped_files_are_taken_by_their_content_as_yaml_reads_them():
    """Otherwise: python tests/shipped.py."""
    listed = dict(line.split(" ", 2)[1::-1] for line in shipped.LIST.read_text("utf-8").splitlines())
    assert set(listed) == {path.relative_to(ROOT).as_posix() for _, path in SHIPPED}
    for _, path in SHIPPED:
        text = path.read_text("utf-8")
        assert listed[path.relative_to(ROOT).as_posix()] == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        taken, whole = parse_yaml(text, "x"), read_document(text, "x")
        assert (repr(taken.data), dict(taken.marks)) == (repr(whole.data), whole.marks)  # repr: 1 is not 1.0, nor true


def test_a_fault_of_a_shipped_file_has_its_line():
    path = files.list_shipped("workloads")["iwslt17-dsq"]
    document = parse_yaml(path.read_text(), str(path))
    line = path.read_text().splitlines().index("  d_model: 512 # arch") + 1
    assert str(document.error(("model", "d_model"), "no")) == f"{path}:{line}:3: model.d_model: no"
    assert pickle.loads(pickle.dumps(document)).place(("model", "d_model")) == (line, 3)


@pytest.mark.parametrize(("folder", "path"), SHIPPED, ids=[path.stem for _, path in SHIPPED])
def test_a_shipped_file_is_right_and_taken_as_pydantic_reads_it(folder, path):
    document = parse_yaml(path.read_text(), str(path))
    assert document.shipped
    clusters = folder == "hardware_profiles"
    parts = [(schema_hardware.section_of(document.data) if clusters else FOLDERS[folder], ())]
    if folder == "workloads":
        module = family(document.data["model"]["family"])
        parts += [(module.Model, ("model",)), (module.Batch, ("batch",))]
    for section, at in parts:
        taken, _ = read(section, document, at)
        checked = validate(section, replace(document, shipped=False), at)
        assert (checked, checked.given, repr(checked)) == (taken, taken.given, repr(taken))
        if folder != "hardware_profiles":  # where `unknown` is None once it is read
            assert section.of(checked.as_data()) == checked


CASES = [
    pytest.param(path, case.set, id=f"{path.stem}: {entry.name}: {case.name}")
    for path in files.list_shipped("workloads").values()
    for entry in read(schema_workload.Workload, parse_yaml(path.read_text(), str(path)))[0].assumptions
    for case in entry.cases
    if case.set
]


@pytest.mark.parametrize(("path", "assignments"), CASES)
def test_cases_of_shipped_files_are_right_and_taken_as_pydantic_reads_them(path, assignments):
    document = override(parse_yaml(path.read_text(), str(path)), assignments, schema_workload.ABSENT, own=True)
    assert document.shipped
    module = family(document.data["model"]["family"])
    for section, at in ((schema_workload.Workload, ()), (module.Model, ("model",)), (module.Batch, ("batch",))):
        taken, _ = read(section, document, at)
        checked = validate(section, replace(document, shipped=False), at)
        assert (checked, checked.given, repr(checked)) == (taken, taken.given, repr(taken))


def test_a_changed_file_is_checked():
    path = files.list_shipped("workloads")["iwslt17-dsq"]
    text = path.read_text()
    assert not parse_yaml(text + "\n", "x").shipped
    assert not override(parse_yaml(text, "x"), ["training.steps=5"]).shipped
    assert not override(override(parse_yaml(text, "x"), ["training.steps=5"]), ["batch.sequences=2"], own=True).shipped
    with pytest.raises(InputError, match="expected at least 1, got 0"):
        validate(schema_workload.Workload, override(parse_yaml(text, "x"), ["training.steps=0"]))


@pytest.mark.parametrize("arguments", [["run", "iwslt17-dsq"], ["run", "llama-2-7b", "--hardware", "h100-sxm"]])
def test_shipped_files_need_neither_yaml_nor_pydantic(arguments):
    code = "import sys; from costsim.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    modules = done.stdout.splitlines()[-1].split()
    assert "costsim.run.simulate" in modules
    assert not [
        name for name in modules if name.partition(".")[0] in ("yaml", "pydantic", "pydantic_core", "numpy", "pandas")
    ]


# --- what a section is ------------------------------------------------------------------------------------------------


def small(text):
    if len(text) > 3:
        raise WrongError("too long a word")
    return text


def halved(value):
    if value == "half":
        raise WrongError("half of what", got=True)
    return value / 2


class Inner(Section):
    """A part."""

    word: Annotated[str, After(small)] = "a"
    half: Annotated[float, Field(le=4.0), Before(halved)] = 1.0


class Outer(Section):
    """A whole."""

    number: float
    from_: int = Field(default=0, key="from", ge=-1, description="where it begins")
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    maybe: Inner | None = None

    @check
    def _not_equal(self) -> list[Clash]:
        return [(("from",), "is the number")] if self.from_ == self.number else []


class Special(Outer):
    """A whole that is more."""

    number: float = 2.0

    @check
    def _not_both(self) -> list[Clash]:
        return [((), "both")] if self.several and self.maybe else []


DATA = {"number": 1, "from": 3, "several": ({"word": "b"}, {"half": 3}), "maybe": {}}


def test_the_two_ways_to_a_section():
    checked = validate(Outer, Document("x", DATA))
    assert checked == Outer.of(DATA)
    assert checked == Outer(number=1, from_=3, several=[{"word": "b"}, Inner(half=3)], maybe=Inner())
    assert (type(checked.number), checked.several[1].half) == (float, 1.5)
    assert checked.inner == checked.maybe == Inner()
    assert checked.given == {"number", "from_", "several", "maybe"}
    assert hash(checked) == hash(Outer.of(DATA))
    assert pickle.loads(pickle.dumps(checked)) == checked


def test_changed_and_without():
    section = Outer.of(DATA)
    changed = section.changed(from_=5)
    assert (changed.from_, section.from_, changed.given) == (5, 3, section.given)
    assert Special().changed(number=3.0).given == {"number"}
    part = section.without(["number"])
    assert part.from_ == 3
    with pytest.raises(UnreadError):
        _ = part.number
    assert list(part.clashes()) == []  # a check that lacks a field says nothing
    with pytest.raises(AttributeError, match="has no colour"):
        _ = section.colour
    with pytest.raises(AttributeError, match="frozen"):
        section.from_ = 4


def test_fields_that_are_none():
    for values in ({}, {"number": 1, "from": 2}, {"number": 1, "colour": 2}):
        with pytest.raises(TypeError):
            Outer(**values)


def test_what_is_wrong_in_our_words():
    data = {"from": -2, "several": ({"word": "long"}, {"half": "half"}, 5), "colour": 1, "inner": {"half": 10}}
    expected = {
        "number: missing",
        "from: expected at least -1, got -2",
        "several.0.word: too long a word",
        "several.1.half: half of what, got 'half'",
        "several.2: expected fields (`name: value`), got 5",
        "inner.half: expected at most 4.0, got 5.0",
    }
    with pytest.raises(InputError) as caught:
        validate(Outer, Document("x", data))
    told = {fault.text.removeprefix("x: ") for fault in caught.value.faults}
    assert expected <= told
    assert len(told) == len(expected) + 1  # and the unknown key


def test_checks_of_bases_and_own():
    data = {"from": 2, "several": ({},), "maybe": {}}
    with pytest.raises(InputError) as caught:
        validate(Special, Document("x", data))
    assert [fault.text for fault in caught.value.faults] == ["x: from: is the number", "x: both"]


def test_limits_come_before_functions():
    class Wrong(Section):
        """A mistake."""

        half: Annotated[float, Before(halved), Field(le=4.0)]

    with pytest.raises(TypeError, match="limits of a value come before functions"):
        validate(Wrong, Document("x", {"half": 1.0}))


def test_other_names_stand_for_fields_that_there_are():
    """And are no fields at the top of a file, where they would be taken."""
    modules = list(map(family, families()))
    sections = [("model", module.Model) for module in modules] + [("batch", module.Batch) for module in modules]
    sections += [("training", schema_workload.Training), ("parallel", schema_workload.Parallel)]
    fields = {
        f"{part}.{field.key}"
        for part, section in [*sections, ("optimizer", schema_workload.Optimizer)]
        for field in section.section_fields.values()
    }
    assert set(OTHER_NAMES) <= fields
    assert not {name for names in OTHER_NAMES.values() for name in names} & schema_workload.Workload.keys()
