"""Excerpts: short, printable lines from any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.excerpt import MAX_CHARACTERS, MAX_LINES, excerpt, excerpts, paragraph


@given(st.text(alphabet=st.characters(), max_size=600), st.integers(40, 400))
def test_whatever_the_text_the_excerpt_is_one_short_printable_line(text: str, limit: int) -> None:
    shown = excerpt(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=MAX_CHARACTERS))
def test_short_plain_text_stays_as_it_is(text: str) -> None:
    assert excerpt(text) == text


def test_escape_sequences_and_line_ends_are_spelt_out() -> None:
    assert excerpt("a\x1b[31mb\nc\ud800\u202e") == r"a\x1b[31mb\nc\ud800\u202e"


@pytest.mark.parametrize("length", [201, 20_000, 10_000_000])
def test_a_long_text_keeps_both_ends_and_says_its_length(length: int) -> None:
    shown = excerpt("b" + "x" * (length - 2) + "e")
    assert shown.startswith("b")
    assert shown.endswith("e")
    assert f"({length} characters)" in shown
    assert len(shown) <= MAX_CHARACTERS


def test_other_objects_are_shown_as_text() -> None:
    assert excerpt(ValueError("bad\tvalue")) == r"bad\tvalue"


@given(st.lists(st.text(), max_size=40), st.integers(1, 20))
def test_of_many_texts_the_first_are_shown_and_the_rest_counted(texts: list[str], most: int) -> None:
    shown = excerpts(texts, most)
    assert shown.isprintable()
    assert shown.startswith(", ".join(f"'{excerpt(text)}'" for text in texts[:most]))
    assert shown.endswith(f" and {len(texts) - most} more") == (len(texts) > most)


@given(st.text(alphabet=st.sampled_from("ab\n\r\x1b \u2028"), max_size=400))
def test_no_line_of_a_paragraph_but_the_first_begins_at_the_margin(text: str) -> None:
    first, *rest = paragraph(text).split("\n")
    assert all(line.startswith("  ") for line in rest)
    assert all(line.isprintable() for line in (first, *rest))
    assert len(rest) < MAX_LINES
