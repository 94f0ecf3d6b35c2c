"""External data: read where it is honest, refused where the file could be any other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.errors import HostileModelError, ImportProblem
from onnx import TensorProto, helper

DATA = np.arange(4096, dtype=np.float32)


def save(folder: Path, location: str = "w.bin", offset: str | None = None, length: str | None = None, count: int = 4096) -> Path:
    t = TensorProto(name="w", data_type=1, dims=[count], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            t.external_data.add(key=key, value=value)
    g = helper.make_graph([helper.make_node("Relu", ["w"], ["y"])], "g", [], [helper.make_tensor_value_info("y", 1, [count])], [t])
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(g, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    return path


def contents(path: Path) -> np.ndarray:
    return read(path).consts["w"].array


def refused(path: Path, words: str) -> None:
    with pytest.raises(ImportProblem, match=words):
        read(path)


def test_data_is_mapped_from_the_file(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(4096) + DATA.tobytes())
    got = contents(save(tmp_path, offset="4096", length=str(DATA.nbytes)))
    assert np.array_equal(got, DATA) and not got.flags.writeable
    base = got
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_folders_odd_offsets_and_empty_tensors(tmp_path):
    (tmp_path / "sub" / "dir").mkdir(parents=True)
    (tmp_path / "sub" / "dir" / "w").write_bytes(b"abc" + DATA.tobytes())
    got = contents(save(tmp_path, "sub/dir/w", offset="3"))
    assert np.array_equal(got, DATA) and got.flags.aligned
    assert contents(save(tmp_path, "./sub/dir/w", count=0)).shape == (0,)


def test_a_relative_path_of_the_model(tmp_path, monkeypatch):
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    save(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(contents(Path("m.onnx")), DATA)


@pytest.mark.parametrize("location", [
    "../w.bin", "sub/../../w.bin", "/etc/passwd", "", ".", "..", "sub/..", "..\\w.bin", "w.bin\0", "C:\\w.bin", "missing",
    "w.bin/x", "sub",
])  # fmt: skip
def test_paths_that_lead_elsewhere(tmp_path, location):
    inner = tmp_path / "model"
    (inner / "sub").mkdir(parents=True)
    for folder in (tmp_path, inner):
        (folder / "w.bin").write_bytes(DATA.tobytes())
    refused(save(inner, location), "external data")


def test_links_in_any_step_are_refused(tmp_path):
    inner = tmp_path / "model"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(DATA.tobytes())
    (inner / "link").symlink_to(tmp_path / "secret")
    refused(save(inner, "link"), "symbolic links")
    (inner / "dir").symlink_to(tmp_path)
    refused(save(inner, "dir/secret"), "symbolic links")
    os.link(tmp_path / "secret", inner / "hard")
    refused(save(inner, "hard"), "hard links")


def test_fifos_and_devices_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    refused(save(tmp_path, "fifo"), "no regular file")
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(HostileModelError, match="no regular file"):
        read(tmp_path / "model.onnx")
    with pytest.raises(HostileModelError, match="no regular file"):
        read("/dev/zero")


@pytest.mark.parametrize("offset, length", [
    ("1", None), ("16384", None), ("99999999999999999999999", None), ("-4", None), ("0x0", None), ("1e3", None), (" 0", None),
    ("\u0661", None), ("0", "16383"), ("0", "16385"), ("0", "-1"), ("0", "99999999999999999999"), ("9223372036854775807", None),
])  # fmt: skip
def test_offsets_and_lengths_that_lie(tmp_path, offset, length):
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    refused(save(tmp_path, offset=offset, length=length), "external data")


def test_a_model_without_a_folder_has_no_external_data(tmp_path):
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    raw = save(tmp_path).read_bytes()
    for source in (raw, onnx.ModelProto.FromString(raw)):
        with pytest.raises(ImportProblem, match="read it from its path"):
            read(source)


def test_a_file_that_changes_after_reading_is_noticed(tmp_path):
    (tmp_path / "w.bin").write_bytes(DATA.tobytes())
    got = read(save(tmp_path))
    (tmp_path / "w.bin").write_bytes(DATA.tobytes()[:100])
    with pytest.raises(HostileModelError, match="changed"):
        _ = got.consts["w"].array
