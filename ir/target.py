"""What passes may ask of a target. `kernels/` implements it, `engine/` hands it to the passes."""

from __future__ import annotations

from typing import Protocol

from .core import Node
from .layout import Layout


class Target(Protocol):
    """A machine to compile for."""

    name: str

    def refuses(self, node: Node) -> str | None:
        """None where a kernel of this target serves the node, else the reason why there is none."""

    def refuses_epilogue(self, anchor: Node, node: Node, chain: int) -> str | None:
        """None where the elementwise `node`, whose operand `chain` comes from the anchor's kernel, can join it, else why not."""

    def layout_of(self, node: Node) -> Layout | None:
        """The layout of operand 0 and the result in which the node's kernel is fastest; None: row-major."""

    def reads_row_major(self, node: Node) -> bool:
        """Whether a node that runs in a layout reads a row-major operand 0 as fast as one in the layout."""
