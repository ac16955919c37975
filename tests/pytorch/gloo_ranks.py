"""Ranks as processes: each trains a small decoder as PyTorch does on many devices, and notes what collectives get.

python tests/pytorch/gloo_ranks.py RANKS FOLDER writes FOLDER/RANK.pt. The ranks find each other by a file, and talk
over the loopback.
"""

import os
import signal
import socket
import sys
import traceback
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch._dynamo  # PyTorch imports it where it wraps models: here, once for all ranks
import torch.distributed as dist
from test_against_torch import Case, Twin, draw_batches
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from costsim.models.families import family
from costsim.reference.draw import draw_weights
from costsim.run.job import Request, prepare

WORKLOAD = """
description: small
model: {family: decoder, heads: 4, layers: 2, max_positions: 8, dropout: 0.0, %s}
batch: {sequences: 2, tokens: 8}
training: {steps: 10, micro_batches: %d}
optimizer: {kind: sgd, lr: 1.0}
policies: [fp32]
baseline: fp32
parallel: %s
"""
LLAMA = (
    "kv_heads: 4, norm_kind: rms, positions: rotary, tied: false, qkv_bias: false, out_bias: false, ffn_bias: false, "
    "activation: silu, gated: true"
)
MODELS = {
    "gpt2": "d_model: 16, ffn_dim: 32, vocab: 24",
    "llama": f"d_model: 16, ffn_dim: 32, vocab: 24, {LLAMA}",
    "odd": f"d_model: 10, head_dim: 4, ffn_dim: 18, vocab: 25, {LLAMA}",  # 2 do not divide 25; 4 nor 10, 18, 250
}


class Split(NamedTuple):
    """A model on many devices, in PyTorch's words (`way`) and in ours (`parallel`; N: of all ranks, M: of half).

    `formats`: fp32; bf16, where weights are gathered in it; "bf16 reduced", where gradients are reduced in it, too.
    """

    model: str
    way: str
    parallel: str
    micro_batches: int = 1
    formats: str = "fp32"

    def fits(self, ranks):
        """Whether each axis has more than one rank."""
        return "M" not in self.parallel or ranks > 2

    def data(self, ranks):
        """How many ranks there are of data."""
        return ranks // 2 if "data: M" in self.parallel else ranks if "data" in self.parallel else 1

    def group(self, ranks):
        """How many ranks each collective is of: as many on all axes."""
        return 2 if "M" in self.parallel else ranks


SPLITS = {
    "ddp": Split("gpt2", "ddp", "{data: N}"),
    "ddp of 3": Split("llama", "ddp", "{data: N}", 3),
    "ddp odd": Split("odd", "ddp", "{data: N}"),
    "fsdp tied": Split("gpt2", "fsdp", "{data: N, zero: 3}"),
    "fsdp of 3": Split("llama", "fsdp", "{data: N, zero: 3}", 3),
    "fsdp odd": Split("odd", "fsdp", "{data: N, zero: 3}"),
    "fsdp bf16": Split("llama", "fsdp", "{data: N, zero: 3}", 1, "bf16"),
    "fsdp kept": Split("gpt2", "fsdp kept", "{data: N, zero: 2}"),
    "fsdp kept of 3": Split("llama", "fsdp kept", "{data: N, zero: 2}", 3),
    "fsdp kept bf16": Split("llama", "fsdp kept", "{data: N, zero: 2}", 1, "bf16 reduced"),
    "fsdp each time": Split("llama", "fsdp each time", "{data: N, zero: 2}", 3),
    "tensor": Split("llama", "tensor", "{tensor: N, sequence: false}"),
    "tensor apart": Split("llama", "tensor apart", "{tensor: N, sequence: false}"),
    "sequence": Split("llama", "sequence", "{tensor: N}"),
    "sequence of 2": Split("llama", "sequence", "{tensor: N}", 2),
    "both": Split("llama", "fsdp and tensor", "{data: M, tensor: 2, sequence: false, zero: 3}", 2),
    "both bf16": Split("llama", "fsdp and tensor", "{data: M, tensor: 2, sequence: false, zero: 3}", 1, "bf16"),
}


def graph_of(folder, split, ranks=1, micro_batches=None):
    """The graph of one rank of so many; of one, the model on one device."""
    file = Path(folder) / "small.yaml"
    parallel = split.parallel.replace("N", str(ranks)).replace("M", str(ranks // 2)) if ranks > 1 else "{}"
    file.write_text(WORKLOAD % (MODELS[split.model], micro_batches or split.micro_batches, parallel))
    job = prepare(Request(str(file)))
    return job.graph, family("decoder").Model(**job.file.model)


def drawn(folder, split, ranks):
    """The model on one device, weights, and a batch for each micro-batch of each rank of data: the same everywhere."""
    graph, config = graph_of(folder, split, micro_batches=split.data(ranks) * split.micro_batches)
    weights = draw_weights(graph, np.random.default_rng(0), np.float32)
    case = Case(config, graph, 0.0, None)
    return case, weights, draw_batches(case, np.float32)


# --- what collectives are given ---------------------------------------------------------------------------------------

SENDING = {  # by operator of PyTorch: the collective, and whether its first or its second operand is its input
    "c10d.allreduce_": ("all_reduce", 0),
    "c10d._allgather_base_": ("all_gather", 1),
    "c10d._reduce_scatter_base_": ("reduce_scatter", 1),
    "_c10d_functional.all_reduce": ("all_reduce", 0),
    "_c10d_functional.all_gather_into_tensor": ("all_gather", 0),
    "_c10d_functional.reduce_scatter_tensor": ("reduce_scatter", 0),
}
SILENT = ("_c10d_functional.wait_tensor", "_c10d_functional._wrap_tensor_autograd")


class Counter(TorchDispatchMode):
    """Notes of each collective what a rank gives it: (collective, bytes of its input)."""

    def __init__(self):
        super().__init__()
        self.given = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented  # it works on its local tensors, and what it sends is seen then
        name = f"{func.namespace}.{func.__name__.split('.')[0]}"
        if name in SENDING:
            collective, at = SENDING[name]
            inputs = args[at] if isinstance(args[at], list) else [args[at]]
            self.given += [(collective, x.numel() * x.element_size()) for x in inputs]
        elif "c10d" in func.namespace and name not in SILENT:
            self.given.append((name, 0))  # nothing of ours
        return func(*args, **(kwargs or {}))


# --- ways to split ----------------------------------------------------------------------------------------------------


def ddp(twin, split, mesh):
    return DistributedDataParallel(twin.model)


def fsdp(twin, split, mesh, again=True, kept=False):
    """A unit for each layer, and one for the rest, as people do it; `kept`: gathered once a step."""
    formats = {"bf16": {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}}
    formats["bf16 reduced"] = {"param_dtype": torch.bfloat16}
    policy = MixedPrecisionPolicy(**formats.get(split.formats, {}))
    for module in (*twin.model.decoder, twin.model):
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
    twin.model.kept = kept
    return twin.model


def tensor(twin, split, mesh, sequence=False, apart=False):
    """As Megatron-LM; `apart`: what reads a norm's result knows nothing of the others that do."""
    between = Shard(1) if sequence else Replicate()
    plan = {"embedding.tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=between)}
    plan["head.logits"] = ColwiseParallel(input_layouts=between, output_layouts=Shard(-1), use_local_output=False)
    norms = ["decoder_final_norm"]
    for i in range(len(twin.model.decoder)):
        at = f"decoder.{i}"
        norms += [f"{at}.self_attention_norm", f"{at}.ffn_norm"]
        inside = [f"{at}.self_attention.{name}" for name in "qkv"] + [f"{at}.ffn.fc1", f"{at}.ffn.fc3"]
        plan |= {name: ColwiseParallel() for name in inside}
        plan |= {f"{at}.{name}": RowwiseParallel(output_layouts=between) for name in ("self_attention.out", "ffn.fc2")}
    if sequence:
        parallelize_module(twin.model, mesh, {name: SequenceParallel() for name in norms})
    # What a norm makes is gathered once for all that read it.
    whole = {"output_layouts": between, "desired_output_layouts": Replicate(), "use_local_output": False}
    plan |= {name: PrepareModuleOutput(**whole) for name in norms if name != "decoder_final_norm" and not apart}
    return parallelize_module(twin.model, mesh, plan)


def fsdp_and_tensor(twin, split, mesh):
    """Neighbours share heads and widths; ranks at the same place share what is left."""
    tensor(twin, split, mesh["tensor"])
    return fsdp(twin, split, mesh["data"])


WAYS = {
    "ddp": ddp,
    "fsdp": fsdp,
    "fsdp kept": partial(fsdp, again=False, kept=True),
    "fsdp each time": partial(fsdp, again=False),
    "tensor": tensor,
    "tensor apart": partial(tensor, apart=True),
    "sequence": partial(tensor, sequence=True),
    "fsdp and tensor": fsdp_and_tensor,
}


def gathering(model, last):
    """What PyTorch is told before a micro-batch: whether gradients are exchanged, and weights are shared again."""
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    if getattr(model, "kept", False):
        model.set_reshard_after_backward(last)
    return nullcontext()


def step(model, split, batches):
    """Forward and backward of all micro-batches, and an update that changes nothing, which makes gradients whole."""
    for i, batch in enumerate(batches):
        with gathering(model, i == len(batches) - 1), loss_parallel() if "tensor" in split.parallel else nullcontext():
            batch = {name: torch.tensor(x) for name, x in batch.items()}
            logits, labels = model(batch).flatten(0, -2), batch["head.labels"].flatten()
            (F.cross_entropy(logits, labels, ignore_index=-1) / len(batches)).backward()
    torch.optim.SGD(model.parameters(), lr=0.0, foreach=False).step()


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def trained(split, mesh, case, weights, batches):
    """What a rank gives collectives in a step, and the gradients that come of it."""
    ranks = dist.get_world_size()
    own = dist.get_rank() * split.data(ranks) // ranks  # among those of data, of which neighbours in tensor are one
    batches = batches[own * split.micro_batches :][: split.micro_batches]
    twin = Twin(case, weights)
    model = WAYS[split.way](twin, split, mesh)
    for _ in range(3 if split.way == "ddp" else 1):  # in DDP's second, ranks agree on how it sorts gradients
        for parameter in model.parameters():
            parameter.grad = None
        with Counter() as counter:
            step(model, split, batches)
    parameters = getattr(model, "module", model).named_parameters()
    gradients = {twin.name_of(name): whole(parameter.grad) for name, parameter in parameters}
    return {"given": counter.given, "gradients": gradients}


# --- processes --------------------------------------------------------------------------------------------------------


def rank_main(rank, ranks, folder, cases):
    torch.set_num_threads(1)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/ranks", rank=rank, world_size=ranks, timeout=limit)
    line = init_device_mesh("cpu", (ranks,))
    square = init_device_mesh("cpu", (ranks // 2, 2), mesh_dim_names=("data", "tensor"))
    meshes = {name: square if "M" in split.parallel else line for name, split in SPLITS.items()}
    results = {name: trained(SPLITS[name], meshes[name], *case) for name, case in cases.items()}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def fork(main, *arguments):
    """A process that runs a function, and ends with it."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        main(*arguments)
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(ranks, folder):
    """Fork the ranks; where one fails, the others end too."""
    os.environ["GLOO_SOCKET_IFNAME"] = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    cases = {name: drawn(folder, split, ranks) for name, split in SPLITS.items() if split.fits(ranks)}
    running = {fork(rank_main, rank, ranks, folder, cases) for rank in range(ranks)}
    failed = False
    while running:
        child, status = os.wait()
        running.remove(child)
        if status:
            failed = True
            for other in running:
                os.kill(other, signal.SIGKILL)
    sys.exit(failed)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
