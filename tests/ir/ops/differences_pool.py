"""Where peers differ from ours about pooling."""

DIFFERENCES = {
    ("reference", "global_average_pool", 3): "it divides by an empty batch",
    ("reference", "global_max_pool", 1): "it squeezes the channels of one spatial axis",
    ("reference", "global_max_pool", 2): "it adds an axis for three spatial axes",
    (
        "reference",
        "lp_pool",
        2,
    ): "it scales the windows that reach beyond the padding as if for a mean",
    ("reference", "max_pool", 4): "it drops the last window of SAME_LOWER",
    ("reference", "max_pool", 10): "it takes column-major indices over both spatial axes and the channels",
    ("reference", "max_pool", 11): "it has no integer padding",
    ("reference", "max_pool", 13): "it drops NaN, which ONNX leaves open; ours hands it on as PyTorch does",
    ("reference", "max_pool", 14): "it widens the output by padding",
    ("ort", "max_pool", 13): "it keeps NaN only where it comes first in a window",
    ("ort", "max_unpool", 1): "it counts the indices in output_shape; ONNX's own test data counts them in the shape before",
}
