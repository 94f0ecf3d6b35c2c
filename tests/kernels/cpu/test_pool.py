"""Pools of both layouts against the references."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.types import TensorType, dtype_of
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .harness import assert_close, check_native, make_node, reference, run_kernel

NAMES = ["max_pool", "average_pool", "lp_pool", "global_max_pool", "global_average_pool", "global_lp_pool"]


@pytest.mark.parametrize("name", NAMES)
def test_examples(name):
    share = check_native(name, 2e-3, 1e-5)
    assert not share.refused, str(share)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last(name):
    for i, example in enumerate(OPS[name].examples()):
        x = np.asarray(example.operands[0])
        if x.ndim < 3 or example.results > 1:
            continue
        t = TensorType(dtype_of(x), x.shape, channels_last(x.ndim))
        node = make_node(name, [x], dict(example.attrs), types=[t])
        node.results[0].type = node.results[0].type.with_(layout=t.layout)
        assert_close(run_kernel(node, [x])[0], reference(OPS[name], [x], dict(example.attrs))[0], 2e-3, 1e-5, f"{name}[{i}]")


def test_indices_need_row_major_memory():
    x = np.zeros((1, 2, 4, 4), np.float32)
    t = TensorType(dtype_of(x), x.shape, channels_last(4))
    node = make_node("max_pool", [x], {"kernel_shape": (2, 2)}, 2, types=[t])
    node.results[0].type = node.results[0].type.with_(layout=t.layout)
    assert isinstance(select(node), Refusal)
