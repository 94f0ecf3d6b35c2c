"""Inputs and outputs in 16-bit floats, where the pass `precision` would convert them right away.

Caches of keys and values go in and come out of each step of a decoder: in 16 bits they are read and written once, and are half as
large. An input becomes narrow if all that read it are casts to that type, an output if it is the cast of such a value to f32;
whatever else reads these values in the graph goes on as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import Graph, Module, Value
from ..errors import IRError
from ..interp import output_names
from ..rewrite import DecisionLog, sweep
from ..types import F32, DType, TensorType
from .manager import Context, register
from .precision import TYPES


@register
@dataclass(frozen=True)
class NarrowIO:
    """Gives the main graph's inputs and outputs 16-bit floats. `to` is f16 or bf16; `keep` names inputs and outputs (with
    semicolons between) that stay in f32. Raises IRError for names that are none of these."""

    name: ClassVar[str] = "narrow-io"
    to: str = "f16"
    keep: str = ""

    def run(self, module: Module, ctx: Context) -> bool:
        if self.to not in TYPES:
            raise IRError(f"narrow-io{{to={self.to}}}: expected one of {', '.join(TYPES)}")
        graph, to, names = module.main, TYPES[self.to], output_names(module)
        kept = frozenset(filter(None, self.keep.split(";")))
        unknown = sorted(kept - {*names, *(v.name for v in graph.inputs)})
        if unknown:
            raise IRError(f"inputs and outputs to keep in f32: there is none named {', '.join(unknown)}")
        before = [v.type for v in graph.inputs], list(graph.outputs)
        module.output_names = names  # which were those of values that are replaced now
        fixed = {v for v, name in zip(graph.outputs, names, strict=True) if name in kept}
        for v in graph.inputs:
            if _is(v, F32):
                _narrow_input(v, to, v.name in kept, v in fixed, ctx.log)
        _narrow_outputs(graph, to, [name in kept for name in names], ctx.log)
        return before != ([v.type for v in graph.inputs], list(graph.outputs))


def _narrow_input(v: Value, to: DType, kept: bool, is_kept_output: bool, log: DecisionLog) -> None:
    """Gives an input the type that all its readers convert it to."""
    casts = [user for user in v.users if user.op.name == "cast" and _is(user.result, to)]
    if not casts:
        return
    other = next((user for user in v.users if user not in casts), None)
    reason = ""
    if kept or is_kept_output:
        reason = f"%{v.name} is to stay in f32" if kept else f"%{v.name} is an output as well, which is to stay in f32"
    elif any(g is not v.graph for g, _ in v.output_of):
        reason = f"a region returns %{v.name} in f32"
    elif other is not None:
        reason = f"%{other.name} ({other.op.name}) reads %{v.name} in f32"
    log.record(f"input %{v.name} in {to}", casts[0], "refused" if reason else "applied", reason)
    if reason:
        return
    v.type = v.tensor.with_(dtype=to)
    for cast in casts:
        assert cast.graph is not None
        cast.graph.replace(cast, [v])


def _narrow_outputs(graph: Graph, to: DType, kept: list[bool], log: DecisionLog) -> None:
    """Returns what casts to f32 read in the place of their results."""
    outputs, casts = list(graph.outputs), []
    for i, v in enumerate(outputs):
        source = v.node.operands[0] if v.node is not None and v.node.op.name == "cast" and _is(v, F32) else None
        if source is None or not _is(source, to) or source.graph is not graph:
            continue
        name = output_names(graph.module)[i]
        log.record(f"output %{name} in {to}", v.node, "refused" if kept[i] else "applied", "it is to stay in f32" * kept[i])  # type: ignore[arg-type]
        if not kept[i]:
            outputs[i] = source
            casts.append(v.node)
    graph.set_outputs(outputs)
    sweep(n for n in casts if n is not None)


def _is(v: Value, dtype: DType) -> bool:
    return isinstance(v.type, TensorType) and v.type.dtype is dtype
