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
RUNNING = frozenset({"nvrtc", "shim", "driver", "gpu", "library", "library_shim", "cublaslt", "cudnn"})
# Whose builders take how they multiply: "fp32", "tf32" (f32 with 10 bits of mantissa), "scalar" (without tensor cores).
PRODUCTS = frozenset({"matmul", "gemm", "conv", "conv_transpose", "fused.gemm", "attention", "fused.attention"})
_KERNELS = Registry("CUDA", __package__, os.path.dirname(__file__), RUNNING)
serves = _KERNELS.serves


def selector(precision: str, keep_fp32: Collection[str] = (), rung: str = "tensor") -> Callable[[Node], KernelSource | Refusal]:
    """`select` for a precision and a rung (engine/options.py): with "tf32", products of f32 but those of the nodes in `keep_fp32`
    read 10 bits of mantissa."""
    kept = frozenset(keep_fp32)

    def choose(node: Node) -> KernelSource | Refusal:
        return select(node, "tf32" if precision == "tf32" and not kept & {node.name, *node.locs} else "fp32", rung)

    return choose


def select(node: Node, precision: str = "fp32", rung: str = "tensor") -> KernelSource | Refusal:
    """The kernel that serves `node` on CUDA, or the call of a library, or why there is none."""
    from .libraries import select as from_library
    from .portable import portable

    if rung == "libraries" and key_of(node) in PRODUCTS:
        called = from_library(node, precision)
        if not isinstance(called, Refusal):
            return called
    multiply = "scalar" if rung == "scalar" else precision
    source = _KERNELS.select(node, *[multiply] * (multiply != "fp32" and key_of(node) in PRODUCTS))
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
    """CUDA as passes see it, for a precision and a rung."""

    name = "cuda"

    def __init__(self, precision: str = "fp32", rung: str = "tensor"):
        self._precision, self._rung = precision, rung

    def epilogue(self, anchor: Node, node: Node, chain: int) -> Refusal | None:
        """A library's call keeps to the epilogues that the library has."""
        refusal = super().epilogue(anchor, node, chain)
        if refusal is not None or self._rung != "libraries":
            return refusal
        from .libraries import refuse_epilogue

        return refuse_epilogue(anchor, node, chain, self._precision)

    def select(self, node: Node) -> KernelSource | Refusal:
        return select(node)
