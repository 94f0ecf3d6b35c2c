"""Bytes to a parsed model: weights stay where they lie, and broken bytes end in one typed error."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import onnx
import pytest
from graphmill.frontends.onnx import protobuf
from graphmill.frontends.onnx.reader import read
from graphmill.ir.errors import GraphmillError, HostileModelError
from onnx import helper, numpy_helper

BIG = np.arange(300_000, dtype=np.float32)
ODD = np.arange(5001, dtype=np.uint8)


def model() -> onnx.ModelProto:
    weights = [numpy_helper.from_array(a, n) for n, a in (("s", np.ones(3, np.float32)), ("w", BIG), ("o", ODD), ("v", BIG + 1))]
    nodes = [helper.make_node("Relu", [n], [n + "_y"]) for n in ("s", "w", "v")]
    outputs = [helper.make_tensor_value_info(n + "_y", 1, None) for n in ("s", "w", "v")]
    return helper.make_model(helper.make_graph(nodes, "g", [], outputs, weights), opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("mapped", [False, True])
def test_large_weights_are_cut_out_and_read_back(tmp_path, monkeypatch, mapped):
    if mapped:
        monkeypatch.setattr(protobuf, "MAPPED", 1 << 20)
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    source = protobuf.load(path)
    assert sorted(source.raw) == [1, 2, 3] and source.proto.ByteSize() < 1000
    consts = read(path).consts
    for name, want in (("s", np.ones(3, np.float32)), ("w", BIG), ("o", ODD), ("v", BIG + 1)):
        assert np.array_equal(consts[name].array, want) and consts[name].array.flags.aligned


def test_small_models_and_unusual_encodings_are_parsed_whole():
    small = model().SerializeToString()[:0] + onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(name="g")).SerializeToString()
    assert not protobuf.load(small).raw
    # Protobuf merges a message that is given twice; nothing is cut out of such a file.
    twice = model().SerializeToString() + onnx.ModelProto(graph=onnx.GraphProto(doc_string="more")).SerializeToString()
    source = protobuf.load(twice)
    assert not source.raw and source.proto.graph.doc_string == "more" and len(source.proto.graph.initializer) == 4


def test_a_large_file_of_an_unusual_encoding_is_not_copied_into_memory(monkeypatch):
    monkeypatch.setattr(protobuf, "MAPPED", 1 << 20)
    with pytest.raises(HostileModelError, match="as no exporter does"):
        read(model().SerializeToString() + onnx.ModelProto(graph=onnx.GraphProto(doc_string="more")).SerializeToString())


def test_a_length_that_lies_about_a_weight():
    m = model()
    m.graph.initializer[1].raw_data += b"1234"
    with pytest.raises(GraphmillError, match="1200004 bytes, expected 1200000"):
        read(m.SerializeToString())


def test_every_truncation_is_a_typed_error():
    small = model()
    del small.graph.initializer[1:]
    del small.graph.node[1:]
    del small.graph.output[1:]
    read(small)
    for raw in (small.SerializeToString(), model().SerializeToString()):
        for cut in {1, 2, 5, 17, len(raw) // 3, len(raw) // 2, len(raw) - 1}:
            with pytest.raises(GraphmillError):
                read(raw[:cut])


@pytest.mark.parametrize("raw", [b"", b"\0" * 2_000_000, b"\xff" * 2_000_000, b"not a model at all", b"PK\x03\x04" + b"x" * 100])
def test_garbage_is_a_typed_error(raw, tmp_path):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(raw)
    for source in (raw, path):
        with pytest.raises(HostileModelError, match="protobuf"):
            read(source)


def test_a_file_larger_than_any_protobuf_is_refused_unread(tmp_path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as f:
        f.truncate(1 << 36)
    with pytest.raises(HostileModelError, match="external data"):
        read(path)
    with path.open("r+b") as f:
        f.truncate((1 << 31) - 1)
    with pytest.raises(HostileModelError, match="protobuf"):
        read(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.onnx")
    with pytest.raises(HostileModelError, match="regular file"):
        read(tmp_path)


def test_mutated_bytes_end_in_a_model_or_a_typed_error():
    small = model()
    del small.graph.initializer[1:]
    raw = bytearray(small.SerializeToString())
    r = random.Random(0)
    for _ in range(600):
        changed = bytearray(raw)
        for _ in range(r.randint(1, 4)):
            changed[r.randrange(len(changed))] = r.randrange(256)
        with suppress(GraphmillError):
            read(bytes(changed))
