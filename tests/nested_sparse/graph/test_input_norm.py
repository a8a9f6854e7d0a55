"""check_input_norm: parts of a norm, and norms that do not fit their layer, are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nested_sparse.graph.input_norm import check_input_norm, has_input_norm
from nested_sparse.wire import WireError

WHOLE: dict[str, Any] = {
    "norm_scale": np.ones(4, np.float32),
    "norm_shift": np.zeros(4, np.float32),
    "norm_epsilon": 1e-5,
}


def test_all_or_nothing_passes() -> None:
    check_input_norm({}, 4)
    check_input_norm(WHOLE, 4)
    check_input_norm(WHOLE | {"norm_epsilon": 0.0}, 4)
    assert has_input_norm(WHOLE)
    assert not has_input_norm({"columns": 4})


@pytest.mark.parametrize("name", WHOLE)
def test_a_part_is_refused(name: str) -> None:
    rest = {key: value for key, value in WHOLE.items() if key != name}
    with pytest.raises(WireError, match="and not all of norm_scale, norm_shift, norm_epsilon"):
        check_input_norm(rest, 4)
    with pytest.raises(WireError, match=f"has {name} and not all of"):
        check_input_norm({name: WHOLE[name]}, 4)


@pytest.mark.parametrize("name", ["norm_scale", "norm_shift"])
@pytest.mark.parametrize("count", [0, 3, 5])
def test_other_columns_are_refused(name: str, count: int) -> None:
    with pytest.raises(WireError, match=f"has {count} numbers in {name}, expected one for each of 4 columns"):
        check_input_norm(WHOLE | {name: np.ones(count, np.float32)}, 4)


@pytest.mark.parametrize("epsilon", [-1e-5, math.nan, math.inf])
def test_an_epsilon_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(WireError, match=r"says norm_epsilon .*, expected a finite number from 0 on"):
        check_input_norm(WHOLE | {"norm_epsilon": epsilon}, 4)
