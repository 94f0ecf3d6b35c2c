"""What builders of kernels ask about a node: where things stand in the parameters, and what is known of operands."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from ..ir.core import Node
from ..ir.recording import greatest, least
from .spec import Call, Refusal

MAX_TILES = 64
# How much of something a tile does at least, which takes 3 to 8 microseconds: some twenty times what it costs to take a tile.
MOVED = 1 << 14  # elements that are copied, or computed by a few instructions
SUMMED = 1 << 16  # multiplications of sums along windows
MULTIPLIED = 1 << 18  # multiplications of a product of matrices


def first_result(node: Node) -> int:
    """The parameter slot of result 0."""
    return sum(v is not None for v in node.operands)


def first_int(node: Node, tables: int = 0) -> int:
    """The parameter slot of the first of the launch's integers."""
    return first_result(node) + len(node.results) + 1 + tables


def slot_of(node: Node, i: int) -> int:
    """The parameter slot of operand i, which must be present."""
    return sum(v is not None for v in node.operands[:i])


def refuse_strings(node: Node) -> Refusal | None:
    """Strings are Python objects: only the host moves them."""
    v = next((v for v in (*node.operands, *node.results) if v is not None and v.tensor.dtype.kind == "string"), None)
    return None if v is None else Refusal("strings are moved on the host", {f"%{v.name}": v.type})


def host_value(node: Node, i: int, host: set[int]) -> Callable[[Call], np.ndarray | None]:
    """How `bind` reads operand i: from the constant, or from `Call.contents` (then i is added to `host`); None where left out."""
    v = node.operand(i)
    if v is None:
        return lambda call: None
    if v.is_const:
        array = v.array
        return lambda call: array
    host.add(i)
    return lambda call: call.contents[i]


def refuse_layouts(node: Node) -> Refusal | None:
    """For kernels that index memory in row-major order."""
    v = next((v for v in (*node.operands, *node.results) if v is not None and v.tensor.layout is not None), None)
    return None if v is None else Refusal("the kernel takes row-major operands only", {f"%{v.name}": v.type})


def fill_in(text: str, **words: object) -> str:
    """A kernel's text with its words in capitals replaced."""
    return re.sub(r"\b[A-Z][A-Z0-9_]*\b", lambda m: str(words.get(m[0], m[0])), text)


def tiles_for(units: int, work: int, share: int = MOVED) -> int:
    """How many tiles serve work that comes in `units`, which are not cut; a tile does a `share` of it or more. An even number where
    that can be, since two threads share it evenly."""
    tiles = greatest(1, least(work // share, MAX_TILES))
    return greatest(1, least(units, tiles + tiles % 2 * least(1, tiles // 2)))
