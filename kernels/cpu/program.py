"""Programs: what is done to a tile of sums before it is stored, and their emission.

A program is a tuple of steps, each of which may refer to earlier ones by number; the last is the result:
("acc",), ("col", k), ("row", k), ("factor", k), ("full", k), ("scalar", k), ("const", hex), and (primitive, step, ...). Operand k
is a vector along the columns, one number a row (a factor: of the computing type), a matrix laid out as the result, or one number;
primitives are those of `ir/scalar.py` on floats.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from ..epilogue import Program
from .emitter import Emitter

IDENTITY: Program = (("acc",),)
LEAVES = ("acc", "col", "row", "factor", "full", "scalar", "const")
# How arithmetic.py calls what ir/scalar.py calls differently.
_SPELLED = {"abs": "absolute", "min": "minimum", "max": "maximum", "round": "rint", "exact_exp": "exp", "exact_erf": "erf"}
_LIBM = {"pow": lambda a, b: a.libm("pow", b)}
_LOGIC = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "not": lambda a: ~a}
_LIGHT = frozenset(
    {"add", "sub", "mul", "neg", "abs", "min", "max", "where", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}
)
IN_STEP = 4  # vectors for which a longer program is computed in step
LIGHT_STEPS = 12  # a program of more is emitted once, in a loop over the tile's vectors


def run_program(e: Emitter, program: Program, leaf: Callable[[str, Any], Any]) -> Any:
    """Emits a program on vectors of the computing type; `leaf(kind, k)` gives acc, col, row, full and scalar as a Val."""
    from .arithmetic import BASIC, TESTS
    from .emit import Val
    from .polynomials import function, one_plus_erf, one_plus_exp

    sums = {"exp": one_plus_exp, "erf": one_plus_erf}
    done: list[Any] = []
    for fn, *args in program:
        inner = _one_plus(program, sums, fn, args) if e.type.bits == 32 else None
        if inner is not None:
            done.append(sums[program[inner][0]](done[program[inner][1]]))
        elif fn == "const":
            done.append(Val(e.b, e.ir.Constant(e.type.llvm, [float.fromhex(args[0])] * e.lanes), e.type))
        elif fn in LEAVES:
            done.append(leaf(fn, *args))
        else:
            name = _SPELLED.get(fn, fn)
            emit = BASIC.get(name) or TESTS.get(name) or _LOGIC.get(name) or _LIBM.get(name) or function(name)
            done.append(emit(*(done[i] for i in args)))
    return done[-1]


def _one_plus(program: Program, functions: Container[str], fn: str, args: Sequence[Any]) -> int | None:
    """The step f(x) of a sum 1 + f(x), which every sigmoid and gelu has; None where the step is none, or where accuracy goes before
    speed (see `REDUCED` in target.py)."""
    if fn != "add":
        return None
    return next((b for a, b in (args, args[::-1]) if program[a] == ("const", (1.0).hex()) and program[b][0] in functions), None)


def operand_count(program: Program) -> int:
    """How many epilogue operands a program reads."""
    return 1 + max((step[1] for step in program if step[0] in LEAVES[1:-1]), default=-1)


def _is_light(program: Program) -> bool:
    steps = [s[0] for s in program if s[0] not in LEAVES]
    return len(steps) <= LIGHT_STEPS and _LIGHT.issuperset(steps)


@dataclass(frozen=True)
class Place:
    """Where a tile goes: the address of the result's row i, a table of the byte offsets of row operands (at the tile's first row;
    None: there are none), the byte offset of the first column, how many columns are valid, and the operands."""

    row: Callable[[Any], Any]
    row_at: Any
    column_at: Any
    ncols: Any
    operands: Sequence[Any]


def _leaf(e: Emitter, place: Place, kind: str, k: int, row_pointer: Any, i: Any, j: Any, mask: Any) -> Any:
    """The operand k of row i, vector j (numbers or values)."""
    from .emit import Val

    step = e.lanes * e.stored
    j_at = e.times(j, step)
    if kind == "full":
        return e.fetch(e.at(e.at(row_pointer, place.operands[k]), j_at), mask)
    p = e.pointer(place.operands[k])
    if kind == "col":
        return e.fetch(e.at(e.at(p, place.column_at), j_at), mask)
    if kind in ("row", "factor"):
        p = e.at(p, e.load_int(place.row_at, e.times(i, 8)))
    return Val(e.b, e.splat(p), e.type) if kind == "factor" else e.fetch_one(p)


def _finish(e: Emitter, program: Program, acc: Sequence[Sequence[Any]], place: Place, masks: Sequence[Any]) -> None:
    """Applies the epilogue to acc[row][vector] and stores it. `masks` holds one a vector, None where all lanes are valid."""
    from .emit import Val

    known: dict[tuple, Any] = {}  # what several vectors of the tile share
    for i, vectors in enumerate(acc):
        row = e.at(place.row(i), place.column_at)
        for j, (value, mask) in enumerate(zip(vectors, masks, strict=True)):

            def leaf(kind: str, k: int = 0, i: int = i, j: int = j, row: Any = row, value: Any = value, mask: Any = mask) -> Any:
                if kind == "acc":
                    return Val(e.b, value, e.type)
                key = (kind, k, i if kind in ("row", "factor", "full") else 0, j if kind in ("col", "full") else 0)
                if key not in known:
                    known[key] = _leaf(e, place, kind, k, row, i, j, mask)
                return known[key]

            e.store(run_program(e, program, leaf), e.at(row, j * e.lanes * e.stored), mask)


def _finish_looped(e: Emitter, program: Program, acc: Sequence[Sequence[Any]], place: Place, whole: bool) -> None:
    """`_finish` for long programs: the tile goes through memory, so that the program is emitted once, for a few vectors in step: a
    chain of dependent instructions would leave the arithmetic units idle. `whole` says that all of its columns are valid."""
    from .emit import Val

    total, nv = len(acc) * len(acc[0]), len(acc[0])
    group = min(IN_STEP, 1 << (total.bit_length() - 1))
    together = Emitter(e.b, e.memory, e.lanes * group)
    with e.b.goto_entry_block():
        slot = e.b.alloca(e.ir.ArrayType(e.type.llvm, total))
    tile = e.pointer(e.b.ptrtoint(slot, e.i64))
    bytes_ = e.lanes * e.item
    for n, value in enumerate(v for vectors in acc for v in vectors):
        e.b.store(value, e.at(tile, n * bytes_), align=e.item)

    def vectors(number: Any, _: list) -> list:
        first = e.times(number, group)  # the last group reaches back over vectors that have been done
        first = e.b.select(e.b.icmp_signed("<", first, e.int(total - group)), first, e.int(total - group))
        parts = []
        for g in range(group):
            n = e.b.add(first, e.int(g))
            i = e.b.udiv(n, e.int(nv))
            j = e.b.sub(n, e.times(i, nv))
            mask = None if whole else e.mask(e.b.sub(place.ncols, e.times(j, e.lanes)))
            parts.append((e.at(place.row(i), place.column_at), i, j, mask))

        def leaf(kind: str, k: int = 0) -> Any:
            if kind == "acc":
                return Val(e.b, together.load(e.at(tile, e.times(first, bytes_))), together.type)
            if kind == "scalar":
                values = [_leaf(e, place, kind, k, *parts[0]).v] * group
            else:
                values = [_leaf(e, place, kind, k, *part).v for part in parts]
            return Val(e.b, e.join(values), together.type)

        done = run_program(together, program, leaf).v
        for (row, _, j, mask), value in zip(parts, e.cut(done, group), strict=True):
            e.store(Val(e.b, value, e.type), e.at(row, e.times(j, e.lanes * e.stored)), mask)
        return []

    e.loop(e.int(-(-total // group)), [], vectors)


def store_tile(e: Emitter, program: Program, flat: Sequence[Any], nv: int, place: Place, masked: bool | None = None) -> None:
    """Applies the epilogue to a tile and stores it; `masked` says whether columns past the last are to be left alone, None that
    this is to be found out."""
    acc = [flat[i : i + nv] for i in range(0, len(flat), nv)]
    if masked is None:
        with e.b.if_else(e.b.icmp_signed(">=", place.ncols, e.int(nv * e.lanes))) as (whole, part):
            with whole:
                store_tile(e, program, flat, nv, place, False)
            with part:
                store_tile(e, program, flat, nv, place, True)
    elif _is_light(program):
        _finish(e, program, acc, place, [e.mask(e.b.sub(place.ncols, e.int(j * e.lanes))) if masked else None for j in range(nv)])
    else:
        _finish_looped(e, program, acc, place, not masked)
