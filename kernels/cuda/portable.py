"""CPU kernels whose texts work on one number at a time, as CUDA kernels: one thread runs one tile.

It serves what no CUDA kernel of its own serves, from the same texts that run on the CPU (`translate.py`). The words of the kernel
are the CPU kernel's parameters, then the number of tiles. A text that indexes its parameters by what it computes has room for
MOST_INTS integers; one that takes their address finds them in a table (`Launch.tables`), since they may be any number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...ir.core import Node
from ...ir.recording import as_table, greatest, least
from ..operands import first_int
from ..spec import Call, KernelSource, Launch, Refusal
from .translate import THREADS, NotPortable, Translated, translate

MOST_SLICES = 64 << 20  # bytes of the tiles' own scratch memory together: beyond that there are fewer tiles than units


def portable(source: KernelSource, node: Node) -> KernelSource | Refusal:
    """The CUDA kernel that does what a CPU kernel of `node` does, or why its text has none."""
    slots = first_int(node, len(source.tables))
    try:
        text = translate(source.text, slots)
    except NotPortable as e:
        return e.refusal
    return replace(source, source=text.cuda, bind=binder(source.bind, text, slots), strict=None)


def binder(bind: Callable[[Call], Launch], text: Translated, slots: int) -> Callable[[Call], Launch]:
    """How the CUDA kernel is bound: a tile for each unit of work, and a thread for each tile."""

    def cuda(call: Call) -> Launch:
        launch = bind(call)
        if launch.passes:
            raise ValueError(f"a kernel of {len(launch.passes)} passes, expected one")
        tiles = greatest(launch.tiles, launch.units)
        if launch.slice:
            tiles = greatest(launch.tiles, least(tiles, MOST_SLICES // launch.slice))
        scratch = launch.scratch + (tiles - launch.tiles) * launch.slice
        ints, blocks = launch.ints, -(-tiles // THREADS)
        if text.in_memory:
            return Launch((tiles,), blocks, scratch, tables=(as_table(ints),))
        room = text.words - slots - 1
        if text.computes_index and len(ints) > room:
            raise ValueError(f"{len(ints)} integers for a kernel, expected {room} at most")
        return Launch((*(*ints, *(0,) * (room - len(ints)))[:room], tiles), blocks, scratch)

    return cuda
