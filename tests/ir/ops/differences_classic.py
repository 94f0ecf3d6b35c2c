"""Where the peers are known to be wrong, or to lack a case, for the models of ai.onnx.ml."""

DIFFERENCES = {
    ("reference", "linear_classifier", 7): "gives s - 1 and s for the two classes of one score s",
    ("reference", "linear_regressor", None): "does not implement post transforms",
    ("reference", "svm_classifier", None): "its labels are not those of the votes; ONNX Runtime is the judge",
    ("reference", "tree_ensemble", None): "does not implement post transforms, nor minima and maxima that no leaf speaks for",
    ("reference", "tree_ensemble_classifier", None): "ONNX Runtime is the judge",
    ("reference", "tree_ensemble_regressor", None): "ONNX Runtime is the judge",
    ("ort", "svm_classifier", 4): "wants kernel_type, which has a default",
    ("ort", "svm_regressor", 5): "wants kernel_type, which has a default",
    ("ort", "tree_ensemble", 4): "takes post_transform = 1 for LOGISTIC; it is SOFTMAX",
    ("ort", "tree_ensemble_classifier", 14): "answers 0 or 1 in the place of the label where two classes are voted for",
}
