"""Operands that do not fit their operators, as problems of the model that was read."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.core import Module, Node, Value
from ...ir.errors import ImportProblem, InferenceError
from ...ir.infer import infer_node, where
from ...ir.limits import DEFAULT_LIMITS, Limits
from ...ir.types import TensorType
from .problems import Problem, Problems, shown
from .protobuf import load
from .reader import ModelSource, Reader


def report(source: ModelSource, limits: Limits = DEFAULT_LIMITS, shapes: Mapping[str, int] | None = None) -> ImportProblem | None:
    """The report over a model some of whose operands are of a wrong type or shape, all of them; None where all fit.

    The model is read once more: its first module may have been rewritten when the error was met.
    """
    reader = Reader(load(source), limits, shapes)
    problems = reader.problems or type_problems(reader.module)
    return problems.error(reader.source.name, ImportProblem) if problems else None


def type_problems(module: Module) -> Problems:
    """What is wrong with the types of a module just read. What only follows from another problem is left out."""
    problems, broken = Problems(), set[Value]()
    for node in module.main:
        operands = [v for v in (*node.operands, *(node.captures() if node.regions else ())) if v is not None]
        found = [] if any(v in broken for v in operands) else _problems(node, module)
        for p in found:
            problems.add(p)
        if found or any(v in broken for v in operands):
            broken.update(node.results)
    return problems


def _problems(node: Node, module: Module) -> list[Problem]:
    wrong = _wrong_operands(node, module)
    if wrong:
        return wrong
    try:
        infer_node(node)
    except InferenceError as e:
        return [_problem(node, module, str(e).removeprefix(f"{where(node)}: "), "")]
    return [p for region in node.regions for g in region.graphs() for n in g for p in _wrong_operands(n, module)]


def _wrong_operands(node: Node, module: Module) -> list[Problem]:
    params, out = node.op.operands, []
    for i, v in enumerate(node.operands):
        allowed = params[min(i, len(params) - 1)].dtypes
        if v is not None and isinstance(v.type, TensorType) and v.type.dtype not in allowed:
            wrong = f"its input {i} ({node.op.operand_name(i)}), {shown(v.name)}, is of type {v.type}"
            out.append(_problem(node, module, wrong, f"expected one of {', '.join(sorted(d.name for d in allowed))}"))
    return out


def _problem(node: Node, module: Module, message: str, hint: str) -> Problem:
    """A problem of an IR node, under the name that ONNX has for its operator."""
    form = node.op.onnx[0] if node.op.onnx else None
    domain, op_type = (form.domain, form.op_type) if form else ("", node.op.name)
    name = node.locs[0] if node.locs else f"%{node.name}"
    return Problem(message, hint, name, op_type, domain, module.opsets.get(domain, 0))
