"""Products and convolutions of 8-bit integers, exact in i32, in the tiles of their float kin; then requantized, or cast to f32 and
through an epilogue (kernels/quantized.py).

The tensor cores multiply bytes as they lie, and what zero points take off is taken off the sums (quant_tensor.py). For scalar tiles
numbers become i32 less their zero point on their way to shared memory, so that what lies outside of an input counts nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ...ir.core import Node
from ...ir.types import F32, I8
from ..epilogue import Site
from ..operands import slot_of
from ..quantized import Epilogue, check_sizes, steps_of, take_apart, words_of
from ..spec import Call, KernelSource, Refusal
from . import epilogue as written
from .conv import Conv
from .cut import Cut
from .gemm import Matmul
from .quant_tensor import Packing, packing_of
from .target import serves
from .tiles import Raw, Work


@serves("matmul_integer", "qlinear_matmul", "conv_integer", "qlinear_conv")
def build(node: Node, precision: str = "fp32", cut: Cut | None = None) -> KernelSource | Refusal:
    """Operands of i8 and u8, row-major, or a convolution's input and result with their channels last; zero points and scales one in
    all, or one a row of A, a column of B, an output channel. The node may be a fused one whose anchor is matmul_integer or
    conv_integer. With precision "scalar" the tensor cores are left out; `cut` asks them for a tile and for splits."""
    found = take_apart(node, channels_last=True)
    if isinstance(found, Refusal):
        return found
    site, roles, then = found
    conv = "conv" in site.anchor.op.name
    work, packing = _work(site, roles, then), packing_of(site, roles)
    if conv and node.operands[roles["x"]].tensor.layout is None and isinstance(packing, Packing):
        packing = Refusal("the input's channels are not last")
    kind: type[Conv] | type[Matmul] = Conv if conv else Matmul
    if isinstance(packing, Packing) and precision != "scalar":
        return kind(_on_tensor_cores(work, roles, then, packing, cut)).tiled()
    if cut is not None:
        return Refusal("the tensor cores do not compute this product", {"why": packing})
    why = f", scalar: {packing}" if isinstance(packing, Refusal) and precision != "scalar" else ""
    return kind(replace(work, variant=work.variant + why)).source()


def _work(site: Site, roles: dict[str, int], then: Epilogue | None) -> Work:
    """What scalar tiles multiply, and what follows the sums."""
    node, parameters = site.outer, [role for role in roles if role not in ("x", "w", "bias")]
    leaves: list[written.Leaf] = []
    before = [f"const i64 {role} = p[{slot_of(node, i)}];" for role, i in roles.items() if role not in ("x", "w")]
    if then is not None:
        leaves = written.leaves_of(node, then.builder)
        before += written.addresses(leaves)
        if then.bias is not None:
            before.append(f"const i64 addend = p[{slot_of(node, then.bias)}];")

    def more(call: Call, rows: int, columns: int) -> list[int]:
        check_sizes(site.anchor, roles, call, rows, columns)
        return steps_of(call, roles)

    zeros = {roles[role]: (f"{role}z", node.operands[roles[f"{role}z"]].tensor.dtype) for role in "xw" if f"{role}z" in roles}
    by_row = any(d != 1 for role in ("xs", "xz", "ys", "yz") if role in roles for d in node.operands[roles[role]].tensor.shape)

    def finish(channel: str, held: Collection[str]) -> list[str]:
        return _finish(node, roles, then, channel, held)

    names = [f"{role}_step" for role in parameters]
    return Work(site, roles["x"], roles["w"], "i32", finish, leaves, before, names, more, zeros, by_row, site.anchor.op.name)


def _on_tensor_cores(work: Work, roles: dict[str, int], then: Epilogue | None, packing: Packing, cut: Cut | None) -> Work:
    """The same by the tensor cores: the sums lack what the zero point of x takes off, which what follows them does first."""
    node, conv, before = work.site.outer, "conv" in work.site.anchor.op.name, list(work.before)
    x = node.operands[work.x].tensor.dtype
    zero = f"to_i32({words_of(node, roles, 'row', '')['XZ']})" if "xz" in roles else ""
    if zero and all(d == 1 for d in node.operands[roles["xz"]].tensor.shape):
        before.append(f"const i32 x_zero = {zero};")
        zero = "x_zero"
    columns = f"i64({'out_channels' if conv else 'columns'})"
    before.append(f"const i64 w_sums = p[{slot_of(node, work.w)}] + {columns} * ((depth + 15) / 16 * 16);")

    def finish(channel: str, held: Collection[str]) -> list[str]:
        less = [f"acc = sub(acc, mul({zero}, ld_i32(w_sums, {channel})));"] if zero else []
        return less + _finish(node, roles, then, channel, held)

    raw = Raw(packing.of_filters if conv else packing.of_matrix, packing.grain, zero if conv else "",
              f"w_sums + 4 * {columns}" if packing.shifted else "")  # fmt: skip
    variant = f"{work.variant}.tensor{f' {cut}' if cut is not None else ''}"
    return replace(work, finish=finish, before=before, zeros={}, variant=variant, tensor=packing.multiplier(x), cut=cut, raw=raw)


def _finish(node: Node, roles: dict[str, int], then: Epilogue | None, channel: str, held: Collection[str]) -> list[str]:
    """The statements that return what the sum `acc` of a channel becomes."""
    result = node.results[0].tensor.dtype
    if then is not None:
        sum_ = "acc" if then.bias is None else f"add(acc, ld_i32(addend, {channel}))"
        return [f"const f32 sum = to_f32({sum_});", *written.steps(then.builder, F32, channel, "sum", held)]
    if "ys" not in roles:
        return ["return acc;"]
    words = words_of(node, roles, "row", channel)
    low, high = (-128, 127) if result is I8 else (0, 255)
    return [
        *([f"acc = add(acc, ld_i32(bias, {channel}));"] if "bias" in roles else []),
        f"const f32 factor = {words['XS']} * {words['WS']} / {words['YS']};",
        f"const f32 scaled = rint(to_f32(acc) * factor) + to_f32({words['YZ']});",
        f"const f32 low = f32({low}), high = f32({high});",
        f"return to_{result}(where(scaled >= low, where(scaled > high, high, scaled), low));",
    ]
