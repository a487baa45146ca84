"""Products of emitted C++ that no BLAS makes: of tiles, and of a column and a row; exact, with any vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support import VECTORS, run_helpers

PIECES = ("head", "team", "sink", "vector", "tile", "blas", "outer")
# Small whole numbers: their products have no rounding, whatever the order. Guards stand around what is written.
TILES = """
enum { WHOLE, ROWS, COLUMNS };  // a product, or a thread's part of it: all but the first rows, or the first column
template <class T>
int wrong(bool tb, bool add, int part, int m, int n, int k) {
  const int lda = m + 3, ldb = (tb ? n : k) + 2, ldc = m + 5, row = part == ROWS ? 4 : 0, column = part == COLUMNS;
  std::vector<T> a((size_t)lda * k), b((size_t)ldb * (tb ? k : n)), c((size_t)ldc * n, 99);
  for (size_t i = 0; i < a.size(); i++) a[i] = (int)(i * 7 % 11) - 5;
  for (size_t i = 0; i < b.size(); i++) b[i] = (int)(i * 5 % 13) - 6;
  if (!knet_is_tiled<T>(m - row, n - column, k, lda)) return 1;
  const knet_sink<T> to = {c.data(), -2, add, ldc};
  if (part == WHOLE) knet_gemm(false, tb, m, n, k, a.data(), lda, b.data(), ldb, to);
  if (part == ROWS) knet_product_rows(false, tb, m, n, k, a.data(), lda, b.data(), ldb, to, knet_range{row, m});
  if (part == COLUMNS) knet_product_columns(false, tb, m, n, k, a.data(), lda, b.data(), ldb, to, knet_range{1, n});
  int count = 0;
  for (int j = 0; j < n; j++)
    for (int i = 0; i < ldc; i++) {
      const bool made = row <= i && i < m && column <= j;
      double want = made && !add ? 0 : 99;
      for (int l = 0; made && l < k; l++)
        want -= 2.0 * a[i + (size_t)lda * l] * b[tb ? j + (size_t)ldb * l : l + (size_t)ldb * j];
      count += c[i + (size_t)ldc * j] != want;
    }
  return count;
}
int main() {
  int bad = 0;
  for (int m : {52, 60, 100, 116, 128})
    for (int n : {5, 8, 11, 14, 50})
      for (int k : {16, 17, 511, 512, 1030})
        for (int flags = 0; flags < 12; flags++) {
          const bool tb = flags & 1, add = flags & 2;
          const int found = wrong<float>(tb, add, flags / 4, m, n, k) + wrong<double>(tb, add, flags / 4, m + 2, n, k);
          if (found) printf("m %d, n %d, k %d, %d: %d wrong\\n", m, n, k, flags, found);
          bad += found;
        }
  // Columns of a longer than a page, rows that fill no vector, and too many columns are left to the BLAS.
  bad += knet_is_tiled<float>(100, 50, 100, 1025) + knet_is_tiled<float>(101, 50, 100, 101);
  bad += knet_is_tiled<float>(100, 513, 100, 100) + knet_is_tiled<float>(4, 50, 100, 4);
  printf("%d wrong\\n", bad);
}
"""
OUTER = """
template <class T>
int wrong(bool add, int zeroes, int m, int n, T odd) {
  const int ldc = m + 5;
  std::vector<T> a(m), b(n), c((size_t)ldc * n, 99);
  for (size_t i = 0; i < a.size(); i++) a[i] = (int)(i * 7 % 11) - 5;
  for (size_t i = 0; i < b.size(); i++) b[i] = (int)(i * 5 % 7) < zeroes ? 0 : (int)(i * 5 % 13) - 6;
  if (odd) a[m / 2] = odd;
  knet_product_columns(false, true, m, n, 1, a.data(), m, b.data(), n, knet_sink<T>{c.data(), -2, add, ldc},
                       knet_range{1, n});
  int count = 0;
  for (int j = 0; j < n; j++)
    for (int i = 0; i < ldc; i++) {
      T want = i < m && j > 0 && !add ? 0 : 99;
      if (i < m && j > 0) want += -2 * b[j] * a[i];
      const T got = c[i + (size_t)ldc * j];
      count += got != want && (got == got || want == want);
    }
  return count;
}
// Adding a zero would make a negative zero positive: where none is added, it stays.
int added_to() {
  std::vector<float> a(100, 1), b(300), c(30000, -0.f);
  for (int j = 0; j < 300; j += 7) b[j] = 1;
  knet_product_columns(false, true, 100, 300, 1, a.data(), 100, b.data(), 300, knet_sink<float>{c.data(), 1, true, 100},
                       knet_range{0, 300});
  int count = 0;
  for (float value : c) count += !signbit(value);
  return count;
}
int main() {
  int bad = added_to() != 43 * 100;
  for (int m : {3, 8, 100})
    for (int n : {9, 256, 600})
      for (int zeroes : {0, 4, 7})
        for (bool add : {false, true})
          for (double odd : {0., (double)INFINITY, (double)NAN}) {
            const int found = wrong<float>(add, zeroes, m, n, odd) + wrong<double>(add, zeroes, m, n, odd);
            if (found) printf("m %d, n %d, %d zeroes, add %d, %f: %d\\n", m, n, zeroes, add, odd, found);
            bad += found;
          }
  printf("%d wrong\\n", bad);
}
"""


@pytest.mark.parametrize("vectors", VECTORS)
def test_a_product_of_tiles_is_exact(vectors: str, tmp_path: Path) -> None:
    """Whatever the rows and columns that are left after whole tiles, and the depth after what goes at a time."""
    said = run_helpers(tmp_path, PIECES, TILES, vectors, "-DKNET_TILES=1")
    assert said.splitlines() == ["0 wrong"], said


@pytest.mark.parametrize("vectors", VECTORS)
def test_a_product_of_a_column_and_a_row_is_exact(vectors: str, tmp_path: Path) -> None:
    """Zeroes in the second operand are passed over, but not where the first holds an infinity or a NaN."""
    said = run_helpers(tmp_path, PIECES, OUTER, vectors)
    assert said.splitlines() == ["0 wrong"], said
