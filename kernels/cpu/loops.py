"""Elementwise kernels: one node, or a fused region of elementwise nodes, as one loop nest over the collapsed broadcast.

The innermost loop has only contiguous, broadcast or (where a dim is known at run time only) strided accesses and is left to LLVM
to vectorise; outer offsets are computed once a row. A tile is a range of the space's elements in their order in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ...ir.core import Node
from ...ir.types import DType
from ..elementwise import take_apart
from ..operands import tiles_for
from ..printer import Printer
from ..space import FULL, ONE, Space
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves


@serves("fused.loops")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of an elementwise node, or of a fused region of them whose results have one shape."""
    loop = take_apart(node)
    if isinstance(loop, Refusal):
        return loop
    text = partial(loop_text, loop.space, loop.loaded, loop.results, loop.compute)
    return KernelSource(text, lambda call: bind(loop.space, call), "loops", in_place=loop.in_place)


def bind(space: Space, call: Call) -> Launch:
    """Parameters: elements in all, sizes of the collapsed axes but the first, then each strided operand's steps."""
    sizes = space.sizes(call)
    total = 1
    for n in sizes:
        total *= n
    if total == 0:
        sizes = (1,) * len(sizes)
    ints = [total, *sizes[1:]]
    shapes = [s for s in call.operands if s is not None]
    for k in range(len(space.types)):
        if space.is_strided(k):
            ints += space.strides(k, shapes[k], call.results[0])
    return Launch(tuple(ints), tiles_for(-(-total // 64), total), units=-(-total // 64))


def loop_text(
    space: Space, loaded: Sequence[int], results: Sequence[DType], compute: Callable[[Printer, Mapping[int, str]], Sequence[str]]
) -> str:
    """The kernel that stores, for each element of the space, what `compute` prints over the names of the loaded operands."""
    count, rank = len(space.types), max(1, len(space.groups))
    first = count + len(results) + 1
    lines = [f"x{k} = param(p, {k})" for k in loaded]
    lines += [f"y{j} = param(p, {count + j})" for j in range(len(results))]
    lines += [
        f"n = param(p, {first})",
        "lo = n * tile // ntiles & -64",
        "hi = n if tile + 1 == ntiles else n * (tile + 1) // ntiles & -64",
    ]
    lines += [f"n{g} = param(p, {first + g})" for g in range(1, rank)]
    at = first + rank
    for k in range(count):
        if space.is_strided(k):
            lines += [f"s{k}_{g} = param(p, {at + g})" for g in range(rank)] if k in loaded else []
            at += rank
    types = [t.dtype for t in space.types]
    lines += [f"v{k} = ld_{types[k]}(x{k}, 0)" for k in loaded if space.is_single(k)]
    body = Printer()
    names = {k: f"v{k}" if space.is_single(k) else body.let(f"get_{types[k]}(x{k}, {_index(space, k)})") for k in loaded}
    stores = [f"put_{d}(y{j}, i, {x})" for j, (d, x) in enumerate(zip(results, compute(body, names), strict=True))]
    nest = _nest(space, loaded, body.lines + stores)
    return "\n".join(["def kernel(p, tile, ntiles):", *("    " + line for line in [*lines, *nest]), ""])


def _index(space: Space, k: int) -> str:
    """The place in operand k of the space's element i, which is element j of its row."""
    if space.is_linear(k):
        return "i"
    inner = space.classes[k][-1]
    return f"o{k} + j" if inner == FULL else f"o{k}" if inner == ONE else f"o{k} + j * s{k}_{len(space.groups) - 1}"


def _nest(space: Space, loaded: Sequence[int], body: Sequence[str]) -> list[str]:
    """The loops around the body. Flat where no operand is strided; else row by row, the offsets computed for each row."""
    strided = [k for k in loaded if space.is_strided(k)]
    if not strided:
        return ["for i in range(lo, hi):", *("    " + line for line in body)]
    rank = len(space.groups)
    if rank == 1:
        offsets = [f"o{k} = 0" for k in strided]
        return [*offsets, "for i in range(lo, hi):", "    j = i", *("    " + line for line in body)]
    last = rank - 1
    start = ["r = lo", *(line for g in range(last, 0, -1) for line in (f"i{g} = r % n{g}", f"r = r // n{g}")), "i0 = r", "i = lo"]
    row = []
    for k in strided:
        terms = [f"i{g} * s{k}_{g}" for g in range(last) if space.classes[k][g] != ONE]
        row.append(f"o{k} = {' + '.join(terms) or '0'}")
    row += [f"base = i - i{last}", f"stop = min(hi, base + n{last})"]
    row += [f"for i in range(base + i{last}, stop):", "    j = i - base", *("    " + line for line in body)]
    row += ["i = stop", f"i{last} = 0", f"i{last - 1} += 1"]
    for g in range(last - 1, 0, -1):
        row += [f"if i{g} == n{g}:", f"    i{g} = 0", f"    i{g - 1} += 1"]
    return [*start, "while i < hi:", *("    " + line for line in row)]
