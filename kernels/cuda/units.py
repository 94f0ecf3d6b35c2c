"""Memory in units of 1 to 16 bytes: how wide they can be is known with the sizes, so a text has a function for each width."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.recording import opaque
from ..operands import fill_in

_UNITS = """
struct alignas(16) Word { u64 low, high; };
using Part = PART;  // an element, or half of one of 16 bytes

// Copies a unit, in parts where it does not lie at a multiple of its size.
template <class W> DEVICE void move(i64 to, i64 from, bool aligned) {
    if (aligned) *(W*)to = *(const W*)from;
    else
        for (u32 b = 0; b < sizeof(W); b += sizeof(Part)) *(Part*)(to + b) = *(const Part*)(from + b);
}
"""


def unit_helpers(item: int) -> str:
    """What texts in units of elements of `item` bytes may use."""
    return fill_in(_UNITS, PART=f"u{8 * min(item, 8)}").strip("\n") + "\n"


def unit_widths(item: int) -> list[tuple[int, str]]:
    """The bytes of the units that elements of `item` bytes can make, and their types."""
    return [(w, "Word" if w == 16 else f"u{8 * w}") for w in (1, 2, 4, 8, 16) if w >= item]


def unit_width(nbytes: int, strides: Sequence[int], item: int, tail: bool = False) -> int:
    """The bytes of a unit of a run of so many bytes, whose addresses move by these strides. `tail`: the last unit may be shorter,
    if there are many."""
    return opaque(_unit_width, nbytes, item, tail, *strides)


def _unit_width(nbytes: int, item: int, tail: bool, *strides: int) -> int:
    width = 16
    while width > item and (any(s % width for s in strides) or (nbytes % width and not (tail and nbytes >= 8 * width))):
        width //= 2
    return width
