"""Pooling over windows and over whole spatial axes on CUDA, row-major and channels-last.

A thread computes one result of a window pool, or 16 bytes of neighbouring channels: neighbouring threads read and write neighbours
(row-major: elements a stride apart, whose cache lines the windows share). Small windows are unrolled, so that their loads
are under way together. Whole axes are folded by teams of threads (line.py).
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ...ir.core import Node
from ...ir.reduction import Reduction
from ...ir.types import DType
from ..lines import Array
from ..operands import fill_in, first_int
from ..pools import POOLS, Fold, fold_of, refuse_pool, windows_over
from ..printer import register
from ..spec import Call, KernelSource, Launch, Refusal
from .line import ACROSS, NEIGHBOURS, SIZES, THREADS, Line, places, read, spread, statements
from .rows import pack_width, whole
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

UNROLLED = 16  # elements of a window


@serves(*POOLS)
def build(node: Node) -> KernelSource | Refusal:
    """Up to three spatial axes; indices of maxima for row-major operands only."""
    refusal = refuse_pool(node)
    if refusal is not None:
        return refusal
    x = node.operands[0].tensor  # type: ignore[union-attr]
    last, fold, acc = x.layout is not None, fold_of(node), Reduction.accumulator(x.dtype)
    return _global(node, last, fold, acc) if node.op.name.startswith("global") else _windows(node, last, fold, acc)


def _typed(expression: str, acc: DType) -> str:
    """An expression of `Fold` in the type that it is computed in."""
    return re.sub(r"\bCT\b", register(acc), expression)


# ---- windows ----------------------------------------------------------------------------------------------------

_SIZES = ("D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW", "sd", "sh", "sw", "dd", "dh", "dw", "pd", "ph", "pw", "ed", "eh", "ew")

_PLACE = """
if (i >= units) return;
u32 r = PLANE, ow = r % by_ow, oh = r / by_ow % by_oh, od = r / by_ow / by_oh % by_od, image = r / by_ow / by_oh / by_od;
int z0 = od * sd - pd, y0 = oh * sh - ph, x0 = ow * sw - pw;
"""
_LOOP = """
UNROLL
for (int kd = 0; kd < KERNEL_D; kd++)
    UNROLL
    for (int kh = 0; kh < KERNEL_H; kh++) {
        int z = z0 + kd * dd, y = y0 + kh * dh;
        bool inside = u32(z) < u32(D) && u32(y) < u32(H);
        u32 line = (z * H + y) * W;
        START_LINE
        UNROLL
        for (int kw = 0; kw < KERNEL_W; kw++) {
            int s = x0 + kw * dw;
            if (inside && u32(s) < u32(W)) {
                STEP
            }
        }
        END_LINE
    }
"""
# How many elements of a window count: those inside, or those that the padding holds too.
_AREA = """
n = (area(z0, dd, KERNEL_D, D + ed)) * (area(y0, dh, KERNEL_H, H + eh)) * (area(x0, dw, KERNEL_W, W + ew));
"""
_AREA_OF = """
// How many of k places, d apart from `first` on, lie before `end`.
DEVICE u32 area(int first, int d, int k, int end) { return max(0, min(k, (end - first + d - 1) / d)); }"""


def _windows(node: Node, last: bool, fold: Fold, acc: DType) -> KernelSource:
    dtype = node.operands[0].tensor.dtype  # type: ignore[union-attr]
    wide = pack_width(dtype) if last else 1

    def text() -> str:
        return _window_text(node, last, fold, acc, wide)

    def bind(call: Call) -> Launch:
        n, c, *spatial = call.operands[0] or ()
        win, three = windows_over(node, spatial)
        checked_size(n * c * math.prod(spatial))
        packs, out = -(-c // wide), math.prod(win.out)
        checked_size(n * c * out)
        units = n * packs * out if last else n * c * out
        divisors = [fast_div(v) for v in (packs, *three[3:6])]
        return Launch((units, c, *three, *divisors[:1], *divisors[:0:-1]), blocks_for(units, THREADS))

    variant = "indices" if len(node.results) > 1 else "last" if last else "major"
    return KernelSource(text, bind, f"pool.{variant}.{dtype}")


def _window_text(node: Node, last: bool, fold: Fold, acc: DType, wide: int) -> str:
    dtype, ints, results = node.operands[0].tensor.dtype, first_int(node), len(node.results)  # type: ignore[union-attr]
    names = ("units", "c_all", *_SIZES)
    at = ints + len(names)
    body = [f"i64 x = p[0], result = p[1]{', places = p[2]' if results > 1 else ''};"]
    body += [f"{'u32' if k < 2 else 'int'} {name} = p[{ints + k}];" for k, name in enumerate(names)]
    body += [f"FastDiv by_packs(p[{at}]), by_ow(p[{at + 1}]), by_oh(p[{at + 2}]), by_od(p[{at + 3}]);"]
    body += [f"u32 i = blockIdx.x * {THREADS} + threadIdx.x, n = 0;"]
    body += _typed(fill_in(_PLACE, PLANE="i / by_packs" if last else "i"), acc).strip().split("\n")
    helpers = []
    if results > 1:
        body += _with_indices(node, fold, dtype, acc)
    else:
        lines = _last(fold, dtype, wide) if last else _major(fold, dtype)
        start, step, line_start, line_end, end = (_typed(part, acc) for part in lines)
        count = ""
        if node.op.name == "average_pool" and node.attr("count_include_pad"):
            helpers, count = [_AREA_OF], _AREA
        loop = _LOOP.replace("START_LINE", line_start).replace("END_LINE", line_end).replace("STEP", step)
        if last and dtype.is_float and math.prod(node.attr("kernel_shape")) <= UNROLLED:  # 16 bytes are too many registers
            loop = _together(loop, dtype, wide)
        body += _loops(node, start + loop + count + end)
    return kernel(THREADS, at + 4, body, helpers)


def _loops(node: Node, text: str) -> list[str]:
    """A window's loops, small ones with their sizes, unrolled."""
    sizes = (1,) * (3 - len(node.attr("kernel_shape"))) + tuple(node.attr("kernel_shape"))
    small = math.prod(sizes) <= UNROLLED
    words = {f"KERNEL_{a}": size if small else f"K{a}" for a, size in zip("DHW", sizes, strict=True)}
    filled = re.sub(r"\bKERNEL_[DHW]\b", lambda m: str(words[m[0]]), text).replace(
        "UNROLL", "#pragma unroll" if small else "#pragma unroll 1"
    )
    return [line for line in filled.split("\n") if line.strip()]


def _major(fold: Fold, dtype: DType) -> tuple[str, ...]:
    """A result: its start, an element more, the start and end of a window's line, the end. Lines are folded by themselves, so that
    sums over large windows stay accurate."""
    start = f"u32 plane = image * D * H * W;\nCT acc = {fold.start};"
    step = f"CT v = ld_{dtype}(x, plane + line + s); u = {fold.step.replace('acc', 'u')}; n++;"
    return start, step, f"CT u = {fold.start};", f"acc = {fold.join};", f"st_{dtype}(result, i, {fold.end});"


def _last(fold: Fold, dtype: DType, wide: int) -> tuple[str, ...]:
    """The same of `wide` neighbouring channels."""
    each = f"#pragma unroll\nfor (u32 k = 0; k < {wide}; k++)"
    start = f"""
u32 c = i % by_packs * {wide}, plane = image * D * H * W;
bool whole = ((x | result) & 15) == 0 && c_all % {wide} == 0;
CT acc_[{wide}];
{each} acc_[k] = {fold.start};
"""
    step = f"""
u32 at = (plane + line + s) * c_all;
auto q = read_pack<element_{dtype}, {wide}>(x, at + c, at + c_all, whole);
{each} {{ CT v = q.get(k), u = u_[k]; u_[k] = {fold.step.replace("acc", "u")}; }}
n++;
"""
    line = f"CT u_[{wide}];\n{each} u_[k] = {fold.start};"
    line_end = f"{each} {{ CT acc = acc_[k], u = u_[k]; acc_[k] = {fold.join}; }}"
    end = f"""
Pack<element_{dtype}, {wide}> out;
{each} {{ CT acc = acc_[k]; out.set(k, {fold.end}); }}
u32 to = i / by_packs * c_all;
write_pack(result, to + c, to + c_all, whole, out);
"""
    return start, step, line, line_end, end


def _together(loop: str, dtype: DType, wide: int) -> str:
    """The loop with all packs of a window read before the first is used, where they are whole."""
    pack, at = f"Pack<element_{dtype}, {wide}>", "q_[(kd * KERNEL_H + kh) * KERNEL_W + kw]"
    load = f"{at} = load_pack<element_{dtype}, {wide}>(x, (plane + line + s) * c_all + c);"
    loads = _LOOP.replace("START_LINE", "").replace("END_LINE", "").replace("STEP", load)
    read = f"read_pack<element_{dtype}, {wide}>(x, at + c, at + c_all, whole)"
    parts = f"{pack} q_[KERNEL_D * KERNEL_H * KERNEL_W];", loads, loop.replace(read, at)
    return "\n".join(["if (whole) {", *parts, "} else {", loop, "}"])


def _with_indices(node: Node, fold: Fold, dtype: DType, acc: DType) -> list[str]:
    """The greatest element and its place in the operand."""
    place = "z + D * (y + H * s)" if node.attr("storage_order") else "line + s"
    step = f"""
CT v = ld_{dtype}(x, plane + line + s);
if (best < 0 || v > acc || (v != v && acc == acc)) acc = v, best = {place};
"""
    loop = _LOOP.replace("START_LINE", "").replace("END_LINE", "").replace("STEP", step)
    start = f"u32 plane = image * D * H * W;\nCT acc = {fold.start};\nint best = -1;"
    end = f"st_{dtype}(result, i, acc);\nst_i64(places, i, i64(best) + plane);"
    return _loops(node, _typed(start + loop + end, acc))


# ---- whole axes -------------------------------------------------------------------------------------------------


def _global(node: Node, last: bool, fold: Fold, acc: DType) -> KernelSource:
    dtype = node.operands[0].tensor.dtype  # type: ignore[union-attr]
    wide = 1 if last else pack_width(dtype)
    ints = first_int(node)
    line = Line(acc, wide, read(Array("x", dtype.name, step="inner" if last else ""), wide))
    value = _typed(fold.value, acc)
    total = line.fold("acc", "add" if fold.adds else "maximum", _typed(fold.start, acc), None, lambda v: value)

    def text() -> str:
        body = ["i64 x = p[0], y = p[1], partials = p[2];", *places(ints, 1, last, "pass < 1 ? splits : 1")]
        if last:
            body += [
                f"FastDiv by_inner(p[{ints + len(SIZES)}]);",
                "u32 inner = by_inner.d, q = u / by_inner, o = q * n * inner + u - q * inner;",
            ]
        else:
            body += ["u32 o = u * n;", *whole(wide, "x")]
        body += [*statements(total), f"if (lane == 0 && u < lines) st_{dtype}(y, u, {_typed(fold.end, acc)});"]
        return kernel(THREADS, ints + len(SIZES) + 2, body, [ACROSS if last else NEIGHBOURS])

    def bind(call: Call) -> Launch:
        n, c, *spatial = call.operands[0] or ()
        launch = spread(n * c, math.prod(spatial), last, wide, acc, 1, holds=False, maps=False)
        return replace(launch, ints=(*launch.ints, fast_div(c)))

    return KernelSource(text, bind, f"pool.global.{'last' if last else 'major'}")
