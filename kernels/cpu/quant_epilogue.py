"""What follows a product of bytes in its kernel: the cast of its sums to f32, scales, bias and what else `epilogue.py` has."""

from __future__ import annotations

from dataclasses import replace

from ...ir.core import Node
from ...ir.types import F32
from ..spec import Refusal
from .epilogue import Builder, Site, check_step, epilogue_of
from .operands import slot_of

ANCHORS = ("matmul_integer", "conv_integer")


def channel_axis(anchor: Node) -> int | None:
    """The axis of an anchor's result that "one number a channel" runs along: an output channel, or a column."""
    rank, w = anchor.results[0].tensor.rank, anchor.operands[1]
    if anchor.op.name == "conv_integer":
        return 1
    return None if not rank or w is None or w.tensor.rank == 1 else rank - 1


def refuse_step(anchor: Node, node: Node, chain: int) -> Refusal | None:
    """Why the elementwise `node`, which reads what came from `anchor` as operand `chain`, cannot join its kernel (None: it can)."""
    result = anchor.results[0].tensor
    if node.operands[chain] is anchor.results[0]:
        fits = node.op.name == "cast" and node.results[0].tensor == result.with_(dtype=F32)
        return None if fits else Refusal("the sums are not cast to f32 first", {"op": node.op.name})
    types = [None if v is None else v.tensor for v in node.operands]
    return check_step(node, chain, result.with_(dtype=F32), channel_axis(anchor), types)


def epilogue(site: Site) -> Builder | Refusal | None:
    """The program of a site; None where the sums themselves are its result."""
    if not site.chain:
        return None
    first, *rest = site.chain
    refusal = refuse_step(site.anchor, first, 0)
    if refusal is not None:
        return refusal
    return epilogue_of(replace(site, anchor=first, chain=tuple(rest)), channel_axis(site.anchor), lambda b: b.add("acc"))


def leaves_text(node: Node, b: Builder | None) -> tuple[str, str]:
    """The lines that read the addresses of a program's operands, and how they stand in a call of the microkernel."""
    leaves = [] if b is None else b.leaves
    lines = [f"leaf{k} = param(p, {slot_of(node, i)})" for k, (_, i) in enumerate(leaves)]
    return "\n".join(lines), ", ".join(f"leaf{k} - result" if kind == "full" else f"leaf{k}" for k, (kind, _) in enumerate(leaves))


def program_of(b: Builder | None, channels_on: str) -> tuple | None:
    """The program for the microkernel, channels along its columns ("col") or rows ("row")."""
    return None if b is None else tuple((channels_on, *s[1:]) if s[0] == "channel" else s for s in b.program)
