"""What is done to sums before they are stored (kernels/epilogue.py), as C++ for one element."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from ...ir.core import Node
from ...ir.types import DType
from ..epilogue import Builder
from ..operands import slot_of
from ..printer import literal, register

_NAMES = {"abs": "absolute", "min": "minimum", "max": "maximum", "round": "rint", "pow": "pow_", "not": "not_", "and": "and_",
          "or": "or_", "xor": "xor_"}  # fmt: skip


class Leaf(NamedTuple):
    """What a program reads beside the sums: its address is known as `name`."""

    name: str
    kind: str  # scalar, channel, row, full
    dtype: DType
    slot: int


def leaves_of(node: Node, builder: Builder) -> list[Leaf]:
    """The leaves of a program, in its order."""
    return [Leaf(f"leaf{k}", kind, node.operands[i].tensor.dtype, slot_of(node, i)) for k, (kind, i) in enumerate(builder.leaves)]


def addresses(leaves: Sequence[Leaf]) -> list[str]:
    """Statements before `finish`: the addresses of what the program reads."""
    return [f"const i64 {leaf.name} = p[{leaf.slot}];" for leaf in leaves]


def steps(builder: Builder, dtype: DType, channel: str, acc: str = "acc", held: Collection[str] = ()) -> list[str]:
    """The statements that make a result of the sum `acc`, of `row` and `column`, whose place is `to`, and return it; `channel` is
    the number of its channel. Leaves of the kinds in `held` are read already, as packs of `held`, of which number `j` is meant.
    Computed in f32, in f64 for f64, and rounded by who stores it."""
    at = {"scalar": "0", "channel": channel, "row": "row", "full": "to"}
    lines, names = [], []
    for step in builder.program:
        fn, args = step[0], step[1:]
        if fn == "acc":
            text = acc
        elif fn == "const":
            text = literal(float.fromhex(args[0]), dtype)
        elif fn in held:
            text = f"held.leaf{args[0]}.get(j)"
        elif fn in at:
            text = f"ld_{dtype}(leaf{args[0]}, {at[fn]})"
        else:
            text = _applied(builder, fn, args, names)
        if fn in ("acc", "const"):
            names.append(text)
        else:
            names.append(f"s{len(lines)}")
            lines.append(f"const auto s{len(lines)} = {text};")
    return [*lines, f"return {register(dtype)}({names[-1]});"]


def _applied(builder: Builder, fn: str, args: Sequence[int], names: Sequence[str]) -> str:
    xs = [names[a] for a in args]
    if fn == "pow":
        exponent = builder.program[args[1]]
        power = float.fromhex(exponent[1]) if exponent[0] == "const" else None
        if power in (2, 3):
            return f"mul({xs[0]}, {xs[0]})" if power == 2 else f"mul({xs[0]}, mul({xs[0]}, {xs[0]}))"
    return f"{_NAMES.get(fn, fn)}({', '.join(xs)})"
