"""What a node has to do, from the sizes of its values: bytes that it reads and writes, and the operations of products."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..ir.core import Node, Value
from ..ir.symbols import Unbound, evaluate
from ..ir.types import TensorType

Dims = tuple[int, ...]
_PICKS = frozenset({"gather", "gather_elements", "gather_nd", "slice"})


def concrete(v: Value, symbols: Mapping[str, int]) -> TensorType | None:
    """The value's type with the sizes that the symbols have; None for what is no tensor, or of sizes that they do not tell."""
    t = v.type
    if not isinstance(t, TensorType) or t.shape is None:
        return None
    try:
        return TensorType(t.dtype, tuple(evaluate(d, symbols) for d in t.shape))
    except (Unbound, ValueError):
        return None


def nbytes(node: Node, symbols: Mapping[str, int]) -> int | None:
    """The bytes of the operands and results, each once, of data that is picked from as many as are taken; None where a size is not
    known."""
    sizes: dict[Value, int] = {}
    for v in (*node.results, *node.operands):
        t = None if v is None else concrete(v, symbols)
        if t is not None:
            sizes[v] = math.prod(t.shape) * t.dtype.itemsize  # type: ignore[index,arg-type]
        elif v is not None:
            return None
    data = node.operands[0] if node.operands else None
    if node.op.name in _PICKS and data in sizes:
        sizes[data] = min(sizes[data], sizes[node.results[0]])  # type: ignore[index]
    return sum(sizes.values())


def flops(node: Node, symbols: Mapping[str, int]) -> int | None:
    """Multiplications and additions of the products in a node and in its region, not those of elementwise operators; None where a
    size is not known."""
    if node.op.has("isolated"):
        inner = [flops(n, symbols) for n in node.regions[0]]
        return None if None in inner else sum(inner)  # type: ignore[arg-type]
    count = _PRODUCTS.get(node.op.name)
    if count is None:
        return 0
    types = [None if v is None else concrete(v, symbols) for v in (*node.operands, node.results[0])]
    if any(t is None and v is not None for t, v in zip(types, (*node.operands, node.results[0]))):
        return None
    shapes: list[Dims] = [() if t is None else t.shape for t in types]  # type: ignore[misc]
    return 2 * count(node, shapes[:-1], shapes[-1])


def _gemm(node: Node, x: list[Dims], y: Dims) -> int:
    return math.prod(y) * x[0][0 if node.attr("transA") else 1]


def _attention(node: Node, x: list[Dims], y: Dims) -> int:
    length = x[1][-2] + (x[4][-2] if len(x) > 4 and x[4] else 0)  # of the keys, with those of before
    return length * (math.prod(x[0]) + math.prod(y))


def _recurrent(node: Node, x: list[Dims], y: Dims) -> int:
    return x[0][0] * x[0][1] * (math.prod(x[1]) + math.prod(x[2]))


# The multiplications of each operator that is a product, from the shapes of its operands and of its first result.
_PRODUCTS: dict[str, Callable[[Node, list[Dims], Dims], int]] = {
    "matmul": lambda n, x, y: math.prod(y) * x[0][-1],
    "matmul_integer": lambda n, x, y: math.prod(y) * x[0][-1],
    "qlinear_matmul": lambda n, x, y: math.prod(y) * x[0][-1],
    "matmul_nbits": lambda n, x, y: math.prod(y) * x[0][-1],
    "gemm": _gemm,
    "conv": lambda n, x, y: math.prod(y) * math.prod(x[1][1:]),
    "conv_integer": lambda n, x, y: math.prod(y) * math.prod(x[1][1:]),
    "qlinear_conv": lambda n, x, y: math.prod(y) * math.prod(x[3][1:]),
    "conv_transpose": lambda n, x, y: math.prod(x[0]) * math.prod(x[1][1:]),
    "attention": _attention,
    "lstm": _recurrent, "gru": _recurrent, "rnn": _recurrent,
}  # fmt: skip
