"""The loop nest around the GEMM microkernel, as kernel text: what GEMM and all convolutions share.

The result is computed as rows by columns, in units of work (a batch entry, a range of rows, a group of column panels); a tile
does a contiguous range of units with a slice of scratch memory of its own. For each block of rows the tables of addresses that
the microkernel reads are filled by a fragment of text of the family; panels of B come packed, or are packed by another fragment.
Fragments may use the names of `NAMES` and what they define themselves.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir.recording import greatest, least
from ...ir.types import DType
from ..epilogue import Builder
from ..operands import MAX_TILES, MOVED, MULTIPLIED, fill_in, tiles_for
from ..spec import Launch
from .tiling import Tiling, tiling

PAD = 16  # entries behind a table's rows: tiles that reach past the last row compute it again
FEWEST_ROWS = 96  # of a block that is one of several
KEPT_BYTES = 1 << 17  # of B, which then stays in the second-level cache while block after block goes by
GROUP_BYTES = 1 << 19  # what the panels of a group, packed while the kernel runs, may take of the second-level cache
BLOCK_BYTES = 1 << 21  # what the rows of a block may take: they come from the third level if need be, the panels from memory
# All sizes that the nest itself reads. `at_*` are byte offsets in a tile's slice of scratch.
NAMES = ("batches", "blocks", "groups", "rows", "rows_per", "block_rows", "columns", "wide", "mid", "panels", "panels_per", "depth",
         "segments", "total", "slice_bytes", "at_c", "at_r", "at_b", "at_zero", "at_buffer", "at_panel")  # fmt: skip

_NEST = """
def kernel(p, tile, ntiles):
    PARAMS
    scratch = param(p, SCRATCH) + tile * slice_bytes
    table_a = scratch
    table_c = scratch + at_c
    table_r = scratch + at_r
    table_b = scratch + at_b
    pitch = (block_rows + PAD) * 8
    SETUP
    units = batches * blocks * groups
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        share = unit % groups
        block = unit // groups % blocks
        batch = unit // groups // blocks
        first = share * panels_per
        last = min(first + panels_per, panels)
        BATCH
        PACK
        start = block * rows_per
        stop = min(start + rows_per, rows)
        for part in range((stop - start + block_rows - 1) // block_rows):
            row = start + part * block_rows
            count = min(block_rows, stop - row)
            FILL
            for q in range(first, last):
                COLUMN
                PANEL
            AFTER
"""
_PACK = """
for q in range(first, last):
    COLUMN
    panel = scratch + at_panel + (column - first_column) * total * CI
    width = min(padded, columns - column)
    PACK_PANEL
"""


@dataclass(frozen=True)
class Nest:
    """A kernel of this family in the making: its types, program, the parameter slots of the program's operands."""

    dtype: DType
    epilogue: Builder
    leaf_slots: Sequence[int]  # the parameter slot of each of the program's operands
    result_slot: int
    columns: int | None  # known when the text is made, or not
    channels_on: str  # "col" or "row"

    @property
    def tiling(self) -> Tiling:
        return tiling(self.item)

    @property
    def item(self) -> int:
        """Bytes of a number that is computed with."""
        return 8 if self.dtype.name == "f64" else 4

    @property
    def program(self) -> tuple:
        return tuple((self.channels_on, *s[1:]) if s[0] == "channel" else s for s in self.epilogue.program)

    @property
    def kinds(self) -> list[int]:
        """The widths of panels, in vectors, that occur."""
        if self.columns is None:
            return [3, 2, 1]
        return [nv for nv, n in zip((3, 2, 1), self.tiling.widths(self.columns), strict=True) if n] or [1]


def nest_text(n: Nest, params: Mapping[str, int], names: Sequence[str], first_int: int, *, base: str, fill: str, setup: str = "",
              batch: str = "",
              pack_panel: str = "", after: str = "", column_at: str = "column") -> str:  # fmt: skip
    """The text of a kernel. `params` maps names to parameter slots of addresses, `names` are the family's own integers (they follow
    `NAMES`). `base` is the expression for the panel's address, `column_at` for the column of the result that `column` is."""
    ints = {name: first_int + i for i, name in enumerate((*NAMES, *names))}
    lines = [f"{name} = param(p, {slot})" for name, slot in {**params, **ints}.items()]
    lines += [f"leaf{k} = param(p, {slot})" for k, slot in enumerate(n.leaf_slots)]
    lines.append(f"result = param(p, {n.result_slot})")
    pack = insert(_PACK, PACK_PANEL=pack_panel) if pack_panel else ""
    if pack:
        pack = "first_column = COLUMN_OF_FIRST\n" + pack
    body = insert(
        _NEST,
        PARAMS="\n".join(lines),
        SETUP=setup,
        BATCH=batch,
        PACK=pack,
        FILL=fill,
        AFTER=after,
        PANEL=panel_calls(n, base, column_at),
    )
    body = body.replace("COLUMN_OF_FIRST", column_of(n, "first")).replace("COLUMN_OF_LAST", column_of(n, "last"))
    body = insert(body, COLUMN=column_lines(n))
    words = {"CI": n.item, "MI": n.dtype.itemsize, "PAD": PAD, "LANES_": n.tiling.lanes, "T": n.dtype.name,
             "CT": "f64" if n.item == 8 else "f32", "SCRATCH": n.result_slot + 1}  # fmt: skip
    for word in ("CT", "T"):
        body = body.replace(f"_{word}(", f"_{words[word]}(")
    return panels_text(n) + fill_in(body, **words)


def insert(text: str, **fragments: str) -> str:
    """`text` with lines that hold just a name replaced by fragments, at the same indentation."""
    out = []
    for line in text.splitlines():
        fragment = fragments.get(line.strip())
        if fragment is None:
            out.append(line)
        else:
            out += textwrap.indent(textwrap.dedent(fragment).strip("\n"), line[: len(line) - len(line.lstrip())]).splitlines()
    return "\n".join(line for line in out if line.strip()) + "\n"


def column_of(n: Nest, q: str) -> str:
    """The expression for the first column of panel q: wide panels first, then middle ones, then a narrow one."""
    lanes = n.tiling.lanes
    return f"{3 * lanes} * min({q}, wide) + {2 * lanes} * min(max({q} - wide, 0), mid) + {lanes} * max({q} - wide - mid, 0)"


def column_lines(n: Nest) -> str:
    lanes = n.tiling.lanes
    return f"column = {column_of(n, 'q')}\npadded = {3 * lanes} if q < wide else {2 * lanes} if q < wide + mid else {lanes}"


def panels_text(n: Nest) -> str:
    """The microkernels that the text calls."""
    lines = []
    for nv in n.kinds:
        lines.append(f"panel_{nv} = gemm_panel({n.dtype.name!r}, {n.tiling.lanes}, {n.tiling.rows[nv]}, {nv}, {n.program!r})")
    return "\n".join(lines) + "\n"


def panel_calls(n: Nest, base: str, column_at: str) -> str:
    """The calls for panel q, by its width."""
    leaves = [f"leaf{k} - result" if kind == "full" else f"leaf{k}" for k, (kind, _) in enumerate(n.epilogue.leaves)]
    args = ", ".join(["count", "depth", "segments", "table_a", "pitch", base, "table_b", "table_c", f"({column_at}) * MI",
                     "columns - column",
                      "table_r", *leaves])  # fmt: skip
    tests = {3: "q < wide", 2: "q < wide + mid", 1: ""}
    if len(n.kinds) == 1:
        return f"panel_{n.kinds[0]}({args})"
    out = []
    for i, nv in enumerate(n.kinds):
        head = "else:" if i == len(n.kinds) - 1 else f"{'elif' if i else 'if'} {tests[nv]}:"
        out += [head, f"    panel_{nv}({args})"]
    return "\n".join(out)


# ---- binding ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What a launch depends on: rows by columns (of one batch entry), `segments` of `depth`, batch entries; whether panels are
    packed by the kernel; numbers a row that the kernel copies into a buffer (0: none) and that a row of zeros has; extra bytes
    for a block of results (`result_row` numbers a row). Rows come in lines of `line`, for each of which that a block touches there
    are `border` numbers beside the buffer."""

    rows: int
    columns: int
    depth: int
    segments: int = 1
    batches: int = 1
    packs: bool = False
    buffer_row: int = 0
    zeros: int = 0
    result_row: int = 0
    border: int = 0
    line: int = 1


def _align(n: int, to: int = 64) -> int:
    return -(-n // to) * to


def launch(n: Nest, s: Shape, extra: Sequence[int] = ()) -> Launch:
    """The launch of a kernel made by `nest_text`; `extra` are the family's own integers."""
    total = s.depth * s.segments
    wide, mid, narrow = n.tiling.widths(s.columns) if s.columns else (0, 0, 0)
    panels = wide + mid + narrow
    block_rows = _block_rows(n, s, total)
    width = 3 * n.tiling.lanes
    if s.packs:
        panels_per = greatest(1, least(panels, GROUP_BYTES // greatest(1, total * width * n.item)))
        work = s.batches * s.rows * s.columns * total
        blocks = greatest(1, least(work // (16 * MULTIPLIED) // greatest(1, s.batches * -(-panels // panels_per)), s.rows // 256))
    else:
        blocks = greatest(1, -(-s.rows // block_rows))
        panels_per = greatest(1, -(-panels // _shares(s, blocks * s.batches)))
    groups = greatest(1, -(-panels // panels_per))
    rows_per = _align(-(-s.rows // blocks), block_rows) if s.packs else block_rows
    blocks = greatest(1, -(-s.rows // rows_per)) if rows_per else 1
    entries = (block_rows + PAD) * 8
    sizes = [greatest(1, s.segments) * entries, entries, entries, greatest(1, s.segments) * 32, _align(s.zeros * n.item),
             (s.buffer_row * (block_rows + PAD) + s.border * (block_rows // greatest(1, s.line) + 2)) * n.item,
             (panels_per * width * total if s.packs else 0) * n.item,
             s.result_row * (block_rows + PAD) * n.dtype.itemsize]  # fmt: skip
    at = [0]
    for size in sizes:
        at.append(at[-1] + _align(size))
    units = s.batches * blocks * groups
    tiles = greatest(1, least(units, MAX_TILES))
    at_c, at_r, at_b, at_zero, at_buffer, at_panel, at_result = at[1:8]
    ints = (s.batches, blocks, groups, s.rows, rows_per, block_rows, s.columns, wide, mid, panels, panels_per, s.depth,
            s.segments, total,
            at[-1], at_c, at_r, at_b, at_zero, at_buffer, at_panel)  # fmt: skip
    return Launch((*ints, *(at_result if x is RESULT_AT else x for x in extra)), tiles, at[-1] * tiles)


def _shares(s: Shape, units: int) -> int:
    """Into how many groups of panels each of `units` blocks of rows is cut. Rows that are copied are copied for each group."""
    wanted = _wanted(s)
    return greatest(1, -(-wanted // greatest(1, units)) if not s.buffer_row else least(wanted, 8) // greatest(1, units))


def _wanted(s: Shape) -> int:
    """How many units of work there should be: by what is multiplied, and by what is read of B, where that is most of the work."""
    total = s.depth * s.segments
    b = s.columns * total
    return greatest(tiles_for(MAX_TILES, s.batches * s.rows * b, MULTIPLIED), tiles_for(MAX_TILES, b, MOVED))


RESULT_AT = object()  # stands in `extra` for the offset of the block of results


def _block_rows(n: Nest, s: Shape, total: int) -> int:
    """Rows of a block, evenly cut: as many as the cache holds, or fewer where B stays in the cache from one block to the next, so
    that blocks are as many as tiles are wanted: blocks of rows lie where the kernel before wrote them, groups of columns do not."""
    most = greatest(24, least(192, BLOCK_BYTES // greatest(1, total * n.item) // 24 * 24))
    blocks = greatest(1, -(-s.rows // most))
    stays = least(1, KEPT_BYTES // greatest(1, s.columns * total * n.item))  # 1 or 0: without a branch, sizes stay recorded
    blocks = greatest(blocks, stays * least(_wanted(s) // greatest(1, s.batches), s.rows // FEWEST_ROWS))
    return greatest(4, _align(-(-s.rows // blocks), 4))
