"""What `compile` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ir.limits import DEFAULT_LIMITS, Limits

DEFAULT_PIPELINE = (
    "infer,canonicalize,quantized,fold,canonicalize,cse,user,recognize,sink-transposes,canonicalize,fold-scales,fold,cse,dce"
)
TARGET_PIPELINE = "split-branches,decompose,fold,cse,layout,fuse,dce"


@dataclass(frozen=True)
class Options:
    """How to compile.

    target: "cpu" or "cuda" (generated kernels), or "reference" (numpy only: the oracle). device, for "cuda": "gpu", or, without one,
    "shim" (kernels run on the CPU, to test them) or "null" (nothing runs, outputs are zero). threads: None means as many as the
    machine grants this process. passes: a pipeline's text in the place of the usual one. shapes: symbolic dims to fix, by name.
    strict_native: raise UnsupportedError where a node would run by its reference. accuracy: "fast", or "strict" to keep out kernels
    that round worse than the operator's own formula would (Winograd's convolutions, see docs/kernels.md).
    """

    target: str = "cpu"
    threads: int | None = None
    passes: str | None = None
    shapes: Mapping[str, int] = field(default_factory=dict)
    strict_native: bool = False
    limits: Limits = DEFAULT_LIMITS
    accuracy: str = "fast"
    device: str = "gpu"
