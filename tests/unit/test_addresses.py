"""Where an array stands: what an emitted library is given in place of the array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from knetc.runtime import cmodel


@pytest.mark.parametrize("way", [cmodel.place_of, cmodel._data_field, cmodel._data_interface])
def test_an_array_stands_where_its_first_element_does(way: Callable[[Any], int | None]) -> None:
    """Whatever the order, of views and of arrays that may not be written too; all ways say the same."""
    if way is cmodel._data_field and cmodel.place_of is not way:
        pytest.skip("this Python's arrays do not begin as CPython's do")
    a = np.arange(24, dtype="f4").reshape(2, 3, 4)
    for array in (a, a.T, np.asfortranarray(a), a[1:, ::2], a[..., 3], a[::-1], np.zeros((3, 0)), np.array(1.0)):
        assert way(array) == array.ctypes.data
    a.flags.writeable = False
    assert way(a[1]) == way(a) + 48
