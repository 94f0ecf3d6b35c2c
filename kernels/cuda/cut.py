"""How a product is cut into tiles, and where these are too few for a GPU, its reduction into splits: by sizes alone.

The tensor cores' tiles are chosen by an estimate of the time that each way of cutting takes on a large GPU (an H100's 132
multiprocessors; it is no worse a guess for others). Its constants were fitted to times of floats on one; `graphmill explain MODEL
--target cuda --tune` measures the ways, and says where the estimate is wrong. A part of bytes, twice as many as of 16-bit floats
and multiplied at twice the rate, is taken to cost as much as one of those; that was not fitted on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from ...ir.recording import greatest, least
from .text import blocks_for


class Tile(NamedTuple):
    """What a block computes at a time: by parts in shared memory (tile.cuh, mma.cuh), or `direct` from registers (direct.cuh)."""

    rows: int
    columns: int
    direct: bool = False

    def deep(self, item: int) -> int:
        """Steps of the reduction that a tensor tile takes at a time, of numbers of so many bytes."""
        return DIRECT_STEPS if self.direct else PART // item


class Cut(NamedTuple):
    """How a product is cut where that is not left to `tensor_cut`: its tile, and its reduction in splits."""

    tile: Tile  # FEW_ROWS: none, by the kernel for few rows
    splits: int = 1

    def __str__(self) -> str:
        tile, splits = self
        if tile == FEW_ROWS:
            return "few rows"
        return f"{'direct ' * tile.direct}{tile.rows}x{tile.columns}{f' / {splits}' if splits > 1 else ''}"

    def whole(self, depth: int, item: int) -> Cut:
        """The same without splits that have nothing to do, for operands of so many bytes an element."""
        parts = blocks_for(depth, self.tile.deep(item))
        each = blocks_for(parts, self.splits)
        return self._replace(splits=blocks_for(parts, each) if each else 1)


FEW_ROWS = Tile(0, 0)
MULTIPROCESSORS = 132
LONG = 256  # steps of the reduction that a split of scalar tiles has at least
MOST_SPLITS = 16

DIRECT_STEPS = 32  # as in direct.cuh
PART = 128  # bytes of the reduction that a tensor tile takes at a time, as in mma.cuh
LEAST_PARTS = 2  # of a split
UNIT = 32  # what a tensor tile has of rows, of columns and of the reduction is a multiple of it
# Microseconds that a product by tiles of mma.cuh takes once, a block, a part at least, its copies for 64 rows or columns, the
# results of 64 x 128 numbers; and products of 16-bit numbers that a multiprocessor makes in one.
START, BLOCK, WAIT, COPY, STORE, RATE = 0.36, 1.3, 0.34, 0.025, 3.26, 5.55e6
# Of direct tiles: once; a block, and for each of its 32 columns; a turn of all its warps; 32 steps of the reduction on average.
DIRECT_START, DIRECT_BLOCK, DIRECT_COLUMNS, DIRECT_TURN, DIRECT_PART = 0.03, 1.22, 0.42, 0.5, 0.017
JOIN, JOIN_EACH = 2.06, 0.22  # of adding up splits


def scalar_cut(tiles: Sequence[Tile], rows: int, columns: int, batches: int, depth: int, cut: bool) -> tuple[int, int]:
    """Which of the tiles, the first from the largest on that gives blocks enough, and the splits."""
    which = len(tiles) - 1
    for i, tile in enumerate(tiles[:-1]):
        if blocks_for(rows, tile.rows) * blocks_for(columns, tile.columns) * batches >= MULTIPROCESSORS:
            which = i
            break
    blocks = blocks_for(rows, tiles[which].rows) * blocks_for(columns, tiles[which].columns) * batches
    if not cut or blocks >= MULTIPROCESSORS:
        return which, 1
    return which, max(1, min(2 * MULTIPROCESSORS // max(1, blocks), depth // LONG, MOST_SPLITS))


def few_cut(blocks: int, depth: int) -> tuple[int, int]:
    """The splits of products of few rows, and the steps of the reduction that each has: whole chunks of 16 bytes."""
    splits = greatest(1, least(2 * MULTIPROCESSORS // greatest(1, blocks), depth // LONG, MOST_SPLITS))
    steps = blocks_for(blocks_for(depth, splits), 16) * 16
    return greatest(1, blocks_for(depth, greatest(1, steps))), steps


def tensor_cut(tiles: Sequence[Tile], rows: int, columns: int, batches: int, depth: int, item: int, cut: bool) -> tuple[int, int]:
    """Which of the tiles and how many splits, for operands of so many bytes an element."""
    rows, columns, depth = (blocks_for(n, UNIT) * UNIT for n in (rows, columns, depth))
    return _tensor_cut(tuple(tiles), rows, columns, batches, depth, item, cut)


@functools.lru_cache(maxsize=4096)
def _tensor_cut(tiles: tuple[Tile, ...], rows: int, columns: int, batches: int, depth: int, item: int,
                cut: bool) -> tuple[int, int]:  # fmt: skip
    best = (float("inf"), 0, 1)
    for i, tile in enumerate(tiles):
        parts, tried = blocks_for(depth, tile.deep(item)), 0
        for wanted in range(1, (MOST_SPLITS if cut else 1) + 1):
            each = blocks_for(parts, wanted)
            splits = blocks_for(parts, each) if each else 1
            if splits == tried or (splits > 1 and each < LEAST_PARTS):
                continue
            tried = splits
            best = min(best, (estimate(tile, rows, columns, batches, each, splits), i, splits))
    return best[1:]


def estimate(tile: Tile, rows: int, columns: int, batches: int, parts: int, splits: int) -> float:
    """Microseconds that a product takes whose blocks have so many parts of the reduction each."""
    blocks = blocks_for(rows, tile.rows) * blocks_for(columns, tile.columns) * batches * splits
    each = blocks_for(blocks, MULTIPROCESSORS)
    join = JOIN + JOIN_EACH * splits if splits > 1 else 0.0
    if tile.direct:
        turns = blocks_for(parts, 8 * 32 // tile.columns)  # of a warp
        block = DIRECT_BLOCK + DIRECT_COLUMNS * tile.columns / 32 + turns * DIRECT_TURN
        return DIRECT_START + each * block + DIRECT_PART * parts * blocks / MULTIPROCESSORS + join
    resident = 1 if tile.rows * tile.columns == 128 * 128 else 2  # blocks of a multiprocessor at a time
    several = min(each, resident)
    multiply = tile.rows * tile.columns * PART / 2 / RATE + COPY * (tile.rows + tile.columns) / 64
    block = BLOCK + parts * max(WAIT, several * multiply) + STORE * several * tile.rows * tile.columns / 8192
    return START + blocks_for(each, resident) * block + join
