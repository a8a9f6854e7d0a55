"""RecentCounts: sums that forget, by a clock that the test turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.runtime.scheduling import RecentCounts

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.floats(0, 1.5)), max_size=40)


def test_a_sum_is_kept_for_a_window_and_gone_after_two() -> None:
    counts = RecentCounts(1.0)
    assert counts.add("a", 3, 10.0) == 3
    counts.forget(11.0)
    assert counts.of("a") == 3
    counts.forget(12.0)
    assert (counts.of("a"), counts.total, counts.names) == (0, 0, 0)


@given(STEPS)
def test_sums_hold_the_last_window_and_nothing_older_than_two(steps: list[tuple[str, int, float]]) -> None:
    counts, now_s, added = RecentCounts(1.0), 100.0, []
    for name, count, later_s in steps:
        now_s += later_s
        added.append((now_s, name, count))
        counts.add(name, count, now_s)
        for each in "abc":
            ages = [(now_s - at_s, n) for at_s, who, n in added if who == each]
            last, both = (sum(n for age_s, n in ages if age_s <= most_s) for most_s in (0.99, 2.01))  # rounding
            assert last <= counts.of(each) <= both
        assert counts.total == sum(map(counts.of, "abc"))
        assert counts.names == sum(counts.of(each) > 0 for each in "abc")
