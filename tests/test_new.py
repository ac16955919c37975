"""`costsim new`: files to start from run as they are, explain every field, and say the defaults that are in force."""

import json
import re

import pytest
import yaml
from click.testing import CliRunner

from costsim import names
from costsim.cli import main
from costsim.inputs import schema_hardware, schema_policy, schema_workload
from costsim.inputs.document import Document
from costsim.inputs.parse import parse_yaml
from costsim.inputs.schema import json_schema, validate
from costsim.models import decoder
from costsim.models.families import families, family


def costsim(*arguments):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.output


TEXTS = {file: costsim("new", file) for file in names.FILES}
USES = {
    "workload": ("run", "FILE", "--format", "json"),
    "policy": ("run", "gpt2-small", "--policy", "FILE", "--format", "json"),
    "hardware": ("run", "gpt2-small", "--policy", "bf16-mixed", "--hardware", "FILE", "--format", "json"),
}
SECTIONS = {
    "workload": {(): schema_workload.Workload, ("model",): decoder.Model, ("batch",): decoder.Batch},
    "policy": {(): schema_policy.Policy},
    "hardware": {(): schema_hardware.Hardware},
}
# Sections that are shown as examples; the rest of what is left out are defaults.
EXAMPLES = {
    "workload": {"model.experts", "model.latent", "model.lora", "batch.lengths", "published", "assumptions"},
    "policy": {"phases", "published", "assumptions"},
    "hardware": {
        "bit_serial",
        "launch_s",
        "static_w",
        "tdp_w",
        "node_nm",
        "year",
        "efficiency",
        "gemm_efficiency",
        "kernels",
    }
    | {"links"},
}


def uncommented(text):
    """A file with all that it leaves out; explanations have one blank behind their #."""
    while (more := re.sub(r"(?m)^( *)#(?! \S)", r"\1", text)) != text:
        text = more
    return text


@pytest.mark.parametrize("file", names.FILES)
def test_it_runs_as_it_is(file, tmp_path):
    path = tmp_path / "mine.yaml"
    assert costsim("new", file, "--out", str(path)) == f"{path}\n"
    assert path.read_text() == TEXTS[file]
    found = json.loads(costsim(*(str(path) if word == "FILE" else word for word in USES[file])))
    assert int(found["rows"][0]["macs"]) > 0
    if file == "hardware":
        spent = found["rows"][0]["hardware"]["mine"]
        assert spent["energy_j"] > 0 < spent["time_s"]
    assert TEXTS[file].splitlines()[0] == f"# yaml-language-server: $schema={file}.schema.json"
    assert max(map(len, TEXTS[file].splitlines())) <= 120


def keys(schema, definitions, found):
    """The names of all fields of a schema, and of the sections in it."""
    if isinstance(schema, list):
        for part in schema:
            keys(part, definitions, found)
    elif isinstance(schema, dict):
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in found:
            found[name] = set()
            keys(definitions[name], definitions, found)
        if "properties" in schema:
            found.setdefault(schema["title"], set()).update(schema["properties"])
        for part in schema.values():
            keys(part, definitions, found)
    return found


@pytest.mark.parametrize("file", names.FILES)
def test_every_field_is_there_with_an_explanation(file):
    for section in SECTIONS[file].values():
        whole = json_schema(section)
        for fields in keys(whole, whole.get("$defs", {}), {}).values():
            for field in fields:
                assert re.search(rf"(?m)^[ #]*# \S.*\n[ #-]*{field}:", TEXTS[file]), field


def differences(file):
    """Where the file with all that it leaves out has more than the file: the place, its section, both files' data."""
    data, full = yaml.safe_load(TEXTS[file]), yaml.safe_load(uncommented(TEXTS[file]))
    for at, section in SECTIONS[file].items():
        old, new = (data[at[0]], full[at[0]]) if at else (data, full)
        for key in new.keys() - old.keys():
            yield at, section, key, old, new[key]


@pytest.mark.parametrize("file", names.FILES)
def test_what_is_left_out_can_be_said_and_changes_nothing_but_for_examples(file):
    found = set()
    for at, section, key, old, value in differences(file):
        # Latent attention is of heads of another size than those of the example.
        more = {"head_dim": 64, "kv_heads": 4, "rotary_dim": 32} if key == "latent" else {}
        kept = {} if key == "lengths" else old  # which stand in place of the others
        read = validate(section, parse_yaml(yaml.safe_dump({**kept, key: value, **more}), "mine.yaml"))
        if read != validate(section, Document("mine.yaml", parse_yaml(yaml.safe_dump(old), "x").data)):
            found.add(".".join((*at, key)))
    assert found == EXAMPLES[file]


def every_section():
    """The fields of all sections of files, by title."""
    sections = [schema_workload.Workload, schema_policy.Policy, schema_hardware.Hardware, schema_hardware.Cluster]
    sections += [getattr(family(name), part) for name in families() for part in ("Model", "Batch")]
    for section in sections:
        schema = json_schema(section)
        for part in (schema, *schema.get("$defs", {}).values()):
            yield section.__module__, part["title"], part["properties"]


def test_every_field_of_every_file_has_a_description():
    missing = {
        f"{module}.{title}.{name}"
        for module, title, fields in every_section()
        for name, field in fields.items()
        if not field.get("description")
    }
    assert not missing


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["new", "policy", "--out", str(tmp_path / "file" / "mine.yaml")])
    assert done.exit_code == 2
    assert "mine.yaml: Not a directory" in done.stderr
    assert CliRunner().invoke(main, ["new", "polcy"]).exit_code == 2


def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\n")
    done = CliRunner().invoke(main, ["new", "policy", "--out", str(path)])
    assert done.exit_code == 2
    assert "is there already" in done.output
    assert path.read_text() == "# mine\n"


def test_a_name_without_its_ending_is_offered_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(TEXTS["policy"])
    done = CliRunner().invoke(main, ["run", "gpt2-small", "--policy", "mine", "--policy", "mine.yml"])
    assert done.exit_code == 2
    assert done.output.count("no such file; did you mean 'mine.yaml'?") == 2
