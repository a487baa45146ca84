"""What an operator is: `OpDef`, the single source of truth, and the registry of them.

Every operator stands whole in one file of this package: its keywords, its two-way shape rule, its NumPy meaning, its
gradient written as IR, and its CUDA. The grammar, the passes, the interpreter and the generator name no operator; they
ask the registry. NumPy and CUDA are spelt separately, so that one wrong formula cannot pass the comparison of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from knetc.ir.types import Partial, Type
from knetc.record import Record
from knetc.values import Array, Filler, Value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from knetc.ir.program import Instr

    Tensor: TypeAlias = NDArray[np.floating[Any]]

AttrMap: TypeAlias = Mapping[str, Value]


# --- keywords ---------------------------------------------------------------------------------------------------------


class Keyword(Record):
    """A keyword parameter of a primitive: its default, and a check that returns what is wrong with a value, or None.

    `internal` keywords are set by passes and never by a Knet program.
    """

    default: Value = None
    check: Callable[[Value], str | None] = lambda value: None
    internal: bool = False


# --- shapes -----------------------------------------------------------------------------------------------------------


class ShapeMismatch(Exception):
    """Raised by a shape rule: what does not fit, and which operands it is about (indices into args, -1 the result).

    The message states the sizes ("20 rows and 10 columns do not ..."); inference adds the operands' names, shapes and
    where each shape came from.
    """

    def __init__(self, message: str, operands: Sequence[int]) -> None:
        super().__init__(message)
        self.message = message
        self.operands = tuple(operands)


class ShapeRule(Protocol):
    """Two-way inference: given what is known of the arguments' and the result's shapes, return what follows.

    Only ever adds knowledge; raises ShapeMismatch where the sizes contradict each other. `assume` is False first; when
    inference stands still with shapes unknown it asks again with True, and a broadcasting rule may then let an unknown
    operand take the other's size.
    """

    def __call__(
        self, args: tuple[Partial, ...], out: Partial, attrs: AttrMap, assume: bool
    ) -> tuple[tuple[Partial, ...], Partial]:
        """What follows for the arguments and the result."""


# --- NumPy meaning ----------------------------------------------------------------------------------------------------


class EvalContext(Protocol):
    """What an operator's NumPy meaning may ask for besides its arguments."""

    attrs: AttrMap
    dims: tuple[int, ...]
    """The result's dimensions, batch filled in; () for a scalar."""
    dtype: np.dtype[Any]
    steps: int
    """How many steps of a sequence have their columns side by side in the arguments: 1 but for time-batched runs."""
    out: Tensor | None
    """Memory of the result's shape that the result may be written to; it may be an argument's (`OpDef.in_place`)."""

    def draw(self, filler: Filler | Array, stream: int) -> Tensor:
        """An array of `dims` for this call, filled by `filler` from random stream `stream`."""


Meaning: TypeAlias = "Callable[..., Tensor]"
"""`meaning(ctx, *args) -> array`: arrays in Knet's dimension order, Fortran-contiguous but for rows of a block, whose
columns lie further apart; a result of `ctx.dims`. `@mask` may come as None. Arguments are never written to, and a
result may share their memory."""

Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"
Statements: TypeAlias = "tuple[str, Mapping[str, object]]"
Direct: TypeAlias = "Callable[[EvalContext, Shapes], Statements | None]"
"""`direct(ctx, shapes)` gives the meaning as Python statements, the same to the bit, and constants by name; None where
there is no shorter form.

In the statements stand `{result}`, the arguments by their names in `OpDef.args`, the constants; `{out}` for `ctx.out`
and `{out_t}` for its transpose, or None; `{meaning}` and `{ctx}`; and NumPy's functions by their names. A mask is the
last argument: the statements take one, or None, whichever stood there when the shapes were taken."""


# --- gradient ---------------------------------------------------------------------------------------------------------


class GradientBuilder(Protocol):
    """Through which an operator writes its gradient as IR."""

    def emit(self, op: str, *args: str, like: str, **attrs: Value) -> str:
        """Appends an instruction whose result has the type of value `like`; returns the new value's name."""

    def type(self, name: str) -> Type:
        """The type of a forward or backward value."""

    def wanted(self, index: int) -> bool:
        """Whether the gradient of argument `index` of the current instruction is needed at all."""


Gradient: TypeAlias = "Callable[[GradientBuilder, Instr, str], Sequence[str | None]]"
"""`gradient(g, instr, dy) -> one value name per argument`, None where no gradient flows or none is wanted."""


# --- CUDA -------------------------------------------------------------------------------------------------------------


class Elementwise(Record):
    """One scalar expression an element, broadcasting its arguments to the result.

    `expr` is C++ with `{name}` for each argument's element (already of the element type, called `T` there), or a
    function of the attributes that returns such text (numbers as `T(0.5)`). Helpers of `templates/include` may be used.
    Besides the arguments: `{epsilon}`, the element type's; and `{share}`, what the element's column counts in a loss's
    average: its mask (1 where there is none) over the number of columns. The argument `mask` itself is not read.
    """

    expr: str | Callable[[AttrMap], str]


class Kernel(Record):
    """A kernel of its own: the template `templates/kernels/<template>.cu.j2`. `apart`: see `OpDef.apart`.

    `term`: of a sum over all elements, what an element adds, as in `Elementwise`; times its column's mask. Such a sum
    can be computed in a kernel that goes through the same elements (`ir.epilogues`).
    """

    template: str
    apart: bool = False
    term: str = ""


class Piece(Record):
    """A piece of a kernel that elementwise operators may stand in too: `templates/pieces/<piece>.cu.j2`.

    `reach`: where an element of the result reads its arguments: in a `window` of an image, or in its whole `column`.
    `value`: the element of the result as C++, after the piece, with `{name}` for each argument's element.
    """

    piece: str
    reach: str
    value: str


class Library(Record):
    """A call to cuBLAS or cuDNN: the host template `templates/host/<call>.cu.j2`. `apart`: see `OpDef.apart`."""

    call: str
    apart: bool = False


class NoCode(Record):
    """Nothing runs: the value is a buffer that lives as long as the model (`par`, `arr`), or is handed on as it is."""


class View(Record):
    """Another name for a part of memory; where the plan cannot place it so, a copy (`templates/host/copy_rows`)."""


Cuda: TypeAlias = Elementwise | Piece | Kernel | Library | NoCode | View


# --- the definition ---------------------------------------------------------------------------------------------------


class OpDef(Record):
    """An operator. `args`: names of the positional arguments. `user`: callable from a Knet program.

    `reads`: which arguments, and `out` for the result, the gradient reads. `gradient` None: no gradient flows (and the
    operator says why in `doc`). `effect`: run for its effect, no result. `pure`: the same arguments give the same
    result, so equal instructions may be merged and unused ones dropped. `weights`: arguments whose last dimension is
    not the batch even where they are inputs of the model (conv's w, dot's a). `variadic`: the one name in `args` stands
    for any number of arguments, at least one. `in_place`: the NumPy meaning writes to `ctx.out` where that is given;
    `shares`: its result may share an argument's memory. `direct`: what the NumPy meaning comes to for arguments of
    certain shapes, None where it has no shorter form. `epilogue`: what it can be to a matrix product that computes it
    in the same call (`ir.epilogues`).
    """

    name: str
    doc: str
    args: tuple[str, ...]
    shape: ShapeRule
    numpy: Meaning
    cuda: Cuda
    gradient: Gradient | None = None
    reads: tuple[str, ...] = ()
    keywords: Mapping[str, Keyword] = {}
    user: bool = False
    effect: bool = False
    pure: bool = True
    weights: tuple[int, ...] = ()
    variadic: bool = False
    in_place: bool = False
    shares: bool = False
    direct: Direct | None = None
    epilogue: str = ""

    @property
    def reach(self) -> str:
        """How far from its own place an element of the result reads the arguments (`Piece.reach`); empty for others."""
        return self.cuda.reach if isinstance(self.cuda, Piece) else ""

    @property
    def apart(self) -> bool:
        """Whether its code can work on matrices whose columns lie apart in memory: rows of a block."""
        if isinstance(self.cuda, Kernel | Library):
            return self.cuda.apart
        return isinstance(self.cuda, Elementwise | Piece | View)


_REGISTRY: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Adds an operator; ValueError where the name is taken."""
    if op.name in _REGISTRY:
        raise ValueError(f"operator {op.name} is defined twice")
    _REGISTRY[op.name] = op
    return op


def registry() -> Mapping[str, OpDef]:
    """Every operator by name. `import knetc.ops` fills it."""
    return _REGISTRY
