"""The microkernel of depthwise convolutions along a line of pixels, emitted as LLVM code inside an intrinsic.

A tile is some neighbouring pixels of an output line by some vectors of channels. Each input vector of a line is loaded once and
multiplied for all pixels of the tile that see it. Inputs are found through a table with one address for each place of the padded
line: places outside of the image have the address of zeros, so that pixels at the borders are like all others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .emitter import Emitter, intrinsic, name_of
from .program import IDENTITY, Place, Program, operand_count, store_tile

WRITTEN_OUT = 3  # lines of a window, up to which there is no loop over them: leaving it costs as much as one of them


@functools.cache
def line_tile(memory: str, lanes: int, px: int, nv: int, height: int, taps: int, stride: int, dilation: int, masked: bool,
              program: Program = IDENTITY) -> Any:  # fmt: skip
    """An intrinsic

        tile(blocks, lines, pixels, lists, pitch, x, ahead, w, w_pitch, c, c_line, c_step, c_at, ncols, *operands)

    for `lines` lines of `pixels` (px or more) and `blocks` groups of nv vectors of channels, group by group, so that a line of the
    input stays in the first-level cache as long as it is needed. `lists` has `pitch` bytes a line: how many of the `height` lines
    of its windows lie in the input, then for each the byte offset of its weights in `w` and the address of its table, which has
    the address of each place of the padded line; `x` bytes are added to these. Weights have `w_pitch` bytes a tap (in the computing
    type, padded to whole vectors), of which `taps` belong to a line. What lies `ahead` bytes behind the inputs of the last line
    (0: nothing) is fetched into the second-level cache. Results lie `c_step` bytes apart, lines of them `c_line` bytes, the first
    at `c` + `c_at`. Only a masked kernel may be given fewer than nv * lanes columns. Operands are those of `gemm_panel`, without
    rows.
    """
    window = _Window(px, nv, taps, stride, dilation)

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, memory, lanes)
        blocks, lines, pixels, lists, pitch, x, ahead, w, w_pitch, c, c_line, c_step, c_at, ncols, *operands = args
        tiles = e.b.sdiv(e.b.add(pixels, e.int(px - 1)), e.int(px))
        last_pixel = e.b.sub(pixels, e.int(px))  # the last tile reaches back over pixels that have been done

        def block(number: Any, _: list) -> list:
            moved = e.times(number, nv * lanes * e.stored)
            x_at, w_at = e.b.add(x, moved), e.b.add(w, e.times(number, nv * lanes * e.item))
            column_at, columns = e.b.add(c_at, moved), e.b.sub(ncols, e.times(number, nv * lanes))
            masks = [e.mask(e.b.sub(columns, e.int(j * lanes))) if masked else None for j in range(nv)]

            def line(at: Any, _: list) -> list:
                listed, to = e.at(e.pointer(lists), e.b.mul(at, pitch)), e.at(e.pointer(c), e.b.mul(at, c_line))
                count, entries = e.load_int(listed), e.at(listed, 8)
                fetches = e.b.and_(e.b.icmp_signed("!=", ahead, e.int(0)), e.b.icmp_signed(">", count, e.int(0)))

                def tile(index: Any, whole: bool) -> list:
                    first = e.times(index, px)
                    first = e.b.select(e.b.icmp_signed("<", first, last_pixel), first, last_pixel)

                    def places(n: Any) -> Callable[[int], Any]:
                        table = e.at(e.pointer(e.load_int(e.at(entries, e.times(n, 16)), 8)), e.times(first, 8 * stride))
                        return lambda i: e.at(e.pointer(e.load_int(table, 8 * i)), x_at)

                    def one(n: Any, acc: list) -> list:
                        weights = e.at(e.pointer(w_at), e.load_int(e.at(entries, e.times(n, 16))))
                        return window.multiply(e, places(n), weights, w_pitch, masks, acc)

                    flat = [e.zero] * (px * nv)
                    if whole:
                        flat = functools.reduce(lambda acc, n: one(n, acc), range(height), flat)
                    else:
                        flat = e.loop(count, flat, one)
                    with e.b.if_then(fetches):
                        last = places(e.b.sub(count, e.int(1)))
                        for i in range(min(px * stride, window.places)):
                            e.prefetch(e.at(last(i), ahead))
                    results = e.at(to, e.b.mul(first, c_step))
                    place = Place(lambda i: e.at(results, e.b.mul(c_step, e.int(i) if isinstance(i, int) else i)), None, column_at,
                                   columns, operands)  # fmt: skip
                    store_tile(e, program, flat, nv, place, masked)
                    return []

                if height > WRITTEN_OUT:
                    e.loop(tiles, [], lambda index, _: tile(index, False))
                    return []
                with e.b.if_else(e.b.icmp_signed("==", count, e.int(height))) as (inside, border):
                    with inside:
                        e.loop(tiles, [], lambda index, _: tile(index, True))
                    with border:
                        e.loop(tiles, [], lambda index, _: tile(index, False))
                return []

            e.loop(lines, [], line)
            return []

        e.loop(blocks, [], block)

    name = name_of("line", memory, lanes, px, nv, height, taps, stride, dilation, masked, program)
    return intrinsic(name, 14 + operand_count(program), build)


@dataclass(frozen=True)
class _Window:
    """What a tile of px pixels by nv vectors sees of a line."""

    px: int
    nv: int
    taps: int
    stride: int
    dilation: int

    @property
    def places(self) -> int:
        return (self.px - 1) * self.stride + (self.taps - 1) * self.dilation + 1

    def multiply(
        self, e: Emitter, place: Callable[[int], Any], weights: Any, w_pitch: Any, masks: Sequence[Any], acc: list
    ) -> list:
        """The sums `acc[pixel * nv + vector]` with the products of one line, whose addresses `place` loads one by one."""
        acc, vectors = list(acc), range(self.nv)
        taps = [e.at(weights, e.b.mul(w_pitch, e.int(k))) for k in range(self.taps)]
        factors = [[e.load(tap, j * e.lanes * e.item) for j in vectors] for tap in taps]
        for at in range(self.places):
            users = [(i, k) for i in range(self.px) for k in range(self.taps) if i * self.stride + k * self.dilation == at]
            x = place(at) if users else None
            for j in vectors if users else ():
                value = e.fetch(e.at(x, j * e.lanes * e.stored), masks[j]).v
                for i, k in users:
                    acc[i * self.nv + j] = e.fma(value, factors[k][j], acc[i * self.nv + j])
        return acc
