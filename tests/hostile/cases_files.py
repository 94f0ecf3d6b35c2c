"""Files that lie: external data, lengths, dims, broken bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from hostile_harness import Case, model, node
from onnx import TensorProto

DATA = np.arange(1024, dtype=np.float32)


def external(location: str, prepare=None, offset: str | None = "0", length: str | None = "4096", dims=(1024,), **more: str):
    def build(folder: Path) -> bytes | Path:
        inside = folder / "inside"
        inside.mkdir()
        (folder / "secret").write_bytes(DATA.tobytes())
        (inside / "good").write_bytes(DATA.tobytes())
        if prepare is not None:
            prepare(inside)
        t = TensorProto(name="w", data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (
            ("location", location.replace("FOLDER", str(folder))),
            ("offset", offset),
            ("length", length),
            *more.items(),
        ):
            if value is not None:
                t.external_data.add(key=key, value=value)
        path = inside / "model.onnx"
        path.write_bytes(model([node("Neg", ["w"], ["y"])], inits={"w": t}).SerializeToString())
        return path

    return build


def tensor(**fields):
    """A model whose only constant is a hand-made TensorProto."""

    def build():
        t = TensorProto(name="w", **{k: v for k, v in fields.items() if k != "external"})
        return model([node("Identity", ["w"], ["y"])], inits={"w": t})

    return build


def attribute(**fields):
    def build():
        return model([node("Constant", [], ["y"], value=TensorProto(name="w", **fields))])

    return build


def declared(shape, dtype=1):
    """An input that declares these dims."""

    def build():
        m = model([node("Neg", ["x"], ["y"])], {"x": (np.float32, [1])})
        dims = m.graph.input[0].type.tensor_type.shape
        del dims.dim[:]
        for n in shape:
            dims.dim.add(dim_value=n)
        m.graph.input[0].type.tensor_type.elem_type = dtype
        return m

    return build


GOOD = model([node("Neg", ["x"], ["h"]), node("Add", ["h", "w"], ["y"])], {"x": DATA}, inits={"w": DATA}).SerializeToString()
GOOD_SIZE = len(GOOD)


def nothing(kind: str):
    m = model([node("Neg", ["x"], ["y"])], {"x": DATA})
    if kind == "no graph":
        m.ClearField("graph")
    elif kind == "no opset":
        del m.opset_import[:]
    elif kind == "no nodes":
        del m.graph.node[:]
    elif kind == "opset -1":
        m.opset_import[0].version = -1
    elif kind == "opset 2^60":
        m.opset_import[0].version = 1 << 60
    elif kind == "unknown operator":
        m.graph.node[0].op_type = "Ne\0g\n"
    elif kind == "unknown domain":
        m.graph.node[0].domain = "a\x1b[31m"
    elif kind == "no operands":
        del m.graph.node[0].input[:]
    elif kind == "too many operands":
        m.graph.node[0].input.extend(["x"] * 1000)
    elif kind == "too many results":
        m.graph.node[0].output.extend(["a", "b"])
    elif kind == "no results":
        del m.graph.node[0].output[:]
    elif kind == "no name of an operand":
        m.graph.node[0].input[0] = ""
    elif kind == "attribute of a wrong type":
        m.graph.node[0].op_type = "LeakyRelu"
        m.graph.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.STRING, s=b"x")
    elif kind == "attribute of no type":
        m.graph.node[0].op_type = "LeakyRelu"
        m.graph.node[0].attribute.add(name="alpha", f=0.5)
    elif kind == "unknown attribute":
        m.graph.node[0].attribute.add(name="nope", type=onnx.AttributeProto.INT, i=1)
    elif kind == "input without a type":
        m.graph.input[0].ClearField("type")
    elif kind == "input of an unknown type":
        m.graph.input[0].type.tensor_type.elem_type = 99
    elif kind == "unicode that is none":
        return m.SerializeToString().replace(b"Neg", b"N\xff\xfe")
    return m


KINDS = ("no graph", "no opset", "no nodes", "opset -1", "opset 2^60", "unknown operator", "unknown domain", "no operands",
         "too many operands", "too many results", "no results", "no name of an operand", "attribute of a wrong type",
         "attribute of no type", "unknown attribute", "input without a type", "input of an unknown type", "unicode that is none")  # fmt: skip
SPARSE = onnx.SparseTensorProto(values=TensorProto(name="w", data_type=1, dims=[1], float_data=[1.0]),
                                indices=TensorProto(data_type=7, dims=[1], int64_data=[5]), dims=[1 << 40])  # fmt: skip


def sparse(dims, index):
    def build():
        m = model([node("Identity", ["w"], ["y"])])
        s = m.graph.sparse_initializer.add()
        s.CopyFrom(SPARSE)
        s.dims[:] = dims
        s.indices.int64_data[:] = [index]
        return m

    return build


NUMBERS = {"dims -1": [-1], "dims 2^40": [1 << 40], "dims 2^62 x 4": [1 << 62, 4], "dims that overflow to 1024": [1 << 33, 1 << 33, 1024],
           "dims 2^63-1": [(1 << 63) - 1], "dims of rank 100": [1] * 100, "dims of rank 100,000": [1] * 100_000,
           "too few dims": [512], "-1 x -1024": [-1, -1024]}  # fmt: skip
LINKS = {"symlink": lambda d: os.symlink(d.parent / "secret", d / "link"), "hardlink": lambda d: os.link(d.parent / "secret", d / "link"),
         "FIFO": lambda d: os.mkfifo(d / "link"), "device": lambda d: os.symlink("/dev/zero", d / "link"),
         "folder": lambda d: os.mkdir(d / "link")}  # fmt: skip
CASES = [
    Case("honest external data", external("good"), want=[-DATA]),
    Case("external data at 'good/'", external("good/"), want=[-DATA], may_fail=True),
    Case("external data without offset and length", external("good", offset=None, length=None), want=[-DATA]),
    *(Case(f"external data at {where!r}", external(where)) for where in (
        "../secret", "FOLDER/secret", "a/../../secret", "/dev/zero", "/proc/self/mem", "", ".", "..", "good\0", "none", "model.onnx/x",
        "~/x", "file:///etc/passwd", "http://localhost/x", "$HOME", "good\n", "x" * 100_000)),
    *(Case(f"external data through a {k}", external("link", f)) for k, f in LINKS.items()),
    Case("a folder that is a link", external("link/secret", lambda d: os.symlink(d.parent, d / "link"))),
    *(Case(f"external data with {kw}", external("good", **kw)) for kw in (
        {"offset": "-1"}, {"offset": "4096"}, {"offset": "9" * 30}, {"length": "-1"}, {"length": "5000"}, {"length": "9" * 30}, {"length": "4"},
        {"offset": str((1 << 64) - 4)}, {"offset": "0x10"}, {"offset": "\u0663"}, {"length": str(1 << 63), "dims": (1 << 61,)}, {"dims": (2048,), "length": None},
        {"dims": (-1024,)}, {"dims": (1 << 40,), "length": str(1 << 42)})),
    *(Case(f"constant with {k}", tensor(data_type=1, dims=d, raw_data=DATA.tobytes())) for k, d in NUMBERS.items() if len(d) < 100),
    *(Case(f"constant with {k}", tensor(data_type=1, dims=d, raw_data=DATA[:1].tobytes())) for k, d in NUMBERS.items() if len(d) >= 100),
    *(Case(f"attribute with {k}", attribute(data_type=1, dims=d, float_data=DATA)) for k, d in NUMBERS.items() if len(d) < 100),
    *(Case(f"input with {k}", declared(d), {"x": DATA}) for k, d in NUMBERS.items() if k not in ("too few dims", "dims -1")),
    Case("input with dims -1", declared([-1]), {"x": DATA}, want=[-DATA], may_fail=True),  # some exporters write it for "any"
    Case("input of type 0", declared([1024], 0), {"x": DATA}, want=[-DATA], may_fail=True),
    Case("constant of no type", tensor(data_type=0, dims=[1024], raw_data=DATA.tobytes())),
    Case("constant of type 99", tensor(data_type=99, dims=[1024], raw_data=DATA.tobytes())),
    Case("constant of a negative type", tensor(data_type=-5, dims=[1024], raw_data=DATA.tobytes())),
    Case("constant with the wrong field", tensor(data_type=1, dims=[4], int64_data=[1, 2, 3, 4])),
    Case("constant of int8 beyond int8", tensor(data_type=3, dims=[2], int32_data=[1 << 20, -(1 << 20)])),
    Case("constant with bytes for strings", tensor(data_type=8, dims=[1], raw_data=b"abcdefgh")),
    Case("constant with strings that are no text", tensor(data_type=8, dims=[1], string_data=[b"\xff\xfe\x00"]), want="any", may_fail=True),
    Case("constant in segments", tensor(data_type=1, dims=[1024], raw_data=DATA.tobytes(), segment=TensorProto.Segment(begin=0, end=1 << 60)), want=[DATA], may_fail=True),
    Case("sparse 2^40", sparse([1 << 40], 5)),
    Case("sparse 2^62 x 4", sparse([1 << 62, 4], 5)),
    Case("sparse index out of range", sparse([4], 5)),
    Case("sparse index negative", sparse([4], -1)),
    Case("sparse", sparse([8], 5), want=[np.eye(8, dtype=np.float32)[5]]),
    *(Case(f"truncated to {n} bytes", lambda n=n: GOOD[:n], {"x": DATA}) for n in (0, 1, 2, 10, 100, GOOD_SIZE // 2, GOOD_SIZE - 4200, GOOD_SIZE - 1)),
    Case("zeros", lambda: bytes(10_000)),
    Case("all ones", lambda: b"\xff" * 10_000),
    Case("text", lambda: b"#!/bin/sh\nrm -rf /\n"),
    Case("a length of 2^63", lambda: b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + GOOD),
    Case("groups without end", lambda: b"\x3b" * 100_000),
    *(Case(k, lambda k=k: nothing(k), {"x": DATA}, want=[-DATA] if k != "attribute of no type" else [DATA], may_fail=True) for k in KINDS),
]  # fmt: skip
