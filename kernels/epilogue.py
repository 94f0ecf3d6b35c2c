"""What a GEMM or convolution does to its sums before it stores them: bias, residual and elementwise operators as one program.

A `fused` node with `kernel = gemm` has a region whose first node is the anchor (matmul, gemm, conv, conv_transpose) and whose
other nodes are elementwise operators on the anchor's result. Their other operands are inputs of the region: one number, one
number a channel, or a tensor of the result's shape and layout; numbers may also stand in the region as constants. The anchor's
own operands are inputs of the region, and the last node's result is its only output. All have the anchor's element type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.core import Node, Value
from ..ir.scalar import LOGIC, TEST, UNARY, Expr, trace
from ..ir.symbols import DimLike
from ..ir.types import BF16, F16, F32, FLOATS, Shape, TensorType
from .operands import slot_of
from .spec import Refusal

APPLIED = (UNARY - {"bitnot"}) | LOGIC | TEST | {
    "add", "sub", "mul", "div", "floordiv", "mod", "fmod", "min", "max", "pow", "lt", "le", "gt", "ge", "eq", "ne", "where", "not",
}  # fmt: skip
Program = tuple[tuple, ...]  # steps; see `Builder`
MAX_STEPS = 200  # a longer program is a kernel of its own
Channel = int | None  # the logical axis that "one number a channel" runs along


class Unsupported(Exception):
    """Why a node cannot be part of an epilogue."""

    def __init__(self, refusal: Refusal):
        super().__init__(str(refusal))
        self.refusal = refusal


@dataclass
class Builder:
    """A program in the making. `leaves` lists what its operands are: (kind, index of the node's operand)."""

    steps: list[tuple] = field(default_factory=list)
    leaves: list[tuple[str, int]] = field(default_factory=list)
    _known: dict[tuple, int] = field(default_factory=dict)

    def add(self, *step: object) -> int:
        """The number of a step; equal steps are one."""
        if step not in self._known:
            self._known[step] = len(self.steps)
            self.steps.append(step)
        return self._known[step]

    def leaf(self, kind: str, operand: int) -> int:
        if (kind, operand) not in self.leaves:
            self.leaves.append((kind, operand))
        return self.add(kind, self.leaves.index((kind, operand)))

    def number(self, value: float) -> int:
        return self.add("const", float(value).hex())

    def apply(self, e: Expr, args: Sequence[int | None]) -> int:
        """The steps of an expression whose arguments are earlier steps."""
        memo: dict[int, int] = {}

        def go(x: Expr) -> int:
            if id(x) not in memo:
                if x.fn == "arg":
                    memo[id(x)] = args[x.value]
                elif x.fn == "const":
                    memo[id(x)] = self.number(x.value)
                elif x.fn == "cast":  # between floats that are all f32 in registers
                    memo[id(x)] = go(x.args[0])
                else:
                    memo[id(x)] = self.add(x.fn, *(go(a) for a in x.args))
            return memo[id(x)]

        return go(e)

    @property
    def program(self) -> Program:
        return tuple(self.steps)


def operand_kind(shape: Shape | None, result: Shape, channel: Channel) -> str | None:
    """How an operand of that shape lies to the result: "scalar", "channel", "full", None where it is none of these."""
    if shape is None or len(shape) > len(result):
        return None
    padded: tuple[DimLike, ...] = (1,) * (len(result) - len(shape)) + tuple(shape)
    if all(d == 1 for d in padded):
        return "scalar"
    if padded == tuple(result) and len(shape) == len(result):
        return "full"
    if channel is not None and all(d == (result[i] if i == channel else 1) for i, d in enumerate(padded)):
        return "channel"
    return None


def check_step(node: Node, chain: int, anchor: TensorType, channel: Channel, types: Sequence[TensorType | None]) -> Refusal | None:
    """Why `node`, whose operand `chain` is what came before, cannot be applied in registers to a result of type `anchor`."""
    if not node.op.is_elementwise:
        return Refusal(f"{node.op.name} is not elementwise")
    result = node.results[0].tensor
    if result.dtype is not anchor.dtype or anchor.dtype not in FLOATS:
        return Refusal(
            "the element type is not that of the anchor, or not a float", {"anchor": anchor.dtype, "result": result.dtype}
        )
    if anchor.shape is None or result.shape != anchor.shape or result.layout != anchor.layout:
        return Refusal("the result has not the anchor's shape and layout", {"anchor": anchor, "result": result})
    for i, t in enumerate(types):
        if t is None or i == chain:
            continue
        if t.dtype is not anchor.dtype:
            return Refusal(f"operand {i} has another element type", {"anchor": anchor.dtype, "operand": t.dtype})
        kind = operand_kind(t.shape, anchor.shape, channel)
        if kind is None:
            return Refusal(f"operand {i} is neither a number, nor one a channel, nor of the result's shape", {"operand": t})
        if kind == "full" and t.layout != anchor.layout:
            return Refusal(f"operand {i} has another layout", {"anchor": anchor, "operand": t})
    dtypes = [None if t is None else t.dtype for t in types]
    strange = sorted(_strange(trace(node.op.scalar, dtypes, node.all_attrs())))
    return Refusal(f"{', '.join(strange)} cannot be applied in registers") if strange else None


def _strange(e: Expr) -> set[str]:
    """Primitives and types that a program does not have."""
    found: set[str] = set()
    stack, seen = [e], set()
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        widened = x.fn == "cast" and {x.dtype, x.args[0].dtype} <= {F16, BF16, F32}
        if (x.fn not in APPLIED | {"arg", "const"} and not widened) or (
            x.dtype not in FLOATS and (x.dtype.name != "bool" or x.fn in ("arg", "const"))
        ):
            found.add(f"{x.fn} of {x.dtype}")
        stack += x.args
    return found


@dataclass(frozen=True)
class Site:
    """An anchor where it stands: alone, or first in the region of the fused node `outer`.

    `index[i]` is the operand of `outer` that the anchor's operand i is (None: left out), `chain` the elementwise nodes behind it.
    """

    outer: Node
    anchor: Node
    index: tuple[int | None, ...]
    chain: tuple[Node, ...] = ()

    def operand(self, i: int) -> Value | None:
        """The anchor's operand i, seen from outside."""
        at = self.index[i] if i < len(self.index) else None
        return None if at is None else self.outer.operands[at]

    def slot(self, i: int) -> int:
        """The parameter slot of the anchor's operand i."""
        return slot_of(self.outer, self.index[i])

    @property
    def result(self) -> TensorType:
        return self.outer.results[0].tensor


def site_of(node: Node) -> Site | Refusal:
    """The anchor of a node, which is the node itself unless it is a fused one."""
    if node.op.name != "fused":
        return Site(node, node, tuple(None if v is None else i for i, v in enumerate(node.operands)))
    region = node.regions[0]
    anchor, *chain = region.nodes
    if len(node.results) != 1:
        return Refusal("the region has several results", {"results": len(node.results)})
    index: list[int | None] = []
    for v in anchor.operands:
        if v is not None and v.graph is not region:
            return Refusal(f"%{v.name} is read by the anchor but is no input of the region")
        index.append(None if v is None else v.index)
    return Site(node, anchor, tuple(index), tuple(chain))


def epilogue_of(site: Site, channel: Channel, start: Callable[[Builder], int]) -> Builder | Refusal:
    """The program of a site. `start` adds what the anchor itself does to its sums and gives that step.

    Leaves have the kinds scalar, channel and full; the caller says whether channels run along rows or columns.
    """
    b = Builder()
    b.add("acc")
    known: dict[Value, int] = {site.anchor.results[0]: start(b)}
    region = site.outer.regions[0] if site.chain else None
    for node in site.chain:
        types = [None if v is None else v.tensor for v in node.operands]
        chain = next((i for i, v in enumerate(node.operands) if v in known), None)
        if chain is None:
            return Refusal(f"%{node.name} does not read the anchor's result")
        refusal = check_step(node, chain, site.result, channel, types) or _misplaced(node, known, region)
        if refusal:
            return refusal
        args = [None if v is None else known[v] if v in known else _leaf(b, v, region, site, channel) for v in node.operands]
        expr = trace(node.op.scalar, [None if t is None else t.dtype for t in types], node.all_attrs())
        known[node.results[0]] = b.apply(expr, args)
    last = site.chain[-1].results[0] if site.chain else site.anchor.results[0]
    if region is not None and list(region.outputs) != [last]:
        return Refusal(f"the region returns something else than its last result %{last.name}")
    if known[last] != len(b.steps) - 1:
        b.steps.append(("add", known[last], b.number(-0.0)))  # the result stands last; x + -0 is x
    if len(b.steps) > MAX_STEPS:
        return Refusal("the epilogue is too long for registers", {"steps": len(b.steps), "most": MAX_STEPS})
    return b


def _misplaced(node: Node, known: dict[Value, int], region: object) -> Refusal | None:
    """Why an operand can be read neither as an input of the region nor as a number."""
    for v in node.operands:
        if (
            v is not None
            and v not in known
            and not (v.graph is region and v.node is None)
            and not (v.is_const and v.tensor.size == 1)
        ):
            return Refusal(f"%{v.name} is neither an input of the region nor a constant of one element", {"type": v.type})
    return None


def _leaf(b: Builder, v: Value, region: object, site: Site, channel: Channel) -> int:
    if v.graph is region:
        return b.leaf(operand_kind(v.tensor.shape, site.result.shape, channel), v.index)
    return b.number(float(np.asarray(v.array).reshape(-1)[0].astype(np.float64)))
