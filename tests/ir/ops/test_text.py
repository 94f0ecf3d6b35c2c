"""Strings: splitting, regular expressions in linear time, n-grams."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.ops.regex import Regex
from hypothesis import given
from hypothesis import strategies as st
from inferring import N, infer, run, t


def texts(*values: str) -> np.ndarray:
    return np.array(values, object)


def test_types() -> None:
    s = t(N, 3, dtype="str")
    assert infer("string_concat", s, t(3, dtype="str")) == s
    with pytest.raises(InferenceError):
        infer("string_concat", t(2, dtype="str"), t(3, dtype="str"))
    y, z = infer("string_split", s, results=2)
    assert y.shape[:2] == (N, 3) and y.rank == 3 and z == t(N, 3, dtype="i64")
    with pytest.raises(InferenceError):
        infer("string_normalizer", t(2, 3, dtype="str"))
    with pytest.raises(InferenceError):
        infer("string_normalizer", t(2, dtype="str"), case_change_action="TITLE")


def test_split_of_nothing() -> None:
    y, z = run("string_split", texts())
    assert y.shape == (0, 0) and z.shape == (0,)


PATTERNS = [
    "a*b",
    "(a|ab)(c|bcd)*",
    "[^a-c]+",
    "a{2,3}b?",
    "(a+)+b",
    r"\Aab?\b.*$",
    "(?i)AB[c-d]",
    "(?s).b",
    "^$|a",
    "(a|b)*?c",
    "x{0}a",
    "[a-c]{1,2}",
    r"\W|\s",
]


@pytest.mark.parametrize(
    "pattern, text, words",
    [
        ("a|ab", "abab ba", ["ab", "ab", "a"]),
        ("c*", "abccbac", ["cc", "c"]),
        ("a*b|a", "aaabaa", ["aaab", "a", "a"]),
        ("^a|b$", "aabb", ["a", "b"]),
        (r"\b\w\w+\b", "I am, we are", ["am", "we", "are"]),
        ("b", "", []),
        ("(ab|abcd|bcdef)", "xabcdef", ["abcd"]),
    ],
)
def test_regex_finds_the_leftmost_longest(pattern: str, text: str, words: list[str]) -> None:
    assert [text[a:b] for a, b in Regex(pattern).spans(text)] == words


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regex_agrees_with_python(pattern: str) -> None:
    regex, python = Regex(pattern), re.compile(pattern, re.ASCII)
    for n in range(5):
        for chars in itertools.product("abcd \n"[: 6 if n < 4 else 4], repeat=n):
            text = "".join(chars)
            assert regex.matches(text) == (python.fullmatch(text) is not None), text


@pytest.mark.parametrize(
    "pattern, yes, no",
    [
        ("[[:alpha:]_]+", "ab_Z", "a1"),
        ("[^[:digit:]]", "x", "7"),
        ("[[:punct:]]+", "[]!~`", "a"),
        ("[]a]+", "]a", "b"),
        (r"a\z", "a", "a\n"),
        (r"a\\z", "a\\z", "a"),
        ("a{,2}", "a{,2}", "aa"),
        (r"\s", "\t", "\v"),
        (r"\w", "e", "é"),
        ("[a[]+", "[a", "]"),
    ],
)
def test_regex_spelled_as_in_re2(pattern: str, yes: str, no: str) -> None:
    assert Regex(pattern).matches(yes) and not Regex(pattern).matches(no)


def test_regex_refuses_unknown_classes() -> None:
    for pattern in ("[[:letter:]]", r"\pL", r"\Qa\E", "[a"):
        with pytest.raises(ValueError, match="pattern"):
            Regex(pattern)


@given(st.text("ab(|)*+?[]{}1^$.\\", max_size=9), st.text("ab1", max_size=6))
def test_any_pattern_is_an_answer_or_an_error(pattern: str, text: str) -> None:
    try:
        found = Regex(pattern).matches(text)
    except ValueError:
        return
    assert found == (re.fullmatch(pattern, text, re.ASCII) is not None)


def test_regex_is_linear_and_bounded() -> None:
    assert not Regex("(a+)+$b").matches("a" * 2000)
    assert not Regex("(a|aa)*c").matches("a" * 2000)
    assert Regex("(x+x+)+y").matches("x" * 2000 + "y")
    for pattern in ("(a{1000}){1000}", "a{1001}", "(?=a)a", r"(a)\1", "(", "(?>a)", "((a{100}){100}){100}"):
        with pytest.raises(ValueError, match="pattern"):
            Regex(pattern)
    with pytest.raises(InferenceError, match="backreference"):
        infer("regex_full_match", t(2, dtype="str"), pattern=r"(a)\1")


TFIDF = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 2}


@given(st.lists(st.integers(0, 3), max_size=9))
def test_ngrams_are_those_counted_by_hand(row: list[int]) -> None:
    pool = [(0,), (2,), (0, 1), (1, 1), (3, 2), (0, 1, 2), (1, 1, 1)]
    flat = tuple(x for g in pool for x in g)
    out = run(
        "tfidf_vectorizer",
        np.array(row, np.int64),
        ngram_counts=(0, 2, 8),
        ngram_indexes=(6, 5, 4, 3, 2, 1, 0),
        pool_int64s=flat,
        **TFIDF,
    )
    for k, gram in enumerate(pool):
        strides = (1,) if len(gram) == 1 else (1, 2, 3)
        windows = (tuple(row[i : i + s * len(gram) : s]) for s in strides for i in range(len(row) - s * (len(gram) - 1)))
        assert out[6 - k] == sum(w == gram for w in windows)


def test_tfidf_refuses_tables_that_do_not_fit() -> None:
    good = {"ngram_counts": (0, 2), "ngram_indexes": (0, 1, 2), "pool_int64s": (1, 2, 3, 4)} | TFIDF | {"max_gram_length": 2}
    x = t(N, 5, dtype="i64")
    assert infer("tfidf_vectorizer", x, **good) == t(N, 3)
    for bad in (
        {"ngram_counts": (0, 3)},
        {"ngram_indexes": (0, 1)},
        {"ngram_indexes": (0, 1, -2)},
        {"weights": (1.0,)},
        {"max_gram_length": 3},
    ):
        with pytest.raises(InferenceError):
            infer("tfidf_vectorizer", x, **(good | bad))
    with pytest.raises(InferenceError, match="pool"):
        infer("tfidf_vectorizer", t(5, dtype="str"), **good)
