"""Functions: model-local ones and those that ONNX's own schemas define. They are inlined; this module finds and measures them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx

from ...ir.errors import HostileModelError, LimitError, UnsupportedError
from ...ir.limits import Limits
from ...ir.types import Type
from .attributes import schema
from .declared import type_proto
from .problems import shown, text
from .scope import ordered, subgraphs

Key = tuple[str, str, str]  # domain, name, overload

# Operators of these domains mean what their specification says, also where a model brings a function of the same name.
STANDARD = frozenset({"", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "com.microsoft"})


def key_of(node: onnx.NodeProto) -> Key:
    domain = text(node.domain)
    return "" if domain == "ai.onnx" else domain, text(node.op_type), text(node.overload)


class Functions:
    """A model's own functions. Raises HostileModelError for two of one name."""

    def __init__(self, protos: Iterable[onnx.FunctionProto]):
        self._protos: dict[Key, onnx.FunctionProto] = {}
        self._ordered: dict[Key, list[onnx.NodeProto]] = {}
        for f in protos:
            domain = text(f.domain)
            key = ("" if domain == "ai.onnx" else domain, text(f.name), text(f.overload))
            if key in self._protos:
                raise HostileModelError(f"the function {shown(key[0])}.{shown(key[1])} is defined twice; expected one definition")
            self._protos[key] = f
        self.domains = {k[0] for k in self._protos}

    def find(self, key: Key) -> onnx.FunctionProto | None:
        return self._protos.get(key)

    def check_expansion(self, graph: onnx.GraphProto, is_inlined: Callable[[Key], bool], limits: Limits) -> None:
        """Measures the program as it will be when every call was replaced, before any is.

        Raises HostileModelError for a function that calls itself, LimitError for more nodes than `limits.nodes` or deeper calls
        and regions than `limits.depth`.
        """
        sizes: dict[Key, tuple[int, int]] = {}  # nodes, and how deep calls and regions nest
        path: list[Key] = []

        def check_depth(deep: int) -> None:
            if deep > limits.depth:
                raise LimitError(f"functions and graphs are nested deeper than {limits.depth}; raise Limits.depth to allow it")

        def size(nodes: Sequence[onnx.NodeProto], above: int) -> tuple[int, int]:
            check_depth(above)
            total, deepest = 0, 0
            for node in nodes:
                count, deep = 1, 0
                key = key_of(node) if self._protos else None
                if key in self._protos and is_inlined(key):
                    count, deep = called(key, above + 1)
                    check_depth(above + 1 + deep)
                    deep += 1
                total, deepest = total + count, max(deepest, deep)
                for g in subgraphs(node) if node.attribute else ():
                    count, deep = size(g.node, above + 1)
                    total, deepest = total + count, max(deepest, deep + 1)
            if total > limits.nodes:
                raise LimitError(f"more than {limits.nodes} nodes once functions are inlined; raise Limits.nodes to allow them")
            return total, deepest

        def called(key: Key, above: int) -> tuple[int, int]:
            if key in path:
                raise HostileModelError(f"the function {shown(key[0])}.{shown(key[1])} calls itself; ONNX allows no recursion")
            if key not in sizes:
                path.append(key)
                sizes[key] = size(self._protos[key].node, above)
                path.pop()
            return sizes[key]

        size(graph.node, 0)

    def nodes(self, f: onnx.FunctionProto, depth: int) -> list[onnx.NodeProto]:
        """The nodes of a function's body in order. Raises HostileModelError for a cycle."""
        key = (text(f.domain), text(f.name), text(f.overload))
        own = self._protos.get(key) is f
        if own and key in self._ordered:
            return self._ordered[key]
        nodes, cyclic = ordered(f.node, f.input, depth)
        if cyclic:
            raise HostileModelError(
                f"the nodes of the function {shown(f.name)} form a cycle; expected each to read earlier ones only"
            )
        if own:
            self._ordered[key] = nodes
        return nodes


def schema_function(node: onnx.NodeProto, opset: int, types: Sequence[Type | None]) -> onnx.FunctionProto | None:
    """The body by which ONNX itself defines the operator, None where it does not. `types` are those of the node's inputs.

    A body that depends on its context is built from the node's attributes and the types.
    """
    s = schema("" if node.domain == "ai.onnx" else node.domain, node.op_type, opset)
    if s is None:
        return None
    f = onnx.FunctionProto()
    if s.has_function:  # type: ignore[attr-defined]  # missing in onnx's stub, as are the next two
        f.CopyFrom(s.function_body)
    elif s.has_context_dependent_function:  # type: ignore[attr-defined]
        known = [type_proto(t).SerializeToString() for t in types]
        body = s.get_context_dependent_function(node.SerializeToString(), known)  # type: ignore[attr-defined]
        if not body:
            return None
        f.ParseFromString(body)
    else:
        return None
    f.attribute_proto.extend(a.default_value for a in s.attributes.values() if a.default_value.type)
    return f


def opsets_of(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Versions by domain. Raises HostileModelError for a domain imported in two versions."""
    out: dict[str, int] = {}
    for o in imports:
        domain = text(o.domain)
        domain = "" if domain == "ai.onnx" else domain
        if out.setdefault(domain, o.version) != o.version:
            raise HostileModelError(
                f"opset_import names {shown(domain) or 'ai.onnx'} in the versions {out[domain]} and {o.version}; expected one"
            )
    return out


def newest_opsets() -> Mapping[str, int]:
    """The newest version that is known of each domain that ONNX itself defines."""
    return {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version(), "ai.onnx.preview": 1,
            "ai.onnx.preview.training": 1}  # fmt: skip


def check_opsets(opsets: Mapping[str, int], what: str) -> None:
    """Raises UnsupportedError for a version that is newer than any known, or that never was."""
    known = newest_opsets()
    for domain, version in opsets.items():
        newest = known.get(domain, (1 << 31) - 1)
        if not 1 <= version <= newest:
            raise UnsupportedError(
                f"{what} is for opset {version} of {shown(domain) or 'ai.onnx'}; expected 1 to {newest}, the newest known "
                "(convert the model with onnx.version_converter, or export it with an older opset)"
            )
