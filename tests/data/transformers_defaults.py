"""Write what transformers says of configs, as data: its defaults for the importer, and whole configs for its tests.

Run it with each version, the oldest first; what a later one says stands. It needs neither PyTorch nor costsim:

    pip install transformers==4.57.6 && python tests/data/transformers_defaults.py
    pip install transformers==5.24.0 && python tests/data/transformers_defaults.py

costsim/huggingface/defaults.json: the names of all types, by the last version that has them, and the default of each
key of the types that are imported (those of tests/data/configs). A default that follows from other keys is written as
the class declares it, which mostly is null. tests/data/transformers_configs.json: by version, the configs of
tests/data/configs as transformers reads and writes them, and those that give nothing but their type.
"""

import inspect
import json
from pathlib import Path

import transformers

DATA = Path(__file__).parent
DEFAULTS = DATA.parents[1] / "costsim" / "huggingface" / "defaults.json"
CONFIGS = DATA / "transformers_configs.json"
NO_KEYS = ("model_type", "transformers_version", "architectures", "_name_or_path")


def read(path):
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, sections):
    """JSON with one line for each entry of a section."""
    lines = (
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in section.items())
        + "\n }"
        if isinstance(section, dict)
        else f" {json.dumps(name)}: {json.dumps(section)}"
        for name, section in sections.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def whole(model_type, **keys):
    """A config as transformers writes it, every key given."""
    return json.loads(json.dumps(transformers.CONFIG_MAPPING[model_type].from_dict(keys).to_dict(), sort_keys=True))


def following(model_type):
    """The keys whose default follows from another key: it moves when that one does."""
    base = whole(model_type)
    moved = set()
    for key, value in base.items():
        if isinstance(value, int) and key not in NO_KEYS:
            try:
                other = whole(model_type, **{key: not value if isinstance(value, bool) else 2 * value or 1})
            except Exception:  # a value that the class refuses
                continue
            moved |= {name for name in base if name != key and other.get(name) != base[name]}
    return moved


def defaults(model_type):
    """The default of each key."""
    declared = inspect.signature(transformers.CONFIG_MAPPING[model_type].__init__).parameters
    keys = {key: value for key, value in whole(model_type).items() if key not in NO_KEYS}
    for key in following(model_type):
        if key in declared:
            keys[key] = declared[key].default
        else:
            del keys[key]
    return keys


def main():
    version = transformers.__version__
    real = {path.stem: json.loads(path.read_text()) for path in sorted((DATA / "configs").glob("*.json"))}
    names = sorted({config["model_type"] for config in real.values()})

    old = read(DEFAULTS)
    keys = {name: dict(sorted({**old.get("defaults", {}).get(name, {}), **defaults(name)}.items())) for name in names}
    types = set(transformers.CONFIG_MAPPING.keys())
    earlier = {v: sorted(set(known) - types) for v, known in old.get("types", {}).items() if v != version}
    source = "transformers (PyPI, Apache-2.0), by tests/data/transformers_defaults.py"
    write(DEFAULTS, {"source": source, "types": {**earlier, version: sorted(types)}, "defaults": keys})

    configs = {name: whole(**config) for name, config in real.items()}
    write(CONFIGS, {**read(CONFIGS), version: {**configs, **{name: whole(name) for name in names}}})


if __name__ == "__main__":
    main()
