"""The data that the examples train on: found under the folder that `KNETC_DATA` names, checked against SHA-256.

Arrays are in Knet's order, the batch last: images (28,28,1,count), one-hot labels (10,count).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

SHA256 = {  # of the unpacked files
    "mnist/train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "mnist/train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "mnist/t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "mnist/t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "housing/housing.data": "e3e36f7b9e5435f9eb8320e106aebad00031fefa3064527da0c71dec59e49b76",
    "tinyshakespeare/input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
}


def _bytes(name: str) -> bytes:
    root = os.environ.get("KNETC_DATA")
    if not root:
        sys.exit("Set KNETC_DATA to the folder that holds mnist/ and housing/ (see examples/README.md).")
    path = Path(root) / name
    if not path.is_file():
        sys.exit(f"{path} is not there (see examples/README.md for where the data sets come from).")
    data = path.read_bytes()
    data = gzip.decompress(data) if name.endswith(".gz") else data
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        sys.exit(f"{path} is not the file that was expected: its SHA-256 differs.")
    return data


def images(pixels: np.ndarray) -> np.ndarray:
    """(count, 28, 28) bytes as (28, 28, 1, count) floats in [0, 1], Fortran-ordered; the first axis runs along rows."""
    return np.asfortranarray((pixels.astype(np.float32) / 255).transpose(2, 1, 0)[:, :, None, :])


def one_hot(labels: np.ndarray, classes: int = 10) -> np.ndarray:
    """(count,) labels as a (classes, count) matrix."""
    return np.asfortranarray(np.eye(classes, dtype=np.float32)[labels].T)


def mnist() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """xtrn (28,28,1,60000), ytrn (10,60000), xtst (28,28,1,10000), ytst (10,10000)."""

    def part(prefix: str) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.frombuffer(_bytes(f"mnist/{prefix}-images-idx3-ubyte.gz"), np.uint8, offset=16)
        labels = np.frombuffer(_bytes(f"mnist/{prefix}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
        return images(pixels.reshape(-1, 28, 28)), one_hot(labels)

    return *part("train"), *part("t10k")


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The 2,000 training and 500 test digits that ship with the project, as `mnist` gives them."""
    with np.load(Path(__file__).parent / "data" / "digits.npz") as f:
        return images(f["xtrn"]), one_hot(f["ytrn"]), images(f["xtst"]), one_hot(f["ytst"])


def housing() -> tuple[np.ndarray, np.ndarray]:
    """x (13,506), each row of mean 0 and standard deviation 1, and y (1,506): median values in $1000.

    The data set's column B is defined by race; it is kept because the manual's lesson uses it.
    """
    table = np.array([line.split() for line in _bytes("housing/housing.data").decode().splitlines()], np.float64).T
    x, y = table[:13], table[13:]
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
    return np.asfortranarray(x, np.float32), np.asfortranarray(y, np.float32)


def shakespeare() -> str:
    """1,115,394 characters of Shakespeare's plays, as char-rnn trains on them: 65 different ones."""
    return _bytes("tinyshakespeare/input.txt").decode("ascii")
