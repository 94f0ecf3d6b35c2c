"""ONNX to the IR.

Everything is read before anything is complained of: all problems come in one ImportProblem. What a file must not do at all
(broken bytes, recursion, more than the limits) raises HostileModelError or LimitError at once.

An input of the main graph that also has an initializer is a constant, in every IR version; `module.meta["onnx.default_inputs"]`
lists those that IR version 4 and later would have let a caller override.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from ...ir import ops as _families  # noqa: F401  (registers the operators)
from ...ir.core import Graph, Module, Value
from ...ir.errors import GraphmillError, ImportProblem, LimitError
from ...ir.limits import DEFAULT_LIMITS, Limits
from . import contrib as _contrib  # noqa: F401  (registers converters)
from .convert import NodeConverter
from .declared import Symbols, input_type
from .functions import Functions, check_opsets, opsets_of
from .problems import Problem, Problems, shown, text
from .protobuf import Source, load
from .scope import Scope, ordered
from .site import Frame, GraphAttr, Site
from .tensors import read_tensor

ModelSource = str | os.PathLike | bytes | onnx.ModelProto


def read(source: ModelSource, *, limits: Limits = DEFAULT_LIMITS, shapes: Mapping[str, int] | None = None) -> Module:
    """The model as a program of the IR.

    `shapes` gives symbolic dims of the inputs a size, by the name that the model (or `<input>.<axis>`) gives them. Raises
    ImportProblem with every problem of the model, HostileModelError, LimitError, InputError for `shapes` that name no dim.
    """
    reader = Reader(load(source), limits, shapes)
    if reader.problems:
        raise reader.problems.error(reader.source.name)
    return reader.module


class Reader(NodeConverter):
    """Reads one model on construction: `module` is the program, meaningless where `problems` is not empty."""

    def __init__(self, source: Source, limits: Limits = DEFAULT_LIMITS, shapes: Mapping[str, int] | None = None):
        proto = source.proto
        module = Module(text(proto.graph.name) or "main")
        super().__init__(source, module, Problems(), Functions(proto.functions), limits)
        self._default_inputs: list[str] = []
        self._read_header()
        self._check_size()
        self._symbols = Symbols(module, proto.graph.input, shapes)
        self._read_main()
        self._symbols.check_fixed()

    def _check_size(self) -> None:
        self.functions.check_expansion(self.source.proto.graph, self.resolver.is_inlined, self.limits)

    def _read_header(self) -> None:
        proto, module = self.source.proto, self.module
        if not 1 <= proto.ir_version <= onnx.IR_VERSION:
            self.problems.add(Problem(f"the IR version is {proto.ir_version}; expected 1 to {onnx.IR_VERSION}, the newest known",
                                      "save the model with a released version of onnx"))  # fmt: skip
        try:
            module.opsets = opsets_of(proto.opset_import)
            check_opsets(module.opsets, "the model")
        except GraphmillError as e:
            self.problems.add(Problem(str(e)))
        if not proto.opset_import:
            if proto.ir_version >= 3:
                self.problems.add(Problem("the model has no opset_import; expected the version of each domain that it uses"))
            module.opsets = {"": 1}  # what IR versions 1 and 2 meant
        module.meta = {text(p.key): text(p.value) for p in proto.metadata_props}
        for name in ("producer_name", "producer_version", "ir_version", "model_version"):
            value = getattr(proto, name)
            if value:
                module.meta[f"onnx.{name}"] = str(value)

    def _read_main(self) -> None:
        graph, module = self.source.proto.graph, self.module
        frame = Frame(module.main, Scope(), module.opsets, self.limits.depth)
        constants = _initializer_names(graph)
        for v in graph.input:
            name = text(v.name)
            if name in constants:
                self._default_inputs.append(name)
            elif not name or frame.scope.defined(name):
                self.problems.add(Problem(f"the input {shown(name)!r} has {'a name that another has' if name else 'no name'}"))
            else:
                t = self._declared(v, self._symbols.dim)
                if t is None:
                    self.problems.add(Problem(f"the input {shown(name)!r} declares no type", "expected an element type at least"))
                frame.scope.define(name, module.main.add_input(name, t))
        self._read_constants(graph, frame, self.source.raw)
        self._read_nodes(graph.node, {text(v.name) for v in graph.input} | constants, frame)
        self._read_outputs(graph, frame)
        module.output_names = [text(o.name) for o in graph.output]
        if len(set(module.output_names)) != len(module.output_names):
            self.problems.add(
                Problem("two outputs of the graph have one name", "give every output its own name (Identity makes a copy)")
            )
        if self._default_inputs and self.source.proto.ir_version >= 4:
            module.meta["onnx.default_inputs"] = json.dumps(self._default_inputs)

    def _declared(self, v: onnx.ValueInfoProto, dim: Any) -> Any:
        try:
            return input_type(v.type, text(v.name), dim)
        except GraphmillError as e:
            self.problems.add(Problem(f"the input {shown(v.name)!r}: {e}"))
            return None

    # ---- the parts of a graph

    def _read_constants(self, graph: onnx.GraphProto, frame: Frame, raw: Mapping[int, memoryview] = {}) -> None:
        for i, t in enumerate(graph.initializer):
            self._constant_of(text(t.name), frame, lambda t=t, i=i: read_tensor(t, self.limits, self.source.folder, raw.get(i)))
        for s in graph.sparse_initializer:
            self._constant_of(text(s.values.name), frame, lambda s=s: self.sparse(s))

    def _constant_of(self, name: str, frame: Frame, decode: Any) -> None:
        if not name or frame.scope.defined(name):
            self.problems.add(
                Problem(f"the initializer {shown(name)!r} has {'a name that another value has' if name else 'no name'}")
            )
            return
        try:
            value = self.module.add_const(frame.ir_name(name), *decode())
        except LimitError:
            raise
        except GraphmillError as e:
            self.problems.add(Problem(f"the initializer {shown(name)!r}: {e}"))
            value = Value(name, None, graph=frame.graph)
            self.poisoned.add(value)
        frame.scope.define(name, value)

    def _read_nodes(self, nodes: Sequence[onnx.NodeProto], known: Iterable[str], frame: Frame) -> None:
        in_order, cyclic = ordered(nodes, known, frame.depth)
        if cyclic:
            sites = [Site.of(n, frame) for n in cyclic]
            names = ", ".join(shown(x.shown) for x in sites[:5]) + (", ..." if len(sites) > 5 else "")
            wrong = f"it is part of a cycle, or reads from one: {names}"
            self.problems.add(sites[0].problem(wrong, "expected each node to read earlier values only"))
            for site in sites:
                self.define(site, None, True)
        for n in in_order:
            self.node(n, frame)

    def _read_outputs(self, graph: onnx.GraphProto, frame: Frame) -> None:
        values = []
        for o in graph.output:
            v = frame.scope.get(text(o.name))
            if not isinstance(v, Value):
                self.problems.add(Problem(f"the output {shown(o.name)!r} of the graph {shown(graph.name)!r} is not defined",
                                          "expected the name of an input, an initializer or a node's output"))  # fmt: skip
            else:
                values.append(v)
        frame.graph.set_outputs(values)

    def region(self, graph: GraphAttr, name: str) -> Graph:
        """A graph attribute as a region. Its initializers become constants of the module, its inputs have the types that it
        declares, with a new symbol for each dim that is no number. Raises LimitError below `limits.depth` nested regions."""
        proto, outer = graph.proto, graph.frame
        if outer.depth <= 0:
            raise LimitError(f"functions and graphs are nested deeper than {self.limits.depth}; raise Limits.depth to allow it")
        inner = Graph(name, self.module)
        frame = replace(outer, graph=inner, scope=Scope(outer.scope), depth=outer.depth - 1, names={})
        constants = _initializer_names(proto)
        self._read_constants(proto, frame)
        for v in proto.input:
            if text(v.name) in constants:
                continue
            if frame.scope.defined(v.name):
                self.problems.add(Problem(f"the input {shown(v.name)!r} of the graph {shown(proto.name)!r} is given twice"))
            t = self._declared(v, self._symbols.fresh)
            frame.scope.define(v.name, inner.add_input(frame.ir_name(v.name), t))
        self._read_nodes(proto.node, {text(v.name) for v in proto.input} | constants, frame)
        self._read_outputs(proto, frame)
        return inner


def _initializer_names(graph: onnx.GraphProto) -> set[str]:
    return {text(t.name) for t in graph.initializer} | {text(s.values.name) for s in graph.sparse_initializer}


__all__ = ["ImportProblem", "ModelSource", "Reader", "read"]
