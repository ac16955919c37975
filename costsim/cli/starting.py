"""What `costsim new` writes: examples of files, small ones that run as they stand, and what their lines are made of."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from costsim.inputs import schema, schema_hardware, schema_policy, schema_workload
from costsim.inputs.sorts import editor_lines
from costsim.inputs.starting_file import Example, JsonSchema, starting_text
from costsim.models.families import family


class Start(NamedTuple):
    """A file to start from: how to use it, its schema, the fields that it has, and others that sections may have."""

    use: str
    schema: Callable[[], JsonSchema]
    given: Example
    offered: Mapping[str, Example]


def _workload_schema() -> JsonSchema:
    """The schema of workloads of the family that the example has."""
    whole = schema.json_schema(schema_workload.Workload)
    module = family(_WORKLOAD["model"]["family"])
    for part, section in (("model", module.Model), ("batch", module.Batch)):
        own = schema.json_schema(section)
        whole["$defs"] |= own.pop("$defs", {})
        whole["properties"][part] = own | {"description": whole["properties"][part]["description"]}
    return whole


# Sizes are ours: a small Llama, which is counted in a blink and trained by NumPy in minutes.
_WORKLOAD: Mapping[str, Any] = {
    "description": "a small decoder of my own",
    "model": {
        "family": "decoder",
        "layers": 4,
        "d_model": 256,
        "ffn_dim": 688,
        "heads": 4,
        "kv_heads": 2,
        "vocab": 8000,
        "max_positions": 512,
        "norm": "pre",
        "norm_kind": "rms",
        "activation": "silu",
        "gated": True,
        "positions": "rotary",
        "qkv_bias": False,
        "out_bias": False,
        "ffn_bias": False,
        "tied": False,
        "attention": "flash",
    },
    "batch": {"sequences": 8, "tokens": 512},
    "training": {"steps": 1000, "micro_batches": 1},
    "optimizer": {"kind": "adamw", "lr": 3.0e-4, "beta2": 0.95, "weight_decay": 0.1, "clip_norm": 1.0},
    "policies": ["bf16-mixed", "fp8-tensor"],
    "baseline": "bf16-mixed",
    "law": "product",
    "traffic": "fused",
    "scope": "step",
}

_FEWER: Example = {"name": "4 sequences", "set": ["batch.sequences=4"]}
_OFFERED_TO_WORKLOAD: Mapping[str, Example] = {
    "Model": {
        "experts": {"number": 8, "chosen": 2},
        "latent": {"kv_rank": 64, "nope_dim": 32, "rope_dim": 32, "value_dim": 64},
        "lora": {"rank": 8, "targets": ["*_attention.q", "*_attention.v"]},
    },
    "Batch": {"lengths": [{"tokens": 512, "sequences": 6}, {"tokens": 384, "sequences": 2}]},
    "Workload": {
        "published": [{"quantity": "dram_reduction", "policy": "fp8-tensor", "stated": 1.5, "source": "table 1"}],
        "assumptions": [{"name": "batch", "here": "8 sequences", "cases": [_FEWER]}],
    },
    "WorkloadCase": {"rules": [{"format": "fp32", "role": ["gradient"]}]},
}

_POLICY: Example = {
    "description": "FP8 operands, and everything else as bf16-mixed has it",
    "compose": ["bf16-mixed"],
    "source": "ours",
    "grade": "ours",
    "rules": [
        {
            "copy": "operand",
            "gemm": ["forward", "dgrad", "wgrad"],
            "operand": ["x", "w"],
            "not_op": ["*_attention.scores*", "*_attention.context*", "head.*"],
            "format": "fp8-e4m3-tensor",
            "placement": "at_producer",
        },
        {
            "copy": "operand",
            "gemm": ["dgrad", "wgrad"],
            "operand": ["dy"],
            "not_op": ["*_attention.scores*", "*_attention.context*", "head.*"],
            "format": "fp8-e5m2-tensor",
            "placement": "at_producer",
        },
    ],
}

_BF16: Example = {"name": "bf16", "rules": [{"copy": "operand", "operand": ["dy"], "format": "bf16"}]}
_OFFERED_TO_POLICY: Mapping[str, Example] = {
    "Policy": {
        "phases": [{"until_fraction": 0.5}, {"grade": "ours"}],
        "published": [
            {"quantity": "dram_reduction", "stated": 1.5, "source": "a paper, table 1", "baseline": "bf16-mixed"},
        ],
        "assumptions": [{"name": "gradients", "here": "E5M2", "cases": [_BF16]}],
    },
    "Phase": {"until_plateau": {"patience": 3}},
}

_MINE = ["mine"]
_HARDWARE: Example = {
    "schema_version": 1,
    "description": "a board of my own",
    "memory": "lpddr4x",
    "rates": [
        {"operands": ["fp32", "fp32"], "accumulator": "fp32", "mac_per_s": 50 * 10**9, "source": _MINE},
        {"operands": ["bf16", "bf16"], "accumulator": "fp32", "mac_per_s": 100 * 10**9, "source": _MINE},
        {"operands": ["fp8-e4m3", "fp8-e4m3"], "accumulator": "fp32", "mac_per_s": 200 * 10**9, "source": _MINE},
        {"operands": ["fp8-e4m3", "fp8-e5m2"], "accumulator": "fp32", "mac_per_s": 200 * 10**9, "source": _MINE},
    ],
    "vector_op_per_s": {"value": 50 * 10**9, "source": _MINE},
    "dram_bytes_per_s": {"value": 12 * 10**9, "source": _MINE},
    "dram_bytes": {"value": 4 * 10**9, "source": _MINE},
    "on_chip_bytes": {"value": 2 * 2**20, "source": _MINE},
    "energy_table": "jouppi-7nm",
    "sources": {"mine": "invented figures: put the data sheet's name and table here, and the figures that it has"},
}

_SOFTMAX = [{"elements": 10**6, "s": 5.0e-4}]
_ON_HARDWARE: Example = {
    "bit_serial": {"bit_product_per_s": 10**12, "source": _MINE},
    "launch_s": {"value": 5.0e-6, "source": _MINE},
    "static_w": {"value": 2.0, "source": _MINE},
    "tdp_w": {"value": 15.0, "source": _MINE},
    "node_nm": {"value": 7.0, "source": _MINE},
    "year": {"value": 2026, "source": _MINE},
    "efficiency": {"mac": {"value": 0.8, "source": _MINE}},
    "gemm_efficiency": [{"macs": 10**6, "value": 0.2, "source": _MINE}, {"macs": 10**9, "value": 0.8, "source": _MINE}],
    "kernels": [
        {
            "kind": "softmax",
            "launch_s": 2.0e-6,
            "sizes": [{"elements": 10**6, "s": 5.0e-4}],
            "spread": 0.1,
            "source": _MINE,
        }
    ],
    "links": [{"name": "ethernet", "bytes_per_s": 125 * 10**6, "source": _MINE}],
}
_OFFERED_TO_HARDWARE: Mapping[str, Example] = {
    "Hardware": _ON_HARDWARE,
    "Efficiency": {part: {"value": 0.8, "source": _MINE} for part in ("mac", "vector", "dram")},
    "Link": {"latency_s": {"value": 5.0e-6, "source": _MINE}, "efficiency": {"value": 0.9, "source": _MINE}},
}

STARTS: Mapping[str, Start] = {
    "workload": Start("costsim run FILE", _workload_schema, _WORKLOAD, _OFFERED_TO_WORKLOAD),
    "policy": Start(
        "costsim run gpt2-small --policy FILE",
        lambda: schema.json_schema(schema_policy.Policy),
        _POLICY,
        _OFFERED_TO_POLICY,
    ),
    "hardware": Start(
        "costsim run gpt2-small --hardware FILE",
        lambda: schema.json_schema(schema_hardware.Hardware),
        _HARDWARE,
        _OFFERED_TO_HARDWARE,
    ),
}


def text(kind: str) -> str:
    """The text of a file to start from: a `workload`, a `policy` or a `hardware` profile."""
    start = STARTS[kind]
    head = [
        f"# To use it: {start.use}",
        "# `# text` explains the field under it. `#field: value` is left out: its default is in force, or, if it is a",
        "# section with fields under it, an example is shown of what may be said. Take the # away to have it.",
    ]
    return editor_lines(kind) + "\n".join(head) + "\n" + starting_text(start.schema(), start.given, start.offered)
