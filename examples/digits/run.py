"""Compiles the small convolutional net of this folder, reads 500 handwritten digits with it, and prints how many it got right."""

from pathlib import Path

import graphmill as gm
import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    exe = gm.compile(HERE / "digits.onnx")
    data = np.load(HERE / "digits.npz")
    images, labels = (data["images"] / 16).astype(np.float32), data["labels"]
    answers = exe(images).argmax(axis=1)
    for i in range(3):
        picture = ["".join(" .:-=+*#%@"[min(9, int(p * 10))] * 2 for p in row) for row in images[i, 0]]
        print("\n".join(picture), f"\nanswer {answers[i]}, label {labels[i]}\n")
    print(exe.report.summary())
    print(f"test accuracy {np.mean(answers == labels):.1%} on {len(labels)} digits the net was not trained on")


if __name__ == "__main__":
    main()
