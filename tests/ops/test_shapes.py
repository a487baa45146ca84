"""The shape rules, forwards and backwards, and what they say of sizes that do not fit."""

import pytest

from knetc.ir.types import UNKNOWN, N, Partial
from knetc.ops.base import ShapeMismatch
from knetc.ops.shapes import product
from knetc.values import Array, Identity, Symbol

from .support import infer

VECTOR = Partial(None, vector=True)


def mismatch(text, operands, *args, **kwargs):
    with pytest.raises(ShapeMismatch) as error:
        infer(*args, **kwargs)
    assert text in error.value.message
    assert error.value.operands == operands


# --- equal shapes ---


@pytest.mark.parametrize("op", ["copy", "relu", "sigm", "tanh", "soft", "axpb"])
def test_one_argument_has_the_shape_of_the_result(op):
    assert infer(op, (10, N)) == ([(10, N)], (10, N))
    assert infer(op, None, out=(10, N)) == ([(10, N)], (10, N))
    assert infer(op, (None, N), out=(10, None)) == ([(10, N)], (10, N))
    assert infer(op, None) == ([None], None)
    mismatch("shapes (10,N) and (11,N) must be equal", (0, -1), op, (11, N), out=(10, N))
    mismatch("shapes (10,N) and (10,N,1) must be equal", (0, -1), op, (10, N, 1), out=(10, N))
    mismatch("the batch N must be the last dimension, here the shape would be (N,3)", (-1,), op, (N, 3))


def test_a_vector_stays_open_through_equal_shapes():
    assert infer("relu", VECTOR)[0] == [None]
    assert infer("relu", VECTOR, out=(1, 1, 20, 1)) == ([(1, 1, 20, 1)], (1, 1, 20, 1))


# --- matrix product ---


def test_dot_in_every_direction():
    assert infer("dot", (3, 4), (4, N)) == ([(3, 4), (4, N)], (3, N))
    assert infer("dot", (3, None), (4, N)) == ([(3, 4), (4, N)], (3, N))
    assert infer("dot", (3, 4), (None, N)) == ([(3, 4), (4, N)], (3, N))
    assert infer("dot", (None, None), (4, N), out=(3, None)) == ([(3, 4), (4, N)], (3, N))
    assert infer("dot", (3, 4), None, out=(None, N)) == ([(3, 4), None], (3, N))
    assert infer("dot", None, (4, N), out=(3, N)) == ([None, (4, N)], (3, N))
    assert infer("dot", None, (4, N), out=(3, N), assume=True) == ([(3, 4), (4, N)], (3, N))
    assert infer("dot", (3, 4), None, out=(3, N), assume=True) == ([(3, 4), (4, N)], (3, N))


def test_dot_of_more_dimensions():
    assert infer("dot", (500, None), (4, 4, 50, N)) == ([(500, 800), (4, 4, 50, N)], (500, N))
    assert infer("dot", (500, 800), (4, 4, None, N)) == ([(500, 800), (4, 4, 50, N)], (500, N))
    assert infer("dot", (500, None), (4, None, 50, N))[0][0] == (500, None)
    assert infer("dot", (2, 3, 4), (4, 5))[1] == (6, 5)
    mismatch("799 elements a column do not fit (4,4,?,N)", (1,), "dot", (500, 799), (4, 4, None, N))
    # a gradient is laid out as its type says
    assert infer("dot", (500, 800), (500, N), ta=True, out=(4, 4, 50, N))[1] == (4, 4, 50, N)


def test_dot_transposed():
    assert infer("dot", (4, 3), (4, N), ta=True) == ([(4, 3), (4, N)], (3, N))
    assert infer("dot", (3, N), (4, N), tb=True) == ([(3, N), (4, N)], (3, 4))
    assert infer("dot", (None, 3), (5, 4), ta=True, tb=True) == ([(4, 3), (5, 4)], (3, 5))


def test_dot_of_one_dimension():
    assert infer("dot", (3, 4), (4,)) == ([(3, 4), (4,)], (3, 1))
    assert infer("dot", (3, None), (N,)) == ([(3, 1), (N,)], (3, N))
    assert infer("dot", (3, 4), VECTOR, assume=True) == ([(3, 4), (4,)], (3, 1))


def test_dot_mismatches():
    text = "10 columns and 20 rows do not match in the matrix product of (5,10) and (20,N)"
    mismatch(text, (0, 1), "dot", (5, 10), (20, N))
    mismatch("the matrix product of (5,?) and (?,N) is (5,N), its use needs (6,N)", (0, 1, -1),
             "dot", (5, None), (None, N), out=(6, N))  # fmt: skip
    mismatch("a parameter's size would depend on the batch", (0, 1), "dot", (784, N), (None, 10))
    mismatch("10 columns and N rows", (0, 1), "dot", (5, 10), (N, 3))


# --- broadcasting ---


@pytest.mark.parametrize("op", ["add", "mul"])
def test_broadcasting_forwards(op):
    assert infer(op, (10, N), (10, N))[1] == (10, N)
    assert infer(op, (10, N), (10,))[1] == (10, N)
    assert infer(op, (10,), (10, N))[1] == (10, N)
    assert infer(op, (10, 1), (10, N))[1] == (10, N)
    assert infer(op, (1, N), (10, 1))[1] == (10, N)
    assert infer(op, (24, 24, 20, N), (1, 1, 20, 1))[1] == (24, 24, 20, N)


@pytest.mark.parametrize("op", ["add", "mul"])
def test_broadcasting_backwards(op):
    # A size that is neither 1 nor the other's does not fit, so the result's size is known, the operand's is not.
    assert infer(op, (10, N), (None, 1)) == ([(10, N), (None, 1)], (10, N))
    assert infer(op, (10, N), (None, 1), assume=True) == ([(10, N), (10, 1)], (10, N))
    # Against 1 the other operand decides.
    assert infer(op, (1, N), (None, 1), out=(10, N)) == ([(1, N), (10, 1)], (10, N))
    assert infer(op, (1, N), (None, 1)) == ([(1, N), (None, 1)], (None, N))
    assert infer(op, (1, N), (None, 1), assume=True) == ([(1, N), (1, 1)], (1, N))
    assert infer(op, (None, N), (None, N), out=(1, N)) == ([(1, N), (1, N)], (1, N))
    assert infer(op, (None, N), (None, 1), out=(10, N)) == ([(None, N), (None, 1)], (10, N))
    assert infer(op, (None, N), (None, 1), out=(10, N), assume=True) == ([(10, N), (10, 1)], (10, N))


@pytest.mark.parametrize("op", ["add", "mul"])
def test_an_operand_with_no_dims_takes_the_others_shape_once_nothing_else_helps(op):
    # The batch is last in operand and result, so it gives the result's number of dimensions.
    assert infer(op, (10, N), None) == ([(10, N), None], (10, N))
    assert infer(op, (1, 8, N), None) == ([(1, 8, N), None], (None, 8, N))
    assert infer(op, (10, 1), None) == ([(10, 1), None], None)
    assert infer(op, (10, N), None, assume=True) == ([(10, N), (10, N)], (10, N))
    assert infer(op, None, (4, 4, 3, N), assume=True) == ([(4, 4, 3, N), (4, 4, 3, N)], (4, 4, 3, N))
    assert infer(op, None, (10, 1), out=(10, N), assume=True) == ([(10, N), (10, 1)], (10, N))
    assert infer(op, None, None, out=(10, N), assume=True) == ([(10, N), (10, N)], (10, N))


@pytest.mark.parametrize("op", ["add", "mul"])
def test_a_vector_lies_along_rows_or_channels(op):
    assert infer(op, (10, N), VECTOR) == ([(10, N), (10,)], (10, N))
    assert infer(op, VECTOR, (10, N)) == ([(10,), (10, N)], (10, N))
    assert infer(op, (24, 24, 20, N), VECTOR) == ([(24, 24, 20, N), (1, 1, 20, 1)], (24, 24, 20, N))
    assert infer(op, (9, 8, 7, 20, N), VECTOR) == ([(9, 8, 7, 20, N), (1, 1, 1, 20, 1)], (9, 8, 7, 20, N))
    # from the result alone
    assert infer(op, (None, N), VECTOR) == ([(None, N), None], (None, N))
    assert infer(op, (None, N), VECTOR, out=(10, N)) == ([(None, N), (10,)], (10, N))
    assert infer(op, None, VECTOR, out=(10, N)) == ([None, (10,)], (10, N))
    assert infer(op, VECTOR, VECTOR) == ([None, None], None)


@pytest.mark.parametrize("op", ["add", "mul"])
def test_broadcasting_mismatches(op):
    mismatch("(10,N) and (11,N) do not fit in dimension 1", (0, 1), op, (10, N), (11, N))
    mismatch("(10,N) and (10,5) do not fit in dimension 2", (0, 1), op, (10, N), (10, 5))
    mismatch("the result would be 10, its use needs 11", (0, 1, -1), op, (10, N), (10, 1), out=(11, N))
    mismatch("its use needs 11", (0, -1), op, (10, N), (None, 1), out=(11, N))
    mismatch("give 2 dimensions, its use needs (10,3,N)", (0, 1, -1), op, (10, N), (10, 1), out=(10, 3, N))
    mismatch("the batch N must be the last dimension, here the shape would be (N,3)", (0, 1), op, (N,), (1, 3))


def test_sumto_reduces_what_was_expanded():
    assert infer("sumto", (10, N), out=(10,)) == ([(10, N)], (10,))
    assert infer("sumto", (24, 24, 20, N), out=(1, 1, 20, 1))[1] == (1, 1, 20, 1)
    mismatch("(10,N) cannot be summed to (11,)", (0, -1), "sumto", (10, N), out=(11,))
    mismatch("(10,) cannot be summed to (10,N)", (0, -1), "sumto", (10,), out=(10, N))


# --- convolution and pooling ---


def test_conv_in_every_direction():
    full = ([(5, 5, 1, 20), (28, 28, 1, N)], (24, 24, 20, N))
    assert infer("conv", (5, 5, 1, 20), (28, 28, 1, N)) == full
    assert infer("conv", (5, 5, None, 20), (28, 28, 1, N)) == full
    assert infer("conv", (5, 5, 1, None), (28, 28, 1, N), out=(None, None, 20, None)) == full
    assert infer("conv", (5, 5, 1, 20), None, out=(24, 24, None, N)) == full
    assert infer("conv", None, (28, 28, 1, N), out=(24, 24, 20, None)) == full
    assert infer("conv", (3, 3, 1, 2), (9, 8, 1, N), padding=(1, 0), stride=(2, 1))[1] == (5, 6, 2, N)
    assert infer("conv", (3, 3, 1, 2), (9, 8, 1, N), upscale=2)[1] == (5, 4, 2, N)
    assert infer("conv", (2, 2, 2, 3, 4), (5, 5, 5, 3, N), stride=2)[1] == (2, 2, 2, 4, N)
    # with a stride, several inputs give the same result
    assert infer("conv", (3, 3, 1, 2), None, out=(5, 5, 2, N), stride=2)[0][1] == (None, None, 1, N)
    # the number of dimensions from a keyword
    assert infer("conv", None, None, padding=(1, 1, 1))[1] == (None,) * 5
    assert infer("conv", None, None) == ([None, None], None)


def test_conv_mismatches():
    mismatch("the filter (5,5,3,20) takes 3 input channels, the image (28,28,1,N) has 1", (0, 1),
             "conv", (5, 5, 3, 20), (28, 28, 1, N))  # fmt: skip
    mismatch("(784,N) is no image", (1,), "conv", (5, 5, 1, 20), (784, N))
    mismatch("(3,3) is no image", (0,), "conv", (3, 3), (28, 28, 1, N))
    mismatch("differ in their number of dimensions", (0, 1), "conv", (5, 5, 5, 1, 20), (28, 28, 1, N))
    mismatch("padding=(1,1,1) has 3 entries, the image has 2 dimensions", (-1,),
             "conv", (5, 5, 1, 20), (28, 28, 1, N), padding=(1, 1, 1))  # fmt: skip
    mismatch("the convolution gives size 24, its use needs 23", (0, 1, -1),
             "conv", (5, 5, 1, 20), (28, 28, 1, N), out=(23, 24, 20, N))  # fmt: skip
    mismatch("the filter's size would depend on the batch", (0,), "conv", (5, 5, 1, N), (28, 28, 1, N))
    mismatch("the batch N must be the last dimension", (1,), "conv", (5, 5, 1, 20), (28, N, 1, 3))
    mismatch("has 20 output channels, its use needs (24,24,30,N)", (0, -1),
             "conv", (5, 5, 1, 20), (28, 28, 1, N), out=(24, 24, 30, N))  # fmt: skip
    mismatch("the batch of the image", (1, -1), "conv", (5, 5, 1, 20), (28, 28, 1, N), out=(24, 24, 20, 7))
    mismatch("would need a size of 0", (0,), "conv", None, (3, 3, 1, N), out=(4, 3, 1, N))
    mismatch("no filter gives size 2 from 5", (0, 1, -1), "conv", None, (5, 5, 1, N), out=(2, 3, 1, N), upscale=2)


def test_gradients_of_conv_have_the_shapes_of_its_arguments():
    attrs = {"padding": 1, "mode": Symbol("CUDNN_CROSS_CORRELATION")}
    w, x, y = (3, 3, 2, 5), (8, 8, 2, N), (8, 8, 5, N)
    assert infer("conv_back_w", x, y, out=w, **attrs) == ([x, y], w)
    assert infer("conv_back_x", w, y, out=x, **attrs) == ([w, y], x)
    mismatch("the convolution gives size 8", (0, 1, -1), "conv_back_x", w, (7, 8, 5, N), out=x, **attrs)


def test_pool_shapes():
    assert infer("pool", (28, 27, 20, N)) == ([(28, 27, 20, N)], (14, 14, 20, N))
    assert infer("pool", (28, 27, None, N), out=(None, None, 20, None)) == ([(28, 27, 20, N)], (14, 14, 20, N))
    assert infer("pool", (7, 7, 7, 2, N), window=3, stride=2, padding=1)[1] == (4, 4, 4, 2, N)
    assert infer("pool", None, window=(2, 2, 2))[1] == (None,) * 5
    assert infer("pool_back", (14, 14, 2, N), (28, 28, 2, N), (14, 14, 2, N), out=(28, 28, 2, N))[1] == (28, 28, 2, N)
    mismatch("(784,N) is no image", (0,), "pool", (784, N))
    mismatch("pooling gives size 14, its use needs 13", (0, -1), "pool", (28, 28, 1, N), out=(13, 14, 1, N))
    mismatch("window=(2,2,2) has 3 entries", (-1,), "pool", (28, 28, 1, N), window=(2, 2, 2))
    mismatch("3 channels, its use needs 4", (0, -1), "pool", (8, 8, 3, N), out=(None, None, 4, None))


# --- sources ---


def test_declared_dims_and_use_fill_each_other():
    assert infer("par", dims=(10, 0)) == ([], (10, None))
    assert infer("par", dims=(10, 0), out=(None, 784))[1] == (10, 784)
    assert infer("par", out=(3, 4))[1] == (3, 4)
    assert infer("par") == ([], None)
    assert infer("rnd", dims=(10, 0), out=(None, N))[1] == (10, N)
    mismatch(
        "dims=(10, 20) was declared, and its use needs the shape (10,784)", (-1,), "par", dims=(10, 20), out=(10, 784)
    )
    mismatch("dims=(10, 20) was declared", (-1,), "par", dims=(10, 20), out=(10, 20, 1))


def test_an_array_as_init_gives_its_dims():
    init = Array.of((2, 3), [0] * 6)
    assert infer("par", init=init)[1] == (2, 3)
    assert infer("par", init=init, dims=(2, 0))[1] == (2, 3)
    mismatch("the array given as init has shape (2,3), which does not fit (2,4)", (-1,), "par", init=init, dims=(2, 4))
    mismatch("which does not fit (5,3)", (-1,), "par", init=init, out=(5, 3))


def test_a_vector_waits_for_its_use():
    assert infer("par", dims=(0,))[1] is None
    assert infer("par", dims=(0,), out=UNKNOWN)[1] is None
    assert infer("par", dims=(0,), out=(10,))[1] == (10,)
    assert infer("par", dims=(0,), out=(1, 1, 20, 1))[1] == (1, 1, 20, 1)
    mismatch("dims=(0,) is a vector, and its use needs the shape (3,4)", (-1,), "par", dims=(0,), out=(3, 4))
    init = Array.of((3,), [1, 2, 3])
    assert infer("par", dims=(0,), init=init)[1] is None
    assert infer("par", dims=(0,), init=init, assume=True)[1] == (3,)
    assert infer("par", dims=(0,), init=init, out=(1, 1, None, 1))[1] == (1, 1, 3, 1)
    assert infer("par", dims=(0,), init=init, out=(1, 1, 3, 1))[1] == (1, 1, 3, 1)
    mismatch("has 3 elements, and its use needs the shape (10,)", (-1,), "par", dims=(0,), init=init, out=(10,))
    mismatch("has 3 elements, and its use needs the shape (1,)", (-1,), "par", dims=(0,), init=init, out=(1,))
    square = Array.of((2, 2), [0] * 4)
    mismatch("dims=(0,) is a vector, and the array given as init has shape (2,2)", (-1,), "par", dims=(0,), init=square)


def test_only_a_random_array_may_hold_the_batch():
    assert infer("rnd", out=(10, N))[1] == (10, N)
    for op in ("par", "arr"):
        mismatch("a parameter's size would depend on the batch: (10,N)", (-1,), op, dims=(10, 0), out=(10, N))
    mismatch("the batch N must be the last dimension", (-1,), "rnd", out=(N, 10))


def test_identity_fills_matrices():
    assert infer("par", init=Identity(1), dims=(0, 0), out=(3, 5))[1] == (3, 5)
    mismatch("Identity fills a matrix, and the shape is (3,)", (-1,), "par", init=Identity(1), out=(3,))


# --- losses ---


def test_losses_are_scalars():
    for loss in ("quadloss", "softloss", "zeroone"):
        assert infer(loss, (10, N), None, None) == ([(10, N), (10, N), (N,)], ())
        assert infer(loss, (10, N), (10, N), (1, N)) == ([(10, N), (10, N), (1, N)], ())
        assert infer(loss, None, (2, 3, N), None) == ([(2, 3, N), (2, 3, N), (N,)], ())
        mismatch("shapes (10,N) and (9,N) must be equal", (0, 1), loss, (10, N), (9, N), None)
        mismatch(
            "the mask (10,N) must have one entry for each column of (10,N)", (0, 2), loss, (10, N), (10, N), (10, N)
        )
        mismatch("a loss is a scalar", (-1,), loss, (10, N), None, None, out=(3,))
    for back in ("quadloss_back", "softloss_back", "softmax_softloss_back"):
        assert infer(back, (10, N), None, None) == ([(10, N), (10, N), (N,)], (10, N))
        assert infer(back, None, None, None, out=(10, N)) == ([(10, N), (10, N), (N,)], (10, N))


def test_nothing_follows_for_effects_and_for_values_that_passes_type():
    for op in ("keep", "dpar", "dinput", "dkeep"):
        assert infer(op, (10, N)) == ([(10, N)], None)
    for op in ("state", "dstate", "zeros", "update"):
        assert infer(op, out=(10, N)) == ([], (10, N))


def test_product_of_sizes():
    assert product((2, 3)) == 6 and product(()) == 1
    assert product((2, None)) is None
    assert product((1, N)) is N
    assert product((2, N)) is None and product((N, N)) is None
