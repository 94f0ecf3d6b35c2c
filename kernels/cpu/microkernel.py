"""The register-tiled inner kernels of GEMM and convolutions, emitted as LLVM code inside intrinsics.

A tile of MR rows by NV vectors is held in registers while the products are summed: `acc[i, j] += a[row i, k] * b[k, j]`. Rows are
found through a table of addresses, one for each (segment, row), so that one kernel serves GEMM (one segment), convolution (a
segment of C numbers for each tap) and transposed convolution; columns come from a *panel* of B, packed K by NV vectors and padded
with zeros. The sum runs through all segments in order, then the epilogue (a small program, below) is applied in registers and the
tile is stored; columns past `ncols` are neither read nor written. f16 and bf16 are computed in f32 and exist only in what the
epilogue reads and stores.

A program is a tuple of steps, each of which may refer to earlier ones by number; the last is the result:
("acc",), ("col", k), ("row", k), ("factor", k), ("full", k), ("scalar", k), ("const", hex), and (primitive, step, ...). Operand k
is a vector along the columns, one number a row (a factor: of the computing type), a matrix laid out as the result, or one number;
primitives are those of `ir/scalar.py` on floats.

The tile's height, its width and the vector width follow from the host's features (see `tiling`).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Program = tuple[tuple, ...]
IDENTITY: Program = (("acc",),)
LEAVES = ("acc", "col", "row", "factor", "full", "scalar", "const")
UNROLL = 8
AHEAD = 3  # cache lines of the next panel that are asked for in UNROLL steps: all of it while four tiles are computed
# How emit.py calls what ir/scalar.py calls differently.
_SPELLED = {"abs": "absolute", "min": "minimum", "max": "maximum", "round": "rint"}
_LIBM = {"pow": lambda a, b: a.libm("pow", b)}
_LOGIC = {"and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "not": lambda a: ~a}
_LIGHT = frozenset(
    {"add", "sub", "mul", "neg", "abs", "min", "max", "where", "lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"}
)
IN_STEP = 4  # vectors for which a longer program is computed in step
LIGHT_STEPS = 12  # a program of more is emitted once, in a loop over the tile's vectors


@dataclass(frozen=True, slots=True)
class Tiling:
    """How wide a vector is, in elements, and how many rows a tile of 1, 2 and 3 vectors has (`rows[nv]`)."""

    lanes: int
    rows: tuple[int, int, int, int]

    def widths(self, n: int) -> tuple[int, int, int]:
        """How many panels of 3, 2 and 1 vectors cover n columns, in this order, with the least padding."""
        vectors = -(-n // self.lanes)
        if vectors == 1:
            return 0, 0, 1
        mid = (-vectors) % 3  # 3a + 2b: b = 0, 1 or 2
        return (vectors - 2 * mid) // 3, mid, 0

    def padded(self, n: int) -> int:
        """n rounded up to whole vectors."""
        return -(-n // self.lanes) * self.lanes


@functools.cache
def host_features() -> frozenset[str]:
    """The CPU features to compile for, of which avx2, avx512f, f16c and fma are asked for: this host's, unless the environment says
    others. Linux and LLVM spell these alike, and what only inspects a model need not import LLVM."""
    given = os.environ.get("GRAPHMILL_CPU_FEATURES")
    if given:
        return frozenset(f[1:] for f in given.split(",") if f.startswith("+"))
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            flags = next((line.partition(":")[2].split() for line in f if line.startswith("flags")), [])
    except OSError:
        flags = []
    if flags:
        return frozenset(flags)
    import llvmlite.binding as llvm

    return frozenset(name for name, have in llvm.get_host_cpu_features().items() if have)


@functools.cache
def tiling(item: int) -> Tiling:
    """The tiling for floats of `item` bytes on this host. 4x3, 6x2 and 8x1 fill 16 registers, 8x3 fills 32."""
    have = host_features()
    bits = 512 if "avx512f" in have else 256 if {"avx2", "fma"} <= have else 128
    return Tiling(bits // (8 * item), (0, 8, 8, 8) if bits == 512 else (0, 8, 6, 4))


# ---- emission -----------------------------------------------------------------------------------------------------------


class _Emit:
    """Short forms over an llvmlite builder, for one type in memory (f32, f64, f16, bf16) and vector width."""

    def __init__(self, builder: Any, memory: str, lanes: int):
        from llvmlite import ir

        from .emit import Ty

        self.ir, self.b, self.lanes, self.memory = ir, builder, lanes, memory
        self.type = Ty("f", 64 if memory == "f64" else 32, lanes)
        self.item = self.type.bits // 8  # bytes of a number that is computed with
        self.stored = 2 if memory in ("f16", "bf16") else self.item  # and of one in memory
        self.i64, self.i32, self.i8, self.ptr = ir.IntType(64), ir.IntType(32), ir.IntType(8), ir.PointerType()
        self.half = ir.IntType(16)
        self.zero = ir.Constant(self.type.llvm, [0.0] * lanes)

    def int(self, v: int) -> Any:
        return self.ir.Constant(self.i64, v)

    def times(self, i: Any, n: int) -> Any:
        """i * n, where i is a number or a value."""
        return i * n if isinstance(i, int) else self.b.mul(i, self.int(n))

    def pointer(self, address: Any) -> Any:
        return self.b.inttoptr(address, self.ptr)

    def at(self, pointer: Any, offset: Any) -> Any:
        """`pointer` moved by a number of bytes."""
        if isinstance(offset, int):
            if offset == 0:
                return pointer
            offset = self.int(offset)
        return self.b.gep(pointer, [offset], source_etype=self.i8)

    def load_int(self, pointer: Any, offset: Any = 0) -> Any:
        return self.b.load(self.at(pointer, offset), typ=self.i64, align=8)

    def spread(self, scalar: Any) -> Any:
        """A number in all lanes."""
        undefined = self.ir.Constant(self.ir.VectorType(scalar.type, self.lanes), self.ir.Undefined)
        first = self.b.insert_element(undefined, scalar, self.ir.Constant(self.i32, 0))
        return self.b.shuffle_vector(first, undefined, self.ir.Constant(self.ir.VectorType(self.i32, self.lanes), [0] * self.lanes))

    def splat(self, pointer: Any, offset: Any = 0) -> Any:
        """The number of the computing type at an address, in all lanes."""
        return self.spread(self.b.load(self.at(pointer, offset), typ=self.type.elem, align=self.item))

    def load(self, pointer: Any, offset: Any = 0, mask: Any = None) -> Any:
        """A vector of the computing type."""
        return self._load(self.type.llvm, self.item, self.at(pointer, offset), mask)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x * y + z, fused where the host can."""
        return self.call(f"llvm.fmuladd.{self.type.suffix}", self.type.llvm, [x, y, z])

    def call(self, name: str, result: Any, args: Sequence[Any]) -> Any:
        from .emit import declare

        return self.b.call(declare(self.b, name, result, [a.type for a in args]), args)

    def prefetch(self, pointer: Any) -> None:
        """Asks for a line to be brought into the second-level cache; any address will do."""
        args = [pointer, *(self.ir.Constant(self.i32, v) for v in (0, 2, 1))]  # to be read, moderately local, data
        self.call("llvm.prefetch.p0", self.ir.VoidType(), args)

    def _load(self, vector: Any, item: int, pointer: Any, mask: Any) -> Any:
        if mask is None:
            return self.b.load(pointer, typ=vector, align=item)
        name = f"llvm.masked.load.v{self.lanes}{self._element(vector)}.p0"
        return self.call(
            name, vector, [pointer, self.ir.Constant(self.i32, item), mask, self.ir.Constant(vector, [0] * self.lanes)]
        )

    def _element(self, vector: Any) -> str:
        return "i16" if vector.element == self.half else f"f{self.type.bits}"

    def fetch(self, pointer: Any, mask: Any = None) -> Any:
        """A vector in the memory's type, as a Val of the computing type."""
        from .emit import Val

        if self.stored == self.item:
            return Val(self.b, self._load(self.type.llvm, self.item, pointer, mask), self.type)
        return self._widened(
            Val(self.b, self._load(self.ir.VectorType(self.half, self.lanes), 2, pointer, mask), self.type.of("u", 16))
        )

    def fetch_one(self, pointer: Any) -> Any:
        """A number in the memory's type, in all lanes."""
        from .emit import Val

        if self.stored == self.item:
            return Val(self.b, self.splat(pointer), self.type)
        return self._widened(Val(self.b, self.spread(self.b.load(pointer, typ=self.half, align=2)), self.type.of("u", 16)))

    def _widened(self, bits: Any) -> Any:
        from .emit import bf16_to_f32, half_to_f32

        return bf16_to_f32(bits) if self.memory == "bf16" else half_to_f32(bits, "f16c" in host_features())

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        """Stores a Val of the computing type in the memory's type."""
        from .emit import f32_to_bf16, f32_to_half

        if self.stored != self.item:
            value = f32_to_bf16(value) if self.memory == "bf16" else f32_to_half(value, "f16c" in host_features())
        if mask is None:
            self.b.store(value.v, pointer, align=self.stored)
        else:
            name = f"llvm.masked.store.v{self.lanes}{self._element(value.v.type)}.p0"
            self.call(name, self.ir.VoidType(), [value.v, pointer, self.ir.Constant(self.i32, self.stored), mask])

    def join(self, vectors: list) -> Any:
        """Vectors, as many as a power of two, as one."""
        while len(vectors) > 1:
            n = 2 * vectors[0].type.count
            order = self.ir.Constant(self.ir.VectorType(self.i32, n), list(range(n)))
            vectors = [self.b.shuffle_vector(x, y, order) for x, y in zip(vectors[::2], vectors[1::2], strict=True)]
        return vectors[0]

    def cut(self, vector: Any, parts: int) -> list:
        """The inverse of `join`."""
        n = vector.type.count // parts
        orders = [self.ir.Constant(self.ir.VectorType(self.i32, n), list(range(i * n, i * n + n))) for i in range(parts)]
        return [self.b.shuffle_vector(vector, vector, order) for order in orders] if parts > 1 else [vector]

    def mask(self, count: Any) -> Any:
        """Lanes below `count`, which may be negative."""
        order = self.ir.Constant(self.ir.VectorType(self.i64, self.lanes), list(range(self.lanes)))
        return self.b.icmp_signed("<", order, self.spread(count))

    def loop(self, count: Any, carried: Sequence[Any], body: Callable[[Any, list], list]) -> list:
        """Runs `body(index, carried) -> carried` `count` times, perhaps never; gives the last carried values."""
        before = self.b.block
        head, inside, after = (self.b.append_basic_block(n) for n in ("head", "body", "after"))
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(self.i64)
        index.add_incoming(self.int(0), before)
        values = [self.b.phi(v.type) for v in carried]
        for phi, v in zip(values, carried, strict=True):
            phi.add_incoming(v, before)
        self.b.cbranch(self.b.icmp_signed("<", index, count), inside, after)
        self.b.position_at_end(inside)
        out = body(index, values)
        index.add_incoming(self.b.add(index, self.int(1)), self.b.block)
        for phi, v in zip(values, out, strict=True):
            phi.add_incoming(v, self.b.block)
        self.b.branch(head)
        self.b.position_at_end(after)
        return values


# ---- the epilogue -------------------------------------------------------------------------------------------------------


def run_program(e: _Emit, program: Program, leaf: Callable[[str, Any], Any]) -> Any:
    """Emits a program on vectors of the computing type; `leaf(kind, k)` gives acc, col, row, full and scalar as a Val."""
    from .emit import BASIC, TESTS, Val
    from .polynomials import function, one_plus_exp

    done: list[Any] = []
    for fn, *args in program:
        exponent = _one_plus_exp(program, fn, args) if e.type.bits == 32 else None
        if exponent is not None:
            done.append(one_plus_exp(done[exponent]))
        elif fn == "const":
            done.append(Val(e.b, e.ir.Constant(e.type.llvm, [float.fromhex(args[0])] * e.lanes), e.type))
        elif fn in LEAVES:
            done.append(leaf(fn, *args))
        else:
            name = _SPELLED.get(fn, fn)
            emit = BASIC.get(name) or TESTS.get(name) or _LOGIC.get(name) or _LIBM.get(name) or function(name)
            done.append(emit(*(done[i] for i in args)))
    return done[-1]


def _one_plus_exp(program: Program, fn: str, args: Sequence[Any]) -> int | None:
    """The step x of a sum 1 + exp(x), which every sigmoid has; None where the step is none."""
    if fn != "add":
        return None
    pairs = [(program[a], program[b]) for a, b in (args, args[::-1])]
    return next((e[1] for one, e in pairs if one == ("const", (1.0).hex()) and e[0] == "exp"), None)


def operand_count(program: Program) -> int:
    """How many epilogue operands a program reads."""
    return 1 + max((step[1] for step in program if step[0] in LEAVES[1:-1]), default=-1)


def _is_light(program: Program) -> bool:
    steps = [s[0] for s in program if s[0] not in LEAVES]
    return len(steps) <= LIGHT_STEPS and _LIGHT.issuperset(steps)


@dataclass(frozen=True)
class _Place:
    """Where a tile goes: the address of the result's row i, a table of the byte offsets of row operands (at the tile's first row;
    None: there are none), the byte offset of the first column, how many columns are valid, and the operands."""

    row: Callable[[Any], Any]
    row_at: Any
    column_at: Any
    ncols: Any
    operands: Sequence[Any]


def _leaf(e: _Emit, place: _Place, kind: str, k: int, row_pointer: Any, i: Any, j: Any, mask: Any) -> Any:
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


def _finish(e: _Emit, program: Program, acc: Sequence[Sequence[Any]], place: _Place, masks: Sequence[Any]) -> None:
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


def _finish_looped(e: _Emit, program: Program, acc: Sequence[Sequence[Any]], place: _Place, whole: bool) -> None:
    """`_finish` for long programs: the tile goes through memory, so that the program is emitted once, for a few vectors in step: a
    chain of dependent instructions would leave the arithmetic units idle. `whole` says that all of its columns are valid."""
    from .emit import Val

    total, nv = len(acc) * len(acc[0]), len(acc[0])
    group = min(IN_STEP, 1 << (total.bit_length() - 1))
    together = _Emit(e.b, e.memory, e.lanes * group)
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


def _store_tile(e: _Emit, program: Program, flat: Sequence[Any], nv: int, place: _Place, masked: bool | None = None) -> None:
    """Applies the epilogue to a tile and stores it; `masked` says whether columns past the last are to be left alone, None that
    this is to be found out."""
    acc = [flat[i : i + nv] for i in range(0, len(flat), nv)]
    if masked is None:
        with e.b.if_else(e.b.icmp_signed(">=", place.ncols, e.int(nv * e.lanes))) as (whole, part):
            with whole:
                _store_tile(e, program, flat, nv, place, False)
            with part:
                _store_tile(e, program, flat, nv, place, True)
    elif _is_light(program):
        _finish(e, program, acc, place, [e.mask(e.b.sub(place.ncols, e.int(j * e.lanes))) if masked else None for j in range(nv)])
    else:
        _finish_looped(e, program, acc, place, not masked)


# ---- the kernels --------------------------------------------------------------------------------------------------------


def _internal(module: Any, name: str, count: int, build: Callable[[Any, Sequence[Any]], None]) -> Any:
    """The internal function `name` of `count` i64 arguments, whose body `build(builder, args)` emits when it is first asked for."""
    from llvmlite import ir

    fn = module.globals.get(name)
    if fn is None:
        i64 = ir.IntType(64)
        fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [i64] * count), name)
        fn.linkage = "internal"
        fn.attributes.add("noinline")  # keeps LLVM from spreading the accumulators over the caller
        fn.attributes.add("nounwind")
        inner = ir.IRBuilder(fn.append_basic_block("entry"))
        build(inner, list(fn.args))
        inner.ret_void()
    return fn


def _intrinsic(name: str, count: int, build: Callable[[Any, Sequence[Any]], None]) -> Any:
    """An intrinsic of `count` i64 arguments that calls the internal function of that name."""
    from .language import I64, Intrinsic

    def typed(*args: Any) -> Sequence[Any]:
        if len(args) != count:
            raise TypeError(f"{len(args)} arguments, expected {count}")
        return [I64] * count

    def emit(builder: Any, values: Sequence[Any]) -> None:
        builder.call(_internal(builder.module, name, count, build), [v.v for v in values])

    return Intrinsic(name, typed, emit)


def _name(kind: str, *parts: Any) -> str:
    return f"{kind}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


@functools.cache
def gemm_panel(memory: str, lanes: int, mr: int, nv: int, program: Program = IDENTITY, staged: bool = False) -> Any:
    """The GEMM microkernel: an intrinsic

        panel(rows, depth, segments, a, a_pitch, b, b_at, c, c_at, ncols, row_at, *operands)

    that computes `rows` rows of one panel of nv vectors, in tiles of mr and mr - 1 rows (one row has a tile of its own). `a` is a
    table of row addresses [segment][row] with `a_pitch` bytes a segment, each row having `depth` contiguous numbers; `b` is the
    panel and `b_at[segment]` the first of its rows for a segment; `c` is a table of the result rows' addresses, to which `c_at`
    bytes are added; `row_at` is a table of byte offsets for row operands. Operands are addresses (for "full" the distance in
    bytes from the result). A and B hold numbers of the computing type. The tables repeat the last row for as many rows as a tile
    has.

    A staged kernel computes long sums in several calls, each over a part of the depth, with the bits of one call (but for one row).
    Before the operands it takes `sums`, room for [rows + mr][nv * lanes] numbers of the computing type, and `stage`: 1
    where it goes on from `sums`, plus 2 where it ends (else it leaves the sums there, and no result).
    """
    arguments = (13 if staged else 11) + operand_count(program)

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = _Emit(builder, memory, lanes)
        rows, depth, segments, a, a_pitch, b, b_at, c, c_at, ncols, row_at, *operands = args

        def call(height: int, count: Any, shift: Any) -> None:
            moved = [e.b.add(table, e.times(shift, 8)) for table in (a, c, row_at)]
            rest = [e.b.add(operands[0], e.times(shift, nv * lanes * e.item)), *operands[1:]] if staged else operands
            parts = memory, lanes, height, nv, program, staged
            tile = _internal(e.b.module, _name("tile", *parts), arguments, _gemm_tile(*parts))
            e.b.call(tile, [count, depth, segments, moved[0], a_pitch, b, b_at, moved[1], c_at, ncols, moved[2], *rest])

        with e.b.if_else(e.b.icmp_signed("==", rows, e.int(1))) as (one, more):
            with one:
                call(1, e.int(1), e.int(0))
            with more:
                over = e.b.srem(rows, e.int(mr))
                low = e.b.select(e.b.icmp_signed("==", over, e.int(0)), e.int(0), e.b.sub(e.int(mr), over))
                left = e.b.sub(rows, e.b.mul(low, e.int(mr - 1)))
                fits = e.b.icmp_signed(">=", left, e.int(0))
                high = e.b.sdiv(e.b.select(fits, left, e.b.add(rows, e.int(mr - 1))), e.int(mr))
                call(mr, high, e.int(0))
                call(mr - 1, e.b.select(fits, low, e.int(0)), e.b.mul(high, e.int(mr)))

    return _intrinsic(_name("panel", memory, lanes, mr, nv, program, staged), arguments, build)


def _gemm_tile(memory: str, lanes: int, mr: int, nv: int, program: Program, staged: bool) -> Callable[[Any, Sequence[Any]], None]:
    """The body of the function that computes `count` tiles of mr rows; the other arguments are those of `gemm_panel`."""
    ways = 2 if mr * nv < 8 else 1  # independent sums where one row alone would wait for the adder

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = _Emit(builder, memory, lanes)
        count, depth, segments, a, a_pitch, b, b_at, c, c_at, ncols, row_at, *operands = args
        sums, stage = (e.pointer(operands.pop(0)), operands.pop(0)) if staged else (None, None)
        panel, b_table = e.pointer(b), e.pointer(b_at)
        item, vector, row_bytes = e.item, e.lanes * e.item, nv * e.lanes * e.item
        blocks, rest = e.b.sdiv(depth, e.int(UNROLL)), e.b.srem(depth, e.int(UNROLL))

        def steps(rows: Sequence[Any], n: int) -> Callable[[Any, list], list]:
            def body(_: Any, carried: list) -> list:
                k, bp, ahead, acc = carried[0], carried[1], carried[2], list(carried[3:])
                if n == UNROLL and mr > 1:  # a single row waits for memory anyway
                    for line in range(AHEAD):
                        e.prefetch(e.at(ahead, 64 * line))
                    ahead = e.at(ahead, stride)
                here = [e.at(r, k) for r in rows]
                for u in range(n):
                    columns = [e.load(bp, u * row_bytes + j * vector) for j in range(nv)]
                    way = (u % ways) * mr * nv
                    for i in range(mr):
                        x = e.splat(here[i], u * item)
                        for j in range(nv):
                            acc[way + i * nv + j] = e.fma(x, columns[j], acc[way + i * nv + j])
                return [e.b.add(k, e.int(n * item)), e.at(bp, n * row_bytes), ahead, *acc]

            return body

        # While the tiles of a panel are computed, the next panel is brought near, spread over all of them.
        size = e.b.mul(e.b.mul(segments, depth), e.int(row_bytes))
        stride = e.b.sdiv(e.int(row_bytes * UNROLL), e.b.select(e.b.icmp_signed(">", count, e.int(0)), count, e.int(1)))

        def tile(index: Any, before: list) -> list:
            first = e.b.mul(index, e.int(8 * mr))
            table = e.at(e.pointer(a), first)

            def segment(s: Any, acc: list) -> list:
                place = e.at(table, e.b.mul(s, a_pitch))
                rows = [e.pointer(e.load_int(place, 8 * i)) for i in range(mr)]
                begin = e.at(panel, e.b.mul(e.load_int(b_table, e.b.mul(s, e.int(8))), e.int(row_bytes)))
                carried = e.loop(blocks, [e.int(0), begin, *acc], steps(rows, UNROLL))
                return e.loop(rest, carried, steps(rows, 1))[2:]

            kept = e.at(sums, e.b.mul(index, e.int(mr * row_bytes))) if staged else None
            start = [e.zero] * (mr * nv) if kept is None else _resume(e, kept, stage, mr * nv)
            ahead, *flat = e.loop(segments, [*before, *start, *[e.zero] * ((ways - 1) * mr * nv)], segment)
            if ways == 2:
                flat = [e.b.fadd(x, y) for x, y in zip(flat[: mr * nv], flat[mr * nv :], strict=True)]
            results = e.at(e.pointer(c), first)
            place = _Place(lambda i: e.pointer(e.load_int(results, e.times(i, 8))), e.at(e.pointer(row_at), first), c_at, ncols,
                           operands)  # fmt: skip
            if kept is None:
                _store_tile(e, program, flat, nv, place)
                return [ahead]
            with e.b.if_else(e.b.icmp_signed(">=", stage, e.int(2))) as (last, more):
                with last:
                    _store_tile(e, program, flat, nv, place)
                with more:
                    for n, value in enumerate(flat):
                        e.b.store(value, e.at(kept, n * vector), align=item)
            return [ahead]

        e.loop(count, [e.at(panel, size)], tile)

    return build


def _resume(e: _Emit, kept: Any, stage: Any, count: int) -> list:
    """What the sums start from: what an earlier stage left, or zeros."""
    before = e.b.block
    with e.b.if_then(e.b.trunc(stage, e.ir.IntType(1))):
        left, loaded = [e.load(kept, n * e.lanes * e.item) for n in range(count)], e.b.block
    out = []
    for value in left:
        phi = e.b.phi(value.type)
        phi.add_incoming(e.zero, before)
        phi.add_incoming(value, loaded)
        out.append(phi)
    return out


@functools.cache
def window_tile(memory: str, lanes: int, px: int, nv: int, spread: bool, masked: bool, program: Program = IDENTITY) -> Any:
    """The microkernel of direct convolutions: an intrinsic

        tile(count, taps, table, x_at, x_step, w, c, c_step, c_at, ncols, *operands)

    for `count` tiles of px pixels by nv vectors of channels: `acc[i, j] += x[tap, pixel i][j] * w[tap][j]`. `table` has two words
    a tap: the address of the first pixel's input, to which `x_at` bytes are added, and the byte offset of the tap's weights in
    `w`. Inputs of neighbouring pixels lie `x_step` bytes apart, their results `c_step` bytes, the first at `c` + `c_at`. With
    `spread` an input is one number for all channels, else a vector of them. Inputs are in the memory's type, weights in the
    computing type (padded to whole vectors). Only a masked kernel may be given fewer than nv * lanes columns. Operands are those
    of `gemm_panel`, without rows.
    """

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = _Emit(builder, memory, lanes)
        count, taps, table, x_at, x_step, w, c, c_step, c_at, ncols, *operands = args
        entries, weights = e.pointer(table), e.pointer(w)
        vector, step = e.lanes * e.item, e.lanes * e.stored
        masks = [e.mask(e.b.sub(ncols, e.int(j * e.lanes))) if masked else None for j in range(nv)]
        x_steps = [e.b.mul(x_step, e.int(i)) for i in range(px)]

        def tile(index: Any, _: list) -> list:
            first = e.b.mul(index, e.int(px))
            moved = e.b.add(x_at, e.b.mul(first, x_step))

            def tap(t: Any, acc: list) -> list:
                entry, acc = e.at(entries, e.b.mul(t, e.int(16))), list(acc)
                x, at_tap = e.at(e.pointer(e.load_int(entry)), moved), e.at(weights, e.load_int(entry, 8))
                columns = [e.load(at_tap, j * vector) for j in range(nv)]
                for i in range(px):
                    row = e.at(x, x_steps[i])
                    number = e.fetch_one(row).v if spread else None
                    for j in range(nv):
                        value = number if spread else e.fetch(e.at(row, j * step), masks[j]).v
                        acc[i * nv + j] = e.fma(value, columns[j], acc[i * nv + j])
                return acc

            flat = e.loop(taps, [e.zero] * (px * nv), tap)
            results = e.at(e.pointer(c), e.b.mul(first, c_step))

            def row(i: Any) -> Any:
                return e.at(results, e.b.mul(c_step, e.int(i) if isinstance(i, int) else i))

            place = _Place(row, None, c_at, ncols, operands)
            _store_tile(e, program, flat, nv, place, masked)
            return []

        e.loop(count, [], tile)

    return _intrinsic(_name("window", memory, lanes, px, nv, spread, masked, program), 10 + operand_count(program), build)
