"""Trains the convolutional net of this folder on scikit-learn's digits (1797 scans of handwritten digits, 8x8, 16 greys).

Needs torch and scikit-learn (not needed to run the example): `pip install torch scikit-learn onnx`, then
`python examples/digits/train.py`.
The split is stratified and fixed: 1297 digits to train on, 500 to test on; the test digits are never trained on nor used to choose
anything. Writes digits.onnx and digits.npz (the 500 test digits and their labels) beside this file.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent
EPOCHS = 60


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10),
    )  # fmt: skip


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * -(-len(x) // 64))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(64):
            shift = tuple(int(s) for s in torch.randint(-1, 2, (2,)))  # digits moved by a pixel are the same digits
            loss = nn.functional.cross_entropy(model(torch.roll(x[batch], shift, (2, 3))), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def export(model: nn.Sequential) -> onnx.ModelProto:
    """The model as exporters write it: BatchNormalization kept apart, a dynamic batch, softmax at the end."""
    nodes, weights, x = [], [], "image"
    for i, layer in enumerate(model):
        name, params = (
            f"/{i}/{type(layer).__name__}",
            [p.detach().numpy() for p in (*layer.parameters(), *layer.buffers()) if p.ndim],
        )
        inputs = [x] + [f"{name}.{j}" for j in range(len(params))]
        weights += [numpy_helper.from_array(p, n) for p, n in zip(params, inputs[1:])]
        kind, attrs = {
            nn.Conv2d: ("Conv", {"pads": [1] * 4, "kernel_shape": [3, 3]}), nn.BatchNorm2d: ("BatchNormalization", {}),
            nn.ReLU: ("Relu", {}), nn.MaxPool2d: ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            nn.Flatten: ("Flatten", {}), nn.Dropout: ("Dropout", {}), nn.Linear: ("Gemm", {"transB": 1}),
        }[type(layer)]  # fmt: skip
        nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attrs))
        x = f"{name}_out"
    nodes.append(helper.make_node("Softmax", [x], ["probabilities"], "/Softmax", axis=1))
    graph = helper.make_graph(
        nodes, "digits", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    x, xt, y, yt = train_test_split(images, digits.target, test_size=500, random_state=0, stratify=digits.target)
    model = net()
    train(model, torch.from_numpy(x), torch.from_numpy(y))
    model.eval()
    onnx.save(export(model), HERE / "digits.onnx")
    np.savez_compressed(HERE / "digits.npz", images=(xt * 16).astype(np.uint8), labels=yt.astype(np.uint8))
    with torch.no_grad():
        right = (model(torch.from_numpy(xt)).argmax(1).numpy() == yt).mean()
    print(f"test accuracy {right:.1%} on {len(yt)} digits")


if __name__ == "__main__":
    main()
