"""The CUDA target: which kernel serves a node. A kernel family announces itself with `@serves("op", ...)`.

A node that no family of this folder serves gets the CPU's kernel, translated (portable.py), where that is scalar code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from ...ir.core import Node
from ...ir.layout import Layout, channels_last
from ..cpu import target as cpu
from ..registry import Registry, key_of
from ..spec import KernelSource, Refusal
from ..target import KernelTarget

if TYPE_CHECKING:
    from .cut import Cut
    from .ways import Way

# What compiles and runs kernels; all other files of this folder are imported for the first node asked for.
RUNNING = frozenset({"nvrtc", "shim", "watch", "driver", "gpu", "library", "library_shim", "cublaslt", "cudnn"})
# Whose builders take how they multiply: "fp32", "tf32" (f32 with 10 bits of mantissa), "scalar" (without tensor cores).
PRODUCTS = frozenset({"matmul", "gemm", "conv", "conv_transpose", "fused.gemm", "attention", "fused.attention", "matmul_integer",
                      "qlinear_matmul", "conv_integer", "qlinear_conv"})  # fmt: skip
_KERNELS = Registry("CUDA", __package__, os.path.dirname(__file__), RUNNING)
serves = _KERNELS.serves


def selector(precision: str, keep_fp32: Collection[str] = (), rung: str = "tensor",
             ways: Mapping[str, Way] | None = None) -> Callable[[Node], KernelSource | Refusal]:  # fmt: skip
    """`select` for a precision and a rung (engine/options.py): with "tf32", products of f32 but those of the nodes in `keep_fp32`
    read 10 bits of mantissa. `ways` are those of problems (ways.py) that shall not be computed as they are by default."""
    kept = frozenset(keep_fp32)

    def choose(node: Node) -> KernelSource | Refusal:
        how = products_of(node, precision, kept)
        if ways and key_of(node) in PRODUCTS:
            from .ways import build, problem_of

            problem = problem_of(node, how, rung)
            way = None if problem is None else ways.get(problem.key)
            found = None if way is None else build(node, how, rung, way)
            if isinstance(found, KernelSource):
                return found
        return select(node, how, rung)

    return choose


def products_of(node: Node, precision: str, kept: Collection[str]) -> str:
    """How a node's products are computed: "tf32", but for nodes that are `kept`, or "fp32"."""
    return "tf32" if precision == "tf32" and not {node.name, *node.locs} & {*kept} else "fp32"


def select(node: Node, precision: str = "fp32", rung: str = "tensor", cut: Cut | None = None) -> KernelSource | Refusal:
    """The kernel that serves `node` on CUDA, or the call of a library, or why there is none. `cut` asks products for a tile."""
    from .libraries import select as from_library
    from .portable import portable

    if rung == "libraries" and key_of(node) in PRODUCTS:
        called = from_library(node, precision)
        if not isinstance(called, Refusal):
            return called
    multiply = "scalar" if rung == "scalar" else precision
    if cut is not None:
        return _KERNELS.select(node, multiply, cut)
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

    def layout_of(self, node: Node) -> Layout | None:
        """Convolutions of bytes too have their channels last, where the tensor cores compute them or what they make is read so."""
        if self._rung != "scalar" and node.op.name in ("conv_integer", "qlinear_conv"):
            from .quant_tensor import is_best_channels_last

            return channels_last(node.results[0].tensor.rank or 0) if is_best_channels_last(node) else None
        return super().layout_of(node)

    def reads_row_major(self, node: Node) -> bool:
        """Scalar tiles of bytes read a row-major operand as fast as another."""
        if node.op.name not in ("conv_integer", "qlinear_conv"):
            return super().reads_row_major(node)
        from .quant_tensor import takes_channels_last

        return not takes_channels_last(node)
