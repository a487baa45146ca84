"""Immutable records: classes whose fields are their annotations.

What `dataclasses` gives with `frozen=True`, but declared without compiling code for every class: the command declares
some sixty of them each time it starts, and their declarations alone took a fifth of its time.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, dataclass_transform

R = TypeVar("R", bound="Record")


@dataclass_transform(frozen_default=True)
class Record:
    """Fields by position or by name, defaults as class attributes; equality, hash and repr by fields.

    `uncompared` names the fields that take no part in equality and hash.
    """

    field_names: ClassVar[tuple[str, ...]] = ()
    uncompared: ClassVar[frozenset[str]] = frozenset()
    _defaults: ClassVar[dict[str, object]] = {}
    _compared: ClassVar[tuple[str, ...]] = ()
    _hash: ClassVar[int]  # of each record, in a slot of its own
    __slots__ = ("__dict__", "__weakref__", "_hash")

    def __init_subclass__(cls) -> None:
        own = [name for name, kind in vars(cls).get("__annotations__", {}).items() if not _is_class_variable(kind)]
        cls.field_names = (*cls.field_names, *(name for name in own if name not in cls.field_names))
        cls._defaults = {**cls._defaults, **{name: vars(cls)[name] for name in own if name in vars(cls)}}
        cls._compared = tuple(name for name in cls.field_names if name not in cls.uncompared)

    def __init__(self, *values: Any, **named: Any) -> None:
        mine = self.__dict__
        fields = self.field_names
        if len(values) == len(fields) and not named:  # by far the most frequent
            mine.update(zip(fields, values))  # noqa: B905 (strict=True would take as long as all the rest)
            return
        mine.update(self._defaults)
        mine.update(zip(fields, values, strict=False))
        mine.update(named)
        if len(mine) != len(fields) or len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields)}, not {', '.join(mine)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not type(self):
            return NotImplemented
        mine, its = self.__dict__, other.__dict__
        if mine == its or not self.uncompared:
            return mine == its
        return all(mine[name] == its[name] for name in self._compared)

    def __hash__(self) -> int:
        try:
            found = self._hash
        except AttributeError:
            found = hash(tuple(map(self.__dict__.__getitem__, self._compared)))
            object.__setattr__(self, "_hash", found)
        return found

    def __getstate__(self) -> object:
        return self.__dict__  # the fields alone: a hash is another in another process

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.field_names)})"


def replace(record: R, **changes: Any) -> R:
    """The record with some fields changed."""
    return type(record)(**{**record.__dict__, **changes})


def _is_class_variable(kind: object) -> bool:
    return isinstance(kind, str) and kind.startswith("ClassVar")
