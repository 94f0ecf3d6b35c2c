"""Products of 8-bit integers, as far as all targets see them alike: what their operands are, and what follows their sums: the cast
to f32, scales, bias and what else `epilogue.py` has."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..ir.core import Node
from ..ir.errors import RunError
from ..ir.types import BF16, F16, F32, I8, U8, TensorType
from .convolutions import refuse_places
from .epilogue import Builder, Site, check_step, epilogue_of, operand_kind, site_of
from .operands import refuse_layouts
from .spec import Call, Refusal

ANCHORS = ("matmul_integer", "conv_integer")  # that take an epilogue
# Where the operators have x, its zero point, w, its zero point, the scales of x, w and y, y's zero point, the bias (None: nowhere).
_ROLES: dict[str, dict[str, int]] = {
    "matmul_integer": {"x": 0, "w": 1, "xz": 2, "wz": 3},
    "conv_integer": {"x": 0, "w": 1, "xz": 2, "wz": 3},
    "qlinear_matmul": {"x": 0, "xs": 1, "xz": 2, "w": 3, "ws": 4, "wz": 5, "ys": 6, "yz": 7},
    "qlinear_conv": {"x": 0, "xs": 1, "xz": 2, "w": 3, "ws": 4, "wz": 5, "ys": 6, "yz": 7, "bias": 8},
}


def roles_of(site: Site, channels_last: bool = False) -> dict[str, int] | Refusal:
    """Which operand of the site's node has which role (see _ROLES), of those that are there. With `channels_last` convolutions may
    read and write so."""
    node = site.outer
    anchor, conv = site.anchor, "conv" in site.anchor.op.name
    roles = {role: site.index[i] for role, i in _ROLES[anchor.op.name].items() if anchor.operand(i) is not None}
    refusal = refuse_places(site, roles["x"], roles["w"]) if conv and channels_last else refuse_layouts(node)
    if refusal:
        return refusal
    for role, i in roles.items():
        t, name = node.operands[i].tensor, anchor.op.operand_name(_ROLES[anchor.op.name][role])
        allowed = {"x": (I8, U8), "w": (I8, U8), "xz": (I8, U8), "wz": (I8, U8), "yz": (I8, U8)}.get(role, (F32, F16, BF16))
        if role != "bias" and t.dtype not in allowed:
            return Refusal(f"operand {name} has elements of {t.dtype}", {"expected": ", ".join(map(str, allowed))})
        if role not in ("x", "w") and not _fits(t, role, conv):
            return Refusal(f"operand {name} varies along an axis that the kernel does not know", {"type": t})
    return roles


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
    t = node.operands[roles[role]].tensor
    one = all(d == 1 for d in t.shape)
    return f"ld_{t.dtype.name}({role}, {'0' if one else f'({index}) * {role}_step'})"


def words_of(node: Node, roles: dict[str, int], rows: str, columns: str) -> dict[str, str]:
    """What the texts' words stand for, at a row of x and a column of w (or its channel); absent zero points are 0."""
    words = {"XZ": f"to_i16({_read(node, roles, 'xz', rows)})" if "xz" in roles else "i16(0)",
             "WZ": f"to_i16({_read(node, roles, 'wz', columns)})" if "wz" in roles else "i16(0)"}  # fmt: skip
    if "ys" in roles:
        words |= {"XS": _read(node, roles, "xs", rows), "WS": _read(node, roles, "ws", columns),
                  "YS": _read(node, roles, "ys", rows), "YZ": _read(node, roles, "yz", rows)}  # fmt: skip
    return words


def steps_of(call: Call, roles: dict[str, int]) -> list[int]:
    return [int(math.prod(call.operands[i]) != 1) for role, i in roles.items() if role not in ("x", "w", "bias")]


def check_sizes(anchor: Node, roles: dict[str, int], call: Call, rows: int, columns: int) -> None:
    """Raises RunError for a parameter that has neither one element nor one a row of A (a column or output channel of w): the kernel
    would read past its end."""
    for role, i in roles.items():
        expected = columns if role in ("ws", "wz", "bias") else rows
        n = math.prod(call.operands[i] or ())
        if role not in ("x", "w") and n != expected and (n != 1 or role == "bias"):
            name = anchor.op.operand_name(_ROLES[anchor.op.name][role])
            what = f"node %{anchor.name} ({anchor.op.name}): operand {name}"
            raise RunError(f"{what} has {n} elements, expected {expected}{'' if role == 'bias' else ' or 1'}")


def constant_zeros(node: Node, roles: dict[str, int], columns: int) -> np.ndarray | None:
    """The zero points of w where they are known, one or one a column (or channel); None where they are not."""
    v = node.operand(roles["wz"]) if "wz" in roles else None
    if v is None:
        return np.zeros(1, np.uint8)
    return v.array.reshape(-1) if v.is_const and v.array.size in (1, columns) else None


# ---- what follows the sums -----------------------------------------------------------------------------------------------


def channel_axis(anchor: Node) -> int | None:
    """The axis of an anchor's result that "one number a channel" runs along: an output channel, or a column."""
    rank, w = anchor.results[0].tensor.rank, anchor.operands[1]
    if anchor.op.name == "conv_integer":
        return 1
    return None if not rank or w is None or w.tensor.rank == 1 else rank - 1


def refuse_step(anchor: Node, node: Node, chain: int) -> Refusal | None:
    """Why the elementwise `node`, which reads what came from `anchor` as operand `chain`, cannot join its kernel (None: it can)."""
    result, types = anchor.results[0].tensor, [None if v is None else v.tensor for v in node.operands]
    if types[chain].dtype is F32:
        return check_step(node, chain, result.with_(dtype=F32), channel_axis(anchor), types)
    if node.op.name == "cast" and node.results[0].tensor == result.with_(dtype=F32):
        return None
    if node.op.name == "add" and anchor.op.name == "conv_integer" and node.operands[chain] is anchor.results[0]:
        other = types[1 - chain]
        if operand_kind(other.shape, result.shape, 1) == "channel" and node.results[0].tensor == result:
            return None
    return Refusal("before they are cast to f32 sums take only a bias by output channel", {"op": node.op.name})


@dataclass(frozen=True)
class Epilogue:
    """What is done to sums: the operand of the fused node that is added as a bias (None: none), then the program, in f32."""

    bias: int | None
    builder: Builder

    def program(self, channels_on: str) -> tuple:
        """The program for the microkernel, with channels along its columns ("col") or rows ("row")."""
        return tuple((channels_on, *s[1:]) if s[0] == "channel" else s for s in self.builder.program)


def epilogue(site: Site) -> Epilogue | Refusal | None:
    """What follows the anchor of a site; None where the sums are its result."""
    if not site.chain:
        return None
    sums, chain, bias = site.anchor.results[0], list(site.chain), None
    while chain:
        node = chain.pop(0)
        at = next((i for i, v in enumerate(node.operands) if v is sums), None)
        refusal = Refusal("sums are read twice") if at is None else refuse_step(site.anchor, node, at)
        if refusal is not None:
            return refusal
        sums = node.results[0]
        if node.op.name == "cast":
            break
        bias = node.operands[1 - at].index
        if node.operands[1 - at].graph is not site.outer.regions[0]:
            return Refusal("the bias is no input of the region")
    if sums.tensor.dtype is not F32:
        return Refusal("the sums are not cast to f32")
    found = epilogue_of(replace(site, anchor=sums.node, chain=tuple(chain)), channel_axis(site.anchor), lambda b: b.add("acc"))
    return found if isinstance(found, Refusal) else Epilogue(bias, found)


def take_apart(node: Node, channels_last: bool = False) -> tuple[Site, dict[str, int], Epilogue | None] | Refusal:
    """The site of a product or convolution of bytes, the roles of its operands, and what follows its sums."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    roles = roles_of(site, channels_last)
    if isinstance(roles, Refusal):
        return roles
    then = epilogue(site)
    return then if isinstance(then, Refusal) else (site, roles, then)
