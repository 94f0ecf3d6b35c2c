"""Mutated model files: no crash, no hang, no error but graphmill's own. Each is compiled, run on the seed's inputs and checked in a fork.

GRAPHMILL_FUZZ_LONG=1000 tries that many of each, at random; a failure names the seed model and the number that gives the mutation again.
"""

from __future__ import annotations

import functools
import os
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hostile_harness import ANY, MEGABYTES
from mutate import mutate
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

LONG = bool(os.environ.get("GRAPHMILL_FUZZ_LONG"))
COUNT = int(os.environ.get("GRAPHMILL_FUZZ_LONG") or 8)
ROOT = Path(__file__).parents[2]
CASES = ("basic_conv_with_padding", "if", "loop11", "scan9_sum", "gemm_all_attributes", "lstm_defaults", "reshape_negative_dim", "gather_1",
         "slice", "resize_upsample_scales_nearest", "maxpool_2d_default", "quantizelinear", "layer_normalization_2d_axis1", "einsum_batch_matmul",
         "scatter_elements_with_axis", "top_k", "attention_4d", "range_float_type_positive_delta_expanded", "sequence_map_add_2_sequences",
         "nonmaxsuppression_limit_output_size", "gridsample_bilinear", "convtranspose", "split_to_sequence_1", "string_concat", "tfidfvectorizer_tf_uniandbigrams_skip5",
         "sce_mean_weight")  # fmt: skip


@functools.cache
def backend_cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {t.name.removeprefix("test_"): t for t in load_model_tests(kind="node") if t.name.removeprefix("test_") in CASES}


def seed_model(name: str) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a model and inputs for it."""
    if name == "digits":
        return (ROOT / "examples" / "digits" / "digits.onnx").read_bytes(), {"image": np.zeros((2, 1, 8, 8), np.float32)}
    case = backend_cases()[name]
    inputs = dict(zip((v.name for v in case.model.graph.input), map(value, case.data_sets[0][0])))
    return case.model.SerializeToString(), inputs


def value(x: Any) -> Any:
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else [value(v) for v in x] if isinstance(x, list) else x


def complaint(answer: Mapping[str, Any]) -> str:
    if answer["status"] in ("died", "killed"):
        return f"{answer['status']}: {answer['message']}"
    if answer["megabytes"] > MEGABYTES:
        return f"took {answer['megabytes']} MB"
    if answer["status"] == "error" and not (answer["typed"] and answer["type"] in ANY):
        return f"{answer['type']}: {answer['message']}"
    return ""


@pytest.mark.parametrize("name", ["digits", *CASES])
def test_mutated_models(worker, tmp_path, name):
    data, inputs = seed_model(name)
    start = random.SystemRandom().randrange(1 << 40) if LONG else 0
    wrong = []
    for seed in range(start, start + COUNT):
        path = tmp_path / "model.onnx"
        path.write_bytes(mutate(data, seed))
        answer = worker.ask(verb="run", path=str(path), inputs=inputs)
        wrong += [f"{name} {seed}: {c}"] if (c := complaint(answer)) else []
        answer = worker.ask(verb="check", path=str(path))
        wrong += [f"{name} {seed}, check: {c}"] if (c := complaint(answer)) else []
    assert not wrong, "\n".join(wrong)
