"""Where the peers are known to be wrong, or to lack a case, for the scalers and normalizers of ai.onnx.ml."""

DIFFERENCES = {
    ("reference", "feature_vectorizer", 3): "keeps integers; the result is f32",
    ("reference", "normalizer", 0): "divides by the largest magnitude; the text, and ONNX Runtime, say max(X)",
    ("reference", "normalizer", 4): "gives f64; the result is f32",
    ("reference", "normalizer", 5): "divides by the largest magnitude; the text, and ONNX Runtime, say max(X)",
    ("reference", "scaler", 2): "keeps integers; the result is f32",
    ("reference", "scaler", 3): "gives f64; the result is f32",
}
