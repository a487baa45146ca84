"""The few thousand handwritten digits that ship with the project, in the form of `knetc.data.mnist`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import knetc
from knetc.data import images


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """xtrn (28,28,1,2000), ytrn (10,2000), xtst (28,28,1,500), ytst (10,500)."""
    with np.load(Path(__file__).parent / "data" / "digits.npz") as f:
        ytrn, ytst = (knetc.onehot(f[name], 10).dense(np.float32) for name in ("ytrn", "ytst"))
        return images(f["xtrn"]), ytrn, images(f["xtst"]), ytst
