"""A plan as text: what runs, in order, and the kernels' sources."""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.core import Module
from ..kernels.spec import KernelSource
from .plan import Plan, Selector, draft_plan
from .steps import HostStep, Step


def plan_text(module: Module, select: Selector | None) -> str:
    """The steps of a module's plan (those of regions below their operator), then the text of each kernel. Nothing is compiled."""
    plan, sources = draft_plan(module.main, select)
    texts: dict[str, int] = {}
    lines = [f"plan @{module.main.name}", *_steps(plan, sources, texts, 1)]
    for text, number in texts.items():
        lines += ["", f"kernel {number}", *text.splitlines()]
    return "\n".join(lines) + "\n"


def _steps(plan: Plan, sources: dict[Step, KernelSource], texts: dict[str, int], depth: int) -> Iterator[str]:
    for step in plan.steps:
        node, source = step.node, sources.get(step)
        inner = " + ".join(n.op.name for r in node.regions for n in r) if node.op.has("isolated") else node.op.name
        how = step.how
        if source is not None:
            number = texts.setdefault(source.text, len(texts))
            how = f"kernel {number}{f' ({source.variant})' if source.variant else ''}"
        results = ", ".join(f"%{v.name}: {v.type}" for v in node.results)
        yield f"{'  ' * depth}{results} = {inner}  by {how}"
        if isinstance(step, HostStep):
            for name, body in zip(node.op.regions, step.plans):
                yield f"{'  ' * depth}{name}"
                yield from _steps(body, sources, texts, depth + 1)
