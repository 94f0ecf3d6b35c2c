"""Linear combinations of a few vectors at a time, emitted as LLVM code inside an intrinsic: what Winograd's transforms do.

A transform is given as stages, matrices that are applied one after the other: written so, sums that rows share are computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from .emitter import Emitter, intrinsic, name_of
from .program import IDENTITY, Program, operand_count, run_program

Stage = tuple[tuple[float, ...], ...]


@functools.cache
def combine(lanes: int, stages: tuple[Stage, ...], program: Program = IDENTITY) -> Any:
    """An intrinsic

        combine(nbytes, source, source_at, target, target_at, channel_at, *operands)

    for f32 vectors: the numbers at `target[j] + target_at` are the stages' combinations of those at `source[k] + source_at`, and
    `nbytes` (a multiple of a vector's) of each follow. `source` and `target` are tables of addresses. The program (see
    program.py) is applied to the results; operands along the columns are read from `channel_at` bytes on, those of kind
    "full" are given as distances in bytes from the target. Results are stored from the last to the first, so that those which
    are not wanted may be given the address of one before.
    """

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, "f32", lanes)
        nbytes, source, source_at, target, target_at, channel_at, *operands = args
        sources = [e.at(e.pointer(e.load_int(e.pointer(source), 8 * k)), source_at) for k in range(len(stages[0][0]))]
        targets = [e.at(e.pointer(e.load_int(e.pointer(target), 8 * j)), target_at) for j in range(len(stages[-1]))]

        def vector(index: Any, _: list) -> list:
            at = e.b.mul(index, e.int(lanes * e.item))
            values = [e.load(p, at) for p in sources]
            for stage in stages:
                values = [_weighted_sum(e, row, values) for row in stage]
            for j in reversed(range(len(targets))):
                place = e.at(targets[j], at)
                _store(e, program, values[j], place, e.b.add(channel_at, at), operands)
            return []

        e.loop(e.b.sdiv(nbytes, e.int(lanes * e.item)), [], vector)

    return intrinsic(name_of("combine", lanes, stages, program), 6 + operand_count(program), build)


def _weighted_sum(e: Emitter, weights: Sequence[float], values: Sequence[Any]) -> Any:
    """The sum of the values times their weights, without those of weight 0; terms of weight 1 come first and cost no product."""
    terms = sorted(((w, v) for w, v in zip(weights, values, strict=True) if w), key=lambda term: term[0] != 1)
    total = None
    for w, v in terms:
        scale = e.ir.Constant(e.type.llvm, [w] * e.lanes)
        if total is None:
            total = v if w == 1 else e.b.fmul(v, scale)
        elif abs(w) == 1:
            total = e.b.fadd(total, v) if w == 1 else e.b.fsub(total, v)
        else:
            total = e.fma(v, scale, total)
    return total


def _store(e: Emitter, program: Program, value: Any, place: Any, channel_at: Any, operands: Sequence[Any]) -> None:
    from .emit import Val

    def leaf(kind: str, k: int = 0) -> Any:
        if kind == "acc":
            return Val(e.b, value, e.type)
        if kind == "full":
            return e.fetch(e.at(place, operands[k]))
        at = e.pointer(operands[k])
        return e.fetch(e.at(at, channel_at)) if kind == "col" else e.fetch_one(at)

    e.store(run_program(e, program, leaf), place)
