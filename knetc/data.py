"""The data of the examples and of the manual's lessons: MNIST, the Boston housing data, Shakespeare.

A file is looked for in the folder that `KNETC_DATA` names, then in the user's cache, and is then downloaded from its
public source into the cache, by pooch. Wherever it comes from, the SHA-256 of its unpacked contents is checked.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knetc.cache import cache_folder
from knetc.errors import KnetEnvironmentError, KnetError, KnetShapeError
from knetc.files import reading, replacing
from knetc.record import Record
from knetc.runtime.check import natural
from knetc.runtime.onehot import onehot as make_onehot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class File(Record):
    """A file of a data set, by its place under `KNETC_DATA` and in the cache.

    `size` and `sums`: the bytes of its unpacked contents, and the SHA-256 that they may have. `urls`: where it is
    public. A name in .gz may also stand unpacked, without that ending.
    """

    name: str
    size: int
    sums: tuple[str, ...]
    urls: tuple[str, ...]


_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
_KARPATHY = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"


def _mnist_file(name: str, size: int, sum_: str) -> File:
    return File(f"mnist/{name}.gz", size, (sum_,), tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS))


MNIST = {
    "train": (
        _mnist_file(
            "train-images-idx3-ubyte", 47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        _mnist_file(
            "train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
    ),
    "test": (
        _mnist_file(
            "t10k-images-idx3-ubyte", 7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        _mnist_file(
            "t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    ),
}
HOUSING = File(
    "housing/housing.data",
    49_082,
    (
        "baadf72995725d76efe787b664e1f083388c79ba21ef9a7990d87f774184735a",
        "e3e36f7b9e5435f9eb8320e106aebad00031fefa3064527da0c71dec59e49b76",  # without the newline at the end
    ),
    (f"{_UCI}housing/housing.data",),
)
SHAKESPEARE = File(
    "tinyshakespeare/input.txt",
    1_115_394,
    ("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",),
    (f"{_KARPATHY}tinyshakespeare/input.txt",),
)
FOLDER = "KNETC_DATA"


# --- the data sets ----------------------------------------------------------------------------------------------------


def mnist(onehot: bool = True) -> tuple[Floats, Any, Floats, Any]:
    """MNIST (LeCun, Cortes, Burges; CC BY-SA 3.0): xtrn, ytrn, xtst, ytst.

    xtrn (28,28,1,60000) and xtst (28,28,1,10000) of float32 between 0 and 1, the first dimension along an image's rows,
    Fortran-ordered. ytrn (10,60000) and ytst (10,10000) are 1 in the row of the digit, from 0, and 0 elsewhere; with
    `onehot` False they are vectors of the digits. Raises KnetError where a file is damaged, KnetEnvironmentError where
    one is neither here nor can be downloaded.
    """

    def part(files: tuple[File, File]) -> tuple[Floats, Any]:
        pixels = np.frombuffer(_content(files[0]), np.uint8, offset=16)  # behind the heads of the idx format
        labels = make_onehot(np.frombuffer(_content(files[1]), np.uint8, offset=8), 10)
        return images(pixels.reshape(-1, 28, 28)), labels.dense(np.float32) if onehot else labels.indices

    return *part(MNIST["train"]), *part(MNIST["test"])


def images(pixels: NDArray[np.uint8]) -> Floats:
    """(count, rows, columns) bytes as (columns, rows, 1, count) floats between 0 and 1, Fortran-ordered."""
    return np.asfortranarray((pixels.astype(np.float32) / 255).transpose(2, 1, 0)[:, :, None, :])


def housing() -> tuple[Floats, Floats]:
    """The Boston housing data (Harrison and Rubinfeld 1978, UCI repository), as the manual's lesson 2 prepares them.

    x (13,506): the attributes of a neighbourhood, each row of mean 0 and standard deviation 1; y (1,506): the median
    value of its houses in $1000. They are here for the lesson. The attribute B, row 11 counted from 0, is defined by
    race: it is computed from the proportion of Black residents, on the premise that it bears on the worth of houses.
    Nothing that matters to people should be predicted from it. Raises as `mnist`.
    """
    table = np.array([line.split() for line in _content(HOUSING).decode("ascii").splitlines()], np.float64).T
    x, y = table[:13], table[13:]
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
    return np.asfortranarray(x, np.float32), np.asfortranarray(y, np.float32)


def shakespeare() -> str:
    """1,115,394 characters of Shakespeare's plays (public domain), as char-rnn trains on. Raises as `mnist`."""
    return _content(SHAKESPEARE).decode("ascii")


def split(x: NDArray[Any], y: NDArray[Any], train: int, seed: int = 1) -> tuple[NDArray[Any], ...]:
    """xtrn, ytrn, xtst, ytst: `train` columns drawn at random to train on, and the others to test on.

    Raises KnetShapeError where x and y differ in columns or no column is left to test on, KnetTypeError.
    """
    columns = x.shape[-1]
    if y.shape[-1] != columns:
        raise KnetShapeError(f"split: x has {columns} columns and y has {y.shape[-1]}")
    if natural("the number of columns to train on", train) >= columns:
        raise KnetShapeError(f"split: {train} of {columns} columns leave none to test on")
    order = np.random.default_rng(seed).permutation(columns)
    return tuple(np.asfortranarray(a[..., part]) for part in (order[:train], order[train:]) for a in (x, y))


# --- finding files ----------------------------------------------------------------------------------------------------


def _content(file: File) -> bytes:
    """The unpacked contents of a file, from wherever it is found first."""
    for path in _named(file):
        if path.is_file():
            return _checked(_bytes(path), file, str(path))
    cached = cache_folder() / "data" / file.name
    if cached.is_file():
        try:
            return _checked(_bytes(cached), file, str(cached))
        except KnetError:
            pass  # damaged: it is downloaded anew
    return _download(file, cached)


def _named(file: File) -> Iterator[Path]:
    """Where a file may stand under the folder that the user has named."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    if not os.path.isdir(folder):
        raise KnetEnvironmentError(f"{FOLDER} names {folder}, which is no folder")
    yield Path(folder, file.name)
    if file.name.endswith(".gz"):
        yield Path(folder, file.name.removesuffix(".gz"))


def _bytes(path: Path) -> bytes:
    with reading(path) as opened:
        return opened.read()


def _checked(data: bytes, file: File, where: str) -> bytes:
    """The unpacked contents, if they are the file's. Raises KnetError. `where` the data came from, for the message."""
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(file.size + 1)
        except (OSError, EOFError, zlib.error):
            raise KnetError(f"{where} is damaged: it cannot be unpacked") from None
    if hashlib.sha256(data).hexdigest() not in file.sums:
        raise KnetError(f"{where} is not the file that was expected: its SHA-256 differs")
    return data


def _download(file: File, path: Path) -> bytes:
    """The contents of a file, downloaded to `path`."""
    get = _downloader(file)
    failures = []
    for url in file.urls:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                get(url, beside, None)
                return _checked(_bytes(Path(beside)), file, url)
        except KnetError as error:
            failures.append(error.diagnostics[0].message)
        except OSError as error:  # the errors of the network are such too
            failures.append(f"{url}: {error}")
    raise KnetEnvironmentError("\n".join([f"{file.name} could not be downloaded; {_by_hand(file)}", *failures]))


def _downloader(file: File) -> Any:
    try:
        import pooch
    except ImportError:
        message = f"{file.name} is not here, and pooch, which downloads it, is not installed: pip install 'knetc[data]'"
        raise KnetEnvironmentError(f"{message}; or {_by_hand(file)}") from None
    return pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=1 << 16)


def _by_hand(file: File) -> str:
    return f"put {file.urls[0]} into the folder that {FOLDER} names, as {file.name}"
