"""What a user hands to a model, checked and turned into what an executable takes.

Before it: the arguments of `Model`'s methods. After it: Fortran-contiguous arrays of the model's dtype, settings of the
conditions, training options. Nothing here changes a model, so an error leaves it as it was.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from knetc.errors import KnetNameError, KnetShapeError, KnetTypeError
from knetc.ir.types import BatchDim, PartialDims, show_dims
from knetc.runtime import device
from knetc.runtime.device import DeviceArray
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.onehot import OneHot, onehot

if TYPE_CHECKING:
    from knetc.runtime.executable import Given, Tensor

DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64)}


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known name is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def listing(names: Iterable[str]) -> str:
    """Names as messages list them."""
    return ", ".join(names) or "none"


def array(value: Any, what: str, dtype: np.dtype[Any]) -> Tensor:
    """`value` as a Fortran-contiguous array of `dtype`; no copy where it is one already.

    Raises KnetTypeError where it holds no real numbers, or a NaN or an infinity in `dtype`.
    """
    if isinstance(value, np.ndarray) and as_before(value, dtype, value.shape):
        finite(value, what)
        return value
    if device.is_device(value):
        raise KnetTypeError(f"{what}: an array in host memory is expected, got a device array")
    try:
        given = np.asarray(value)
    except (TypeError, ValueError):
        raise KnetTypeError(f"{what}: an array of numbers is expected, got {type(value).__name__}") from None
    if given.dtype.kind not in "fiub":
        raise KnetTypeError(f"{what}: real numbers are expected, got an array of {_dtype_name(given.dtype)}")
    with np.errstate(over="ignore"):
        result = np.asarray(given, dtype, order="F")
    finite(result, what, given)
    return result


def device_array(value: Any, what: str, dtype: np.dtype[Any], dims: PartialDims | None) -> DeviceArray:
    """A device array as it stands, which must be of `dtype`, dense, and of `dims` as far as they are known.

    A Fortran-ordered array has its own shape, a C-ordered one the reversed: the batch first becomes the batch last.
    Raises KnetTypeError, KnetShapeError. Elements are not looked at: that would make the host wait.
    """
    found = device.find(value, what, device.LEGACY_STREAM)
    if found.dtype != dtype:
        raise KnetTypeError(
            f"{what}: a device array is taken as it is, so it must be of {dtype}, got {_dtype_name(found.dtype)}"
        )
    # One of ours has been read already.
    shapes = [found.shape] if isinstance(value, DeviceArray) else readings(found, what)
    fitting = [s for s in shapes if dims is None or _matches(s, dims)]
    if not fitting:
        wanted, order = show_dims(dims or ()), "" if found.fortran else ", which is C-ordered, so read reversed"
        raise KnetShapeError(f"{what}: shape {wanted} is expected, got a device array of {found.shape}{order}")
    return DeviceArray(found.pointer, fitting[0], found.dtype, found.streams, found.owner, device.read_only(value))


def readings(found: device.Found, what: str) -> list[tuple[int, ...]]:
    """The dims in Knet's order that a device array can be read as. KnetTypeError where there are none, or which cannot
    be told.
    """
    shapes = device.readings(found)
    if not shapes:
        raise KnetTypeError(
            f"{what}: the elements of the device array do not lie one after the other (shape {found.shape}, strides "
            f"{found.strides}); make a contiguous copy of it"
        )
    if not found.fortran and found.shape == found.shape[::-1]:
        raise KnetTypeError(
            f"{what}: a C-ordered device array of shape {found.shape} can be read in two ways; give it in Fortran "
            "order (of an array with the batch first: its transpose, x.T)"
        )
    return shapes


def room(value: Any, what: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Given:
    """Where a result of `shape` and `dtype` is to go: an array of NumPy in any order, or one on the device, read as
    `device_array` reads it.

    Raises KnetTypeError (something else, another element type, read-only, not contiguous on the device),
    KnetShapeError.
    """
    if device.is_device(value):
        if device.read_only(value):
            raise KnetTypeError(f"{what}: the device array is read-only")
        return device_array(value, what, dtype, shape)
    if not isinstance(value, np.ndarray):
        raise KnetTypeError(f"{what}: an array of NumPy or one on the device is expected, got {type(value).__name__}")
    if value.dtype != dtype:
        raise KnetTypeError(f"{what}: an array of {dtype} is expected, got one of {_dtype_name(value.dtype)}")
    if value.shape != shape:
        raise KnetShapeError(f"{what}: shape {shape}, the result's, is expected, got {value.shape}")
    if not value.flags.writeable:
        raise KnetTypeError(f"{what}: the array is read-only")
    return value


def overlap(a: Given, b: Given) -> bool:
    """Whether two arrays have memory in common."""
    if isinstance(a, DeviceArray) and isinstance(b, DeviceArray):
        return a.pointer < b.pointer + b.nbytes and b.pointer < a.pointer + a.nbytes
    if isinstance(a, DeviceArray) or isinstance(b, DeviceArray):
        return False
    return np.may_share_memory(a, b) and np.shares_memory(a, b)


def _matches(shape: tuple[int, ...], dims: PartialDims) -> bool:
    return len(shape) == len(dims) and all(
        d is None or isinstance(d, BatchDim) or d == n for n, d in zip(shape, dims, strict=True)
    )


def as_before(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Whether `value` is an array of that type and shape in Fortran order, which needs no conversion."""
    return type(value) is np.ndarray and value.shape == shape and value.dtype == dtype and value.flags.f_contiguous


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return {"O": "Python objects", "U": "strings", "S": "byte strings"}.get(dtype.kind, str(dtype))


def finite(result: Tensor, what: str, given: NDArray[Any] | None = None) -> None:
    """Raises KnetTypeError where `result`, which was converted from `given`, holds a NaN or an infinity."""
    # One pass through BLAS; only where that overflows or meets a NaN is every element looked at.
    rows = result.T  # C-ordered, so that no copy is made
    if math.isfinite(np.vdot(rows, rows)):
        return
    wrong = np.count_nonzero(~np.isfinite(result))
    if not wrong:
        return
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
    given = result if given is None else given
    came = f"{given[where]} at index {where if given.ndim > 1 else where[0] if where else where}"
    more = f" ({wrong} such elements)" if wrong > 1 else ""
    if np.isfinite(given[where]):
        raise KnetTypeError(f"{what}: {came} is too large for {result.dtype}{more}")
    raise KnetTypeError(f"{what}: every element must be finite, got {came}{more}")


def columns(value: Any, what: str, dtype: np.dtype[Any], dims: PartialDims | None) -> Given:
    """An input or a ygold as an array: a one-hot matrix is made dense, a vector of integers read as one.

    A device array stays one.

    `dims`: what is known of its shape, None where nothing is. Raises as `array`, and KnetShapeError for a scalar or an
    array without columns.
    """
    if isinstance(value, OneHot):
        value = value.dense(dtype)
    elif _is_index_vector(value) and (dims is None or len(dims) != 1):
        if dims is None or len(dims) != 2 or not isinstance(dims[0], int):
            raise KnetShapeError(
                f"{what}: a vector of integers stands for one-hot columns, but their number of rows is not known; "
                "give knetc.onehot(indices, rows)"
            )
        value = onehot(value, dims[0], what).dense(dtype)
    on_device = device.is_device(value)
    result = device_array(value, what, dtype, dims) if on_device else array(value, what, dtype)
    if result.ndim == 0:
        raise KnetShapeError(f"{what}: an array whose last dimension is the batch is expected, got a single number")
    if result.size == 0:
        raise KnetShapeError(f"{what}: the batch is empty, its shape is {result.shape}")
    return result


def _is_index_vector(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return isinstance(value, list) and bool(value) and all(type(v) is int for v in value)


def fits(result: Given, dims: PartialDims, what: str) -> int | None:
    """The batch size of an array of `dims`; None where `dims` has no N. Raises KnetShapeError where they differ."""
    batch: int | None = None
    good = len(dims) == result.ndim
    for wanted, size in zip(dims, result.shape, strict=False):
        if isinstance(wanted, BatchDim):
            good &= batch is None or batch == size
            batch = size
        else:
            good &= wanted is None or wanted == size
    if not good:
        raise KnetShapeError(f"{what}: shape {show_dims(dims)} is expected, got {result.shape}")
    return batch


def gold(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Given:
    """`ygold` (or the gradient of the output itself) for an output of `shape`. Raises as `columns`, KnetShapeError."""
    if as_before(value, dtype, shape):
        finite(value, "ygold")
        return cast("Tensor", value)
    result = columns(value, "ygold", dtype, shape)
    if result.shape != shape:
        raise KnetShapeError(f"ygold: shape {shape}, the output's, is expected, got {result.shape}")
    return result


def rows_or_gold(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """As `gold`; of a one-hot matrix the rows of its 1s, as 32-bit integers."""
    if not isinstance(value, OneHot) and (not _is_index_vector(value) or len(shape) != 2):
        return gold(value, shape, dtype)
    hot = value if isinstance(value, OneHot) else onehot(value, shape[0], "ygold")
    if hot.shape != shape:
        raise KnetShapeError(f"ygold: shape {shape}, the output's, is expected, got {hot.shape}")
    return hot.indices.astype(np.int32)


def mask(value: Any, batch: int, dtype: np.dtype[Any]) -> Given | None:
    """One number a column, or None. Raises KnetTypeError or KnetShapeError."""
    if value is None:
        return None
    if device.is_device(value):
        return device_array(value, "mask", dtype, (batch,))
    result = array(value, "mask", dtype)
    if result.shape != (batch,):
        raise KnetShapeError(f"mask: one number a column is expected, so shape ({batch},), got {result.shape}")
    return result


_NO_CONDITIONS: frozenset[str] = frozenset()


def setting(conditions: Mapping[str, Any], known: Collection[str]) -> frozenset[str]:
    """The conditions that are true. Raises KnetNameError for one that the model does not test, KnetTypeError for a
    value that is no boolean.
    """
    if not conditions:
        return _NO_CONDITIONS
    for name, value in conditions.items():
        if name not in known:
            raise KnetNameError(
                f"the model tests no condition {name!r} (its conditions: {listing(known)}){suggestion(name, known)}"
            )
        if not isinstance(value, bool | np.bool_):
            raise KnetTypeError(f"condition {name} is True or False, got {value!r}")
    return frozenset(name for name, value in conditions.items() if value)


# --- training options -------------------------------------------------------------------------------------------------

_OPTIONS = vars(TrainingOptions())


def training_options(given: Mapping[str, Any]) -> dict[str, float | bool]:
    """Values for TrainingOptions. Raises KnetNameError for an unknown option, KnetTypeError for a wrong value."""
    checked: dict[str, float | bool] = {}
    for name, value in given.items():
        if name not in _OPTIONS:
            raise KnetNameError(
                f"there is no training option {name!r} (there are {listing(_OPTIONS)}){suggestion(name, _OPTIONS)}"
            )
        checked[name] = flag(name, value) if isinstance(_OPTIONS[name], bool) else number(name, value)
        if name not in ("lr", "gscale") and checked[name] < 0:
            raise KnetTypeError(f"option {name} is not negative, got {value!r}")
    return checked


def flag(name: str, value: Any) -> bool:
    """A boolean option. Raises KnetTypeError."""
    if not isinstance(value, bool | np.bool_):
        raise KnetTypeError(f"option {name} is True or False, got {value!r}")
    return bool(value)


def number(name: str, value: Any) -> float:
    """A finite number. Raises KnetTypeError."""
    good = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.complexfloating)
    if not good or not math.isfinite(value):
        raise KnetTypeError(f"option {name} is a finite number, got {value!r}")
    return float(value)


def seed(value: Any) -> int:
    """A seed: an integer of 64 bits. Raises KnetTypeError."""
    if natural("seed", value, 0) >> 64:
        raise KnetTypeError(f"seed is an integer below 2^64, got {value!r}")
    return int(value)


def level(value: Any) -> int:
    """How far a program is optimised: 0, 1 or 2. Raises KnetTypeError."""
    if isinstance(value, bool) or value not in (0, 1, 2):
        raise KnetTypeError(f"optimise is 0, 1 or 2, got {value!r}")
    return int(value)


def natural(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`. Raises KnetTypeError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise KnetTypeError(f"{name} is an integer of at least {least}, got {value!r}")
    return int(value)
