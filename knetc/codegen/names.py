"""C identifiers from Knet names.

Before: `ir.plan`, whose buffers carry Knet's names (`c1/w`, `d:c1/w`, `θ`). After: `codegen.kernels` and the templates,
which write these identifiers. The same names asked for in the same order give the same identifiers everywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# What C++ and CUDA reserve, what the headers in use define as macros, and the names the templates themselves use.
_RESERVED_WORDS = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl
    concept const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete
    do double dynamic_cast else enum explicit export extern false final float for friend goto if import inline int long
    module mutable namespace new noexcept not not_eq nullptr operator or or_eq override private protected public
    register reinterpret_cast requires restrict return short signed sizeof static static_assert static_cast struct
    switch template this thread_local throw true try typedef typeid typename typeof union unsigned using virtual void
    volatile wchar_t while xor xor_eq
    assert errno linux unix i386 stdin stdout stderr offsetof signbit isnan isinf isfinite isnormal va_arg va_start
    va_end va_copy threadIdx blockIdx blockDim gridDim warpSize main
    NULL EOF NAN INFINITY TRY BUFSIZ
    """
_RESERVED = frozenset(_RESERVED_WORDS.split())


def spell(name: str) -> str:
    """The nearest C identifier to a Knet name: ASCII, no double underscore, none at the start; not yet unique.

    A Greek letter becomes its name (`θ` `theta`), any other letter outside ASCII `u` and its code.
    """
    parts: list[str] = []
    for c in unicodedata.normalize("NFC", name):
        if c.isascii():
            parts.append(c if c.isalnum() else "_")
        else:
            parts.append(_spell_letter(c))
    text = "".join(parts)
    while "__" in text:
        text = text.replace("__", "_")
    text = text.strip("_")
    if not text or text[0].isdigit():
        text = f"v{text}"
    # All capitals may be a macro of some header (EOF, M_PI): W and W1 read better without a mark.
    macro = len(text) > 2 and text.isupper()
    return f"{text}_" if text in _RESERVED or macro else text


def _spell_letter(c: str) -> str:
    words = unicodedata.name(c, "").split()
    if len(words) == 4 and words[0] == "GREEK" and words[2] == "LETTER":
        return words[3].capitalize() if words[1] == "CAPITAL" else words[3].lower()
    return f"u{ord(c):04x}"


# With these a public name (`run_forward`, `check_model`) would be one that the emitted file uses itself.
PREFIXES_IN_USE = ("knet", "check", "close", "conv", "open", "pool", "run", "step")
# Macros of <math.h> that a condition's label (`M_PI`: model m, condition pi) could meet.
_MACROS = "M_E M_LOG2E M_LOG10E M_LN2 M_LN10 M_PI M_PI_2 M_PI_4 M_1_PI M_2_PI M_2_SQRTPI M_SQRT2 M_SQRT1_2"


def interface_prefix(model: str) -> str:
    """What every public name of a model's emitted file begins with, `lenet` in `lenet_forward`: the model's own name.

    So a program may hold the files of several models.
    """
    return Names(PREFIXES_IN_USE).fresh(model).strip("_")


def condition_labels(prefix: str, conditions: Iterable[str]) -> list[tuple[str, str]]:
    """Each condition with its C constant: `dropout`, `LENET_DROPOUT`."""
    names = Names(tuple(_MACROS.split()))
    found = []
    for condition in conditions:
        label = f"{prefix}_{spell(condition)}".upper().strip("_")
        found.append((condition, names.unique(label)))
    return found


class Names:
    """Gives out identifiers, each once: a second value of the same spelling gets `_2`, `_3`, …"""

    def __init__(self, taken: tuple[str, ...] = ()) -> None:
        self._used = set(taken)
        self._next: dict[str, int] = {}

    def fresh(self, name: str) -> str:
        """An identifier for `name` that was not given out before."""
        return self.unique(spell(name))

    def unique(self, base: str) -> str:
        """`base`, or with the next number where it was given out before."""
        found = base
        number = self._next.get(base, 2)
        while found in self._used:
            found = f"{base.rstrip('_')}_{number}"
            number += 1
        self._next[base] = number
        self._used.add(found)
        return found
