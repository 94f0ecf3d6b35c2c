"""The CUDA target: which kernel serves a node. A kernel family announces itself with `@serves("op", ...)`.

A node that no family of this folder serves gets the CPU's kernel, translated (portable.py), where that is scalar code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from ...ir.core import Node
from ..cpu import target as cpu
from ..registry import Registry, key_of
from ..spec import KernelSource, Refusal
from ..target import KernelTarget

# What compiles and runs kernels; all other files of this folder are imported for the first node asked for.
RUNNING = frozenset({"nvrtc", "shim", "driver", "gpu"})
PRODUCTS = frozenset({"matmul", "gemm", "conv", "conv_transpose", "fused.gemm"})  # whose builders take a precision
_KERNELS = Registry("CUDA", __package__, os.path.dirname(__file__), RUNNING)
serves = _KERNELS.serves


def selector(precision: str, keep_fp32: Collection[str] = ()) -> Callable[[Node], KernelSource | Refusal]:
    """`select` for a precision: with "tf32", products of f32 but those of the nodes in `keep_fp32` read 10 bits of mantissa."""
    kept = frozenset(keep_fp32)

    def select_tf32(node: Node) -> KernelSource | Refusal:
        return select(node) if kept & {node.name, *node.locs} else select(node, "tf32")

    return select_tf32 if precision == "tf32" else select


def select(node: Node, precision: str = "fp32") -> KernelSource | Refusal:
    """The kernel that serves `node` on CUDA, or why there is none."""
    from .portable import portable

    source = _KERNELS.select(node, *[precision] * (precision != "fp32" and key_of(node) in PRODUCTS))
    if not isinstance(source, Refusal):
        return source
    scalar = cpu.select(node)
    if isinstance(scalar, Refusal):
        return source
    translated = portable(scalar, node)
    if isinstance(translated, Refusal):
        return Refusal(f"{source.reason}; the CPU's is not translated: {translated.reason}", {**source.values, **translated.values})
    return translated


class CudaTarget(KernelTarget):
    """CUDA as passes see it."""

    name = "cuda"

    def select(self, node: Node) -> KernelSource | Refusal:
        return select(node)
