"""Records: fields, defaults, equality, immutability, against what a frozen dataclass does."""

from __future__ import annotations

from typing import ClassVar

import pytest

from knetc.record import Record, replace


class Point(Record):
    x: int
    y: int = 2
    note: str = ""
    uncompared: ClassVar[frozenset[str]] = frozenset({"note"})


class Colored(Point):
    color: str = "red"


def test_fields_by_position_by_name_and_by_default() -> None:
    assert (Point(1).x, Point(1).y) == (1, 2)
    assert Point(1, y=3) == Point(1, 3, "x") == Point(x=1, y=3)
    assert Colored(1, color="blue").color == "blue"
    assert Colored.field_names == ("x", "y", "note", "color")


def test_equality_hash_and_repr() -> None:
    assert Point(1, 2, "a") == Point(1, 2, "b") and hash(Point(1, 2, "a")) == hash(Point(1, note="b"))
    assert Point(1) != Point(2) and Point(1) != Colored(1)
    assert repr(Point(1)) == "Point(x=1, y=2, note='')"


def test_records_are_immutable_and_replace_makes_new_ones() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="immutable"):
        point.x = 5  # type: ignore[misc]
    assert replace(point, y=7) == Point(1, 7) and point == Point(1)


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, 2, "", 4), {}), ((1,), {"z": 1}), ((1, 2), {"x": 3, "w": 1})]
)
def test_wrong_fields_are_refused(values: tuple[object, ...], named: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="Point has the fields x, y, note"):
        Point(*values, **named)
