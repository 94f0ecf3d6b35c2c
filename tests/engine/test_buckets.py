"""Runs padded to buckets: what comes out is what comes out without, of few signatures; what cannot be right is refused."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graphmill as gm
import numpy as np
import onnx.parser
import pytest
from click.testing import CliRunner
from graphmill.cli.main import main
from graphmill.engine import executor
from graphmill.engine.growth import Growth
from graphmill.ir.errors import ArtifactError, InputError, PaddingError, UnsupportedError

from ..kernels.cuda.fake_cupy import Fake
from ..kernels.cuda.harness import needs_shim
from .test_cuda_arrays import Tensor

MLP = """<ir_version: 9, opset_import: ["": 18]>
mlp (float[N,4] x, float[N,1] z) => (float[N,3] y, int64[N] best, float[3,N] turned)
<float[4,3] w = {1,2,3,4,5,6,7,8,9,1,2,3}> {
  m = MatMul(x, w)
  y = Add(m, z)
  best = ArgMax <axis = 1, keepdims = 0> (y)
  turned = Transpose <perm = [1, 0]> (y)
}"""

# One layer of attention over embeddings, positions added; keys whose mask is 0 have no weight.
BERT = """<ir_version: 9, opset_import: ["": 18]>
bert (int64[batch,seq] ids, int64[batch,seq] mask) => (float[batch,seq,4] y, float[batch,4] first)
<float[8,4] table, float[16,4] places, float[4,4] w, int64[1] one = {1}, int64[1] zero = {0}, int64[2] middle = {1, 2}, int64 nil = {0},
 float low = {-10000.0}, float top = {1.0}> {
  e = Gather(table, ids)
  s = Shape <start = 1> (ids)
  p = Slice(places, zero, s, zero)
  x = Add(e, p)
  q = MatMul(x, w)
  k = Transpose <perm = [0, 2, 1]> (x)
  scores = MatMul(q, k)
  f = Cast <to = 1> (mask)
  away = Sub(top, f)
  bias = Mul(away, low)
  wide = Unsqueeze(bias, one)
  masked = Add(scores, wide)
  a = Softmax <axis = -1> (masked)
  y = MatMul(a, x)
  first = Gather <axis = 1> (y, nil)
}"""

UNMASKED = """<ir_version: 9, opset_import: ["": 18]>
mean (float[batch,seq,4] x) => (float[batch,4] y) <int64[1] one = {1}> {
  h = Relu(x)
  y = ReduceMean <keepdims = 0> (h, one)
}"""


def bert() -> onnx.ModelProto:
    model, rng = onnx.parser.parse_model(BERT), np.random.default_rng(1)
    del model.graph.initializer[:]
    given = {"table": rng.standard_normal((8, 4)), "places": rng.standard_normal((16, 4)), "w": rng.standard_normal((4, 4)),
             "low": np.array(-10000.0), "top": np.array(1.0)}  # fmt: skip
    ints = {"one": [1], "zero": [0], "nil": 0}
    arrays = {n: np.asarray(x, np.float32) for n, x in given.items()} | {n: np.asarray(x, np.int64) for n, x in ints.items()}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in arrays.items())
    return model


def words(batch: int, seq: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, seq), np.int64)
    mask[-1:, seq // 2 + 1 :] = 0
    return {"ids": rng.integers(0, 8, (batch, seq)), "mask": mask}


def rows(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {"x": rng.standard_normal((n, 4)).astype(np.float32), "z": rng.standard_normal((n, 1)).astype(np.float32)}


def same(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].shape == x.shape and got[name].dtype == x.dtype
        np.testing.assert_allclose(got[name], x, 1e-5, 1e-5)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """The shapes of the inputs of every run that the engine makes."""
    seen: list[tuple] = []
    original = executor.Executable.run

    def noted(self, inputs, **kw):  # type: ignore[no-untyped-def]
        seen.append(tuple(np.shape(x) for x in inputs.values()))
        return original(self, inputs, **kw)

    monkeypatch.setattr(executor.Executable, "run", noted)
    return seen


TARGETS = [pytest.param({"target": "reference"}, id="reference"), pytest.param({"target": "cpu"}, id="cpu"),
           pytest.param({"target": "cuda", "device": "shim"}, id="cuda", marks=needs_shim)]  # fmt: skip


@pytest.mark.parametrize("how", TARGETS)
def test_a_batch_is_padded_to_the_next_bucket(how: dict, runs: list) -> None:
    exe, plain = (
        gm.compile(onnx.parser.parse_model(MLP), buckets={"$N": (8, 2, 4)}, **how),
        gm.compile(onnx.parser.parse_model(MLP)),
    )
    for n in (1, 2, 3, 5, 8, 4, 3, 7, 0, 9):
        want = plain.run(rows(n))
        runs.clear()
        same(exe.run(rows(n)), want)
        (shapes,) = runs
        assert shapes == ((m := {1: 2, 3: 4, 5: 8, 7: 8}.get(n, n), 4), (m, 1))


def test_the_same_bits_each_time_and_whatever_stands_behind() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), buckets={"N": (4,)})
    first = exe.run(rows(3))
    more = {k: np.concatenate([x, x[:1] * 7]) for k, x in rows(3).items()}
    for other in (exe.run(rows(3)), {k: (x[:3] if k != "turned" else x[:, :3]) for k, x in exe.run(more).items()}):
        assert all(np.array_equal(first[k], other[k]) for k in first)


def test_few_signatures_have_short_ways() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), buckets={"N": (4, 8)})
    for n in range(1, 9):
        exe.run(rows(n))
    assert len(exe._replays) == 2


def test_outputs_belong_to_the_caller() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), buckets={"N": (4,)})
    out = exe.run(rows(3))
    assert all(x.flags.owndata or x.base.size == x.size for x in out.values()) and out["turned"].flags.c_contiguous
    y, best = np.empty((3, 3), np.float32), np.empty(6, np.int64)[::2]
    got = exe.run(rows(3), out={"y": y, "best": best})
    assert got["y"] is y and got["best"] is best
    same(got, out)
    with pytest.raises(InputError, match=r"array of y has shape \[4, 3\], expected \[3, 3\]"):
        exe.run(rows(3), out={"y": np.empty((4, 3), np.float32)})


def test_calls_futures_threads_and_time() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), buckets={"N": (2, 4, 8)})
    want = {n: exe.run(rows(n)) for n in range(9)}
    same(dict(zip(want[3], exe(*rows(3).values()))), want[3])
    same(exe.run_async(rows(3), timeout=30).result(), want[3])
    same(exe.run(rows(3), timeout=30), want[3])
    with ThreadPoolExecutor(4) as pool:
        for n, got in zip([i % 9 for i in range(90)], pool.map(lambda i: exe.run(rows(i % 9)), range(90)), strict=True):
            same(got, want[n])


def test_profiles_are_of_what_runs() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), buckets={"N": (4,)})
    assert "f32[4,4]" in str(gm.profile(exe, rows(3), seconds=0.01))


def test_inputs_are_looked_at_as_without_buckets() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), buckets={"N": (4,)})
    same(exe.run({k: np.asfortranarray(x).astype(">f4") for k, x in rows(3).items()}), exe.run(rows(3)))
    same(exe.run({k: x.tolist() for k, x in rows(3).items()}), exe.run(rows(3)))
    for wrong, why in (({"x": rows(3)["x"]}, "missing"), (rows(3) | {"z": rows(2)["z"]}, "expected 3"),
                       (rows(3) | {"x": np.zeros((3, 5), np.float32)}, "expected 4"), (rows(3) | {"x": np.zeros(3, np.float32)}, "rank 2"),
                       (rows(3) | {"x": np.zeros((3, 4))}, "element type float64")):  # fmt: skip
        with pytest.raises(InputError, match=why):
            exe.run(wrong)


# ---- what is not proven


def test_a_sum_over_the_symbol_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"padding \$seq .*softmax.*sums over \$seq.*`pad` a value for ids, mask"):
        gm.compile(bert(), buckets={"seq": (8, 16)})
    with pytest.raises(UnsupportedError, match="a value for mask;"):
        gm.compile(bert(), buckets={"seq": (8, 16)}, pad={"ids": 0})


@pytest.mark.parametrize("how", TARGETS)
def test_a_mask_makes_padding_right(how: dict, runs: list) -> None:
    buckets = {"batch": (1, 2, 4), "seq": (8, 16)}
    exe, plain = gm.compile(bert(), buckets=buckets, pad={"ids": 0, "mask": 0}, **how), gm.compile(bert())
    assert exe.report.buckets is not None and exe.report.buckets.proven == {"batch"}
    for batch, seq in ((3, 7), (3, 8), (2, 3), (1, 15), (4, 9), (5, 16), (1, 16), (3, 5)):
        want = plain.run(words(batch, seq))
        same(exe.run(words(batch, seq)), want)
    runs.clear()
    exe.run(words(3, 5))
    assert runs == [((4, 8), (4, 8))]  # trusted by now


def test_a_bucket_is_checked_again_with_twice_as_much_padding(runs: list) -> None:
    exe = gm.compile(bert(), buckets={"seq": (16,)}, pad={"ids": 0, "mask": 0})
    checked = []
    for seq in (15, 15, 14, 13, 12, 11, 9, 8, 5, 1, 16):
        runs.clear()
        exe.run(words(2, seq))
        checked += [seq] if len(runs) == 2 else []
    assert checked == [15, 14, 12, 8]
    runs.clear()
    exe.run(words(1, 15))
    assert len(runs) == 2  # of another batch, which is another signature


@pytest.mark.parametrize("value", [0, 1])
def test_a_model_without_a_mask_fails_loudly(value: int) -> None:
    model = onnx.parser.parse_model(UNMASKED)
    exe = gm.compile(model, buckets={"seq": (4,)}, pad={"x": value})
    x = np.abs(np.random.default_rng(0).standard_normal((2, 3, 4))).astype(np.float32)
    for _ in range(2):  # never trusted
        with pytest.raises(
            PaddingError, match=r"output y depends on what is padded \(\$seq by 1\): 8 of 8 elements are off by up to"
        ):
            exe.run({"x": x})
    assert exe.run({"x": np.repeat(x[:, :1], 4, 1)})["y"].shape == (2, 4)  # a bucket itself is not padded


def test_a_mask_that_is_padded_wrongly_fails_loudly() -> None:
    exe = gm.compile(bert(), buckets={"seq": (8,)}, pad={"ids": 0, "mask": 1})
    with pytest.raises(PaddingError, match="masks of 1 and 0 want 0"):
        exe.run(words(2, 7))


def test_integers_must_be_the_same() -> None:
    text = """<ir_version: 9, opset_import: ["": 18]>
    last (int64[n] x) => (int64[n] y, int64[] most) { y = CumSum <reverse = 1> (x, zero) most = ReduceMax <keepdims = 0> (x) }"""
    model = onnx.parser.parse_model(text.replace("{ y", "<int64 zero = {0}> { y"))
    exe = gm.compile(model, buckets={"n": (4,)}, pad={"x": 0})
    got = exe.run({"x": np.array([5, 6, 7])})
    assert got["y"].tolist() == [18, 13, 7] and got["most"] == 7
    with pytest.raises(PaddingError, match=r"output most .*1 of 1 elements are others"):
        exe.run({"x": np.array([-5, -6])})


def test_sizes_that_only_a_run_tells_are_refused() -> None:
    text = """<ir_version: 9, opset_import: ["": 18]>
    found (float[n] x) => (int64[1,k] y) { y = NonZero(x) }"""
    with pytest.raises(UnsupportedError, match=r"output y has .* along axis 1"):
        gm.compile(onnx.parser.parse_model(text), buckets={"n": (4,)}, pad={"x": 0})


# ---- what is asked for


@pytest.mark.parametrize(("buckets", "pad", "why"), [
    ({"M": (1,)}, {}, r"no input has an axis of size \$M; expected one of \$N"),
    ({"N": ()}, {}, "expected a list of sizes"),
    ({"N": "4"}, {}, "expected a list of sizes"),
    ({"N": (0, 4)}, {}, "expected numbers above 0"),
    ({"N": (2.0,)}, {}, "expected numbers above 0"),
    ({}, {"x": 0}, "there are no buckets"),
    ({"N": (4,)}, {"w": 0}, "no input is named w"),
    ({"N": (4,)}, {"x": "0"}, "is no value of the input x"),
    ({"N": (4,)}, {"x": 1e300}, "is no value of the input x"),
])  # fmt: skip
def test_what_is_asked_for_is_checked(buckets: dict, pad: dict, why: str) -> None:
    with pytest.raises(InputError, match=why):
        gm.compile(onnx.parser.parse_model(MLP), buckets=buckets, pad=pad)


def test_values_fit_the_inputs() -> None:
    for value in (0.5, 2**63, float("nan")):
        with pytest.raises(InputError, match="is no value of the input mask"):
            gm.compile(bert(), buckets={"seq": (8,)}, pad={"ids": 0, "mask": value})
    gm.compile(onnx.parser.parse_model(UNMASKED), buckets={"seq": (4,)}, pad={"x": float("-inf")})


def test_what_was_decided_is_told() -> None:
    exe = gm.compile(bert(), buckets={"batch": (2, 4), "seq": (8,)}, pad={"ids": 0, "mask": 0})
    batch, seq = exe.report.decisions[:2]
    assert str(batch) == "buckets of $batch @ %ids: applied, to 2, 4: rows are independent, padded by copies of the last"
    assert "outputs are checked: node" in str(seq) and "sums over $seq" in str(seq)
    assert "padded: $seq to 8, outputs are checked" in exe.report.summary()


# ---- on a device


@needs_shim
def test_outputs_that_stay_on_the_device_are_trimmed_there() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), "cuda", device="shim", buckets={"N": (4,)})
    want = exe.run(rows(3))
    got = exe.run(rows(3), on_device=True)
    assert not any(isinstance(x, np.ndarray) for x in got.values())
    same({name: x.numpy() for name, x in got.items()}, want)
    x, z = exe.device.bring([rows(4)["x"], rows(4)["z"]])
    same(exe.run({"x": x, "z": z}), exe.run(rows(4)))  # a bucket itself is not padded


@needs_shim
@pytest.mark.parametrize("on_device", [False, True])
def test_inputs_on_the_device_are_padded_there(on_device: bool) -> None:
    exe = gm.compile(bert(), "cuda", device="shim", buckets={"batch": (4, 9), "seq": (8,)}, pad={"ids": 3, "mask": 0})
    plain = gm.compile(bert())
    for batch, seq in ((3, 7), (1, 7), (4, 3), (3, 8), (2, 5), (5, 8), (0, 3)):
        given = words(batch, seq)
        there = {name: Tensor(x) for name, x in given.items()} if seq % 2 else {**given, "ids": Tensor(given["ids"])}
        got = exe.run(there, on_device=on_device)
        same({name: x.numpy() if on_device else x for name, x in got.items()}, plain.run(given))


def test_padding_on_a_device_is_that_on_the_host() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), "cuda", device="shim")
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    for to in ((2, 3, 7), (5, 3, 4), (2, 5, 4), (4, 5, 6), (9, 3, 5)):
        for valued in range(8):
            fills = [(a, bool(valued >> a & 1)) for a in range(3) if to[a] > x.shape[a]]
            growth = Growth(x.shape, to, sorted(fills, key=lambda f: not f[1]), 7.5)
            (there,) = exe.device.bring([x])
            assert np.array_equal(growth.on_device(there, exe.device).numpy(), growth.on_host(x))


@needs_shim
def test_streams_and_places_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trims and copies into the caller's places are in the order of the caller's stream; without one they are waited for."""
    fake, want = Fake(), gm.compile(onnx.parser.parse_model(MLP)).run(rows(3))
    fake.install(monkeypatch)
    exe = gm.compile(onnx.parser.parse_model(MLP), "cuda", device="gpu", buckets={"N": (4,)})
    for _ in range(4):
        fake.calls.clear()
        place = Tensor(np.zeros((3, 3), np.float32))
        got = exe.run(rows(3), out={"turned": place}, on_device=True, stream=77)
        assert got["turned"] is place and fake.calls[0] == "ours waits for 77" and fake.calls[-1] == "77 waits for ours"
        same({name: place.a if name == "turned" else x.numpy() for name, x in got.items()}, want)
        fake.calls.clear()
        same(exe.run(rows(3), out={"y": place}) | {"y": place.a}, want)
        assert fake.calls[-1] == "synchronize"


def test_many_sizes_are_few_graphs() -> None:
    """On the null device: each bucket gets its fixed run, one captured graph, when it comes for the second time."""
    exe = gm.compile(bert(), "cuda", device="null", buckets={"batch": (2, 4), "seq": (8, 16)}, pad={"ids": 0, "mask": 0})
    for _ in range(3):
        for batch in range(1, 5):
            for seq in range(1, 17):
                exe.run(words(batch, seq))
    (fixed,) = exe._replays
    exact = {(b, s) for b in (2, 4) for s in (8, 16)}
    assert exact == {shapes[0] for shapes in fixed._places} & exact
    assert len(fixed._places) <= len(exact) + len(exe._trusted) * 5  # and runs without padding that checked


@needs_shim
def test_sizes_of_fixed_runs_are_exact() -> None:
    exe = gm.compile(onnx.parser.parse_model(MLP), "cuda", device="shim", buckets={"N": (4,)})
    fixed = exe.fixed(rows(3))
    fixed.run()
    same({name: x.numpy() for name, x in fixed.outputs.items()}, exe.run(rows(3)))


# ---- artifacts and the command line


def test_artifacts_keep_buckets(tmp_path: Path, runs: list) -> None:
    exe = gm.compile(bert(), buckets={"batch": (2, 4), "seq": (8,)}, pad={"ids": 0, "mask": 0})
    exe.save(tmp_path / "m.gmill")
    again = gm.load(tmp_path / "m.gmill")
    assert again.report.buckets == exe.report.buckets
    same(again.run(words(3, 7)), gm.compile(bert()).run(words(3, 7)))
    assert ((4, 8), (4, 8)) in runs
    again.save(tmp_path / "again.gmill")
    assert (tmp_path / "again.gmill").read_bytes() == (tmp_path / "m.gmill").read_bytes()


@pytest.mark.parametrize("said", [{"sizes": {"seq": [0]}}, {"sizes": {"other": [4]}}, {"sizes": 3}, {"proven": 3}, {"pad": {"ids": "x"}},
                                  {"pad": {"ids": None}}, {}])  # fmt: skip
def test_buckets_of_an_artifact_are_not_believed(tmp_path: Path, said: dict) -> None:
    from graphmill.engine import artifact
    from graphmill.engine.archive import canonical_json, write_archive

    exe = gm.compile(bert(), buckets={"batch": (2, 4), "seq": (8,)}, pad={"ids": 0, "mask": 0})
    exe.save(tmp_path / "m.gmill")
    with zipfile.ZipFile(tmp_path / "m.gmill") as z:
        members = {name: z.read(name) for name in z.namelist()}
    manifest = json.loads(members[artifact.MANIFEST])
    manifest["buckets"] = manifest["buckets"] | said if said else 7
    members[artifact.MANIFEST] = canonical_json(manifest)
    write_archive(tmp_path / "m.gmill", {name: [data] for name, data in members.items()})
    with pytest.raises(ArtifactError, match=r"manifest.json: buckets"):
        gm.load(tmp_path / "m.gmill")


def test_the_command_line(tmp_path: Path) -> None:
    path, ids = tmp_path / "bert.onnx", tmp_path / "ids.npy"
    onnx.save(bert(), path)
    np.save(ids, words(3, 7)["ids"])
    np.save(tmp_path / "mask.npy", words(3, 7)["mask"])
    given = ["--bucket", "batch=2,4", "--bucket", "$seq=8", "--pad", "ids=0", "--pad", "mask=0"]

    def told(*args: object) -> object:
        done = CliRunner().invoke(main, [*map(str, args), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    inputs = ["-i", f"ids={ids}", "-i", f"mask={tmp_path / 'mask.npy'}"]
    out = told("run", path, *given, *inputs)
    assert out["outputs"]["y"]["shape"] == [3, 7, 4]  # type: ignore[index]
    assert out["buckets"] == {"sizes": {"batch": [2, 4], "seq": [8]}, "pad": {"ids": 0, "mask": 0}, "proven": ["batch"]}  # type: ignore[index]
    assert [d["rule"] for d in told("explain", path, *given)][:2] == ["buckets of $batch", "buckets of $seq"]  # type: ignore[attr-defined]
    assert told("compile", path, "-o", tmp_path / "m.gmill", *given)["buckets"] == out["buckets"]  # type: ignore[index]
    assert told("run", tmp_path / "m.gmill", *inputs)["outputs"] == out["outputs"]  # type: ignore[index]
    for wrong, why in ((given[:4], "UnsupportedError"), (["--bucket", "batch=x"], "expected DIM=SIZE,SIZE"),
                       (["--pad", "ids=x"], "expected INPUT=VALUE")):  # fmt: skip
        done = CliRunner().invoke(main, ["run", str(path), *wrong, *inputs])
        assert done.exit_code == 2 and why in done.output
    done = CliRunner().invoke(main, ["run", str(tmp_path / "m.gmill"), "--bucket", "batch=2", *inputs])
    assert done.exit_code == 2 and "--bucket" in done.output
