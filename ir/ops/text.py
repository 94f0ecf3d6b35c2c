"""Strings: object arrays of `str`."""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import Any

import numpy as np

from ..limits import claim, tick
from ..op import InferContext, Onnx, ex, op
from ..symbols import broadcast
from ..types import BOOL, F32, I32, I64, STR, TensorType
from .contents import checked, choice, want_rank
from .regex import Regex

TEXT = {STR}


def _texts(*values: str) -> np.ndarray:
    return np.array(values, object)


def _infer_concat(c: InferContext) -> TensorType:
    a, b = c.shape(0), c.shape(1)
    if a is None or b is None:
        return TensorType(STR, None)
    n = max(len(a), len(b))
    pairs = zip((1,) * (n - len(a)) + a, (1,) * (n - len(b)) + b)
    try:
        return TensorType(STR, checked(c, (broadcast(x, y) for x, y in pairs)))
    except ValueError as e:
        raise c.error(str(e)) from None


@op(
    "string_concat",
    onnx=Onnx("StringConcat", since=20),
    infer=_infer_concat,
    dtypes={"X": TEXT, "Y": TEXT},
    examples=lambda: [
        ex(_texts("a", "b"), _texts("c", "d")),
        ex(_texts("a", "b"), np.array(".com", object)),
        ex(np.array("x", object), np.array("y", object)),
        ex(np.array([["a"], ["b"]], object), _texts("1", "2")),
        ex(_texts(), _texts("z")),
    ],
)
def string_concat(X, Y):
    """X and Y joined, element by element; they broadcast."""
    return np.asarray(np.frompyfunc(operator.add, 2, 1)(X, Y), object)


def _infer_split(c: InferContext) -> list[TensorType]:
    x = c.t(0)
    if x.shape is None:
        return [x, TensorType(I64, None)]
    return [x.with_(shape=(*x.shape, c.symbol())), TensorType(I64, x.shape)]


def _split(text: str, delimiter: str | None, maxsplit: int | None) -> list[str]:
    most = -1 if maxsplit is None else maxsplit
    if delimiter:
        return text.split(delimiter, most)
    return text.strip().split(None, most)  # what maxsplit leaves whole loses its blanks at the end as well


def _split_examples() -> list:
    x = _texts(" a b  c ", "x", "y z")
    return [
        ex(x, results=2),
        ex(x, maxsplit=1, results=2),
        ex(_texts("a,b,,c", ","), delimiter=",", results=2),
        ex(_texts("a,b,c", "d"), delimiter=",", maxsplit=1, results=2),
        ex(_texts("", " "), results=2),
        ex(np.array([["a b"], ["c"]], object), delimiter="", results=2),
        ex(np.array("a--b", object), delimiter="--", results=2),
    ]


@op("string_split", onnx=Onnx("StringSplit", since=20), infer=_infer_split, results=2, dtypes={"X": TEXT}, examples=_split_examples)
def string_split(X, *, delimiter=None, maxsplit=None):
    """The parts of each string along a new last axis, filled up with "", and how many there are.

    Without a delimiter any run of blanks parts, and those at the ends fall away.
    """
    parts = [_split(text, delimiter, maxsplit) for text in X.ravel()]
    counts = np.array([len(p) for p in parts], np.int64)
    claim(8 * len(parts) * int(counts.max(initial=0)))
    out = np.full((len(parts), int(counts.max(initial=0))), "", object)
    for row, p in zip(out, parts):
        row[: len(p)] = p
    return out.reshape(*X.shape, out.shape[1]), counts.reshape(X.shape)


CASES = {"NONE": str, "LOWER": str.lower, "UPPER": str.upper}


def _infer_normalizer(c: InferContext) -> TensorType:
    choice(c, "case_change_action", tuple(CASES))
    want_rank(c, 0, 1, 2)
    shape = c.shape(0)
    if shape is None:
        return c.t(0)
    if len(shape) == 2 and isinstance(shape[0], int) and shape[0] != 1:
        raise c.error(f"X has the type {c.t(0)}; expected [C] or [1, C]")
    if not c.attr("stopwords") and isinstance(shape[-1], int):
        return TensorType(STR, (*((1,) if len(shape) == 2 else ()), max(shape[-1], 1)))
    return TensorType(STR, (*((1,) if len(shape) == 2 else ()), c.symbol(1)))


def _normalizer_examples() -> list:
    days = _texts("Monday", "tuesday", "Wednesday")
    return [
        ex(days, case_change_action="UPPER", is_case_sensitive=1, stopwords=("monday",)),
        ex(days, stopwords=("monday",)),
        ex(days[None], case_change_action="LOWER"),
        ex(days[:1], stopwords=("Monday",), is_case_sensitive=1),
        ex(days[None, :1], stopwords=("MONDAY",)),
        ex(days),
    ]


@op(
    "string_normalizer",
    onnx=Onnx("StringNormalizer", since=10),
    infer=_infer_normalizer,
    dtypes={"X": TEXT},
    examples=_normalizer_examples,
)
def string_normalizer(X, *, case_change_action="NONE", is_case_sensitive=0, locale=None, stopwords=None):
    """X without stopwords, then in the wanted case; one empty string where nothing is left. Unicode's rules, whatever `locale`."""
    fold = str if is_case_sensitive else str.lower
    stop = {fold(w) for w in stopwords or ()}
    kept = [CASES[case_change_action](text) for text in X.ravel() if fold(text) not in stop] or [""]
    return np.array(kept, object).reshape((1, -1) if X.ndim == 2 else (-1,))


def _infer_match(c: InferContext) -> TensorType:
    if c.attr("pattern") is None:
        raise c.error("the attribute pattern is not given")
    try:
        Regex(c.attr("pattern"))
    except ValueError as e:
        raise c.error(str(e)) from None
    return c.t(0).with_(dtype=BOOL)


def _match_examples() -> list:
    x = _texts("www.google.com", "www.facebook.com", "www.bbc.co.uk", "")
    return [
        ex(x, pattern=r"www\.[\w.-]+\.com"),
        ex(x, pattern=r"(www\.bbc.*|)"),
        ex(_texts("a\n", "a", "ab"), pattern="a."),
        ex(np.array("aaa", object), pattern="(a+)+"),
        ex(np.array([["é", "e1"]], object), pattern=r"\w\d?"),
        ex(_texts(), pattern="x"),
        ex(_texts("aXb", "axxb"), pattern="(?i)ax{1,2}B"),
        ex(_texts("foo bar", "foobar"), pattern=r"foo\b.*?bar$"),
    ]


@op("regex_full_match", onnx=Onnx("RegexFullMatch", since=20), infer=_infer_match, dtypes={"X": TEXT}, examples=_match_examples)
def regex_full_match(X, *, pattern=None):
    """Whether the whole of each string matches `pattern`, a regular expression as RE2 has them, in time linear in the string."""
    regex = Regex(pattern)
    return np.array([regex.matches(text) for text in X.ravel()], bool).reshape(X.shape)


# ---- n-grams


def _infer_tfidf(c: InferContext) -> TensorType:
    choice(c, "mode", ("TF", "IDF", "TFIDF"))
    want_rank(c, 0, 1, 2)
    indexes, counts, weights = c.attr("ngram_indexes"), list(c.attr("ngram_counts")), c.attr("weights")
    pool = c.attr("pool_strings") if c.attr("pool_strings") else c.attr("pool_int64s") or ()
    lo, hi = c.attr("min_gram_length"), c.attr("max_gram_length")
    if (c.t(0).dtype == STR) != bool(c.attr("pool_strings")):
        raise c.error(f"X holds {c.t(0).dtype}; expected what the pool holds")
    if not 1 <= lo <= hi or c.attr("max_skip_count") < 0 or len(counts) < hi:
        raise c.error(
            f"n-grams of {lo} to {hi} with {len(counts)} ngram_counts; expected 1 <= min <= max <= how many counts there are"
        )
    sections = [*counts, len(pool)]
    if counts[0] != 0 or any(b < a or (b - a) % (n + 1) for n, (a, b) in enumerate(pairwise(sections))):
        raise c.error(f"ngram_counts = {counts} do not cut a pool of {len(pool)} into n-grams")
    grams = sum((b - a) // (n + 1) for n, (a, b) in enumerate(pairwise(sections)))
    if grams != len(indexes) or min(indexes, default=0) < 0 or (weights and len(weights) != grams):
        raise c.error(
            f"{len(indexes)} ngram_indexes and {len(weights or ())} weights for {grams} n-grams; expected as many, and none below 0"
        )
    shape = c.shape(0)
    size = max(indexes, default=-1) + 1
    return TensorType(F32, None if shape is None else checked(c, (*shape[:-1], size)))


class _Grams:
    """The pool as a trie over numbered words: (prefix, word) -> prefix, kept as sorted keys that are looked up all at once."""

    def __init__(self, pool: np.ndarray, counts: list[int], lo: int, hi: int):
        self.words = np.unique(pool)
        ids = np.searchsorted(self.words, pool)
        self.base = len(self.words) + 1
        paths: dict[int, int] = {}  # prefix * base + word -> number of the longer prefix
        self.gram: dict[int, int] = {}  # prefix -> number of the n-gram that it is
        number = 0
        for n, (a, b) in enumerate(zip(counts, [*counts[1:], len(pool)]), 1):
            for gram in ids[a:b].reshape(-1, n).tolist():
                at = 0
                for word in gram:
                    at = paths.setdefault(at * self.base + word, len(paths) + 1)
                if lo <= n <= hi:
                    self.gram[at] = number
                number += 1
        self.keys = np.array(sorted(paths), np.int64)
        self.prefix = np.array([paths[k] for k in self.keys.tolist()], np.int64)
        self.number = np.full(len(paths) + 1, -1, np.int64)  # of the n-gram that a prefix is, -1 for none
        self.number[list(self.gram)] = list(self.gram.values())

    def word_ids(self, x: np.ndarray) -> np.ndarray:
        """The numbers of the words, the last number for words that are not in the pool."""
        if not len(self.words):
            return np.zeros(x.shape, np.int64)
        at = np.minimum(np.searchsorted(self.words, x.ravel()), len(self.words) - 1).reshape(x.shape)
        return np.where(self.words[at] == x, at, len(self.words))

    def step(self, prefix: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The prefixes one word further on, -1 where the trie has none."""
        if not len(self.keys):
            return np.full(prefix.shape, -1)
        key = prefix * self.base + words
        at = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        return np.where((prefix >= 0) & (self.keys[at] == key), self.prefix[at], -1)


def _tfidf_examples() -> list:
    x = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], np.int32)
    ints: dict[str, Any] = {
        "ngram_counts": (0, 4),
        "ngram_indexes": (0, 1, 2, 3, 4, 5, 6),
        "pool_int64s": (2, 3, 5, 4, 5, 6, 7, 8, 6, 7),
        "mode": "TF",
    }
    words = _texts("new", "york", "is", "new", "york")
    return [
        ex(x, min_gram_length=2, max_gram_length=2, max_skip_count=0, **ints),
        ex(x, min_gram_length=1, max_gram_length=2, max_skip_count=5, **ints),
        ex(x[1].astype(np.int64), min_gram_length=2, max_gram_length=2, max_skip_count=5, **ints),
        ex(x[:, :0], min_gram_length=1, max_gram_length=2, max_skip_count=1, **ints),
        ex(
            words,
            min_gram_length=1,
            max_gram_length=2,
            max_skip_count=1,
            ngram_counts=(0, 2),
            ngram_indexes=(2, 0, 1),
            pool_strings=("is", "york", "new", "york"),
            mode="TFIDF",
            weights=(0.5, 2.0, 3.0),
        ),
        ex(
            words,
            min_gram_length=1,
            max_gram_length=1,
            max_skip_count=0,
            ngram_counts=(0,),
            ngram_indexes=(0, 1),
            pool_strings=("york", "new"),
            mode="IDF",
            weights=(0.5, 2.0),
        ),
    ]


@op(
    "tfidf_vectorizer",
    onnx=Onnx("TfIdfVectorizer", since=9),
    infer=_infer_tfidf,
    dtypes={"X": {STR, I32, I64}},
    examples=_tfidf_examples,
)
def tfidf_vectorizer(
    X,
    *,
    mode,
    min_gram_length,
    max_gram_length,
    max_skip_count,
    ngram_counts,
    ngram_indexes,
    pool_int64s=None,
    pool_strings=None,
    weights=None,
):
    """How often each n-gram of the pool occurs in each row, with 0 to `max_skip_count` words left out between its words.

    IDF gives the weight where it occurs at all, TFIDF the count times the weight. All windows walk down a trie at once.
    """
    pool = np.array(list(pool_strings), object) if pool_strings else np.array(pool_int64s or (), np.int64)
    grams = _Grams(pool, list(ngram_counts), min_gram_length, max_gram_length)
    rows = grams.word_ids(X if X.ndim == 2 else X[None])
    indexes, size = np.array(ngram_indexes, np.int64), max(ngram_indexes, default=-1) + 1
    n_rows, length = rows.shape
    counts = np.zeros(n_rows * size, np.int64)
    for skip in range(max_skip_count + 1):
        stride = skip + 1
        if skip and stride >= length:
            break
        prefix = np.zeros(rows.shape, np.int64)
        for n in range(max_gram_length):
            tick()
            windows = length - n * stride
            if windows <= 0:
                break
            prefix = grams.step(prefix[:, :windows], rows[:, n * stride : n * stride + windows])
            number = np.where(prefix >= 0, grams.number[prefix], -1)
            if n or not skip:  # a single word has nothing left out
                row, at = np.nonzero(number >= 0)
                counts += np.bincount(row * size + indexes[number[row, at]], minlength=n_rows * size)
    out = counts.reshape(n_rows, size).astype(np.float32)
    if mode == "IDF":
        out = np.minimum(out, 1)
    if mode != "TF" and weights:
        scale = np.zeros(size, np.float32)
        scale[indexes] = np.array(weights, np.float32)
        out = out * scale
    return out if X.ndim == 2 else out[0]
