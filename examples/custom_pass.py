"""A pass of your own: a frozen dataclass whose fields are its options, named in a pipeline's text."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import graphmill as gm
import numpy as np
import onnx


@gm.register_pass
@dataclass(frozen=True)
class Census:
    """Counts the operators of a program and prints the most frequent."""

    name: ClassVar[str] = "census"
    most: int = 3

    def run(self, module, ctx) -> None:
        counts = Counter(node.op.name for node in module.walk())
        print(", ".join(f"{n} x {op}" for op, n in counts.most_common(self.most)))


MODEL = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
    model (float[N] x) => (float[N] y) {
        a = Exp(x)
        b = Exp(a)
        y = Neg(b)
    }""")


def main() -> None:
    exe = gm.compile(MODEL, passes="infer,census{most=1},fuse,census")
    np.testing.assert_allclose(exe(np.zeros(2, np.float32)), -np.exp(np.exp(np.zeros(2))), rtol=1e-6)


if __name__ == "__main__":
    main()
