"""Loops without end, functions and graphs nested without end, cycles, long chains."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from hostile_harness import Case, graph, model, node
from onnx import helper

X = np.arange(4, dtype=np.float32)
MOST = np.int64((1 << 63) - 1)
TRUE = np.array(True)


def endless(scan: bool = False, trips: bool = True, cond: bool = True, grows: bool = False, depth: int = 1):
    def body(level: int):
        if level < depth:
            inner = [node("Loop", ["M", "c0", "v"], ["w"], body=body(level + 1)), node("Identity", ["c"], ["d"])]
        else:
            inner = [
                node("Concat", ["v", "v"], ["w"], axis=0) if grows else node("Add", ["v", "one"], ["w"]),
                node("Identity", ["c"], ["d"]),
            ]
        outs = ["d", "w"]
        if scan and level == depth == 1:
            inner.append(node("Identity", ["w"], ["s"]))
            outs.append("s")
        return graph(inner, {"i": (np.int64, ()), "c": (np.bool_, ()), "v": (np.float32, None)}, outs)

    ops = ["M" if trips else "", "c0" if cond else "", "x"]
    return model([node("Loop", ops, ["y", "s"] if scan else ["y"], body=body(1))], {"x": X}, ["y", "s"] if scan else ["y"],
                 {"M": MOST, "c0": TRUE, "one": np.float32(1)})  # fmt: skip


def growing_sequence():
    body = graph([node("SequenceInsert", ["v", "x"], ["w"]), node("Identity", ["c"], ["d"])],
                 {"i": (np.int64, ()), "c": (np.bool_, ())}, ["d", "w"])  # fmt: skip
    body.input.append(helper.make_tensor_sequence_value_info("v", 1, None))
    return model([node("SequenceEmpty", [], ["s"]), node("Loop", ["M", "", "s"], ["t"], body=body),
                  node("SequenceLength", ["t"], ["y"])], {"x": X}, inits={"M": MOST})  # fmt: skip


def scan(count: int, inputs: int = 1):
    body = graph(
        [node("Add", ["v", "e"], ["w"]), node("Identity", ["w"], ["s"])], {"v": (np.float32, ()), "e": (np.float32, ())}, ["w", "s"]
    )
    return model([node("Expand", ["x", "n"], ["xs"]), node("Scan", ["x", "xs"], ["y", "s"], body=body, num_scan_inputs=inputs)],
                 {"x": np.float32(1)}, ["y", "s"], {"n": np.array([count])})  # fmt: skip


def fibonacci(levels: int, domain: str = "f"):
    """Functions each of which calls the one before twice."""
    made = []
    for i in range(levels):
        inner = (
            [node("Neg", ["a"], ["b"])]
            if i == 0
            else [node(f"f{i - 1}", ["a"], ["m"], domain=domain), node(f"f{i - 1}", ["m"], ["b"], domain=domain)]
        )
        made.append(
            helper.make_function(
                domain, f"f{i}", ["a"], ["b"], inner, [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
            )
        )
    return model([node(f"f{levels - 1}", ["x"], ["y"], domain=domain)], {"x": X}, functions=made, domains=[domain])


def recursive(steps: int = 1):
    made = []
    for i in range(steps):
        inner = [node(f"f{(i + 1) % steps}", ["a"], ["b"], domain="f")]
        made.append(
            helper.make_function("f", f"f{i}", ["a"], ["b"], inner, [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)])
        )
    return model([node("f0", ["x"], ["y"], domain="f")], {"x": X}, functions=made, domains=["f"])


def recursive_in_branch():
    inner = [node("If", ["c"], ["b"], then_branch=graph([node("f0", ["a", "c"], ["t"], domain="f")], {}, ["t"]),
                  else_branch=graph([node("Neg", ["a"], ["e"])], {}, ["e"]))]  # fmt: skip
    f = helper.make_function("f", "f0", ["a", "c"], ["b"], inner, [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)])
    return model([node("f0", ["x", "c"], ["y"], domain="f")], {"x": X, "c": TRUE}, functions=[f], domains=["f"])


def nested_ifs(depth: int) -> bytes:
    """Put together as bytes, from the inside out: the protobuf library itself refuses to make so deep a message."""

    def varint(n: int) -> bytes:
        out = b""
        while n > 127:
            out, n = out + bytes([n & 127 | 128]), n >> 7
        return out + bytes([n])

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    def chunk(number: int, message: onnx.GraphProto | onnx.NodeProto) -> bytes:
        return field(number, message.SerializeToString())

    leaf = field(2, b"g") + field(12, field(1, b"r")) + chunk(1, node("Neg", ["x"], ["r"]))
    body = leaf
    for i in range(depth):
        attrs = [field(1, name) + field(6, g) + b"\xa0\x01\x05" for name, g in ((b"then_branch", body), (b"else_branch", leaf))]
        inner = field(1, b"c") + field(2, b"r" if i < depth - 1 else b"y") + field(4, b"If") + b"".join(field(5, a) for a in attrs)
        body = field(2, b"g") + field(12, field(1, b"r" if i < depth - 1 else b"y")) + field(1, inner)
    outer = model([node("Neg", ["x"], ["unused"])], {"x": X, "c": TRUE}, [])
    return field(8, b"\x0a\x00\x10\x15"[2:]) + b"\x08\x0a" + field(7, body + b"".join(chunk(11, v) for v in outer.graph.input))


def chain(op_types, count: int, inputs=None):
    names = ["x", *(f"v{i}" for i in range(1, count)), "y"]
    types = [op_types] * count if isinstance(op_types, str) else [op_types[i % len(op_types)] for i in range(count)]
    return lambda: model([node(t, [a, *(["b"] if t in ("Add", "MatMul") else [])], [c]) for t, a, c in zip(types, names, names[1:])],
                         inputs or {"x": X}, inits={"b": np.zeros((4, 4), np.float32) if "MatMul" in types else X * 0})  # fmt: skip


def fan(count: int):
    """One value read by many nodes, all summed."""
    return model(
        [*(node("Relu", ["x"], [f"v{i}"]) for i in range(count)), node("Sum", [f"v{i}" for i in range(count)], ["y"])], {"x": X}
    )


def ladder(count: int):
    """Each value read twice by the next: without sharing, 2^count nodes."""
    names = ["x", *(f"v{i}" for i in range(1, count)), "y"]
    return model(
        [node("Max", [a, a], [b]) if i % 2 else node("Add", [a, a], [b]) for i, (a, b) in enumerate(pairwise(names))],
        {"x": X},
    )


def mixed_ladder(count: int):
    nodes, a, b = [], "x", "x"
    for i in range(count):
        nodes += [node("Sin", [a], [f"s{i}"]), node("Mul", [f"s{i}", b], [f"m{i}"])]
        a, b = f"m{i}", f"s{i}"
    return model([*nodes, node("Add", [a, b], ["y"])], {"x": X})


def symbols(count: int):
    """Reshapes that multiply dim expressions over and over."""
    nodes, last = [], "x"
    for i in range(count):
        nodes += [node("Shape", [last], [f"s{i}"]), node("Concat", [last, last], [f"c{i}"], axis=0), node("Shape", [f"c{i}"], [f"t{i}"]),
                  node("Add", [f"s{i}", f"t{i}"], [f"u{i}"]), node("Mul", [f"u{i}", f"u{i}"], [f"q{i}"])]  # fmt: skip
        last = f"c{i}" if i < 3 else last
    big = nodes[0].output[0]
    for i in range(count):
        nodes += [node("Mul", [big, f"q{i}"], [f"p{i}"]), node("Add", [f"p{i}", "one"], [f"r{i}"])]
        big = f"r{i}"
    return model([*nodes, node("ConstantOfShape", [big], ["y"])], {"x": (np.float32, ["N", "M"])}, inits={"one": np.array([1, 1])})


def twice(kind: str):
    m = model([node("Neg", ["x"], ["y"]), node("Abs", ["x"], ["z"])], {"x": X}, ["y", "z"], {"w": X})
    if kind == "value":
        m.graph.node[1].output[0] = "y"
        del m.graph.output[1]
    elif kind == "input and value":
        m.graph.node[1].output[0] = "x"
        del m.graph.output[1]
    elif kind == "inputs":
        m.graph.input.append(m.graph.input[0])
    elif kind == "constants":
        m.graph.initializer.append(m.graph.initializer[0])
    elif kind == "constant and value":
        m.graph.node[1].output[0] = "w"
        del m.graph.output[1]
    elif kind == "outputs":
        m.graph.output.append(m.graph.output[0])
    elif kind == "functions":
        f = helper.make_function("f", "f", ["a"], ["b"], [node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 21)])
        m.functions.extend([f, f])
    elif kind == "attributes":
        m.graph.node[0].op_type = "LeakyRelu"
        m.graph.node[0].attribute.extend([helper.make_attribute("alpha", 0.5), helper.make_attribute("alpha", 0.25)])
    elif kind == "opsets":
        m.opset_import.append(helper.make_opsetid("", 7))
    return m


def cycle(length: int):
    return model(
        [node("Neg", [f"v{i}"], [f"v{(i + 1) % length}"]) for i in range(length)] + [node("Add", ["x", "v0"], ["y"])], {"x": X}
    )


def self_branch():
    """A branch that reads what its own If returns."""
    b = graph([node("Neg", ["y"], ["t"])], {}, ["t"])
    return model([node("If", ["c"], ["y"], then_branch=b, else_branch=b)], {"c": TRUE})


def shadowed():
    """A branch whose value has the name of one outside."""
    b = graph([node("Neg", ["x"], ["h"]), node("Neg", ["h"], ["t"])], {}, ["t"])
    return model([node("Abs", ["x"], ["h"]), node("If", ["c"], ["y"], then_branch=b, else_branch=b)], {"x": X, "c": TRUE})


def reference_attribute():
    """A function whose attribute refers to itself."""
    n = node("LeakyRelu", ["a"], ["b"])
    n.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    f = helper.make_function("f", "f", ["a"], ["b"], [n], [helper.make_opsetid("", 21)], attributes=["alpha"])
    call = node("f", ["x"], ["y"], domain="f")
    call.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    return model([call], {"x": X}, functions=[f], domains=["f"])


XC = {"x": X, "c": TRUE}
N = {"x": np.float32(1)}
CASES = [
    *(Case(f"endless Loop {kw}", lambda kw=kw: endless(**kw), {"x": X}, errors=("LimitError",)) for kw in (
        {}, {"scan": True}, {"cond": False}, {"trips": False}, {"trips": False, "cond": False}, {"grows": True}, {"depth": 2},
        {"depth": 5}, {"scan": True, "trips": False})),
    Case("endless Loop, seconds", endless, {"x": X}, errors=("LimitError",), limits={"seconds": 0.5, "loop_iterations": None}),
    Case("endless Loop, iterations", endless, {"x": X}, errors=("LimitError",), limits={"loop_iterations": 10}),
    Case("sequence that grows without end", growing_sequence, {"x": X}, errors=("LimitError",)),
    Case("Scan over 2^24", lambda: scan(1 << 24), N, errors=("LimitError",)),
    Case("Scan over 1000", lambda: scan(1000), N, want=[np.float32(1001), np.arange(2, 1002, dtype=np.float32)]),
    Case("Scan over 2^50", lambda: scan(1 << 50), N, errors=("LimitError",)),
    Case("Scan of 2^40 inputs", lambda: scan(3, 1 << 40), N, errors=("ImportProblem",)),
    Case("Scan of -1 inputs", lambda: scan(3, -1), N, errors=("ImportProblem",)),
    Case("exponential functions", lambda: fibonacci(60), {"x": X}, errors=("LimitError",)),
    Case("functions that make 2^10 nodes", lambda: fibonacci(11), {"x": X}, want=[X]),
    Case("a function that calls itself", recursive, {"x": X}),
    Case("functions that call one another", lambda: recursive(5), {"x": X}),
    Case("a function that calls itself in a branch", recursive_in_branch, XC),
    Case("deep functions", lambda: recursive(3000), {"x": X}),
    *(Case(f"{n} nested Ifs", lambda n=n: nested_ifs(n), XC, want=[-X], may_fail=n > 10) for n in (3, 30, 60, 100, 1000, 10_000)),
    Case("chain of 100,000", chain("Neg", 100_000), {"x": X}, want=[X], may_fail=True),
    Case("chain of 100,000 of several operators", chain(("Relu", "Add", "Identity", "Neg", "Neg"), 100_000), {"x": X}, want=[X], may_fail=True),
    Case("chain of 100,000 that no pass shortens", chain(("Sin", "Add"), 100_000), {"x": X * 0}, want=[X * 0], may_fail=True),
    Case("chain of 2,000 products", chain(("MatMul", "Sin"), 2_000, {"x": X.reshape(1, 4)}), {"x": X.reshape(1, 4)}, want=[X.reshape(1, 4) * 0]),
    Case("fan of 50,000", lambda: fan(50_000), {"x": X}, want=[X * 50_000], may_fail=True),
    Case("ladder of 60", lambda: ladder(60), {"x": X}, want=[X * 2.0**30]),
    Case("ladder of 3,000", lambda: ladder(3_000), {"x": X * 0}, want=[X * 0]),
    Case("ladder of 3,000 with two steps", lambda: mixed_ladder(3_000), {"x": X * 0}, want=[X * 0]),
    Case("dims multiplied 200 times", lambda: symbols(200), {"x": np.ones((2, 3), np.float32)}),
    Case("dims multiplied 12 times", lambda: symbols(12), {"x": np.ones((2, 3), np.float32)}),
    *(Case(f"twice the same {k}", lambda k=k: twice(k), {"x": X}) for k in ("value", "input and value", "inputs", "constants",
                                                                          "constant and value", "functions", "attributes", "opsets")),
    Case("twice the same outputs", lambda: twice("outputs"), {"x": X}, want=[-X, X], may_fail=True),
    *(Case(f"cycle of {n}", lambda n=n: cycle(n), {"x": X}) for n in (1, 2, 1000)),
    Case("a branch that reads its own result", self_branch, {"c": TRUE}),
    Case("a branch that shadows", shadowed, XC, want=[X], may_fail=True),
    Case("an attribute that refers to itself", reference_attribute, {"x": X}, want="any", may_fail=True),
]  # fmt: skip
