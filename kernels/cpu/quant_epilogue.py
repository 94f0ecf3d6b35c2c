"""What follows a product of bytes in its kernel: the cast of its sums to f32, scales, bias and what else `epilogue.py` has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir.core import Node
from ...ir.types import F32
from ..epilogue import Builder, Site, check_step, epilogue_of, operand_kind
from ..operands import slot_of
from ..spec import Refusal

ANCHORS = ("matmul_integer", "conv_integer")


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


def leaves_text(node: Node, then: Epilogue | None) -> tuple[str, str]:
    """The lines that read the addresses of what an epilogue reads, and how they stand in a call of the microkernel."""
    if then is None:
        return "", ""
    lines = [f"leaf{k} = param(p, {slot_of(node, i)})" for k, (_, i) in enumerate(then.builder.leaves)]
    names = [f"leaf{k} - result" if kind == "full" else f"leaf{k}" for k, (kind, _) in enumerate(then.builder.leaves)]
    if then.bias is not None:
        lines.append(f"addend = param(p, {slot_of(node, then.bias)})")
        names.insert(0, "addend")
    return "\n".join(lines), ", ".join(names)
