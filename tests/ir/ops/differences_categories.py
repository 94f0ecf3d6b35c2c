"""Where the peers are known to be wrong, or to lack a case, for the encoders of ai.onnx.ml."""

DIFFERENCES = {
    ("reference", "label_encoder", 1): "does not find NaN among the keys",
    ("reference", "one_hot_encoder", 2): "does not cast to integers first",
}
