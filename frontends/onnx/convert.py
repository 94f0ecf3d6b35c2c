"""ONNX nodes to IR nodes: the operator is looked up, brought to its newest form, checked and emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ...ir.core import Constant, Graph, Module, Value
from ...ir.errors import GraphmillError, LimitError
from ...ir.limits import Limits
from ...ir.op import REQUIRED, Onnx, OnnxCall, OpDef
from ...ir.types import TensorType
from .. import registry
from . import opaque
from .attributes import check_type, decode, schema_types
from .functions import Functions, check_opsets, newest_opsets, opsets_of, schema_function
from .hints import Hints
from .problems import MOST_LINES, Problems, shown, text
from .protobuf import Source
from .resolve import Resolver, unknown
from .scope import Scope
from .site import Frame, GraphAttr, Site
from .tensors import read_sparse, read_tensor

OMITTED = object()  # what a function's formal input means where the call leaves it out

Results = Sequence[Value | None]


class NodeConverter:
    """Converts nodes one by one. What goes wrong is added to `problems`; the outputs of such a node are *poisoned*: they stand in
    for the missing values, and errors that only follow from them are not reported."""

    def __init__(self, source: Source, module: Module, problems: Problems, functions: Functions, limits: Limits):
        self.source, self.module, self.problems, self.functions, self.limits = source, module, problems, functions, limits
        self.poisoned: set[Value] = set()
        self.resolver = Resolver(functions)
        self.hints = Hints()
        self._count = 0

    # ---- one node

    def node(self, node: onnx.NodeProto, frame: Frame) -> None:
        """Converts one node and defines its outputs in the frame's scope."""
        self._count += 1
        if self._count > self.limits.nodes:
            raise LimitError(f"more than {self.limits.nodes} nodes once functions are inlined; raise Limits.nodes to allow them")
        site = Site.of(node, frame)
        if not self._outputs_are_new(site):
            return
        inputs = [self._lookup(name, site) if name else None for name in site.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        before = len(self.problems)
        poisoned = bool(self.poisoned) and any(v in self.poisoned for v in inputs)
        results: Results | None = None
        opset = self._opset(site)
        if opset is not None:
            try:
                results = self._convert(site, opset, inputs)
            except LimitError:
                raise
            except Exception as e:  # whatever a converter raises is a problem of this node
                if not poisoned:
                    self._problem(site, _reason(e))
            else:
                lost = [o for o, v in zip(site.outputs, results) if o and v is None] if results is not None else []
                if lost:
                    self._problem(site, f"its output {shown(lost[0])} is not computed", "leave that output out")
        self.define(site, results, poisoned or len(self.problems) > before)

    def _outputs_are_new(self, site: Site) -> bool:
        for i, name in enumerate(site.outputs):
            if name and (site.frame.scope.defined(name) or name in site.outputs[:i]):
                self._problem(site, f"its output {shown(name)} is defined already", "give every value of a graph its own name")
                return False
        return True

    def define(self, site: Site, results: Results | None, poisoned: bool) -> None:
        """Gives the outputs of a node their values, stand-ins where there are none."""
        for i, name in enumerate(site.outputs):
            if not name:
                continue
            v = results[i] if results is not None and i < len(results) else None
            if v is None:
                v = Value(site.frame.ir_name(name), None, graph=site.frame.graph)
                poisoned = True
            if poisoned:
                self.poisoned.add(v)
            site.frame.scope.define(name, v)

    def _lookup(self, name: str, site: Site) -> Value | None:
        v = site.frame.scope.get(name)
        if v is OMITTED:
            return None
        if v is None:
            self._problem(site, f"its input {shown(name)} is not defined", "expected an input, initializer or earlier output")
            v = Value(name, None, graph=site.frame.graph)
            self.poisoned.add(v)
            site.frame.scope.define(name, v)  # reported once
        return v

    def _opset(self, site: Site) -> int | None:
        domain, opsets = site.key[0], site.frame.opsets
        if domain in opsets:
            return opsets[domain]
        if domain in self.functions.domains:
            return 1
        wrong = f"the domain {shown(domain) or 'ai.onnx'} is not in the model's opset_import"
        self._problem(site, wrong, "add it there with the version the model was made for")
        return None

    def _convert(self, site: Site, opset: int, inputs: list[Value | None]) -> Results | None:
        """The node's results; None where a problem was reported."""
        target = self.resolver.target(site.key, opset)
        if site.key[:2] == ("", "Constant") and not callable(target):
            return [self._constant(site)]
        if target is None:
            target = self._from_schema(site, opset, inputs)
        if isinstance(target, onnx.FunctionProto):
            return self._inline(target, site, inputs)
        if target is None:
            self._problem(site, *unknown(site.key, opset, suggest=len(self.problems) < MOST_LINES))
            return None
        call = self._call(site, opset, inputs)
        if call is None:
            return None
        if callable(target):
            return self._by_converter(target, call, site)
        return self._emit(*target, call, site)

    def _problem(self, site: Site, message: str, hint: str = "", attribute: str = "") -> None:
        self.problems.add(site.problem(message, hint, attribute))

    # ---- attributes

    def _attributes(self, site: Site) -> dict[str, tuple[onnx.AttributeProto, Frame]]:
        """The node's attributes by name, references to a function's attributes replaced by what the call gives."""
        out = {}
        for a in site.node.attribute:
            if not a.ref_attr_name:
                out[text(a.name)] = (a, site.frame)
            elif a.ref_attr_name in site.frame.attrs:
                given, where = site.frame.attrs[a.ref_attr_name]
                renamed = onnx.AttributeProto()
                renamed.CopyFrom(given)
                renamed.name = a.name
                out[text(a.name)] = (renamed, where)
        return out

    def _call(self, site: Site, opset: int, inputs: list[Value | None]) -> OnnxCall | None:
        """What the operator's conversion is given; None where an attribute cannot be read."""
        domain, op_type, _ = site.key
        attrs: dict[str, Any] = {}
        failed = False
        if site.node.attribute:
            if len({a.name for a in site.node.attribute}) != len(site.node.attribute):
                self._problem(site, "an attribute is given twice", "expected each attribute once")
                return None
            types = schema_types(domain, op_type, opset)
            for name, (a, where) in self._attributes(site).items():
                if name == "consumed_inputs" or name.startswith("__"):
                    continue  # opset 1 to 5's in-place hints, and what runtimes note for themselves: neither means anything
                try:
                    check_type(a, types.get(name))
                    attrs[name] = GraphAttr(a.g, where) if a.HasField("g") else decode(a, self.limits, self.source.folder)
                except GraphmillError as e:
                    self._problem(site, str(e), attribute=name)
                    failed = True

        def const(array: np.ndarray) -> Value:
            return self.module.add_const(f"{site.result_names(1)[0]}.const", np.asarray(array))

        call = OnnxCall(op_type, domain, opset, site.shown, inputs, attrs, max(len(site.outputs), 1), const, _array,
                        self.hints.rank, self.hints.dtype)  # fmt: skip
        return None if failed else call

    # ---- ways to convert

    def _emit(self, form: Onnx, op: OpDef, call: OnnxCall, site: Site) -> Results | None:
        """By an operator of the IR."""
        if call.opset < form.since:
            newer = f"it is new in opset {form.since}; export the model with that one or a newer one"
            self._problem(site, f"ONNX opset {call.opset} has no such operator", newer)
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
        if not self._fits(op, call, attrs, graphs, site):
            return None
        regions = [self.region(graphs[name], name) for name in op.regions]
        attrs = {k: _default_if_equal(v, op, k) for k, v in attrs.items()}
        names = site.result_names(call.n_outputs)
        return site.frame.graph.add(op, call.inputs, attrs, names=names, regions=regions, locs=site.locs).results

    def region(self, graph: GraphAttr, name: str) -> Graph:
        """The IR region of a graph attribute; implemented where graphs are read."""
        raise NotImplementedError

    def _fits(self, op: OpDef, call: OnnxCall, attrs: Mapping[str, Any], graphs: Mapping[str, Any], site: Site) -> bool:
        """Whether attributes, operands and results are those that the operator has; reports what is not."""
        before = len(self.problems)
        while call.inputs and call.inputs[-1] is None:
            call.inputs.pop()
        for name, value in attrs.items():
            if name not in op.attrs and not op.has("opaque"):
                state = "not supported" if name in schema_types(call.domain, call.op_type, call.opset) else "unknown"
                spelled = ", ".join(sorted(op.attrs)) or "none"
                self._problem(site, f"the attribute {shown(name)} = {_short(value)} is {state}", f"expected only {spelled}", name)
        for name, a in op.attrs.items():
            if a.default is REQUIRED and name not in attrs:
                self._problem(site, f"the attribute {name} is missing", "the operator needs it", name)
        for name in op.regions:
            if not isinstance(graphs.get(name), GraphAttr):
                self._problem(site, f"the graph {name} is missing", "the operator needs it", name)
        given = len(call.inputs)
        if given > len(op.operands) and not (op.operands and op.operands[-1].variadic):
            self._problem(site, f"{given} inputs are given", f"expected at most {len(op.operands)}")
        for i, o in enumerate(op.operands):
            if not (o.optional or o.variadic) and (i >= given or call.inputs[i] is None):
                self._problem(site, f"input {i} ({o.name}) is missing", "the operator needs it")
        if op.results is not None and call.n_outputs > op.results:
            self._problem(site, f"{call.n_outputs} outputs are asked for", f"expected at most {op.results}")
        return len(self.problems) == before

    def _by_converter(self, fn: registry.Converter, call: OnnxCall, site: Site) -> Results:
        """By a function that makes several IR nodes."""
        names = site.result_names(call.n_outputs)
        builder = registry.Builder(site.frame.graph, names[0], site.locs)
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

    def _constant(self, site: Site) -> Value:
        attrs, types = self._attributes(site), schema_types("", "Constant", newest_opsets()[""])
        name = next(iter(attrs), "")
        if len(attrs) != 1 or name not in types:
            raise ValueError(
                f"a Constant with the attributes {sorted(map(shown, attrs))}; expected one of {', '.join(sorted(types))}"
            )
        a, _ = attrs[name]
        check_type(a, types[name])
        out = site.result_names(1)[0]
        if name == "value":
            return self.module.add_const(out, *read_tensor(a.t, self.limits, self.source.folder))
        if name == "sparse_value":
            return self.module.add_const(out, *self.sparse(a.sparse_tensor))
        dtype = np.int64 if "int" in name else np.float32 if "float" in name else object
        return self.module.add_const(out, np.array(decode(a, self.limits, None), dtype))

    def sparse(self, s: onnx.SparseTensorProto) -> tuple[Constant, TensorType]:
        """A sparse constant made dense. Raises LimitError where all of the model hold more than `limits.fold_bytes`."""
        constant, t = read_sparse(s, self.limits, self.source.folder)
        self.module.dense_bytes += constant.array.nbytes
        if self.module.dense_bytes > self.limits.fold_bytes:
            most = self.limits.fold_bytes
            raise LimitError(f"the sparse constants take more than {most} bytes; raise Limits.fold_bytes to allow it")
        return constant, t

    def _from_schema(self, site: Site, opset: int, inputs: Results) -> onnx.FunctionProto | None:
        """The function by which ONNX defines the operator, built for this node's attributes and types."""
        plain = onnx.NodeProto()
        plain.CopyFrom(site.node)
        del plain.attribute[:]
        plain.attribute.extend(a for a, _ in self._attributes(site).values())
        return schema_function(plain, opset, [None if v is None else self.hints.type_of(v) for v in inputs])

    def _inline(self, f: onnx.FunctionProto, site: Site, inputs: Results) -> Results:
        """By the nodes of a function, in a scope of their own."""
        frame, asked = site.frame, len(site.outputs)
        if frame.depth <= 0:
            raise LimitError(f"functions and graphs are nested deeper than {self.limits.depth}; raise Limits.depth to allow it")
        if len(inputs) > len(f.input) or asked > len(f.output):
            raise ValueError(
                f"it has {len(inputs)} inputs and {asked} outputs; the function has {len(f.input)} and {len(f.output)}"
            )
        attrs = {text(a.name): (a, frame) for a in f.attribute_proto} | self._attributes(site)
        extra = set(attrs) - set(f.attribute) - {a.name for a in f.attribute_proto} - set(schema_types(*site.key[:2], 1 << 30))
        if extra:
            raise ValueError(
                f"the function has no attribute {shown(min(extra))}; it has {', '.join(sorted(f.attribute)) or 'none'}"
            )
        opsets = {**frame.opsets, **opsets_of(f.opset_import)}  # what a function does not import has the caller's version
        check_opsets(opsets, f"the function {shown(f.name)}")
        names = site.result_names(max(asked, 1))
        inner = Frame(frame.graph, Scope(), opsets, frame.depth - 1, f"{frame.path}{site.shown}/", names[0],
                      dict(zip(f.output, names)), attrs)  # fmt: skip
        for i, name in enumerate(f.input):
            v = inputs[i] if i < len(inputs) else None
            inner.scope.define(name, OMITTED if v is None else v)
        for n in self.functions.nodes(f, self.limits.depth):
            self.node(n, inner)
        results = [inner.scope.get(o) for o in f.output]
        return [None if r is OMITTED else r for r in results]


def _array(v: Value | None) -> np.ndarray | None:
    return None if v is None else v.array


def _reason(e: Exception) -> str:
    """What an exception of a converter says, its type where that is no plain refusal."""
    if isinstance(e, (GraphmillError, ValueError)) and str(e):
        return str(e)
    return f"its conversion failed: {type(e).__name__}: {e}"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)}"
    return "a graph" if isinstance(value, GraphAttr) else shown(repr(value)[:80])


def _default_if_equal(value: Any, op: OpDef, name: str) -> Any:
    """ONNX holds floats in 32 bits: one that is the default rounded to them is the default."""
    if type(value) is float and name in op.attrs:
        default = op.attrs[name].default
        if type(default) is float and value == float(np.float32(default)):
            return default
    return value
