"""Writes transformers_saved.json: what autograd keeps of the tiny models of transformers_losses.py.

cd tests && python -m data.transformers_saved, with torch 2.13.0 and transformers 5.24.0. In float32, with eager
attention and grouped products of experts (whose sizes do not hang on which expert a token goes to): by model, the
storages that a forward with its loss keeps, by bytes and dtype; parameters and buffers left out.
"""

import json
from collections import Counter

import numpy as np
from data.transformers_losses import DATA, MODELS, batch_of, fill, made


def saved(make, config):
    """How many storages of each size and dtype a tiny model's forward keeps for its backward."""
    import torch
    import transformers

    kind = transformers.AutoConfig.for_model(**config)
    kind._attn_implementation = "eager"
    if "num_experts_per_tok" in config:
        kind._experts_implementation = "grouped_mm"
    model = made(make, kind, config).train()
    fill(model, config)
    model.float()
    batch = {
        name: torch.tensor(x.astype(np.float32) if x.dtype == np.float64 else x) for name, x in batch_of(make).items()
    }
    standing = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}
    alive, storages = [], {}

    def pack(x):
        alive.append(x)  # so that no address is used twice
        storage = x.untyped_storage()
        if storage._cdata not in standing:
            storages.setdefault(storage._cdata, f"{storage.nbytes()} {str(x.dtype).removeprefix('torch.')}")
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(**batch, **({"use_cache": False} if make.endswith(("ForCausalLM", "Generation")) else {}))
    return dict(sorted(Counter(storages.values()).items(), key=lambda item: int(item[0].split()[0])))


def main():
    import torch
    import transformers

    kept = {
        "origin": "transformers_saved.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "models": {name: saved(*given) for name, given in MODELS.items()},
    }
    (DATA / "transformers_saved.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
