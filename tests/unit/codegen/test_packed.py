"""Matrices packed for the loop over time: exact products with vectors of any length, sequences as the interpreter's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from knetc.codegen.cpu.emit import emit_cpp
from knetc.codegen.cpu.packed import COLUMNS, DEPTH
from knetc.ir.types import N
from knetc.runtime.executable import TrainingOptions
from knetc.runtime.interp import Interpreter

from .support import NONE, VECTORS, close, compiled, run_helpers
from .test_models import data, onehot
from .test_threads import Threaded

PIECES = ("head", "team", "sink", "vector", "tile", "blas", "packed")
# Small whole numbers: their products have no rounding, whatever the order. Guards stand around what is written.
MAIN = """
template <class T>
int wrong(bool ta, int m, int n, int k) {
  const int lda = (ta ? k : m) + 3, ldb = k + 2, ldc = m + 5;
  std::vector<T> a((size_t)lda * (ta ? m : k)), b((size_t)ldb * n), c((size_t)ldc * n, 99);
  std::vector<T> panels((size_t)(m + 15) / 16 * 16 * k), room(%(depth)d * %(columns)d);
  for (size_t i = 0; i < a.size(); i++) a[i] = (int)(i * 7 %% 11) - 5;
  for (size_t i = 0; i < b.size(); i++) b[i] = (int)(i * 5 %% 13) - 6;
  for (int thread = 0; thread < 3; thread++)
    knet_pack<%(depth)d>(ta, m, k, a.data(), lda, panels.data(), knet_team{thread, 3, true});
  a.assign(a.size(), 0);  // from here on only what is packed counts
  std::vector<T> was(a.size());
  for (size_t i = 0; i < a.size(); i++) was[i] = (int)(i * 7 %% 11) - 5;
  knet_packed_product<%(depth)d, %(columns)d>(true, ta, m, n, k, a.data(), lda, panels.data(), b.data(), ldb, c.data(),
      ldc, room.data(), knet_range{0, m});
  int count = 0;
  for (int j = 0; j < n; j++)
    for (int i = 0; i < ldc; i++) {
      double want = i < m ? 0 : 99;
      for (int l = 0; i < m && l < k; l++) {
        const double factor = was[ta ? l + (size_t)lda * i : i + (size_t)lda * l];
        want += factor * b[l + (size_t)ldb * j];
      }
      count += c[i + (size_t)ldc * j] != want;
    }
  return count;
}
int main() {
  int bad = 0;
  for (int m : {48, 96, 97, 113, 130, 144, 200})
    for (int n : {97, 128, 103})
      for (int k : {%(depth)d - 1, %(depth)d, %(depth)d + 3})
        for (bool ta : {false, true}) {
          const int found = wrong<float>(ta, m, n, k) + wrong<double>(ta, m, n, k);
          if (found) printf("m %%d, n %%d, k %%d, transposed %%d: %%d wrong\\n", m, n, k, ta, found);
          bad += found;
        }
  printf("%%d wrong\\n", bad);
  return 0;
}
"""
RNN = """
@knet function rnn(x)
    h = tanh(wdot(x; out=%d) + wdot(h; out=%d))
    return wbf(h; out=4, f=:soft)
end
"""


@pytest.mark.parametrize("vectors", VECTORS)
def test_products_are_exact(vectors: str, tmp_path: Path) -> None:
    said = run_helpers(tmp_path, PIECES, MAIN % {"depth": DEPTH, "columns": COLUMNS}, vectors)
    assert said.splitlines() == ["0 wrong"], said


@pytest.mark.parametrize("size", [528, 147, 170])
@pytest.mark.parametrize("threads", [1, 2])
def test_sequences(size: int, threads: int) -> None:
    """More rows than whole panels, and more depth than goes at a time; the parameters change between two sequences.
    Of few columns, and of one step, nothing is packed.
    """
    program, options = compiled(RNN % (size, size), inputs=((3, N),), losses=("softloss",), dtype="f64")
    emitted, meaning = Threaded(program, options, threads), Interpreter(program, 7)
    plain = dict.fromkeys(program.params(), TrainingOptions(lr=0.01))
    for batch, steps in ((100, 3), (3, 2), (100, 1), (90, 4)):
        inputs = data(((3, N),), batch * steps, "f64", steps)
        gold = onehot(4, batch * steps, "f64")
        for e in (emitted, meaning):
            e.reset(False)
        got, want = (e.forward_sequence(NONE, inputs, steps) for e in (emitted, meaning))
        close(got, want, "f64", terms=1000)
        for e in (emitted, meaning):
            e.backward_sequence("softloss", gold, None, steps)
        for name in program.params():
            close(emitted.read("grad", name), meaning.read("grad", name), "f64", terms=1000)
        for e in (emitted, meaning):
            e.update(plain, gclip=0.0, gscale=1.0)


def test_what_is_packed() -> None:
    """A parameter that is large enough, once for each way that it is multiplied by."""

    def packs(size: int) -> int:
        program, options = compiled(RNN % (size, size), inputs=((3, N),), losses=("softloss",))
        return len(re.findall(r"^ +float\* packed_", emit_cpp(program, options), re.MULTILINE))

    assert packs(128) == 2 and packs(127) == 0
