"""Along one axis on CUDA: the place of an extreme, hardmax, running sums and products. Teams of threads (line.py) work on lines."""

from __future__ import annotations

from dataclasses import replace

from ...ir.core import Node
from ...ir.reduction import Reduction
from ...ir.types import U32, DType
from ..lines import Along, along, along_extreme, check_extreme, refuse_running, running_line
from ..operands import first_int, first_result
from ..printer import literal, register
from ..spec import Call, KernelSource, Launch, Refusal
from .line import ACROSS, NEIGHBOURS, SIZES, THREADS, places, spread
from .source import fast_div
from .target import serves
from .text import indent, kernel

# ---- extremes ---------------------------------------------------------------------------------------------------

_BEST = """
// A number and its place, ~0 where there is none. NaN is more extreme than any number.
struct Best { TYPE v; u32 at; };
struct Pick {
    __device__ __forceinline__ Best operator()(Best a, Best b) const {
        if (a.at == ~0u || b.at == ~0u) return a.at == ~0u ? b : a;
        bool a_nan = a.v != a.v, b_nan = b.v != b.v;
        if (a_nan != b_nan) return a_nan ? a : b;
        if (a_nan || a.v == b.v) return a.at FIRST b.at ? a : b;
        return a.v MORE b.v ? a : b;
    }
};"""


@serves("arg_max", "arg_min")
def arg_extreme(node: Node) -> KernelSource | Refusal:
    """The place of the greatest or least element along an axis; NaN counts as more extreme than any number."""
    how = along_extreme(node)
    if isinstance(how, Refusal):
        return how
    dtype, first = node.operands[0].tensor.dtype, ">" if node.attr("select_last_index") else "<"  # type: ignore[union-attr]
    end = ["if (lane == 0 && u < lines) st_i64(y, u, best.at);"]
    text = _best_text(node, how, dtype, ">" if node.op.name == "arg_max" else "<", first, end, "pass < 1 ? splits : 1")

    def bind(call: Call) -> Launch:
        check_extreme(node, how.axis, call)
        return _bind(how, call, maps=False)

    return KernelSource(text, bind, _variant(how))


@serves("hardmax")
def hardmax(node: Node) -> KernelSource | Refusal:
    """1 at the first maximum along an axis, else 0."""
    how = along(node)
    if isinstance(how, Refusal):
        return how
    dtype = node.operands[0].tensor.dtype  # type: ignore[union-attr]
    store = f"st_{dtype}(y, o + j * inner, {register(dtype)}(j == best.at));"
    text = _best_text(node, how, dtype, ">", "<", [f"for (u32 j = begin + lane; j < end; j += team) {store}"], "splits")
    return KernelSource(text, lambda call: _bind(how, call, maps=True), _variant(how))


def _variant(how: Along) -> str:
    return "rows" if how.contiguous else "across"


def _bind(how: Along, call: Call, maps: bool) -> Launch:
    """Parameters: those of `spread`, then the divisor of the distance of a line's elements."""
    outer, n, inner = how.sizes(call.operands[0] or ())
    launch = spread(outer * inner, n, not how.contiguous, 1, U32, 1, holds=False, maps=maps)
    return replace(launch, ints=(*launch.ints, fast_div(inner)))


def _line(at: int) -> list[str]:
    """Where the elements of a line lie: the first at o, and `inner` from one to the next."""
    return [f"FastDiv by_inner(p[{at}]);", "u32 inner = by_inner.d, q = u / by_inner, o = q * n * inner + u - q * inner;"]


def _best_text(node: Node, how: Along, dtype: DType, more: str, first: str, end: list[str], cut: str) -> str:
    """The kernel that finds the best element of each line. Parts of a line that blocks share tell its place alone."""
    ints, result = first_int(node), first_result(node)
    best = _BEST.replace("TYPE", register(dtype)).replace("MORE", more).replace("FIRST", first)
    body = [f"i64 x = p[0], y = p[{result}], partials = p[{result + 1}];", *places(ints, 1, not how.contiguous, cut)]
    body += [
        *_line(ints + len(SIZES)),
        "Best best = {0, ~0u};",
        "if (pass == 0) {",
        "    #pragma unroll 4",
        f"    for (u32 j = begin + lane; j < end; j += team) best = Pick()(best, Best{{ld_{dtype}(x, o + j * inner), j}});",
        "} else {",
        "    for (u32 i = lane; i < splits && u < lines; i += team) {",
        "        u32 j = ld_u32(partials, i * lines + u);",
        f"        best = Pick()(best, Best{{ld_{dtype}(x, o + j * inner), j}});",
        "    }",
        "}",
        "best = team_fold(best, team, Pick());",
        "if (splits > 1 && pass == 0) {",
        "    if (lane == 0 && u < lines) st_u32(partials, split * lines + u, best.at);",
        "    return;",
        "}",
        *end,
    ]
    return kernel(THREADS, ints + len(SIZES) + 2, body, [NEIGHBOURS if how.contiguous else ACROSS, best])


# ---- running sums and products ----------------------------------------------------------------------------------

_EACH = 4  # neighbours that a thread adds up before it meets the others

_SCAN = """
// What the threads of a team before this one combine to, and what all do (`whole`). Threads stand at `slot` in the order of teams.
template <class T, class F> DEVICE T team_scan(T v, T none, u32 slot, u32 lane, u32 team, T& whole, F f) {
    __shared__ T part[256];
    part[slot] = v;
    __syncthreads();
    for (u32 d = 1; d < team; d *= 2) {
        T before = lane >= d ? part[slot - d] : none;
        __syncthreads();
        if (lane >= d) part[slot] = f(before, part[slot]);
        __syncthreads();
    }
    T before = lane ? part[slot - 1] : none;
    whole = part[slot - lane + team - 1];
    __syncthreads();
    return before;
}"""


@serves("cum_sum", "cum_prod")
def running(node: Node) -> KernelSource | Refusal:
    """Running sums and products, in f32 for f16 and bf16. A team takes a piece of its line at a time: each thread combines a few
    neighbours, and the threads' totals are combined in a tree. Where blocks share a line, the totals of their parts come first."""
    refusal = refuse_running(node)
    if refusal is not None:
        return refusal
    dtype = node.operands[0].tensor.dtype  # type: ignore[union-attr]
    acc = Reduction.accumulator(dtype)
    host: set[int] = set()
    line = running_line(node, host)

    def bind(call: Call) -> Launch:
        """Parameters: those of `spread`, the divisor of the distance of a line's elements."""
        lines, n, inner = line(call)
        launch = spread(lines, n, inner > 1, _EACH, acc, 1, holds=False, maps=True)
        return replace(launch, ints=(*launch.ints, fast_div(inner)))

    return KernelSource(_running_text(node, dtype, acc), bind, "lines", host=frozenset(host))


def _running_text(node: Node, dtype: DType, acc: DType) -> str:
    ints, result, number = first_int(node), first_result(node), register(acc)
    fn, none = ("add", literal(0, acc)) if node.op.name == "cum_sum" else ("mul", literal(1, acc))
    place = "n - 1 - (j + k)" if node.attr("reverse") else "j + k"
    load = [f"a[k] = j + k < end ? ld_{dtype}(x, o + ({place}) * inner) : {none};", f"if (k) a[k] = {fn}(a[k - 1], a[k]);"]
    shown = f"j + k < end && !alone) st_{dtype}(y, o + ({place}) * inner,"
    value = f"k ? {fn}(before, a[k - 1]) : before" if node.attr("exclusive") else f"{fn}(before, a[k])"
    combine = f"[](auto a, auto b) {{ return {fn}(a, b); }}"
    scan = f"team_scan(a[{_EACH - 1}], {none}, (u - block * width) * team + lane, lane, team, whole, {combine})"
    loop = [
        f"u32 j = from + lane * {_EACH};",
        f"{number} a[{_EACH}], whole;",
        "#pragma unroll",
        f"for (u32 k = 0; k < {_EACH}; k++) {{",
        *indent(load),
        "}",
        f"{number} before = {fn}(carry, {scan});",
        "#pragma unroll",
        f"for (u32 k = 0; k < {_EACH}; k++)",
        f"    if ({shown} {value});",
        f"carry = {fn}(carry, whole);",
    ]
    body = [
        f"i64 x = p[0], y = p[{result}], partials = p[{result + 1}];",
        f"u32 inner = FastDiv(p[{ints + len(SIZES)}]).d;",
        *places(ints, 1, None),  # the axis is known when the kernel is bound
        *_line(ints + len(SIZES))[:1],
        "u32 q = u / by_inner, o = q * n * inner + u - q * inner, stop = min(begin + share, n);",
        "bool alone = splits > 1 && pass == 0;",
        f"{number} carry = {none};",
        "if (pass > 0)",
        f"    for (u32 i = 0; i < split && u < lines; i++) carry = {fn}(carry, ld_{acc}(partials, i * lines + u));",
        f"for (u32 from = begin; from < stop; from += {_EACH} * team) {{",
        *indent(loop),
        "}",
        f"if (alone && lane == 0 && u < lines) st_{acc}(partials, split * lines + u, carry);",
    ]
    return kernel(THREADS, ints + len(SIZES) + 2, body, [_SCAN])
