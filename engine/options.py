"""What `compile` can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..ir.limits import DEFAULT_LIMITS, Limits

DEFAULT_PIPELINE = (
    "infer,canonicalize,quantized,fold,canonicalize,cse,user,recognize,sink-transposes,canonicalize,fold-scales,fold,cse,dce"
)
TARGET_PIPELINE = "split-branches,decompose,fold,cse,layout,fuse,dce"
# How floats are computed on CUDA, and the floats that the pass `precision` keeps between nodes for that.
PRECISIONS = {"fp32": "", "tf32": "", "fp16": "f16", "bf16": "bf16"}

RUNGS = ("libraries", "tensor", "scalar")  # of CUDA's ladder, the highest first: each stands on those behind it


@dataclass(frozen=True)
class Options:
    """How to compile.

    target: "cpu" or "cuda" (generated kernels), or "reference" (numpy only: the oracle). device, for "cuda": "gpu", or without one
    "shim" (kernels run on the CPU, to test them) or "null" (nothing runs, outputs are zero). threads: None means as many as the
    machine grants this process. passes: a pipeline's text in the place of the usual one. shapes: symbolic dims to fix, by name.
    strict_native: raise UnsupportedError where a node would run by its reference. accuracy: "fast", or "strict" to keep out kernels
    that round worse than the operator's own formula would (Winograd's convolutions, see docs/kernels.md). precision, for "cuda":
    "fp32"; "tf32", where products may read 10 bits of mantissa; "fp16" or "bf16", which keep 16-bit floats between nodes and sum
    in f32. keep_fp32: names of nodes that stay in f32 then. keep_io_types: whether inputs and outputs keep the model's types then
    (as in onnxconverter-common's float16); False: those that would be converted right away have 16 bits, or all but those of the
    names given. rung, for "cuda": what computes products, convolutions and attention:
    NVIDIA's "libraries" where they can; our kernels on the "tensor" cores, where those multiply such floats; or "scalar" kernels.
    tune, for "cuda": measure the ways of computing these on the device, and take the fastest. buckets: sizes that symbolic dims are
    padded to in runs, by name; pad: by which values, by input, where rows are not proven to be independent (see docs/api.md).
    """

    target: str = "cpu"
    threads: int | None = None
    passes: str | None = None
    shapes: Mapping[str, int] = field(default_factory=dict)
    strict_native: bool = False
    limits: Limits = DEFAULT_LIMITS
    accuracy: str = "fast"
    device: str = "gpu"
    precision: str = "fp32"
    keep_fp32: tuple[str, ...] = ()
    keep_io_types: bool | tuple[str, ...] = True
    rung: str = "tensor"
    tune: bool = False
    buckets: Mapping[str, Sequence[int]] = field(default_factory=dict)
    pad: Mapping[str, float] = field(default_factory=dict)
