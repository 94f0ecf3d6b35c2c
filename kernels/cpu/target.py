"""The CPU target: which kernel serves a node. A kernel family announces itself with `@serves("op", ...)`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace

from ...ir.core import Node
from ..registry import Registry
from ..spec import KernelSource, Refusal
from ..target import KernelTarget

# What compiles kernels, and so needs llvmlite; all other files of this folder are imported for the first node asked for.
COMPILING = frozenset({"atomics", "emit", "language", "polynomials", "shuffle", "values", "vector", "objects", "worker"})
# Functions of kernel texts that round worse than others (`polynomials.py`), and what accuracy="strict" takes instead. So do sums of
# 1 and exp or erf in the programs of epilogues, which name their steps in quotes.
REDUCED = {r"\bsoftmax_exp\b": "exp", "'exp'": "'exact_exp'", "'erf'": "'exact_erf'"}
_KERNELS = Registry("CPU", __package__, os.path.dirname(__file__), COMPILING)
serves, select = _KERNELS.serves, _KERNELS.select


def selector(accuracy: str) -> Callable[[Node], KernelSource | Refusal]:
    """`select` for an accuracy: "fast", or "strict" where accuracy goes before speed."""
    return _select_strict if accuracy == "strict" else select


def _select_strict(node: Node) -> KernelSource | Refusal:
    source = select(node)
    if isinstance(source, Refusal):
        return source
    chosen = source.strict or source
    return replace(chosen, source=lambda: _exact(chosen.text))


def _exact(text: str) -> str:
    """A kernel's text with functions to the last places in the place of those that are less exact."""
    for reduced, exact in REDUCED.items():
        text = re.sub(reduced, exact, text)
    return text


class CpuTarget(KernelTarget):
    """The CPU as passes see it."""

    name = "cpu"

    def select(self, node: Node) -> KernelSource | Refusal:
        return select(node)

    def epilogue(self, anchor: Node, node: Node, chain: int) -> Refusal | None:
        from .gemm import can_fuse_epilogue

        return can_fuse_epilogue(anchor, node, chain)

    def reads_row_major(self, node: Node) -> bool:
        """Convolutions of few channels read row-major inputs as fast as others."""
        from .conv import is_direct

        return is_direct(node, node.operands[1] if len(node.operands) > 1 else None)
