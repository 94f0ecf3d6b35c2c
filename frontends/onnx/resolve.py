"""What serves an ONNX operator: a converter, a function to inline, or an operator of the IR."""

from __future__ import annotations

import difflib

import onnx

from ...ir.op import OPS, Onnx, OpDef
from .. import registry
from . import opaque
from .attributes import schema
from .functions import STANDARD, Functions, Key

Target = registry.Converter | onnx.FunctionProto | tuple[Onnx, OpDef] | None


class Resolver:
    """Looks operators up, each (operator, opset) once. Converters go before all else, then a function that the model brings
    for a domain of its own, the IR's operators, its other functions, and last onnx.reference's implementations."""

    def __init__(self, functions: Functions):
        self._functions = functions
        self._targets: dict[tuple[Key, int], Target] = {}

    def is_inlined(self, key: Key) -> bool:
        """Whether calls of the model-local function `key` are replaced by its body."""
        if registry.find(*key[:2]) is not None:
            return False
        return key[0] not in STANDARD or OPS.by_onnx(*key[:2]) is None

    def target(self, key: Key, opset: int) -> Target:
        """A converter, a function's proto, (how ONNX spells it, the OpDef), or None."""
        if (key, opset) not in self._targets:
            self._targets[key, opset] = self._find(key, opset)
        return self._targets[key, opset]

    def _find(self, key: Key, opset: int) -> Target:
        domain, op_type, _ = key
        fn = registry.find(domain, op_type)
        if fn is not None:
            return fn
        if self.is_inlined(key) and (f := self._functions.find(key)) is not None:
            return f
        found = OPS.by_onnx(domain, op_type)
        if found is not None:
            return found
        d = OPS.get(opaque.name_of(domain, op_type))
        if d is not None and d.has("opaque") and (s := schema(domain, op_type, opset)) is not None and not s.deprecated:
            return Onnx(op_type, domain), d
        return None


def unknown(key: Key, opset: int, suggest: bool) -> tuple[str, str]:
    """The message and the hint for an operator that nothing serves; `suggest` looks for a name that is spelled like it."""
    domain, op_type, _ = key
    s = schema(domain, op_type, opset)
    if s is not None and s.deprecated:
        return "the operator was removed from ONNX in this opset", "export the model with an older opset, or use what replaced it"
    if s is not None:
        return "the operator is not supported", "register a converter with graphmill.converter, or leave the operator out"
    if schema(domain, op_type, (1 << 31) - 1) is not None:
        return f"ONNX opset {opset} has no such operator", "export the model with a newer opset"
    register = f"register a converter with graphmill.converter({domain[:64]!r}, {op_type[:64]!r})"
    if not suggest:
        return "there is no such operator", register
    names = {t for d, t in registry.registered() if d == domain}
    names |= {x.name for x in onnx.defs.get_all_schemas() if x.domain == domain}
    close = difflib.get_close_matches(op_type[:64], sorted(names), 1)
    return "there is no such operator", f"did you mean {close[0]}? otherwise {register}" if close else register
