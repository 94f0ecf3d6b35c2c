"""Where peers differ from ours about images."""

DIFFERENCES = {
    ("reference", "affine_grid", 3): "it returns f32 whatever it is given",
    ("reference", "affine_grid", 4): "it returns f32 whatever it is given",
    ("reference", "grid_sample", 7): "it clamps a cubic's position before it takes its neighbours; PyTorch and ONNX Runtime do not",
    ("reference", "grid_sample", 12): "it cannot return an empty batch",
}
