"""Counter-based random numbers: Philox 4×32-10, uniform and normal.

Element i of an array is word i of the stream that (seed, instruction's stream, call's number) name, so the numbers do
not depend on order, batch split, threads or machine. Everything after the words is in float64 by operations that IEEE
754 rounds exactly (+ − × ÷ sqrt, no fused multiply-add), so that the emitted code draws the same numbers to the bit; it
takes the constants of this module.

Philox: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11. Normal quantiles: Wichura,
"Algorithm AS 241", Applied Statistics 37 (1988), routine PPND16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from knetc.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from knetc.ops.base import Tensor

# --- Philox -----------------------------------------------------------------------------------------------------------

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox(counter: Sequence[NDArray[np.uint64]], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """Philox 4×32-10: four 32-bit words for each counter of four words (arrays of uint64) under a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    low, half = np.uint64(_LOW), np.uint64(32)
    m0, m1 = (np.uint64(m) for m in PHILOX_MULTIPLIERS)
    for _ in range(PHILOX_ROUNDS):
        p0, p1 = c0 * m0, c2 * m1
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + PHILOX_KEY_STEPS[0]) & _LOW, (k1 + PHILOX_KEY_STEPS[1]) & _LOW
    return [c0, c1, c2, c3]


def words(seed: int, stream: int, call: int, start: int, count: int) -> NDArray[np.uint64]:
    """Words `start` to `start + count` of a stream. Word i is word i mod 4 of the counter (i // 4, call, stream)."""
    first, last = start // 4, (start + count + 3) // 4
    q = np.arange(first, last, dtype=np.uint64)
    rest = [np.full_like(q, call & _LOW), np.full_like(q, stream & _LOW)]
    key = (seed & _LOW, (seed >> 32) & _LOW)
    quads = philox([q & np.uint64(_LOW), q >> np.uint64(32), *rest], key)
    return np.stack(quads, axis=1).ravel()[start - 4 * first :][:count]


# --- distributions ----------------------------------------------------------------------------------------------------

UNIT = 2.0**-24


def uniform(random_words: NDArray[Any]) -> Tensor:
    """Numbers in [0,1): the upper 24 bits of each word over 2^24, in float64."""
    return (random_words >> np.uint64(8)).astype(np.float64) * UNIT


def normal(random_words: NDArray[Any]) -> Tensor:
    """Standard normal numbers: the quantile of the middle of each word's interval of [0,1)."""
    return normal_quantile(((random_words >> np.uint64(8)).astype(np.float64) + 0.5) * UNIT)


# ln 2 in two parts: the first has its lowest 32 bits zero, so that its product with an exponent is exact.
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
SQRT_HALF = 0.7071067811865476
# log m = 2·atanh(s), s = (m−1)/(m+1): 2·(1, 1/3, 1/5, …) for powers of s². With |s| ≤ 0.172 the next is below 2^-62.
LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(12))


def logarithm(x: Tensor) -> Tensor:
    """The natural logarithm of positive, finite numbers, by exactly rounded operations; off by at most 2 last digits.

    x = m·2^e with m in [sqrt(1/2), sqrt(2)); then log x = e·ln 2 + 2·atanh((m−1)/(m+1)).
    """
    m, e = np.frexp(x)
    low = m < SQRT_HALF
    m = np.where(low, m + m, m)
    e = (e - low).astype(np.float64)
    s = (m - 1.0) / (m + 1.0)
    return e * LN2_HIGH + (s * horner(LOG_SERIES, s * s) + e * LN2_LOW)


def horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """The polynomial with `coefficients` from the constant up."""
    value = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


# Numerator and denominator of Wichura's rational functions, from the constant up: in the middle, |p − 1/2| ≤ 0.425, in
# r = 0.180625 − (p − 1/2)²; towards the ends in r = sqrt(−log(min(p, 1−p))) − 1.6.
QUANTILE_SPLIT = 0.425
QUANTILE_MIDDLE = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
QUANTILE_TAIL = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)


def normal_quantile(p: Tensor) -> Tensor:
    """The inverse of the standard normal distribution function, to about 1e-16, for p from 2^-25 to 1 − 2^-25.

    Wichura's third range, min(p, 1−p) below exp(−25), lies outside.
    """
    q = p - 0.5
    r = QUANTILE_SPLIT * QUANTILE_SPLIT - q * q
    numerator, denominator = QUANTILE_MIDDLE
    z = q * horner(numerator, r) / horner(denominator, r)
    tail = np.abs(q) > QUANTILE_SPLIT
    end = p[tail]
    r = np.sqrt(-logarithm(np.where(end < 0.5, end, 1.0 - end))) - 1.6
    numerator, denominator = QUANTILE_TAIL
    z[tail] = np.copysign(horner(numerator, r) / horner(denominator, r), q[tail])
    return z
