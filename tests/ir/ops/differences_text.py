"""Where the peers are known to be wrong, or to lack a case, for strings."""

DIFFERENCES = {
    ("ort", "string_normalizer", None): "wants locales that the machine may lack",
    ("reference", "string_normalizer", 1): "stopwords are to be found without regard to case by default; it heeds it",
    ("reference", "string_normalizer", 4): "stopwords are to be found without regard to case by default; it heeds it",
    ("reference", "string_split", 1): "leaves blanks at the end of what maxsplit leaves whole; ONNX Runtime takes them away",
    ("reference", "string_split", 6): "does not take scalars",
    ("reference", "regex_full_match", 4): "has Python's classes, which take in letters beyond ASCII; RE2's do not",
    ("reference", "tfidf_vectorizer", 4): "weighs by the output's column; the weights are those of the n-grams in the pool",
}
