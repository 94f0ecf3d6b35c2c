"""How a product is cut into tiles, and where these are too few for a GPU, its reduction into splits: by sizes alone.

The tensor cores' tiles are chosen by an estimate of the time that each way of cutting takes on a large GPU (an H100's 132
multiprocessors; it is no worse a guess for others), whose constants were fitted to the times of 33 products of ResNet-50,
BERT-base, ViT-B/16, GPT-2 and MobileNetV2 on one: what it chooses takes 2% more than the best, in the geometric mean.
"""

from __future__ import annotations

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
# Microseconds that a tile of mma.cuh takes until its first product, a part at least, the results of 64 x 128 numbers; and products
# of 16-bit numbers that a multiprocessor makes in one.
START, WAIT, STORE, RATE = 3.2, 0.43, 1.7, 1.05e6
# Of direct tiles: once, for each block of a multiprocessor, for a turn of all its warps, for 32 steps of the reduction on average.
DIRECT_START, DIRECT_BLOCK, DIRECT_TURN, DIRECT_PART = 0.26, 1.54, 0.64, 0.009
JOIN, JOIN_EACH = 1.8, 0.32  # of adding up splits


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
    return which, greatest(1, least(2 * MULTIPROCESSORS // greatest(1, blocks), depth // LONG, MOST_SPLITS))


def few_cut(blocks: int, depth: int) -> tuple[int, int]:
    """The splits of products of few rows, and the steps of the reduction that each has: whole chunks of 16 bytes."""
    splits = greatest(1, least(2 * MULTIPROCESSORS // greatest(1, blocks), depth // LONG, MOST_SPLITS))
    steps = blocks_for(blocks_for(depth, splits), 16) * 16
    return greatest(1, blocks_for(depth, greatest(1, steps))), steps


def tensor_cut(tiles: Sequence[Tile], rows: int, columns: int, batches: int, depth: int, item: int, cut: bool) -> tuple[int, int]:
    """Which of the tiles and how many splits, for operands of so many bytes an element."""
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
        return DIRECT_START + each * (DIRECT_BLOCK + turns * DIRECT_TURN) + DIRECT_PART * parts * blocks / MULTIPROCESSORS + join
    several = 2 if each > 1 else 1  # blocks of a multiprocessor at a time
    multiply = several * tile.rows * tile.columns * PART / 2 / RATE
    return START + each / several * (parts * max(WAIT, multiply) + STORE * several * tile.rows * tile.columns / 8192) + join
