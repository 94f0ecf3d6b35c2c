"""Data movement: everything that is a list of boxes (see ../moves.py)."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.core import Node
from ..boxes import Box, Mover
from ..moves import movers, moves_of
from ..operands import first_int
from ..spec import KernelSource, Launch, Refusal
from .boxes import INLINE, copy_text, launch
from .source import MOST_WORDS
from .target import serves


@serves(*movers())
def copier(node: Node) -> KernelSource | Refusal:
    """The kernel of a node that copies boxes of elements of its result's type."""
    found = moves_of(node)
    if isinstance(found, Refusal):
        return found
    at, item = first_int(node), node.results[0].tensor.dtype.itemsize
    if at + 3 + INLINE > MOST_WORDS:
        return Refusal("more operands and results than a kernel's parameters hold", {"operands": len(node.operands)})

    def copy(some: Sequence[Box]) -> Launch:
        return launch(some, item)

    return Mover(lambda: copy_text(at, item), lambda call: copy(found.boxes(call)), "boxes", host=found.host, boxes=found.boxes,
                 copy=copy)  # fmt: skip
