from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.excerpt import MAX_CHARACTERS, excerpt


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


def test_what_is_no_text_is_shown_as_text() -> None:
    assert excerpt(ValueError("bad\tvalue")) == r"bad\tvalue"
