"""Elementwise kernels: one node, or a fused region of elementwise nodes.

A thread computes the elements of one 16-byte word of the widest type among what is read and written in order. Where an address is
not a multiple of 16, it reads and writes them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ...ir.core import Node
from ...ir.types import F64, DType
from ..elementwise import take_apart
from ..printer import Printer, register
from ..space import APART, ONE, Space
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, declared, indent, kernel

THREADS = 256
FEW = 8  # channels of which neighbouring threads find all in the same lines of the cache, in whatever order they read
Compute = Callable[[Printer, Mapping[int, str]], Sequence[str]]


@serves("fused.loops")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of an elementwise node, or of a fused region of them whose results have one shape."""
    loop = take_apart(node, any_order=True)
    if isinstance(loop, Refusal):
        return loop
    channels = (loop.space.result.shape or ())[1:2]
    if any(APART in c for c in loop.space.classes) and not all(isinstance(n, int) and n <= FEW for n in channels):
        return Refusal("operands of many channels lie in another layout, tiles move them faster", {"result": loop.space.result})
    wide = elements_of_thread(loop.space, loop.loaded, loop.results)
    text = partial(loop_text, loop.space, loop.loaded, loop.results, loop.compute)
    return KernelSource(text, lambda call: bind(loop.space, wide, call), "loops", in_place=loop.in_place)


def elements_of_thread(space: Space, loaded: Sequence[int], results: Sequence[DType]) -> int:
    """How many neighbours a thread computes. Functions of f64 are long: they stand in the code once."""
    items = [d.itemsize for d in results] + [space.types[k].dtype.itemsize for k in _linear(space, loaded)]
    return 1 if F64 in results else max(1, 16 // max(items))


def _linear(space: Space, loaded: Sequence[int]) -> list[int]:
    """The operands that are read in order."""
    return [k for k in loaded if space.is_linear(k) and not space.is_single(k)]


def bind(space: Space, wide: int, call: Call) -> Launch:
    """Parameters: elements in all, divisors of the collapsed axes but the first, then each strided operand's steps."""
    sizes = space.sizes(call)
    total = checked_size(math.prod(sizes))
    ints = [total, *(fast_div(n) for n in sizes[1:])]
    shapes = [s for s in call.operands if s is not None]
    for k in range(len(space.types)):
        if space.is_strided(k):
            ints += space.strides(k, shapes[k], call.results[0])
    return Launch(tuple(ints), blocks_for(total, THREADS * wide))


def loop_text(space: Space, loaded: Sequence[int], results: Sequence[DType], compute: Compute) -> str:
    """The kernel that stores, for each element of the space, what `compute` prints over the names of the loaded operands."""
    count, rank = len(space.types), max(1, len(space.groups))
    first, wide = count + len(results) + 1, elements_of_thread(space, loaded, results)
    types = [t.dtype for t in space.types]
    linear = _linear(space, loaded)
    strided = [k for k in loaded if space.is_strided(k)]
    body = [f"i64 x{k} = p[{k}];" for k in loaded] + [f"i64 y{j} = p[{count + j}];" for j in range(len(results))]
    body += [f"u32 n = p[{first}];"]
    body += [f"FastDiv n{g}(p[{first + g}]);" for g in range(1, rank)] if strided else []
    at = first + rank
    for k in range(count):
        if space.is_strided(k):
            body += [f"u32 s{k}_{g} = p[{at + g}];" for g in range(rank) if k in loaded and space.classes[k][g] != ONE]
            at += rank
    body += [f"auto v{k} = ld_{types[k]}(x{k}, 0);" for k in loaded if space.is_single(k)]
    body += _element(space, loaded, results, compute)
    body += [f"u32 first = (blockIdx.x * {THREADS} + threadIdx.x) * {wide};", "if (first >= n) return;"]
    body += _all(linear, types, results, wide, bool(strided))
    return kernel(THREADS, max(at, first + 1), body)


def _element(space: Space, loaded: Sequence[int], results: Sequence[DType], compute: Compute) -> list[str]:
    """What is done for element i of the space, as a function of what is read in order."""
    types, p = [t.dtype for t in space.types], Printer()
    linear, strided = _linear(space, loaded), [k for k in loaded if space.is_strided(k)]
    lines = declared(_place(space, strided)) + [f"auto v{k} = ld_{types[k]}(x{k}, {_offset(space, k)});" for k in strided]
    found = compute(p, {k: f"v{k}" for k in loaded})
    lines += [*declared(p.lines), *(f"r{j} = {x};" for j, x in enumerate(found))]
    arguments = ["u32 i", *(f"{register(types[k])} v{k}" for k in linear), *(f"{register(d)}& r{j}" for j, d in enumerate(results))]
    return [f"auto element = [&]({', '.join(arguments)}) {{", *indent(lines), "};"]


def _place(space: Space, strided: Sequence[int]) -> list[str]:
    """The place of element i along each axis."""
    if not strided:
        return []
    lines = ["q = i"]
    for g in range(len(space.groups) - 1, 0, -1):
        lines += [f"q{g} = q / n{g}", f"i{g} = q - q{g} * n{g}.d", f"q = q{g}"]
    return [*lines, "i0 = q"]


def _offset(space: Space, k: int) -> str:
    return " + ".join(f"i{g} * s{k}_{g}" for g, c in enumerate(space.classes[k]) if c != ONE)


def _all(linear: Sequence[int], types: Sequence[DType], results: Sequence[DType], wide: int, strided: bool) -> list[str]:
    """The elements of a thread: read, computed, stored. Where elements are read one by one (`strided`), threads that have all of
    theirs do not look at each before they read the next."""
    addresses = " | ".join([*(f"x{k}" for k in linear), *(f"y{j}" for j in range(len(results)))])
    lines = [f"bool whole = first + {wide} <= n && (({addresses}) & 15) == 0;"]
    lines += [f"auto a{k} = read_pack<element_{types[k]}, {wide}>(x{k}, first, n, whole);" for k in linear]
    lines += [f"Pack<element_{d}, {wide}> b{j};" for j, d in enumerate(results)]
    step = [f"{register(d)} r{j};" for j, d in enumerate(results)]
    arguments = ["first + j", *(f"a{k}.get(j)" for k in linear), *(f"r{j}" for j in range(len(results)))]
    step += [f"element({', '.join(arguments)});", *(f"b{j}.set(j, r{j});" for j in range(len(results)))]
    loop = ["#pragma unroll", f"for (u32 j = 0; j < {wide} && first + j < n; j++) {{", *indent(step), "}"]
    if strided and wide > 1:
        every = ["#pragma unroll", f"for (u32 j = 0; j < {wide}; j++) {{", *indent(step), "}"]
        loop = [f"if (first + {wide} <= n) {{", *indent(every), "} else {", *indent(loop), "}"]
    stores = [f"write_pack(y{j}, first, n, whole, b{j});" for j in range(len(results))]
    return [*lines, *loop, *stores]
