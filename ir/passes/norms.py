"""Normalizations join the product that alone reads them, where the target has a kernel for both.

A step of a decoder normalizes few rows, again and again: what that takes is mostly the launch of its kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import Module, Node
from ..target import Target
from .fuse import dissolve, make_fused
from .manager import Context, register


@register
@dataclass(frozen=True)
class FuseNorms:
    """Fuses layer_norm and rms_norm into the product, or the product with its epilogue, that alone reads their result."""

    name: ClassVar[str] = "fuse-norms"

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass fuse-norms needs a target"
        changed = False
        for graph in module.open_graphs():
            for node in graph.nodes:
                product = _product(node)
                if product is not None:
                    reason = _fuse(node, product, ctx.target)
                    changed |= reason is None
                    outcome = "applied" if reason is None else "refused"
                    ctx.log.record("fuse normalization into product", node, outcome, reason or "", [product])
        return changed


def _product(norm: Node) -> Node | None:
    """What alone reads a normalization, if that is a product."""
    if norm.op.name not in ("layer_norm", "rms_norm") or len(norm.results) != 1:
        return None
    if norm.result.is_output or len(norm.result.uses) != 1:
        return None
    ((user, _),) = norm.result.uses
    is_product = user.op.name in ("matmul", "gemm") or (user.op.name == "fused" and user.attr("kernel") == "gemm")
    return user if is_product and user.graph is norm.graph else None


def _fuse(norm: Node, product: Node, target: Target) -> str | None:
    """Makes both one node: the reason why not."""
    members, fused = [product], product.op.name == "fused"
    if fused:
        members = product.regions[0].nodes
        dissolve(product)
    made = make_fused([norm, *members], "normed", [members[-1].result])
    reason = target.refuses(made)
    if reason is not None:
        dissolve(made)
        if fused:
            make_fused(members, "gemm", [members[-1].result])
    return reason
