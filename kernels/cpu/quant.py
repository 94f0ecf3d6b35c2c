"""Products and convolutions of 8-bit integers, exact in i32, with the zero points taken off and the results requantized."""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.errors import RunError
from ...ir.types import BF16, F16, F32, I8, U8, TensorType
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import insert
from .conv import GEOMETRY, geometry
from .conv_text import PLANES_PACK
from .gemm import Sizes
from .operands import SUMMED, fill_in, first_int, first_result, refuse_layouts, slot_of, tiles_for
from .target import serves

# Where the operators have x, its zero point, w, its zero point, the scales of x, w and y, y's zero point, the bias (None: nowhere).
_ROLES: dict[str, dict[str, int]] = {
    "matmul_integer": {"x": 0, "w": 1, "xz": 2, "wz": 3},
    "conv_integer": {"x": 0, "w": 1, "xz": 2, "wz": 3},
    "qlinear_matmul": {"x": 0, "xs": 1, "xz": 2, "w": 3, "ws": 4, "wz": 5, "ys": 6, "yz": 7},
    "qlinear_conv": {"x": 0, "xs": 1, "xz": 2, "w": 3, "ws": 4, "wz": 5, "ys": 6, "yz": 7, "bias": 8},
}
# What becomes of a sum `acc`.
_REQUANTIZE = """
factor = XS * WS / YS
y = rint(to_f32(acc) * factor) + to_f32(YZ)
y = where(y >= f32(LOWEST), where(y > f32(HIGHEST), f32(HIGHEST), y), f32(LOWEST))
st_Y(c, TO, to_Y(y))
"""


@serves("matmul_integer", "qlinear_matmul", "conv_integer", "qlinear_conv")
def build(node: Node) -> KernelSource | Refusal:
    """Row-major operands of i8 and u8; zero points and scales one in all, or one a row of A, a column of B, an output channel."""
    roles = {role: i for role, i in _ROLES[node.op.name].items() if node.operand(i) is not None}
    refusal = refuse_layouts(node)
    if refusal:
        return refusal
    for role, i in roles.items():
        t = node.operands[i].tensor
        allowed = {"x": (I8, U8), "w": (I8, U8), "xz": (I8, U8), "wz": (I8, U8), "yz": (I8, U8)}.get(role, (F32, F16, BF16))
        if role != "bias" and t.dtype not in allowed:
            return Refusal(
                f"operand {node.op.operand_name(i)} has elements of {t.dtype}", {"expected": ", ".join(map(str, allowed))}
            )
        if role not in ("x", "w") and not _fits(t, role, "conv" in node.op.name):
            return Refusal(f"operand {node.op.operand_name(i)} varies along an axis that the kernel does not know", {"type": t})
    return _conv(node, roles) if "conv" in node.op.name else _matmul(node, roles)


def _fits(t: TensorType, role: str, conv: bool) -> bool:
    """Whether a parameter is one number, or varies along rows (of x and y), columns or output channels (of w, and the bias)
    only."""
    varying = [i - len(t.shape) for i, d in enumerate(t.shape) if d != 1]
    if conv:
        return not varying if role in ("xs", "xz", "ys", "yz") else len(t.shape) <= 1
    along = -1 if role in ("ws", "wz") or len(t.shape) == 1 else -2
    return varying in ([], [along])


def _read(node: Node, roles: dict[str, int], role: str, index: str) -> str:
    """The expression for a parameter at a row, column or channel."""
    name = node.operands[roles[role]].tensor.dtype.name
    return f"ld_{name}({role}, ({index}) * {role}_step)"


def _words(node: Node, roles: dict[str, int], rows: str, columns: str, w_index: str) -> dict[str, str]:
    """What the texts' words stand for; absent zero points are 0."""
    words = {"XZ": f"to_i32({_read(node, roles, 'xz', rows)})" if "xz" in roles else "i32(0)",
             "WZ": f"to_i32({_read(node, roles, 'wz', w_index)})" if "wz" in roles else "i32(0)"}  # fmt: skip
    if "ys" in roles:
        words |= {"XS": _read(node, roles, "xs", rows), "WS": _read(node, roles, "ws", w_index), "YS": _read(node, roles, "ys",
                              rows),
                  "YZ": _read(node, roles, "yz", rows)}  # fmt: skip
    return words


def _finish(node: Node, words: dict[str, str], to: str) -> str:
    dtype = node.results[0].tensor.dtype
    if dtype.itemsize == 4:
        return f"st_i32(c, {to}, acc)"
    low, high = (-128, 127) if dtype is I8 else (0, 255)
    return fill_in(_REQUANTIZE, **words, TO=to, LOWEST=low, HIGHEST=high).replace("_Y(", f"_{dtype.name}(")


def _params(node: Node, roles: dict[str, int], names: tuple[str, ...]) -> str:
    """Addresses by role, the integers `names`, and a step (0 or 1) for each parameter."""
    at, steps = first_int(node), [f"{role}_step" for role in roles if role not in ("x", "w", "bias")]
    lines = [f"{role} = param(p, {slot_of(node, i)})" for role, i in roles.items()]
    lines += [f"{name} = param(p, {at + i})" for i, name in enumerate((*names, *steps))]
    return "\n".join([*lines, f"result = param(p, {first_result(node)})", f"scratch = param(p, {first_result(node) + 1})"])


def _steps(call: Call, roles: dict[str, int]) -> list[int]:
    return [int(math.prod(call.operands[i]) != 1) for role, i in roles.items() if role not in ("x", "w", "bias")]


def _check_sizes(node: Node, roles: dict[str, int], call: Call, rows: int, columns: int) -> None:
    """Raises RunError for a parameter that has neither one element nor one a row of A (a column or output channel of w): the kernel
    would read past its end."""
    for role, i in roles.items():
        expected = columns if role in ("ws", "wz", "bias") else rows
        n = math.prod(call.operands[i] or ())
        if role not in ("x", "w") and n != expected and (n != 1 or role == "bias"):
            what = f"node %{node.name} ({node.op.name}): operand {node.op.operand_name(i)}"
            raise RunError(f"{what} has {n} elements, expected {expected}{'' if role == 'bias' else ' or 1'}")


# ---- matrices -----------------------------------------------------------------------------------------------------------

_MATMUL_INTS = ("rows", "columns", "depth", "w_row", "w_col", "units", "slice_bytes", "loops")
_MATMUL = """
def kernel(p, tile, ntiles):
    PARAMS
    sums = scratch + tile * slice_bytes
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        batch = unit // rows
        row = unit % rows
        a = x + row * depth
        b = w
        rest = batch
        for i in range(loops):
            n = param(p, LOOPS + 3 * i)
            j = rest % n
            rest //= n
            a += j * param(p, LOOPS + 3 * i + 1)
            b += j * param(p, LOOPS + 3 * i + 2)
        c = result + unit * columns * YI
        zero = XZ
        total = i32(0)
        for j in range(columns):
            st_i32(sums, j, i32(0))
        fours = depth // 4 * 4
        for k in range(0, fours, 4):
            v0 = sub(to_i32(ld_A(a, k)), zero)
            v1 = sub(to_i32(ld_A(a, k + 1)), zero)
            v2 = sub(to_i32(ld_A(a, k + 2)), zero)
            v3 = sub(to_i32(ld_A(a, k + 3)), zero)
            total = add(total, add(add(v0, v1), add(v2, v3)))
            b0 = b + k * w_row
            b1 = b0 + w_row
            b2 = b1 + w_row
            b3 = b2 + w_row
            for j in range(columns):
                low = add(mul(v0, to_i32(get_B(b0, j))), mul(v1, to_i32(get_B(b1, j))))
                high = add(mul(v2, to_i32(get_B(b2, j))), mul(v3, to_i32(get_B(b3, j))))
                put_i32(sums, j, add(ld_i32(sums, j), add(low, high)))
        for k in range(fours, depth):
            v = sub(to_i32(ld_A(a, k)), zero)
            total = add(total, v)
            for j in range(columns):
                put_i32(sums, j, add(ld_i32(sums, j), mul(v, to_i32(get_B(b + k * w_row, j)))))
        for j in range(columns):
            acc = sub(ld_i32(sums, j), mul(total, WZ))
            FINISH
"""


def _matmul(node: Node, roles: dict[str, int]) -> KernelSource:
    words = _words(node, roles, "row", "j", "j")
    loops_at = first_int(node) + len(_MATMUL_INTS) + sum(role not in ("x", "w") for role in roles)
    text = insert(_MATMUL, PARAMS=_params(node, roles, _MATMUL_INTS), FINISH=_finish(node, words, "j"))
    text = fill_in(text, **words, LOOPS=loops_at, YI=node.results[0].tensor.dtype.itemsize)
    for word, role in (("A", "x"), ("B", "w")):
        text = text.replace(f"_{word}(", f"_{node.operands[roles[role]].tensor.dtype.name}(")

    def bind(call: Call) -> Launch:
        s = Sizes(call.operands[roles["x"]], call.operands[roles["w"]])
        _check_sizes(node, roles, call, s.rows, s.columns)
        units = s.rows * math.prod(s.batch)
        tiles = tiles_for(units, units * s.columns * s.depth, SUMMED)
        slice_bytes = -(-s.columns * 4 // 64) * 64
        ints = (s.rows, s.columns, s.depth, s.b_row, s.b_col, units, slice_bytes, len(s.batch), *_steps(call, roles), *s.loops(1))
        return Launch(ints, tiles, slice_bytes * tiles)

    return KernelSource(text, bind, "matmul.i32")


# ---- convolutions -------------------------------------------------------------------------------------------------------

# Windows of 4 vectors of pixels are packed as i32 without their zero point; then channel by channel.
_CONV = """
def kernel(p, tile, ntiles):
    PARAMS
    sums = scratch + tile * slice_bytes
    panel = sums + 16 * LANES
    padded = 4 * LANES
    columns = OD * OH * OW
    total = per_group * KD * KH * KW
    blocks = (columns + padded - 1) // padded
    per_out = out_channels // group
    row = 0
    zero = XZ
    for unit in range(images * group * blocks * tile // ntiles, images * group * blocks * (tile + 1) // ntiles):
        column = unit % blocks * padded
        batch = unit // blocks
        group_index = batch % group
        width = min(padded, columns - column)
        source_all = x + batch * per_group * D * H * W
        PACK
        for channel in range(group_index * per_out, (group_index + 1) * per_out):
            filter_ = w + channel * total
            offset = WZ
            acc0 = splat(i32(0))
            acc1 = splat(i32(0))
            acc2 = splat(i32(0))
            acc3 = splat(i32(0))
            for k in range(total):
                f = sub(to_i32(ld_B(filter_, k)), offset)
                acc0 = add(acc0, mul(ldv_i32(panel, k * padded), f))
                acc1 = add(acc1, mul(ldv_i32(panel, k * padded + LANES), f))
                acc2 = add(acc2, mul(ldv_i32(panel, k * padded + 2 * LANES), f))
                acc3 = add(acc3, mul(ldv_i32(panel, k * padded + 3 * LANES), f))
            stv_i32(sums, 0, acc0)
            stv_i32(sums, LANES, acc1)
            stv_i32(sums, 2 * LANES, acc2)
            stv_i32(sums, 3 * LANES, acc3)
            c = result + ((batch // group * out_channels + channel) * columns + column) * YI
            for j in range(width):
                acc = ld_i32(sums, j)
                BIAS
                FINISH
"""
_CONV_INTS = (*GEOMETRY, "group", "slice_bytes")


def _conv(node: Node, roles: dict[str, int]) -> KernelSource | Refusal:
    rank = node.operands[0].tensor.rank
    if rank not in (3, 4, 5):
        return Refusal("one to three spatial axes are served", {"rank": rank})
    words = _words(node, roles, "row", "j", "channel")
    pack = PLANES_PACK.replace("get_T(source, j)", "sub(to_i32(get_A(source, j)), zero)")
    pack = fill_in(pack.replace("get_T(source + j * sw * MI, 0)", "sub(to_i32(get_A(source + j * sw, 0)), zero)"), CI=4, MI=1)
    text = insert(_CONV, PARAMS=_params(node, roles, _CONV_INTS), PACK=pack.replace("CT", "i32"), FINISH=_finish(node, words, "j"),
                  BIAS="acc = add(acc, ld_i32(bias, channel))" if "bias" in roles else "")  # fmt: skip
    text = fill_in(text, **words, YI=node.results[0].tensor.dtype.itemsize)
    for word, role in (("A", "x"), ("B", "w")):
        text = text.replace(f"_{word}(", f"_{node.operands[roles[role]].tensor.dtype.name}(")

    def bind(call: Call) -> Launch:
        g = geometry(node, call.operands[roles["x"]], call.operands[roles["w"]]).flat(with_batch=False)
        _check_sizes(node, roles, call, 1, g.out_channels)
        width = 64  # 4 vectors of the widest host
        slice_bytes = 4 * width * (g.taps * g.per_group + 1)
        units = g.n * g.group * -(-math.prod(g.outputs) // 16)
        tiles = tiles_for(units, g.n * math.prod(g.outputs) * g.out_channels * g.taps * g.per_group, SUMMED)
        return Launch((*g.ints(), g.group, slice_bytes, *_steps(call, roles)), tiles, slice_bytes * tiles)

    return KernelSource(text, bind, "conv.i32")
