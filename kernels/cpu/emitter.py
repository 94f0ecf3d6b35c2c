"""What the microkernels are written with: short forms over an llvmlite builder, and intrinsics that call functions of the module.

f16 and bf16 are computed in f32 and exist only in what is read from and written to memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from .tiling import converts_half


class Emitter:
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
        from .conversions import bf16_to_f32, half_to_f32

        return bf16_to_f32(bits) if self.memory == "bf16" else half_to_f32(bits, converts_half())

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        """Stores a Val of the computing type in the memory's type."""
        from .conversions import f32_to_bf16, f32_to_half

        if self.stored != self.item:
            value = f32_to_bf16(value) if self.memory == "bf16" else f32_to_half(value, converts_half())
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


# ---- functions of a module ----------------------------------------------------------------------------------------------


def internal(module: Any, name: str, count: int, build: Callable[[Any, Sequence[Any]], None]) -> Any:
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


def intrinsic(name: str, count: int, build: Callable[[Any, Sequence[Any]], None]) -> Any:
    """An intrinsic of `count` i64 arguments that calls the internal function of that name."""
    from .values import I64, Intrinsic

    def typed(*args: Any) -> Sequence[Any]:
        if len(args) != count:
            raise TypeError(f"{len(args)} arguments, expected {count}")
        return [I64] * count

    def emit(builder: Any, values: Sequence[Any]) -> None:
        builder.call(internal(builder.module, name, count, build), [v.v for v in values])

    return Intrinsic(name, typed, emit)


def name_of(kind: str, *parts: Any) -> str:
    return f"{kind}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"
