"""What a compilation is asked for, besides the source and the model: read by the passes and the generator."""

from __future__ import annotations

from typing import ClassVar

from knetc.ir.types import PartialDims
from knetc.record import Record


class Options(Record):
    """Settings of one compilation.

    `inputs`: the dims of each input, N for the batch, None for an input whose dims are to be inferred. `losses`: which
    backward programs are made (of `ir.program.LOSSES`). `dtype`: `f32` or `f64`. `level`: 0 to 2, as `-O`. `math`:
    `fp32` or `tf32`. `arch`: the GPU architecture, as nvcc's `sm_90`. `arena`: whether buffers share one block of
    memory (from level 1 on); where not, each has an allocation of its own, and a sanitizer sees its end. `prefix`: what
    every name of the C interface begins with; empty for the model's name.
    """

    inputs: tuple[PartialDims | None, ...] = ()
    losses: tuple[str, ...] = ("softloss",)
    dtype: str = "f32"
    level: int = 2
    math: str = "fp32"
    arch: str = "sm_90"
    arena: bool = True
    prefix: str = ""
    observers: tuple[object, ...] = ()

    uncompared: ClassVar[frozenset[str]] = frozenset({"observers"})
