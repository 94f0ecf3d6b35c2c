"""ONNX nodes to IR nodes: the operator is looked up, brought to its newest form, checked and emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ...ir.core import Graph, Module, Value
from ...ir.errors import GraphmillError, LimitError
from ...ir.limits import Limits
from ...ir.op import REQUIRED, Onnx, OnnxCall, OpDef
from .. import registry
from . import opaque
from .attributes import check_type, decode, schema_types
from .functions import Functions, Key, check_opsets, key_of, newest_opsets, opsets_of, schema_function
from .hints import Hints
from .problems import MOST_LINES, Problem, Problems, shown, text
from .protobuf import Source
from .resolve import Resolver, unknown
from .scope import Scope, node_name
from .tensors import read_sparse, read_tensor

OMITTED = object()  # what a function's formal input means where the call leaves it out


@dataclass(frozen=True, slots=True)
class GraphAttr:
    """A graph held by an attribute, and the frame that it was written in, whose values it may read."""

    proto: onnx.GraphProto
    frame: Frame


@dataclass(eq=False, slots=True)
class Frame:
    """Where nodes are being read: the IR graph they go to, the names and opsets that hold, and, inside of a function, the
    attributes of its call and the names that its values get in the IR."""

    graph: Graph
    scope: Scope
    opsets: Mapping[str, int]
    depth: int  # how many more regions and calls may nest
    path: str = ""  # the calls around: what locations start with
    base: str = ""  # what the IR names of a function's inner values start with
    names: Mapping[str, str] = field(default_factory=dict)  # IR names of a function's outputs
    attrs: Mapping[str, tuple[onnx.AttributeProto, Frame]] = field(default_factory=dict)

    def ir_name(self, name: str) -> str:
        if not self.base:
            return name
        return self.names.get(name) or f"{self.base}.{name}"

    def locs(self, node: onnx.NodeProto) -> list[str]:
        """The location of a node: its name behind the calls around it; nothing where nothing has a name."""
        if node.name:
            return [self.path + text(node.name)]
        return [self.path[:-1]] if self.path else []


class NodeConverter:
    """Converts nodes one by one. What goes wrong is added to `problems`; the outputs of such a node are *poisoned*: they stand in
    for the missing values, and errors that only follow from them are not reported."""

    def __init__(self, source: Source, module: Module, problems: Problems, functions: Functions, limits: Limits):
        self.source, self.module, self.problems, self.functions, self.limits = source, module, problems, functions, limits
        self.poisoned: set[Value] = set()
        self._count = 0
        self.resolver = Resolver(functions)
        self.hints = Hints()

    # ---- one node

    def node(self, node: onnx.NodeProto, frame: Frame) -> None:
        """Converts one node and defines its outputs in the frame's scope."""
        self._count += 1
        if self._count > self.limits.nodes:
            raise LimitError(f"more than {self.limits.nodes} nodes once functions are inlined; raise Limits.nodes to allow them")
        key = key_of(node)
        if not self._check_outputs(node, frame, key):
            return
        inputs = [self._lookup(text(name), node, frame, key) for name in node.input]
        while inputs and inputs[-1] is None:
            inputs.pop()
        before = len(self.problems)
        opset = self._opset(node, frame, key)
        poisoned = any(v in self.poisoned for v in inputs if v is not None)
        results: Sequence[Value | None] | None = None
        if opset is not None:
            try:
                results = self._convert(node, key, opset, inputs, frame)
            except LimitError:
                raise
            except Exception as e:  # whatever a converter raises is a problem of this node
                if not poisoned:
                    self._problem(node, key, frame, _reason(e))
            else:
                lost = [o for o, v in zip(node.output, results) if o and v is None] if results is not None else []
                if lost:
                    self._problem(node, key, frame, f"its output {shown(lost[0])} is not computed", "leave that output out")
        self._define(node, frame, results, poisoned or len(self.problems) > before)

    def _check_outputs(self, node: onnx.NodeProto, frame: Frame, key: Key) -> bool:
        names = [text(o) for o in node.output if o]
        for i, name in enumerate(names):
            if frame.scope.defined(name) or name in names[:i]:
                self._problem(
                    node, key, frame, f"its output {shown(name)} is defined already", "give every value of a graph its own name"
                )
                return False
        return True

    def _define(self, node: onnx.NodeProto, frame: Frame, results: Sequence[Value | None] | None, poisoned: bool) -> None:
        for i, name in enumerate(node.output):
            if not name:
                continue
            v = results[i] if results is not None and i < len(results) else None
            if v is None:
                v = Value(frame.ir_name(name), None, graph=frame.graph)
                poisoned = True
            if poisoned:
                self.poisoned.add(v)
            frame.scope.define(name, v)

    def _lookup(self, name: str, node: onnx.NodeProto, frame: Frame, key: Key) -> Value | None:
        if not name:
            return None
        v = frame.scope.get(name)
        if v is OMITTED:
            return None
        if v is None:
            self._problem(
                node, key, frame, f"its input {shown(name)} is not defined", "expected an input, initializer or earlier output"
            )
            v = Value(name, None, graph=frame.graph)
            self.poisoned.add(v)
            frame.scope.define(name, v)  # reported once
        return v

    def _opset(self, node: onnx.NodeProto, frame: Frame, key: Key) -> int | None:
        domain = key[0]
        if domain in frame.opsets:
            return frame.opsets[domain]
        if domain in self.functions.domains:
            return 1
        self._problem(node, key, frame, f"the domain {shown(domain) or 'ai.onnx'} is not in the model's opset_import",
                      "add it there with the version the model was made for")  # fmt: skip
        return None

    def _convert(
        self, node: onnx.NodeProto, key: Key, opset: int, inputs: list[Value | None], frame: Frame
    ) -> Sequence[Value | None] | None:
        """The node's results; None where a problem was reported."""
        if key[:2] == ("", "Constant") and registry.find(*key[:2]) is None:
            return [self._constant(node, frame)]
        target = self.resolver.target(key, opset)
        if target is None and (f := self._from_schema(node, opset, inputs, frame)) is not None:
            target = f
        if isinstance(target, onnx.FunctionProto):
            return self._inline(target, node, key, inputs, frame)
        if target is None:
            self._problem(node, key, frame, *unknown(key, opset, suggest=len(self.problems) < MOST_LINES))
            return None
        call = self._call(node, key, opset, inputs, frame)
        if call is None:
            return None
        if callable(target):
            return self._by_converter(target, call, node, frame)
        return self._emit(*target, call, node, frame)

    # ---- attributes

    def _from_schema(
        self, node: onnx.NodeProto, opset: int, inputs: Sequence[Value | None], frame: Frame
    ) -> onnx.FunctionProto | None:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        del plain.attribute[:]
        plain.attribute.extend(a for a, _ in self._attributes(node, frame).values())
        return schema_function(plain, opset, [None if v is None else self.hints.type_of(v) for v in inputs])

    def _attributes(self, node: onnx.NodeProto, frame: Frame) -> dict[str, tuple[onnx.AttributeProto, Frame]]:
        """The node's attributes by name, references to a function's attributes replaced by what the call gives."""
        out = {}
        for a in node.attribute:
            if not a.ref_attr_name:
                out[text(a.name)] = (a, frame)
            elif a.ref_attr_name in frame.attrs:
                given, where = frame.attrs[a.ref_attr_name]
                renamed = onnx.AttributeProto()
                renamed.CopyFrom(given)
                renamed.name = a.name
                out[text(a.name)] = (renamed, where)
        return out

    def _call(self, node: onnx.NodeProto, key: Key, opset: int, inputs: list[Value | None], frame: Frame) -> OnnxCall | None:
        attrs: dict[str, Any] = {}
        types = schema_types(key[0], key[1], opset)
        failed = len({a.name for a in node.attribute}) != len(node.attribute)
        if failed:
            self._problem(node, key, frame, "an attribute is given twice", "expected each attribute once")
        for name, (a, where) in self._attributes(node, frame).items():
            if name == "consumed_inputs" or name.startswith("__"):
                continue  # opset 1 to 5's in-place hints, and what runtimes note for themselves: neither means anything
            try:
                check_type(a, types.get(name))
                attrs[name] = GraphAttr(a.g, where) if a.HasField("g") else decode(a, self.limits, self.source.folder)
            except GraphmillError as e:
                self._problem(node, key, frame, str(e), attribute=name)
                failed = True
        if failed:
            return None
        outputs = list(node.output)
        while outputs and not outputs[-1]:
            outputs.pop()
        base = frame.ir_name(next((o for o in outputs if o), node.name))
        return OnnxCall(key[1], key[0], opset, node_name(node), inputs, attrs, max(len(outputs), 1),
                        lambda array: self.module.add_const(f"{base}.const", np.asarray(array)),
                        lambda v: None if v is None else v.array, self.hints.rank, self.hints.dtype)  # fmt: skip

    # ---- ways to convert

    def _emit(self, form: Onnx, op: OpDef, call: OnnxCall, node: onnx.NodeProto, frame: Frame) -> Sequence[Value] | None:
        key = key_of(node)
        if call.opset < form.since:
            self._problem(node, key, frame, f"the operator is new in opset {form.since}", "export the model with that opset")
            return None
        if op.has("opaque"):
            opaque.prepare(call)
        for version in sorted(form.before):
            if version > call.opset:
                form.before[version](call)
        if form.adapt is not None:
            form.adapt(call)
        attrs = {form.rename.get(k, k): v for k, v in call.attrs.items()}
        graphs = {name: attrs.pop(name) for name in op.regions if name in attrs}
        if not self._fits(op, call, attrs, graphs, node, frame):
            return None
        regions = [self.region(graphs[name], name) for name in op.regions]
        attrs = {k: _default_if_equal(v, op, k) for k, v in attrs.items()}
        made = frame.graph.add(op, call.inputs, attrs, names=self._result_names(node, call.n_outputs, frame), regions=regions,
                               locs=frame.locs(node))  # fmt: skip
        return made.results

    def region(self, graph: GraphAttr, name: str) -> Graph:
        """The IR region of a graph attribute; implemented where graphs are read."""
        raise NotImplementedError

    def _fits(
        self, op: OpDef, call: OnnxCall, attrs: Mapping[str, Any], graphs: Mapping[str, Any], node: onnx.NodeProto, frame: Frame
    ) -> bool:
        """Whether attributes, operands and results are those that the operator has; reports what is not."""
        key, before = key_of(node), len(self.problems)
        while call.inputs and call.inputs[-1] is None:
            call.inputs.pop()
        for name, value in attrs.items():
            if name not in op.attrs and not op.has("opaque"):
                known = name in schema_types(call.domain, call.op_type, call.opset)
                spelled = ", ".join(sorted(op.attrs)) or "none"
                wrong = f"the attribute {shown(name)} = {_short(value)} is {'not supported' if known else 'unknown'}"
                self._problem(node, key, frame, wrong,
                              f"expected only {spelled}", name)  # fmt: skip
        for name, a in op.attrs.items():
            if a.default is REQUIRED and name not in attrs:
                self._problem(node, key, frame, f"the attribute {name} is missing", "the operator needs it", name)
        for name in op.regions:
            if not isinstance(graphs.get(name), GraphAttr):
                self._problem(node, key, frame, f"the graph {name} is missing", "the operator needs it", name)
        fixed = [o for o in op.operands if not o.variadic]
        if len(call.inputs) > len(fixed) and len(fixed) == len(op.operands):
            self._problem(node, key, frame, f"{len(call.inputs)} inputs are given", f"expected at most {len(fixed)}")
        for i, o in enumerate(fixed):
            if not o.optional and (i >= len(call.inputs) or call.inputs[i] is None):
                self._problem(node, key, frame, f"input {i} ({o.name}) is missing", "the operator needs it")
        if op.results is not None and call.n_outputs > op.results:
            self._problem(node, key, frame, f"{call.n_outputs} outputs are asked for", f"expected at most {op.results}")
        return len(self.problems) == before

    def _result_names(self, node: onnx.NodeProto, count: int, frame: Frame) -> list[str]:
        """IR names for `count` results: the ONNX outputs' own, derived ones where an output was left out."""
        given = [text(o) for o in node.output][:count]
        given += [""] * (count - len(given))
        first = next((o for o in given if o), node.name or node.op_type)
        return [frame.ir_name(o) if o else f"{frame.ir_name(first)}.{i}" for i, o in enumerate(given)]

    def _by_converter(self, fn: registry.Converter, call: OnnxCall, node: onnx.NodeProto, frame: Frame) -> Sequence[Value | None]:
        names = self._result_names(node, call.n_outputs, frame)
        builder = registry.Builder(frame.graph, names[0], frame.locs(node))
        made = fn(builder, call)
        values = [made] if isinstance(made, Value) else list(made)
        if len(values) < call.n_outputs or not all(v is None or isinstance(v, Value) for v in values):
            raise TypeError(f"its converter returned {len(values)} values, expected {call.n_outputs} ir Values")
        unnamed = set(builder.made)  # the model's own names go to the results that were made here
        for name, v in zip(names, values):
            if v in unnamed:
                unnamed.discard(v)
                v.name = self.module.fresh(name)
        return values

    def _constant(self, node: onnx.NodeProto, frame: Frame) -> Value:
        attrs = self._attributes(node, frame)
        if len(attrs) != 1:
            raise ValueError(
                f"a Constant with {len(attrs)} attributes; expected exactly one of value, sparse_value, value_int, ..."
            )
        ((name, (a, _)),) = attrs.items()
        check_type(a, schema_types("", "Constant", newest_opsets()[""]).get(name, -1))
        out = frame.ir_name(text(node.output[0]))
        if name == "value":
            return self.module.add_const(out, *read_tensor(a.t, self.limits, self.source.folder))
        if name == "sparse_value":
            return self.module.add_const(out, *read_sparse(a.sparse_tensor, self.limits, self.source.folder))
        dtypes: dict[str, Any] = {
            "value_int": np.int64,
            "value_ints": np.int64,
            "value_float": np.float32,
            "value_floats": np.float32,
        }
        return self.module.add_const(out, np.array(decode(a, self.limits, None), dtypes.get(name, object)))

    def _inline(
        self, f: onnx.FunctionProto, node: onnx.NodeProto, key: Key, inputs: Sequence[Value | None], frame: Frame
    ) -> Sequence[Value | None]:
        if frame.depth <= 0:
            raise LimitError(f"functions and graphs are nested deeper than {self.limits.depth}; raise Limits.depth to allow it")
        if len(inputs) > len(f.input) or len(node.output) > len(f.output):
            raise ValueError(
                f"it is called with {len(inputs)} inputs for {len(node.output)} outputs; "
                f"the function has {len(f.input)} and {len(f.output)}"
            )
        attrs = {text(a.name): (a, frame) for a in f.attribute_proto} | self._attributes(node, frame)
        standard = schema_types(key[0], key[1], frame.opsets.get(key[0], 1))
        unknown = set(attrs) - set(f.attribute) - {a.name for a in f.attribute_proto} - set(standard)
        if unknown:
            raise ValueError(
                f"the function has no attribute {shown(min(unknown))}; expected only {', '.join(sorted(f.attribute)) or 'none'}"
            )
        names = self._result_names(node, len(node.output), frame)
        opsets = opsets_of(f.opset_import) or dict(frame.opsets)
        check_opsets(opsets, f"the function {shown(f.name)}")
        inner = Frame(
            frame.graph,
            Scope(),
            opsets,
            frame.depth - 1,
            f"{frame.path}{node_name(node)}/",
            names[0],
            dict(zip(f.output, names)),
            attrs,
        )
        for i, name in enumerate(f.input):
            v = inputs[i] if i < len(inputs) else None
            inner.scope.define(name, OMITTED if v is None else v)
        for n in self.functions.nodes(f, self.limits.depth):
            self.node(n, inner)
        results = [inner.scope.get(o) for o in f.output]
        if any(r is None for r in results[: len(node.output)]):
            raise ValueError(f"the function {shown(f.name)} does not define all of its outputs")
        return [None if r is OMITTED else r for r in results]

    def _problem(self, node: onnx.NodeProto, key: Key, frame: Frame, message: str, hint: str = "", attribute: str = "") -> None:
        self.problems.add(
            Problem(message, hint, frame.path + node_name(node), key[1], key[0], frame.opsets.get(key[0], 0), attribute)
        )


def _reason(e: Exception) -> str:
    """What an exception of a converter says, its type where that is no plain refusal."""
    if isinstance(e, (GraphmillError, ValueError)) and str(e):
        return str(e)
    return f"its conversion failed: {type(e).__name__}: {e}"


def _short(value: Any) -> str:
    shape = (
        f"an array of shape {list(value.shape)}"
        if isinstance(value, np.ndarray)
        else "a graph"
        if isinstance(value, GraphAttr)
        else None
    )
    return shape or shown(repr(value)[:80])


def _default_if_equal(value: Any, op: OpDef, name: str) -> Any:
    """ONNX holds floats in 32 bits: one that is the default rounded to them is the default."""
    if type(value) is float and name in op.attrs:
        default = op.attrs[name].default
        if type(default) is float and value == float(np.float32(default)):
            return default
    return value
