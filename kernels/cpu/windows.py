"""The microkernel of depthwise convolutions along a line of pixels, emitted as LLVM code inside a numba intrinsic.

A tile is some neighbouring pixels of an output line by some vectors of channels. Each input vector of a line is loaded once and
multiplied for all pixels of the tile that see it. Inputs are found through a table with one address for each place of the padded
line: places outside of the image have the address of zeros, so that pixels at the borders are like all others.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from .microkernel import IDENTITY, Program, _Emit, _intrinsic, _name, _Place, _store_tile, operand_count

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

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = _Emit(builder, memory, lanes)
        blocks, lines, pixels, lists, pitch, x, ahead, w, w_pitch, c, c_line, c_step, c_at, ncols, *operands = args
        vector, step = e.lanes * e.item, e.lanes * e.stored
        places = (px - 1) * stride + (taps - 1) * dilation + 1
        seen = [[(i, k) for i in range(px) for k in range(taps) if i * stride + k * dilation == at] for at in range(places)]
        tiles = e.b.sdiv(e.b.add(pixels, e.int(px - 1)), e.int(px))
        last_pixel = e.b.sub(pixels, e.int(px))  # the last tile reaches back over pixels that have been done

        def block(number: Any, _: list) -> list:
            x_at, w_at = e.b.add(x, e.times(number, nv * step)), e.b.add(w, e.times(number, nv * vector))
            column_at, columns = e.b.add(c_at, e.times(number, nv * step)), e.b.sub(ncols, e.times(number, nv * lanes))
            masks = [e.mask(e.b.sub(columns, e.int(j * lanes))) if masked else None for j in range(nv)]

            def line(at_line: Any, _: list) -> list:
                listed = e.at(e.pointer(lists), e.b.mul(at_line, pitch))
                count, to = e.load_int(listed), e.at(e.pointer(c), e.b.mul(at_line, c_line))
                entries = e.at(listed, 8)
                last_entry = e.at(listed, e.b.sub(e.times(count, 16), e.int(8)))
                fetches = e.b.and_(e.b.icmp_signed("!=", ahead, e.int(0)), e.b.icmp_signed(">", count, e.int(0)))

                def tile(index: Any, written_out: bool) -> list:
                    first = e.times(index, px)
                    first = e.b.select(e.b.icmp_signed("<", first, last_pixel), first, last_pixel)
                    skipped = e.times(first, 8 * stride)

                    def one(n: Any, acc: list) -> list:
                        acc, entry = list(acc), e.at(entries, e.times(n, 16))
                        at_weights = e.at(e.pointer(w_at), e.load_int(entry))
                        weights = [[e.load(e.at(at_weights, e.b.mul(w_pitch, e.int(k))), j * vector) for j in range(nv)]
                                   for k in range(taps)]  # fmt: skip
                        table = e.at(e.pointer(e.load_int(entry, 8)), skipped)
                        for at, users in enumerate(seen):
                            if users:
                                place = e.at(e.pointer(e.load_int(table, 8 * at)), x_at)
                                for j in range(nv):
                                    value = e.fetch(e.at(place, j * step), masks[j]).v
                                    for i, k in users:
                                        acc[i * nv + j] = e.fma(value, weights[k][j], acc[i * nv + j])
                        return acc

                    if written_out:
                        flat = [e.zero] * (px * nv)
                        for n in range(height):
                            flat = one(n, flat)
                    else:
                        flat = e.loop(count, [e.zero] * (px * nv), one)
                    with e.b.if_then(fetches):
                        table = e.at(e.pointer(e.load_int(last_entry, 8)), skipped)
                        for at in range(min(px * stride, places)):
                            e.prefetch(e.at(e.at(e.pointer(e.load_int(table, 8 * at)), x_at), ahead))
                    results = e.at(to, e.b.mul(first, c_step))

                    def row(i: Any) -> Any:
                        return e.at(results, e.b.mul(c_step, e.int(i) if isinstance(i, int) else i))

                    _store_tile(e, program, flat, nv, _Place(row, None, column_at, columns, operands), masked)
                    return []

                if height > WRITTEN_OUT:
                    e.loop(tiles, [], lambda index, _: tile(index, False))
                    return []
                with e.b.if_else(e.b.icmp_signed("==", count, e.int(height))) as (all_of_it, part):
                    with all_of_it:
                        e.loop(tiles, [], lambda index, _: tile(index, True))
                    with part:
                        e.loop(tiles, [], lambda index, _: tile(index, False))
                return []

            e.loop(lines, [], line)
            return []

        e.loop(blocks, [], block)

    name = _name("line", memory, lanes, px, nv, height, taps, stride, dilation, masked, program)
    return _intrinsic(name, 14 + operand_count(program), build)
