"""Random words, numbers and fillers: known answers, exact formulas, statistics."""

import math
import statistics

import numpy as np
import pytest

from knetc.errors import KnetInternalError
from knetc.ops import random
from knetc.ops.fillers import check_filler, fill, resolve
from knetc.values import (
    Array,
    Bernoulli,
    Constant,
    Filler,
    Gaussian,
    GlorotNormal,
    GlorotUniform,
    Identity,
    Uniform,
    Xavier,
)

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)

# --- Philox 4×32-10: the known answers published with Random123 (kat_vectors) ---

KNOWN = [
    ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize("counter,key,answer", KNOWN, ids=["zeros", "ones", "pi"])
def test_philox_known_answers(counter, key, answer):
    got = random.philox([np.array([c], np.uint64) for c in counter], key)
    assert " ".join(f"{int(w[0]):08x}" for w in got) == answer


def test_a_word_comes_from_its_counter():
    """Word i is word i mod 4 of the counter (i // 4 low, i // 4 high, call, stream) under the seed's halves."""
    seed, stream, call = 0x299F31D0A4093822, 0x03707344, 0x13198A2E
    first = 4 * (0x85A308D3 << 32 | 0x243F6A88)
    words = random.words(seed, stream, call, first, 4)
    assert [f"{int(w):08x}" for w in words] == KNOWN[2][2].split()


def test_any_stretch_is_part_of_the_whole():
    whole = random.words(5, 1, 2, 0, 50)
    for start in range(9):
        for count in (0, 1, 3, 4, 11):
            np.testing.assert_array_equal(random.words(5, 1, 2, start, count), whole[start : start + count])


def test_seed_stream_and_call_each_matter():
    words = [random.words(*key, 0, 100) for key in ((1, 0, 0), (2, 0, 0), (1 << 32, 0, 0), (1, 1, 0), (1, 0, 1))]
    for i, a in enumerate(words):
        for b in words[:i]:
            assert (a == b).mean() < 0.02


# --- uniform and normal ---


def test_uniform_is_the_upper_24_bits():
    words = np.array([0, 0xFF, 0x100, 0x80000000, 0xFFFFFFFF], np.uint64)
    np.testing.assert_array_equal(random.uniform(words), [0, 0, 2**-24, 0.5, 1 - 2**-24])


def test_logarithm_is_that_of_the_library():
    x = np.concatenate([np.exp(np.linspace(-17.5, 17.5, 100_001)), [2**-25, 0.5, 1.0, math.sqrt(0.5), 1 - 2**-24]])
    np.testing.assert_allclose(random.logarithm(x), np.log(x), rtol=4.5e-16, atol=0)
    assert random.logarithm(np.array([1.0]))[0] == 0


def test_normal_quantile_is_wichuras():
    """Python's statistics module has the same algorithm, with the platform's logarithm and square root."""
    p = np.concatenate([np.linspace(2**-25, 1 - 2**-25, 20_001), 2.0 ** -np.arange(1, 26), [0.075, 0.925]])
    wanted = [statistics.NormalDist().inv_cdf(v) for v in p]
    np.testing.assert_allclose(random.normal_quantile(p), wanted, rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize(
    "p,z",
    # From tables of the normal distribution to 15 digits.
    [(0.5, 0.0), (0.975, 1.959963984540054), (0.9, 1.2815515655446004), (0.999, 3.090232306167813)],
)
def test_normal_quantile_known_values(p, z):
    assert random.normal_quantile(np.array([p, 1 - p])) == pytest.approx([z, -z], rel=1e-15, abs=1e-15)


def test_normal_numbers_have_the_normal_moments():
    z = random.normal(random.words(1, 0, 0, 0, 1_000_000))
    assert abs(z.mean()) < 4e-3
    assert abs(z.std() - 1) < 3e-3
    assert abs((z**3).mean()) < 0.02
    assert abs((z**4).mean() - 3) < 0.05
    # The distribution function at some points.
    for x, share in ((-2, 0.0227501), (-1, 0.1586553), (0.5, 0.6914625)):
        assert abs((z < x).mean() - share) < 2e-3


def test_normal_numbers_at_the_ends():
    z = random.normal(np.array([0, 0xFFFFFFFF], np.uint64))
    assert z[0] == -z[1] == pytest.approx(statistics.NormalDist().inv_cdf(2**-25), rel=1e-15)


# --- fillers ---


def test_resolve_gives_xavier_and_glorot_their_numbers():
    bound = math.sqrt(3 / 200)
    assert resolve(Xavier(), (200, 100)) == Uniform(-bound, bound)
    bound = math.sqrt(3 / 500)
    assert resolve(Xavier(), (5, 5, 20, 50)) == Uniform(-bound, bound)
    bound = math.sqrt(6 / 300)
    assert resolve(GlorotUniform(), (200, 100)) == Uniform(-bound, bound)
    bound = math.sqrt(6 / (5 * 5 * 20 + 5 * 5 * 50))
    assert resolve(GlorotUniform(), (5, 5, 20, 50)) == Uniform(-bound, bound)
    assert resolve(GlorotNormal(), (200, 100)) == Gaussian(0, math.sqrt(2 / 300))
    assert resolve(GlorotNormal(), (50,)) == Gaussian(0, math.sqrt(2 / 100))
    assert resolve(Bernoulli(0.2, 3), (2, 2)) == Bernoulli(0.2, 3)


@pytest.mark.parametrize("filler", [Uniform(-2, 5), Gaussian(1, 3), Bernoulli(0.3, 2.5), Xavier(), GlorotNormal(),
                                    Constant(0.1), Identity(2)])  # fmt: skip
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_part_of_an_array_is_drawn_as_in_the_whole(filler, dtype):
    """Elements depend on their place in the array alone: a narrower batch draws the same numbers."""
    whole = fill(Uniform(0, 1), (7, 10), dtype, 3, 1, 2)
    assert whole.flags.f_contiguous and whole.dtype == dtype
    np.testing.assert_array_equal(fill(Uniform(0, 1), (7, 4), dtype, 3, 1, 2), whole[:, :4])
    np.testing.assert_array_equal(fill(Uniform(0, 1), (7, 3), dtype, 3, 1, 2, first_column=5), whole[:, 5:8])
    again = fill(filler, (7, 10), dtype, 3, 1, 2)
    np.testing.assert_array_equal(again, fill(filler, (7, 10), dtype, 3, 1, 2))
    assert again.shape == (7, 10) and again.dtype == dtype and again.flags.f_contiguous


def test_uniform_elements_are_rounded_once():
    u = random.uniform(random.words(3, 1, 0, 0, 40))
    wanted = np.array([-1.5 + 4.25 * v for v in u])
    np.testing.assert_array_equal(fill(Uniform(-1.5, 2.75), (8, 5), F64, 3, 1, 0).ravel("F"), wanted)
    np.testing.assert_array_equal(fill(Uniform(-1.5, 2.75), (8, 5), F32, 3, 1, 0).ravel("F"), wanted.astype(np.float32))


def test_gaussian_moments():
    x = fill(Gaussian(2.0, 0.5), (1000, 200), F64, 1, 0, 0)
    assert abs(x.mean() - 2) < 5e-3 and abs(x.std() - 0.5) < 5e-3


def test_bernoulli_share():
    x = fill(Bernoulli(0.3, 2.5), (1000, 200), F32, 1, 0, 0)
    assert set(np.unique(x)) == {0.0, 2.5}
    assert abs((x > 0).mean() - 0.3) < 5e-3
    assert (fill(Bernoulli(0, 1), (100, 9), F32, 1, 0, 0) == 0).all()
    assert (fill(Bernoulli(1, 1), (100, 9), F32, 1, 0, 0) == 1).all()


def test_xavier_range():
    x = fill(Xavier(), (200, 100), F64, 1, 0, 0)
    bound = math.sqrt(3 / 200)
    assert -bound <= x.min() < -0.99 * bound and 0.99 * bound < x.max() < bound


@pytest.mark.parametrize("dims", [(3, 3), (2, 5), (5, 2), (1, 4)])
def test_identity(dims):
    np.testing.assert_array_equal(fill(Identity(2.0), dims, F32, 0, 0, 0), 2 * np.eye(*dims))
    np.testing.assert_array_equal(
        fill(Identity(2.0), (dims[0], 1), F32, 0, 0, 0, first_column=1), 2 * np.eye(*dims)[:, 1:2]
    )


def test_constant_and_array():
    np.testing.assert_array_equal(fill(Constant(0.1), (2, 3), F32, 0, 0, 0), np.full((2, 3), np.float32(0.1)))
    given = Array.of((2, 3), [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(fill(given, (2, 3), F64, 0, 0, 0), [[1, 3, 5], [2, 4, 6]])
    np.testing.assert_array_equal(fill(given, (2, 2), F64, 0, 0, 0, first_column=1), [[3, 5], [4, 6]])
    vector = Array.of((3,), [1, 2, 3])
    np.testing.assert_array_equal(fill(vector, (1, 1, 3, 1), F64, 0, 0, 0).ravel(), [1, 2, 3])


def test_a_filled_array_may_be_written_to():
    for init in (Constant(1), Uniform(), Array.of((2,), [1, 2])):
        fill(init, (2,), F64, 0, 0, 0)[0] = 5


def test_an_unknown_filler_is_a_bug():
    with pytest.raises(KnetInternalError, match="no meaning for the filler"):
        fill(Filler(), (2,), F64, 0, 0, 0)


@pytest.mark.parametrize(
    "value,wrong",
    [
        (Xavier(), None),
        (Gaussian(0, 0), None),
        (Array.of((1,), [0]), None),
        (Array.of((0,), []), "must be an array that is not empty"),
        (0.1, "must be a filler such as Xavier() or an array, not 0.1"),
        (None, "must be a filler such as Xavier() or an array, not nothing"),
        (Bernoulli(1.5, 1), "is Bernoulli(1.5,1), whose p must be between 0 and 1"),
        (Gaussian(0, -1), "is Gaussian(0,-1), whose std must be at least 0"),
        (Uniform(0, "x"), 'is Uniform(0,"x"), whose max must be a finite number, not "x"'),
        (Constant(math.inf), "is Constant(Inf), whose val must be a finite number, not Inf"),
    ],
)
def test_check_filler(value, wrong):
    assert check_filler(value) == wrong
