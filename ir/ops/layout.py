"""Changes of physical layout, which leave the value as it is."""

from __future__ import annotations

import numpy as np

from ..layout import Layout
from ..op import InferContext, ex, op
from ..types import ANY, TensorType
from .examples import rand


def _infer_to_layout(c: InferContext) -> TensorType:
    x, text = c.t(0), c.attr("layout")
    try:
        layout = Layout.parse(text) if text else None
    except ValueError:
        names = "a name such as 'nhwc', a permutation such as '1,0', or '' for row-major"
        raise c.error(f"layout = {text!r}; expected {names}") from None
    if layout is not None and x.rank is not None and x.rank != len(layout.perm):
        raise c.error(f"the layout {layout} is one of {len(layout.perm)} axes, but x has the type {x}")
    return x.with_(layout=layout)


@op("to_layout", infer=_infer_to_layout, dtypes={"x": ANY},
    examples=lambda: [ex(rand(2, 3, 4, 5), layout="nhwc"), ex(rand(2, 3), layout="1,0"), ex(rand(2, 3, 4)), ex(np.float32(1)),
                      ex(np.zeros((2, 0, 3), np.int8), layout="nwc")])  # fmt: skip
def to_layout(x, *, layout=""):
    """The same value, lying in memory as `layout` says: a layout's name, its permutation, or "" for row-major."""
    return x.copy()
