"""Products of matrices in tiles (tile.cuh): the kernel around them, and how its work is cut into blocks.

The result of each entry of a batch is rows by columns. A block has a tile of it; where there are too few of them for a GPU and the
reduction is long, it is cut into splits, whose sums the last block of a tile adds up in order. How the work is cut depends on sizes
alone (cut.py); where they are known, a text has but the tile that they choose.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...ir.recording import opaque
from ...ir.types import BF16, F16, DType
from ..epilogue import Site
from ..operands import slot_of
from ..spec import Call, Launch
from .cut import DIRECT_STEPS, PART, Cut, Tile, few_cut, scalar_cut, tensor_cut
from .epilogue import Leaf
from .text import blocks_for, checked_size, indent, kernel

BLOCK = 256  # threads, as in tile.cuh
DEPTH = 16  # steps of the reduction that a tile takes at a time, as in tile.cuh
BUFFERS, MOST_STAGES = 96 << 10, 8  # bytes of a tensor tile's buffers, and how many, as in mma.cuh
MOST_CUT = 1024  # tiles whose reduction can be cut, as in tile.cuh
FEW = 8  # rows that the kernels for few rows take

# What every kernel reads first of its integers.
NAMES = ("rows", "columns", "depth", "batches", "which", "row_tiles", "column_tiles", "splits", "steps")

_UNIT = """
u32 unit = blockIdx.x, batch = 0;
const u32 tile_at = unit / splits, split = unit % splits;
unit = tile_at;
const u32 row_tile = unit % row_tiles;
unit /= row_tiles;
const u32 column_tile = unit % column_tiles;
batch = unit / column_tiles;
"""
_FETCH = """
auto fetch = [&](u32 row, u32 column) {{
    Held held;
    locate<W, {down}>({rows}, columns, row, column, place, held.first, held.count, held.whole);
    auto index = [&](u32 j) {{ return place(row + ({down} ? j : 0), column + ({down} ? 0 : j)); }};
"""
_STORE = """
auto store = [&](u32 row, u32 column, const Held& held, const Sums<S, W>& sums) {{
    if (!held.count) return;
    Pack<E, W> out;
#pragma unroll
    for (u32 j = 0; j < W; j++) {{
        const u32 r = {down} ? min(row + j, {rows} - 1) : row, c = {down} ? column : min(column + j, columns - 1);
        out.set(j, finish(sums.at[j], r, c, held, j));
    }}
    auto index = [&](u32 j) {{ return place(row + ({down} ? j : 0), column + ({down} ? 0 : j)); }};
    scatter_pack(y, held.first, held.count, held.whole, index, out);
}};
const Result<S, W, {down}, decltype(fetch), decltype(store)> out = {{fetch, store, parts, splits}};
"""


@functools.cache
def piece(name: str) -> str:
    """The text of a file of this folder that kernels begin with."""
    return (Path(__file__).parent / f"{name}.cuh").read_text()


# The tensor cores' way of multiplying an element type (mma.cuh); f32 where tf32 will do.
TENSOR = {F16: "MmaF16", BF16: "MmaBf16"}
TF32 = "MmaTf32"
BYTES = "MmaBytes"  # of two signs
LARGE = Tile(128, 128)
TENSOR_TILES = (LARGE, Tile(128, 64), Tile(64, 64), Tile(32, 64), Tile(32, 32))
DIRECT_TILES = (Tile(32, 128, True), Tile(32, 64, True), Tile(32, 32, True))


def padded(depth: int) -> int:
    """The bytes of a packed line of so many: whole chunks of 16."""
    return blocks_for(depth, 16) * 16


def nothing(call: Call, rows: int, columns: int) -> list[int]:
    """No further integers."""
    return []


@dataclass(frozen=True)
class Raw:
    """Bytes that the tensor cores multiply as they lie. `pack` lays the constant w out along the reduction, column by column;
    `grain` bytes of x lie together. In C++: what stands `outside` of an image, and where the `shifts` stand, which are to be taken
    off the columns of w (both empty: none)."""

    pack: Callable[[np.ndarray], np.ndarray]
    grain: int
    outside: str = ""
    shifts: str = ""


@dataclass(frozen=True)
class Work:
    """What is multiplied and what becomes of the sums, whatever the way of finding the numbers.

    `x` and `w` are the operands of the site's node, `sums` the C++ type of a sum, `finish` gives the statements that return what
    the sum `acc` becomes, of the name of its channel and of the kinds of `leaves` that are `held` already; `before` are statements
    that those rely on, `names` further integers, which
    `more` gives for a call, its rows and its columns (channels). Operands that have zero points have their names and element types
    in `zeros`; where something varies along `by_row`, a batch's rows are not numbered through.
    """

    site: Site
    x: int
    w: int
    sums: str
    finish: Callable[[str, Collection[str]], list[str]]
    leaves: Sequence[Leaf] = ()
    before: Sequence[str] = ()
    names: Sequence[str] = ()
    more: Callable[[Call, int, int], list[int]] = nothing
    zeros: Mapping[int, tuple[str, DType]] = field(default_factory=dict)
    by_row: bool = False
    variant: str = ""
    tensor: str = ""  # how the tensor cores multiply, "": they do not
    cut: Cut | None = None  # how they are asked to cut it, None: as cut.py does
    raw: Raw | None = None

    @property
    def grain(self) -> int:
        """Bytes of `x` that lie together where it is said to lie so."""
        return 16 if self.raw is None else self.raw.grain

    @property
    def item(self) -> int:
        """Bytes of an operand's element."""
        return self.site.outer.operands[self.x].tensor.dtype.itemsize

    def element(self, i: int) -> str:
        """The C++ name of an operand's element type."""
        return f"element_{self.site.outer.operands[i].tensor.dtype}"

    def memory(self, i: int) -> str:
        """The memory of operand i, typed."""
        return f"(const {self.element(i)}::Memory*)p[{slot_of(self.site.outer, i)}]"

    def loader(self, i: int, name: str, kind: str, values: str, count: str, shift: str = "") -> str:
        """The statement that makes a loader of `kind` for operand i, less its zero point, the first of them at `shift`."""
        if i == self.x and self.grain < 16:
            kind, values = f"Grained<{kind}, {self.grain}>", f"{{{values}}}"
        if i == self.x and self.raw is not None and self.raw.outside:
            return f"const Around<{kind}> {name} = {{{{{values}}}, {self.raw.outside}}};"
        if i == self.w and self.raw is not None and self.raw.shifts:
            return f"const Shifted<{kind}> {name} = {{{{{values}}}, {self.raw.shifts}{f' + 4 * {shift}' if shift else ''}}};"
        if i not in self.zeros:
            return f"const {kind} {name} = {{{values}}};"
        zero, dtype = self.zeros[i]
        at = f"{zero} + {shift} * {zero}_step" if shift else zero
        return f"const Less<{kind}, element_{dtype}> {name} = {{{{{values}}}, i64({at}), {zero}_step, {count}}};"


def tensor_tiles(tensor: str, cut: tuple[int, int, int, int] | None, splits: bool = True, direct: bool = False) -> Sequence[Tile]:
    """The tiles of a text: where rows, columns, steps of the reduction and entries are known the one that they choose, which may be
    a direct one where the operands allow it."""
    if cut is None:
        return TENSOR_TILES
    rows, columns, depth, batches = cut
    tiles = (*TENSOR_TILES, *DIRECT_TILES) if direct else TENSOR_TILES
    which, _ = tensor_cut(tiles, rows, columns, batches, depth, item_of(tensor), splits)
    return (tiles[which],)


def item_of(tensor: str) -> int:
    """Bytes of what the tensor cores multiply."""
    return 4 if tensor == TF32 else 1 if tensor.startswith(BYTES) else 2


def pack_direct(w: np.ndarray) -> np.ndarray:
    """Matrices [group, steps, columns] of 16-bit numbers as direct.cuh reads them: [group, 8 columns, 32 steps, lanes, 8 numbers],
    filled up with zeros to multiples of 32."""
    groups, depth, columns = w.shape
    whole = np.zeros((groups, -(-depth // 32) * 32, -(-columns // 32) * 32), w.dtype)
    whole[:, :depth, :columns] = w
    parts = whole.reshape(groups, whole.shape[1] // 32, 4, 8, whole.shape[2] // 8, 8)
    return np.ascontiguousarray(parts.transpose(0, 4, 1, 5, 2, 3))


@dataclass(frozen=True)
class Product:
    """A kernel of products in the making.

    Statements in C++: `after` what the others rely on, where the entry is known as `batch`; `setup` makes the loaders `left` and
    `right`; `place` returns where `row` and `column` stand in the result, the work's `finish` what the sum `acc` of the `channel`
    becomes there; `few` serve few rows. `down`: neighbours in the result are neighbours along the rows. `rows` and `depth` are the
    sizes of the entry at hand, where they differ; then the reduction cannot be `cut`.
    """

    work: Work
    result: DType
    first_int: int
    result_slot: int
    extra: Sequence[str | None]  # names of further integers, None: read otherwise
    setup: Sequence[str]
    place: Sequence[str]
    channel: str
    tiles: Sequence[Tile]
    down: bool = False
    few: Sequence[str] = ()
    after: Sequence[str] = ()
    helpers: Sequence[str] = ()
    rows: str = "rows"
    depth: str = "depth"
    cut: bool = True
    along: tuple[bool, bool] = (True, True)  # along what the operands' neighbours lie: the reduction
    # Of the tensor cores `left_at` and `right_at` are the operands' addresses, `wide` says (1, 2) whose 16 bytes lie together.

    @property
    def item(self) -> int:
        """Bytes of a sum."""
        return 8 if self.work.sums in ("f64", "u64") else 4

    @property
    def deep(self) -> int:
        """Steps of the reduction that a tile takes at a time."""
        return self.tiles[0].deep(item_of(self.work.tensor)) if self.work.tensor else DEPTH

    @staticmethod
    def words_at(first_int: int, i: int) -> int:
        """The parameter slot of the further integer i."""
        return first_int + len(NAMES) + i

    @property
    def _large(self) -> bool:
        """Whether a thread needs more than 128 registers: else two blocks share a multiprocessor, and one computes where the other
        waits."""
        return bool(self.work.tensor) and any(tile == LARGE or tile.direct for tile in self.tiles)

    def words(self) -> int:
        return self.first_int + len(NAMES) + len(self.extra)

    def shared(self) -> int:
        """Bytes of shared memory."""
        tiled = [max(2 * DEPTH * (rows + columns + 8), rows * columns) * self.item for rows, columns, _ in self.tiles]
        if self.work.tensor:
            tiled = [self._tensor_shared(*tile) for tile in self.tiles]
        return max([*tiled, (BLOCK // 32) * FEW * 64 * self.item if self.few else 0])

    def _tensor_shared(self, rows: int, columns: int, direct: bool) -> int:
        """Bytes of mma.cuh's buffers, which the sums go through afterwards, those of each group of warps apart."""
        groups = 256 // columns if direct else {(64, 64): 2, (32, 64): 4, (32, 32): 4}.get((rows, columns), 1)
        sums = groups * (columns * (rows + 4) if self.down else rows * (columns + 8)) * 4
        part = (rows + columns) * PART
        return sums if direct else max(min(BUFFERS // part, MOST_STAGES) * part, sums)

    def text(self) -> str:
        names = [*NAMES, *self.extra]
        down = "true" if self.down else "false"
        body = [
            f"const i64 y = p[{self.result_slot}];",
            f"S* const parts = (S*)p[{self.result_slot + 1}];",
            "S* const shared = SHARED(S);",
        ]
        body += [f"const u32 {name} = p[{self.first_int + i}];" for i, name in enumerate(names) if name]
        body += [*_UNIT.strip().split("\n"), *self.after]
        body += ["auto place = [&](u32 row, u32 column) -> u32 {", *indent(self.place), "};"]
        if self.few:
            body += ["if (which == 0) {", *indent(self._few()), *indent(["return;"]), "}"]
        if self.tiles:
            body += [*self.setup, *self._held(down)]
            body.append(f"const u32 from = split * steps * {self.deep};")
            body.append(f"const u32 here = min(steps, (max({self.depth}, from) - from + {self.deep - 1}) / {self.deep});")
        for i, (rows, columns, direct) in enumerate(self.tiles):
            at = f"row_tile * {rows}, column_tile * {columns}"
            if direct:
                sizes = f"(columns + 31) / 32 * 4, ({self.depth} + {DIRECT_STEPS - 1}) / {DIRECT_STEPS}, (left_at & 15) == 0"
                kind = f"direct_tile<{self.work.tensor}, E, {columns // 32}, {down}>"
                call = f"{kind}(left, right, {sizes}, {at}, split * steps, here, shared, out);"
            elif self.work.tensor:
                wide = f"(wide & 1) && (left_at & {self.work.grain - 1}) == 0, (wide & 2) && (right_at & 15) == 0"
                kind = f"mma_tile<{self.work.tensor}, {rows}, {columns}, {down}>"
                call = f"{kind}(left, right, {wide}, {at}, {self.depth}, from, here, shared, out);"
            else:
                call = f"tile<{rows}, {columns}, {down}>(left, right, {at}, from, here, shared, out);"
            body += [f"if (which == {i + 1}) {call}" if len(self.tiles) > 1 else call]
        head = [
            piece("tile"),
            *([piece("mma")] if self.work.tensor else []),
            *([piece("direct")] if self.tiles and self.tiles[0].direct else []),
            f"constexpr int RESIDENT = {1 if self._large else 2};",
            f"using E = element_{self.result};",
            f"using S = {self.work.sums};",
            f"constexpr int W = {8 if self.result.itemsize <= 2 else 4};",
            *self.helpers,
        ]
        return kernel(BLOCK, self.words(), body, head, self.shared())

    def _few(self) -> list[str]:
        """The statements for few rows, after how one sum is finished."""
        return [
            "auto finish = [&](S acc, u32 row, u32 column, u32 to) {",
            *indent(self.work.finish(self.channel, ())),
            "};",
            *self.few,
        ]

    def _held(self, down: str) -> list[str]:
        """How neighbouring sums are finished, and what is read beside them before: leaves that lie as they do."""
        kinds = ("full",) if self.down else ("full", "channel")
        held = [leaf for leaf in self.work.leaves if leaf.kind in kinds]
        lines = ["struct Held {", "    u32 first, count;", "    bool whole;"]
        lines += [f"    Pack<element_{leaf.dtype}, W> {leaf.name};" for leaf in held]
        lines += ["};", *_FETCH.format(down=down, rows=self.rows).strip().split("\n")]
        for leaf in held:
            where = "held.first, held.count, held.whole, index"
            if leaf.kind == "channel":
                where = f"{self.channel}, held.count, held.count == W, [&](u32 j) {{ return {self.channel} + j; }}"
            lines.append(f"    held.{leaf.name} = gather_pack<element_{leaf.dtype}, W>({leaf.name}, {where});")
        lines += ["    return held;", "};"]
        lines += ["auto finish = [&](S acc, u32 row, u32 column, const Held& held, u32 j) {"]
        lines += [*indent(self.work.finish(self.channel, kinds)), "};"]
        return lines + _STORE.format(down=down, rows=self.rows).strip().split("\n")

    def launch(self, rows: int, columns: int, depth: int, batches: int, extra: Sequence[int], few_columns: int = 0) -> Launch:
        """How the work is cut; `few_columns` is how many columns a block has of the kernel for few rows, 0: it does not serve."""
        checked_size(rows * columns * batches)
        if few_columns and self.few and (rows <= FEW or not self.tiles):
            tiles = blocks_for(columns, few_columns)
            splits, steps = few_cut(tiles * batches, depth)
            ints = (rows, columns, depth, batches, 0, 1, tiles, splits, steps, *extra)
            sums = checked_size(splits * tiles * batches * FEW * few_columns)
            return Launch(ints, tiles * batches * splits if rows else 0, sums * self.item if splits > 1 else 0)
        cutting = (tuple(self.tiles), self.work.tensor, self.work.cut, self.cut, self.deep)
        which, row_tiles, column_tiles, splits, steps, blocks, kept = opaque(grid_of, *cutting, rows, columns, batches, depth)
        ints = (rows, columns, depth, batches, which + 1, row_tiles, column_tiles, splits, steps, *extra)
        return Launch(ints, blocks, kept * self.item)


def grid_of(tiles: tuple[Tile, ...], tensor: str, asked: Cut | None, cut: bool, deep: int, rows: int, columns: int, batches: int,
            depth: int) -> tuple[int, ...]:  # fmt: skip
    """Which of the tiles; how many of them down and across; splits, and the steps of `deep` that each has; blocks; numbers that are
    kept for adding splits up. `asked`: how to cut where that was said, `cut`: whether the reduction may be. Raises ValueError."""
    if asked is not None:
        which, splits = 0, asked.whole(depth, item_of(tensor)).splits if cut else 1
    elif tensor:
        which, splits = tensor_cut(tiles, rows, columns, batches, depth, item_of(tensor), cut)
    else:
        which, splits = scalar_cut(tiles, rows, columns, batches, depth, cut)
    tall, wide, _ = tiles[which]
    row_tiles, column_tiles = blocks_for(rows, tall), blocks_for(columns, wide)
    blocks = row_tiles * column_tiles * batches
    if blocks > MOST_CUT:
        splits = 1
    kept = checked_size(splits * blocks * tall * wide) if splits > 1 else 0
    return which, row_tiles, column_tiles, splits, blocks_for(blocks_for(depth, deep), splits), blocks * splits, kept
