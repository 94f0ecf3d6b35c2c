"""The ways of computing a product, a convolution or attention: `tune` measures some and takes the fastest (engine/tuning.py)."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from ...ir.core import Node
from ...ir.types import TensorType
from ..epilogue import site_of
from ..registry import key_of
from ..spec import Call, KernelSource, Launch, Refusal
from . import libraries
from .cut import FEW_ROWS, MOST_SPLITS, Cut, estimate, tensor_cut
from .library import is_library
from .target import PRODUCTS, select
from .text import blocks_for
from .tiles import DIRECT_TILES, TENSOR_TILES

MOST_CUTS, OF_A_TILE = 10, 2  # cuts that are measured of a problem; of them with the same tile
FAR = 2.5  # times the best estimate: cuts that are thought to take longer are not measured
MOST_ALGORITHMS = 64  # of a library, by number


class Way(NamedTuple):
    """By a library's algorithm (they are numbered), or else by a kernel of ours, cut so or (None) as cut.py does."""

    algorithm: int | None = None
    cut: Cut | None = None

    def __str__(self) -> str:
        if self.algorithm is not None:
            return f"library {self.algorithm}"
        return "own" if self.cut is None else str(self.cut)

    @staticmethod
    def parse(text: str) -> Way | None:
        """What `str` wrote, None for what it did not."""
        if text in ("own", "few rows"):
            return Way() if text == "own" else Way(cut=Cut(FEW_ROWS))
        if m := re.fullmatch(r"library (\d{1,2})", text):
            return Way(int(m[1])) if int(m[1]) < MOST_ALGORITHMS else None
        tiles = {str(Way(cut=Cut(tile))): tile for tile in (*TENSOR_TILES, *DIRECT_TILES)}
        name, _, splits = text.partition(" / ")
        if name not in tiles or not re.fullmatch(r"\d{0,2}", splits):
            return None
        return Way(cut=Cut(tiles[name], min(max(int(splits or 1), 1), MOST_SPLITS)))


class Candidate(NamedTuple):
    """A way (None: the one that is taken without measuring), its kernel, and how that is launched on the problem's sizes. `like` is
    the way that the default turned out to be."""

    way: Way | None
    source: KernelSource
    launch: Launch
    like: str = ""

    @property
    def name(self) -> str:
        return "default" if self.way is None else str(self.way)


class Problem(NamedTuple):
    """A node with known sizes. Nodes that are computed alike on tensors of equal types have equal keys."""

    node: Node
    call: Call
    key: str
    default: Candidate


def build(node: Node, precision: str, rung: str, way: Way) -> KernelSource | Refusal:
    """The kernel that computes a node in this way; `precision` and `rung` as of `target.select`."""
    if way.algorithm is None:
        return select(node, precision, "tensor" if rung == "libraries" else rung, way.cut)
    found = libraries.select(node, precision)
    if isinstance(found, Refusal) or not way.algorithm:
        return found
    return dataclasses.replace(found, source=f"{found.text}algorithm {way.algorithm}\n", variant=f"{found.variant} {way.algorithm}")


def problem_of(node: Node, precision: str, rung: str) -> Problem | None:
    """The problem that a node is; None where there are no ways to choose from, or where its sizes are not known."""
    tensors = [v.type for v in (*node.operands, *node.results) if v is not None]
    if key_of(node) not in PRODUCTS or not all(isinstance(t, TensorType) and t.is_static for t in tensors):
        return None
    source = select(node, precision, rung)
    if isinstance(source, Refusal) or source.host or source.checked or source.bound is not None:
        return None
    shapes = [None if v is None else v.tensor.shape for v in node.operands]
    call = Call(shapes, [v.tensor.shape for v in node.results])  # type: ignore[arg-type, misc]
    try:
        launch = source.bind(call)
    except ValueError:
        return None
    if not any(blocks for _, blocks in launch.each()):
        return None
    constants = [v is not None and v.is_const for v in node.operands]
    about = source.text, launch.each(), precision, rung, [str(t) for t in tensors], constants
    return Problem(node, call, hashlib.sha256(repr(about).encode()).hexdigest(), Candidate(None, source, launch))


def candidates(p: Problem, precision: str, rung: str) -> list[Candidate]:
    """The ways of computing a problem that are worth measuring, its default first: libraries by their first algorithm."""
    ways = [] if rung == "scalar" else [*(Way(cut=cut) for cut in _cuts(p, precision, rung)), Way(), Way(0)]
    default = p.default.source.text, p.default.launch.ints
    found, like = {default: p.default}, ""
    for way in ways:
        c = candidate(p, precision, rung, way)
        if c is not None:
            like = like or str(way) if (c.source.text, c.launch.ints) == default else like
            found.setdefault((c.source.text, c.launch.ints), c)
    found[default] = p.default._replace(like=like)
    return list(found.values())


def candidate(p: Problem, precision: str, rung: str, way: Way) -> Candidate | None:
    """A way of computing a problem, None where there is none."""
    source = build(p.node, precision, rung, way)
    if isinstance(source, Refusal) or source.host:
        return None
    return Candidate(way, source, source.bind(p.call))


def by_library(c: Candidate) -> bool:
    return is_library(c.source.text)


def _cuts(p: Problem, precision: str, rung: str) -> list[Cut]:
    """Cuts of our kernels, those first that are thought the fastest."""
    site = site_of(p.node) if key_of(p.node) not in ("attention", "fused.attention") else None
    if site is None or isinstance(site, Refusal):
        return []
    item, found = site.operand(0).tensor.dtype.itemsize, list[tuple[float, Cut]]()  # type: ignore[union-attr]
    for tile in (FEW_ROWS, *TENSOR_TILES, *DIRECT_TILES):
        c = candidate(p, precision, rung, Way(cut=Cut(tile)))
        if c is None:
            continue
        rows, columns, depth, batches = c.launch.ints[:4]
        if tile == FEW_ROWS:
            found.append((0.0, Cut(tile)))
            continue
        _, best = tensor_cut([tile], rows, columns, batches, depth, item, True)
        here = list[tuple[float, Cut]]()
        for cut in dict.fromkeys(Cut(tile, n).whole(depth, item) for n in _near(best)):
            parts = blocks_for(blocks_for(depth, tile.deep(item)), cut.splits)
            here.append((estimate(tile, rows, columns, batches, parts, cut.splits), cut))
        found += sorted(here, key=lambda f: f[0])[:OF_A_TILE]
    found.sort(key=lambda f: f[0])
    least = min((took for took, cut in found if took), default=0.0)
    return [cut for took, cut in found if took <= FAR * least][:MOST_CUTS]


def _near(splits: int) -> Iterator[int]:
    """Splits that are tried where so many are thought the best."""
    yield from sorted({1, splits, max(1, splits // 2), min(2 * splits, MOST_SPLITS)})
