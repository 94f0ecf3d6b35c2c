"""The CPU target: which kernel serves a node. A kernel family announces itself with `@serves("op", ...)`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace

from ...ir.core import Node
from ...ir.layout import Layout, channels_last
from ...ir.types import TensorType
from ..registry import Registry
from ..spec import KernelSource, Refusal

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


class CpuTarget:
    """The CPU as passes see it (`ir.target.Target`)."""

    name = "cpu"

    def refuses(self, node: Node) -> str | None:
        """None where a kernel serves the node, else why none does."""
        answer = select(node)
        return str(answer) if isinstance(answer, Refusal) else None

    def refuses_epilogue(self, anchor: Node, node: Node, chain: int) -> str | None:
        """None where the elementwise `node` can join the anchor's kernel, reading its chain as operand `chain`."""
        from .gemm import can_fuse_epilogue

        answer = can_fuse_epilogue(anchor, node, chain)
        return None if answer is None else str(answer)

    def layout_of(self, node: Node) -> Layout | None:
        """Convolutions and pools are fastest with their channels last."""
        x = node.operands[0] if node.operands else None
        if node.op.name not in CHANNELS_LAST or x is None or not isinstance(x.type, TensorType) or x.type.rank is None:
            return None
        return channels_last(x.type.rank)

    def reads_row_major(self, node: Node) -> bool:
        """Convolutions of few channels read row-major inputs as fast as others."""
        from .conv import is_direct

        return is_direct(node, node.operands[1] if len(node.operands) > 1 else None)


CHANNELS_LAST = frozenset({"conv", "conv_transpose", "max_pool", "average_pool", "global_average_pool", "global_max_pool"})
