"""Where a node stands: the names, opsets and attributes that hold there, and the node itself in plain Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from ...ir.core import Graph
from .functions import Key, key_of
from .problems import Problem, text
from .scope import Scope


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


@dataclass(eq=False, slots=True)
class Site:
    """A node in its frame. `outputs` ends with the last one that has a name; all names are known to be text."""

    node: onnx.NodeProto
    frame: Frame
    key: Key
    name: str
    inputs: list[str]
    outputs: list[str]

    @staticmethod
    def of(node: onnx.NodeProto, frame: Frame) -> Site:
        """Raises HostileModelError for names that are no UTF-8."""
        inputs, outputs = list(node.input), list(node.output)
        if bytes in map(type, inputs) or bytes in map(type, outputs):
            inputs, outputs = [text(i) for i in inputs], [text(o) for o in outputs]
        while outputs and not outputs[-1]:
            outputs.pop()
        return Site(node, frame, key_of(node), text(node.name), inputs, outputs)

    @property
    def shown(self) -> str:
        """What messages call the node: its name, or `%` and its first output."""
        return self.name or "%" + next((o for o in self.outputs if o), "")

    @property
    def locs(self) -> list[str]:
        """The location of the node: its name behind the calls around it; nothing where nothing has a name."""
        if self.name:
            return [self.frame.path + self.name]
        return [self.frame.path[:-1]] if self.frame.path else []

    def result_names(self, count: int) -> list[str]:
        """IR names for `count` results: the ONNX outputs' own, derived ones where an output was left out."""
        given, ir_name = self.outputs[:count], self.frame.ir_name
        if count == len(given) and all(given):
            return [ir_name(o) for o in given]
        given += [""] * (count - len(given))
        first = ir_name(next((o for o in given if o), self.name or self.key[1]))
        return [ir_name(o) if o else f"{first}.{i}" for i, o in enumerate(given)]

    def problem(self, message: str, hint: str = "", attribute: str = "") -> Problem:
        domain, op_type, _ = self.key
        return Problem(message, hint, self.frame.path + self.shown, op_type, domain, self.frame.opsets.get(domain, 0), attribute)
