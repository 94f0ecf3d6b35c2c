"""How a product is cut into tiles, and where these are too few for a GPU, its reduction into splits: by sizes alone.

The tensor cores' tiles are chosen by an estimate of the time that each way of cutting takes on a large GPU (an H100's 132
multiprocessors; it is no worse a guess for others). Its constants were fitted to what docs/cuda_speed.md measures.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.recording import greatest, least
from .text import blocks_for

Tile = tuple[int, int]  # rows, columns
MULTIPROCESSORS = 132
LONG = 256  # steps of the reduction that a split of scalar tiles has at least
MOST_SPLITS = 16

PART = 128  # bytes of the reduction that a tensor tile takes at a time, as in mma.cuh
LEAST_PARTS = 2  # of a split
START, STORE, JOIN = 1.4, 0.6, 1.2  # microseconds: of a block until its first product, of its results, of adding up splits
WAIT = 0.17  # microseconds that a part takes at least, for all that it waits
RATE = 60e3 * 2  # products of 16-bit numbers that a multiprocessor makes in a microsecond, times 8 for their bytes


def scalar_cut(tiles: Sequence[Tile], rows: int, columns: int, batches: int, depth: int, cut: bool) -> tuple[int, int]:
    """Which of the tiles, the first from the largest on that gives blocks enough, and the splits."""
    which = len(tiles) - 1
    for i, (tall, wide) in enumerate(tiles[:-1]):
        if blocks_for(rows, tall) * blocks_for(columns, wide) * batches >= MULTIPROCESSORS:
            which = i
            break
    blocks = blocks_for(rows, tiles[which][0]) * blocks_for(columns, tiles[which][1]) * batches
    if not cut or blocks >= MULTIPROCESSORS:
        return which, 1
    return which, greatest(1, least(2 * MULTIPROCESSORS // greatest(1, blocks), depth // LONG, MOST_SPLITS))


def tensor_cut(tiles: Sequence[Tile], rows: int, columns: int, batches: int, parts: int, cut: bool) -> tuple[int, int]:
    """Which of the tiles and how many splits, for a reduction of so many parts."""
    best = (float("inf"), 0, 1)
    for i, tile in enumerate(tiles):
        tried = 0
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
    tall, wide = tile
    blocks = blocks_for(rows, tall) * blocks_for(columns, wide) * batches * splits
    each = blocks_for(blocks, MULTIPROCESSORS)  # of a multiprocessor, of which two are there at a time
    multiply = tall * wide * PART / 2 / RATE
    several = 2 if each > 1 else 1
    turn = START + parts * max(WAIT, several * multiply) + STORE * several * tall * wide / 8192
    return turn * (each / several) + (JOIN + 0.1 * splits if splits > 1 else 0.0)
