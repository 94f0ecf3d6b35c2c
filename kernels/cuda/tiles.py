"""Products of matrices in tiles (tile.cuh): the kernel around them, and how its work is cut into blocks.

The result of each entry of a batch is rows by columns. A block has a tile of it; where there are too few of them for a GPU and the
reduction is long, it is cut into splits, whose sums a second pass adds up in order. How the work is cut depends on sizes alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...ir.recording import greatest, least
from ...ir.types import BF16, F16, DType
from ..epilogue import Site
from ..operands import slot_of
from ..spec import Call, Launch
from .text import blocks_for, checked_size, indent, kernel

BLOCK = 256  # threads, as in tile.cuh
DEPTH = 16  # steps of the reduction that a tile takes at a time, as in tile.cuh
ENOUGH = 132  # blocks that keep a large GPU busy
LONG = 256  # steps of the reduction that a split has at least
MOST_SPLITS = 16
FEW = 8  # rows that the kernels for few rows take

# What every kernel reads first of its integers.
NAMES = ("rows", "columns", "depth", "batches", "which", "row_tiles", "column_tiles", "splits", "steps")

_FRAME = """
const u32 pass = p[{last}];
u32 unit = blockIdx.x, batch = 0;
"""
_UNIT = """
const u32 split = unit % splits;
unit /= splits;
const u32 row_tile = unit % row_tiles;
unit /= row_tiles;
const u32 column_tile = unit % column_tiles;
batch = unit / column_tiles;
"""
_DONE = """
auto done = [&](u32 row, u32 column, const Four<S>& four) {{
    if (splits == 1) return store_four<E, {down}>(y, {rows}, columns, row, column, four, place, finish);
#pragma unroll
    for (u32 j = 0; j < 4; j++) {{
        u32 r = row + ({down} ? j : 0), c = column + ({down} ? 0 : j);
        if (r < rows && c < columns) parts[((split * batches + batch) * rows + r) * columns + c] = four.at[j];
    }}
}};
"""


@functools.cache
def piece(name: str) -> str:
    """The text of a file of this folder that kernels begin with."""
    return (Path(__file__).parent / f"{name}.cuh").read_text()


# The tensor cores' way of multiplying an element type (mma.cuh), in whose parts the reduction has 64 bytes; f32 where tf32 will do.
TENSOR = {F16: "MmaF16", BF16: "MmaBf16"}
TF32 = "MmaTf32"
PART_BYTES = 64


def nothing(call: Call, rows: int, columns: int) -> list[int]:
    """No further integers."""
    return []


@dataclass(frozen=True)
class Work:
    """What is multiplied and what becomes of the sums, whatever the way of finding the numbers.

    `x` and `w` are the operands of the site's node, `sums` the C++ type of a sum, `finish` gives the statements that return what
    the sum `acc` becomes, of the name of its channel; `before` are statements that those rely on, `names` further integers, which
    `more` gives for a call, its rows and its columns (channels). Operands that have zero points have their names and element types
    in `zeros`; where something varies along `by_row`, a batch's rows are not numbered through.
    """

    site: Site
    x: int
    w: int
    sums: str
    finish: Callable[[str], list[str]]
    before: Sequence[str] = ()
    names: Sequence[str] = ()
    more: Callable[[Call, int, int], list[int]] = nothing
    zeros: Mapping[int, tuple[str, DType]] = field(default_factory=dict)
    by_row: bool = False
    variant: str = ""
    tensor: str = ""  # how the tensor cores multiply, "": they do not

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
        if i not in self.zeros:
            return f"const {kind} {name} = {{{values}}};"
        zero, dtype = self.zeros[i]
        at = f"{zero} + {shift} * {zero}_step" if shift else zero
        return f"const Less<{kind}, element_{dtype}> {name} = {{{{{values}}}, i64({at}), {zero}_step, {count}}};"


@dataclass(frozen=True)
class Product:
    """A kernel of products in the making.

    Statements in C++: `after` what the others rely on, where the entry is known as `batch`; `setup` makes the loaders `left` and
    `right`; `place` returns where `row` and `column` stand in the result, `finish` what the sum `acc` becomes there; `few` serve
    few rows. `down`: neighbours in the result are neighbours along the rows. `rows` and `depth` are the sizes of the entry at
    hand, where they differ; then the reduction cannot be `cut`.
    """

    result: DType
    sums: str  # the C++ type that is summed up in
    first_int: int
    result_slot: int
    extra: Sequence[str | None]  # names of further integers, None: read otherwise
    setup: Sequence[str]
    place: Sequence[str]
    finish: Sequence[str]
    tiles: Sequence[tuple[int, int]]
    down: bool = False
    few: Sequence[str] = ()
    after: Sequence[str] = ()
    helpers: Sequence[str] = ()
    rows: str = "rows"
    depth: str = "depth"
    cut: bool = True
    tensor: str = ""  # how the tensor cores multiply; then `left_at` and `right_at` are the operands' addresses, `wide` says (1, 2)
    along: tuple[bool, bool] = (True, True)  # whose 16 bytes lie together, and this is along what neighbours lie

    @property
    def item(self) -> int:
        """Bytes of a sum."""
        return 8 if self.sums in ("f64", "u64") else 4

    @property
    def deep(self) -> int:
        """Steps of the reduction that a tile takes at a time."""
        return PART_BYTES // self._tensor_item if self.tensor else DEPTH

    @property
    def _tensor_item(self) -> int:
        return 4 if self.tensor == TF32 else 2

    @staticmethod
    def words_at(first_int: int, i: int) -> int:
        """The parameter slot of the further integer i."""
        return first_int + len(NAMES) + i

    def words(self) -> int:
        return self.first_int + len(NAMES) + len(self.extra) + 1

    def shared(self) -> int:
        """Bytes of shared memory."""
        tiled = [2 * DEPTH * (rows + columns + 8) * self.item for rows, columns in self.tiles]
        if self.tensor:
            tiled = [self._tensor_shared(*tile) for tile in self.tiles]
        return max([*tiled, (BLOCK // 32) * FEW * 64 * self.item if self.few else 0])

    def _tensor_shared(self, rows: int, columns: int) -> int:
        """Bytes of mma.cuh's buffers, which the sums of 64 rows go through afterwards."""
        item, part = self._tensor_item, 0
        for side, along in zip((rows, columns), self.along, strict=True):
            part += side * 80 if along else self.deep * (side * item + (32 if item == 4 else 16))
        return max(3 * part, 4 * (columns * 68 if self.down else 64 * (columns + 8)))

    def text(self) -> str:
        names = [*NAMES, *self.extra]
        down = "true" if self.down else "false"
        body = [
            f"const i64 y = p[{self.result_slot}];",
            f"S* const parts = (S*)p[{self.result_slot + 1}];",
            "S* const shared = SHARED(S);",
        ]
        body += [f"const u32 {name} = p[{self.first_int + i}];" for i, name in enumerate(names) if name]
        body += _FRAME.format(last=self.words() - 1).strip().split("\n")
        body += [*_UNIT.strip().split("\n"), *self.after]
        body += ["auto place = [&](u32 row, u32 column) -> u32 {", *indent(self.place), "};"]
        body += ["auto finish = [&](S acc, u32 row, u32 column, u32 to) {", *indent(self.finish), "};"]
        if self.cut:
            sizes = "splits, batches, rows, columns, batch"
            body.append(f"if (pass == 1) return fold_parts<E, {down}>(y, parts, {sizes}, place, finish);")
        if self.few:
            body += ["if (which == 0) {", *indent(self.few), *indent(["return;"]), "}"]
        body += self.setup
        if self.tiles:
            body += _DONE.format(down=down, rows=self.rows).strip().split("\n")
            body.append(f"const u32 from = split * steps * {self.deep};")
            body.append(f"const u32 here = min(steps, (max({self.depth}, from) - from + {self.deep - 1}) / {self.deep});")
        for i, (rows, columns) in enumerate(self.tiles):
            at = f"row_tile * {rows}, column_tile * {columns}"
            if self.tensor:
                wide = "(wide & 1) && (left_at & 15) == 0, (wide & 2) && (right_at & 15) == 0"
                kind = f"mma_tile<{self.tensor}, E, {rows}, {columns}, {down}>"
                call = f"{kind}(left, right, {wide}, {at}, from, here, shared, done);"
            else:
                call = f"tile<{rows}, {columns}, {down}>(left, right, {at}, from, here, shared, done);"
            body += [f"if (which == {i + 1}) {call}" if len(self.tiles) > 1 else call]
        head = [
            piece("tile"),
            *([piece("mma")] if self.tensor else []),
            f"using E = element_{self.result};",
            f"using S = {self.sums};",
            *self.helpers,
        ]
        return kernel(BLOCK, self.words(), body, head, self.shared())

    def launch(self, rows: int, columns: int, depth: int, batches: int, extra: Sequence[int], few_columns: int = 0) -> Launch:
        """How the work is cut; `few_columns` is how many columns a block has of the kernel for few rows, 0: it does not serve."""
        checked_size(rows * columns * batches)
        if few_columns and self.few and (rows <= FEW or not self.tiles):
            tiles = blocks_for(columns, few_columns)
            ints = (rows, columns, depth, batches, 0, 1, tiles, 1, 0, *extra)
            return Launch(ints, passes=(tiles * batches if rows else 0,))
        which, (tall, wide) = choose(self.tiles, rows, columns, batches)
        row_tiles, column_tiles = blocks_for(rows, tall), blocks_for(columns, wide)
        blocks = row_tiles * column_tiles * batches
        splits = 1
        if self.cut and blocks < ENOUGH:
            splits = greatest(1, least(2 * ENOUGH // greatest(1, blocks), depth // LONG, MOST_SPLITS))
        steps = blocks_for(blocks_for(depth, self.deep), splits)
        ints = (rows, columns, depth, batches, which + 1, row_tiles, column_tiles, splits, steps, *extra)
        if splits == 1:
            return Launch(ints, passes=(blocks,))
        fours = blocks_for(columns if not self.down else rows, 4) * (rows if not self.down else columns) * batches
        scratch = checked_size(splits * batches * rows * columns) * self.item
        return Launch(ints, scratch=scratch, passes=(blocks * splits, blocks_for(fours, BLOCK)))


def choose(tiles: Sequence[tuple[int, int]], rows: int, columns: int, batches: int) -> tuple[int, tuple[int, int]]:
    """The first tile, from the largest on, that gives blocks enough."""
    for i, (tall, wide) in enumerate(tiles[:-1]):
        if blocks_for(rows, tall) * blocks_for(columns, wide) * batches >= ENOUGH:
            return i, (tall, wide)
    return len(tiles) - 1, tiles[-1]
