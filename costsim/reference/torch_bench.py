"""A CPU or a CUDA device through PyTorch, as a bench. PyTorch is given, not loaded here: see `engines`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from costsim.reference.bench import Machine, Sizes, Task, cpu_machine, cpu_sizes

_CUDA_SIZES = Sizes(
    copy_bytes=2**30,
    vector_elements=(2**18, 2**20, 2**22),
    gemm=(256, 512, 1024, 2048, 4096, 8192),
)
_ACCUMULATORS: Mapping[str, str] = {
    "fp32": "fp32",
    "tf32": "fp32",
    "bf16": "fp32",
    "fp16": "fp32",
    "fp8-e4m3": "fp32",
    "int8": "int32",
}
DTYPES: Mapping[str, str] = {"bf16": "bfloat16", "fp16": "float16", "fp8-e4m3": "float8_e4m3fn", "int8": "int8"}
_WORTH: Mapping[str, tuple[str, ...]] = {"cpu": ("fp32", "bf16", "int8"), "cuda": tuple(_ACCUMULATORS)}
_CURVE: Mapping[str, str] = {"cpu": "fp32", "cuda": "bf16"}


class TorchBench:
    """On a CPU everything runs on all cores.

    `formats` are those to multiply, by default all that are worth measuring on the device.
    """

    def __init__(self, torch: Any, device: str = "cuda", formats: Sequence[str] = ()) -> None:
        self._torch, self._device = torch, device
        chosen = formats or _WORTH[device]
        self.accumulators: Mapping[str, str] = {name: _ACCUMULATORS[name] for name in chosen}
        self.curve = _CURVE[device] if _CURVE[device] in chosen else chosen[0]
        self.sizes, self.machine = (cpu_sizes(), self._cpu()) if device == "cpu" else (_CUDA_SIZES, self._cuda())
        self._generator = torch.Generator(device).manual_seed(0)

    def _cuda(self) -> Machine:
        torch = self._torch
        gpu = torch.cuda.get_device_properties(0)
        return Machine(
            description=f"{gpu.name}, through PyTorch",
            vendor=gpu.name.partition(" ")[0],
            setup=f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {gpu.name}",
            memory_source="what CUDA says",
            dram_bytes=gpu.total_memory,
            on_chip_bytes=getattr(gpu, "L2_cache_size", None),
            remark="three passes over the cache at most as fast as it is, so less than the units could do",
            notes=(),
        )

    def _cpu(self) -> Machine:
        setup = f"PyTorch {self._torch.__version__}, {self._torch.get_num_threads()} threads"
        return cpu_machine("PyTorch", setup, "on all threads")

    def _draw(self, dtype: str, *shape: int) -> Any:
        x = self._torch.rand(shape, generator=self._generator, device=self._device)
        return x.to(getattr(self._torch, dtype))

    def copy(self, size: int) -> Task:
        """Copy an array of so many bytes to another."""
        x = self._draw("float32", size // 4)
        return partial(self._torch.ones_like(x).copy_, x)

    def vector(self, elements: int) -> Task:
        """Multiply two fp32 arrays element by element into a third."""
        x, y = self._draw("float32", elements), self._draw("float32", elements)
        return partial(self._torch.mul, x, y, out=self._torch.ones_like(x))

    def gemm(self, format: str, n: int) -> Task:
        """Multiply two matrices of n by n. Raises what PyTorch raises if the device or PyTorch cannot."""
        torch = self._torch
        # A setting of the process: right for the task made last, which is the one that runs.
        torch.set_float32_matmul_precision("high" if format == "tf32" else "highest")
        dtype = DTYPES.get(format, "float32")
        x, y = self._draw(dtype, n, n), self._draw(dtype, n, n)
        if format == "int8":
            return partial(torch._int_mm, x, y)
        if format == "fp8-e4m3":
            one = torch.ones((), device=self._device)
            # cuBLAS takes the second operand by columns.
            return partial(torch._scaled_mm, x, y.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        return partial(torch.matmul, x, y, out=torch.ones_like(x))

    def wait(self) -> None:
        """Until the device is idle."""
        if self._device == "cuda":
            self._torch.cuda.synchronize()
