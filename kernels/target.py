"""What a target with kernels answers to passes (`ir.target.Target`), as far as all targets answer alike."""

from __future__ import annotations

from ..ir.core import Node
from ..ir.layout import Layout, channels_last
from ..ir.types import TensorType
from .products import refuse_epilogue
from .spec import KernelSource, Refusal

CHANNELS_LAST = frozenset({"conv", "conv_transpose", "max_pool", "average_pool", "global_average_pool", "global_max_pool"})


class KernelTarget:
    """A target is what says which kernel serves a node, and what its kernels are fast with."""

    name: str

    def select(self, node: Node) -> KernelSource | Refusal:
        """The kernel that serves `node`, or why there is none."""
        raise NotImplementedError

    def epilogue(self, anchor: Node, node: Node, chain: int) -> Refusal | None:
        """Why the elementwise `node`, which reads what came from `anchor` as operand `chain`, cannot join the anchor's kernel."""
        return refuse_epilogue(anchor, node, chain)

    def refuses(self, node: Node) -> str | None:
        """None where a kernel serves the node, else why none does."""
        answer = self.select(node)
        return str(answer) if isinstance(answer, Refusal) else None

    def refuses_epilogue(self, anchor: Node, node: Node, chain: int) -> str | None:
        """None where the elementwise `node` can join the anchor's kernel, reading its chain as operand `chain`."""
        answer = self.epilogue(anchor, node, chain)
        return None if answer is None else str(answer)

    def layout_of(self, node: Node) -> Layout | None:
        """Convolutions and pools are fastest with their channels last."""
        x = node.operands[0] if node.operands else None
        if node.op.name not in CHANNELS_LAST or x is None or not isinstance(x.type, TensorType) or x.type.rank is None:
            return None
        return channels_last(x.type.rank)

    def reads_row_major(self, node: Node) -> bool:
        """Whether the kernel of such a node reads a row-major operand as fast as one with its channels last."""
        return False
