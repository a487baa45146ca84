// Products with a matrix that is the same at every step of a sequence. A BLAS lays a matrix out anew at every call, in
// the order in which its inner loop reads it; here that is done once for all steps. Panels of rows fill the registers
// with sums, vectors of the result; each panel is read from first to last for some columns at a time. DEPTH: so much of
// what is summed over at a time, and COLUMNS so many columns, so that those stay in the second cache.
template <class T>
struct knet_panel {
  typedef knet_vector<T, KNET_REGISTER_BYTES> vector;
  static constexpr int rows = KNET_TILE_VECTORS * vector::lanes;
  // The elements of so many rows with what fills the last vector.
  static int filled(int n) { return (n + vector::lanes - 1) / vector::lanes * vector::lanes; }
};
// Lays op(a), m x k, out anew, each thread some panels: one part of the depth after another, in it the panels, of each
// the columns one after the other, zeroes after the last row.
template <int DEPTH, class T>
KNET_LOOPS void knet_pack(bool ta, int m, int k, const T* __restrict a, int lda, T* __restrict to,
                          const knet_team& t) {
  typedef knet_panel<T> panel;
  const knet_range panels = t.part((m + panel::rows - 1) / panel::rows);
  for (int first = 0; first < k; first += DEPTH) {
    const int depth = k - first < DEPTH ? k - first : DEPTH;
    for (int p = panels.from; p < panels.to; p++) {
      const int r = p * panel::rows, n = m - r < panel::rows ? m - r : panel::rows, filled = panel::filled(n);
      T* out = to + (size_t)panel::filled(m) * first + (size_t)r * depth;
      for (int i = first; i < first + depth; i++, out += filled) {
        if (ta)
          for (int q = 0; q < n; q++) out[q] = a[(size_t)lda * (r + q) + i];
        else
          memcpy(out, a + (size_t)lda * i + r, n * sizeof(T));
        for (int q = n; q < filled; q++) out[q] = 0;
      }
    }
  }
}
// Some columns of b, from `first` on of what is summed over, in groups: of each group one row after the other.
template <class T>
static inline void knet_pack_columns(int n, int depth, const T* __restrict b, int ldb, T* __restrict to) {
  for (int j = 0; j < n; j += KNET_TILE_COLUMNS) {
    for (int q = 0; q < KNET_TILE_COLUMNS; q++) {
      const T* const column = b + (size_t)ldb * (j + q < n ? j + q : j);  // a column too many, which nobody reads
      for (int i = 0; i < depth; i++) to[KNET_TILE_COLUMNS * i + q] = column[i];
    }
    to += KNET_TILE_COLUMNS * depth;
  }
}
// A panel times so many columns, of which c has `rows` rows.
template <int VECTORS, class T>
KNET_LOOPS void knet_panel_columns(int rows, int n, int depth, const T* a, const T* b, T* c, int ldc, bool add) {
  constexpr int all = VECTORS * knet_panel<T>::vector::lanes;
  constexpr int width = KNET_TILE_COLUMNS, bytes = KNET_REGISTER_BYTES;
  for (int j = 0; j < n; j += width, b += width * depth, c += (size_t)ldc * width) {
    const int columns = n - j < width ? n - j : width;
    if (columns == width && rows == all) {
      knet_tile<bytes, VECTORS, width>(depth, a, all, b, width, 1, knet_sink<T>{c, 1, add, ldc});
      continue;
    }
    T sum[width * all];
    knet_tile<bytes, VECTORS, width>(depth, a, all, b, width, 1, knet_to(sum, all));
    for (int q = 0; q < columns; q++)
      for (int r = 0; r < rows; r++) c[(size_t)ldc * q + r] = sum[all * q + r] + (add ? c[(size_t)ldc * q + r] : 0);
  }
}
// c = op(a) b, m x n, of which a is packed; `room` is for columns of b. Where that gains nothing, from a itself.
template <int DEPTH, int COLUMNS, class T>
static inline void knet_packed_product(bool packed, bool ta, int m, int n, int k, const T* a, int lda, const T* panels,
                                       const T* b, int ldb, T* c, int ldc, T* room, knet_range rows) {
  static_assert(COLUMNS % KNET_TILE_COLUMNS == 0, "columns in whole groups");
  typedef knet_panel<T> panel;
  constexpr int lanes = panel::vector::lanes;
  if (!packed || n < 2 || (double)m * n * k < 1e6)
    return knet_product_rows(ta, false, m, n, k, a, lda, b, ldb, knet_to(c, ldc), rows);
  for (int first = 0; first < k; first += DEPTH) {
    const int depth = k - first < DEPTH ? k - first : DEPTH;
    for (int j = 0; j < n; j += COLUMNS) {
      const int columns = n - j < COLUMNS ? n - j : COLUMNS;
      knet_pack_columns(columns, depth, b + (size_t)ldb * j + first, ldb, room);
      const T* from = panels + (size_t)panel::filled(m) * first;
      for (int r = 0; r < m; r += panel::rows, from += (size_t)panel::rows * depth) {
        const int height = m - r < panel::rows ? m - r : panel::rows;
        T* const to = c + (size_t)ldc * j + r;
        if (height > 2 * lanes)
          knet_panel_columns<3>(height, columns, depth, from, room, to, ldc, first > 0);
        else if (height > lanes)
          knet_panel_columns<2>(height, columns, depth, from, room, to, ldc, first > 0);
        else
          knet_panel_columns<1>(height, columns, depth, from, room, to, ldc, first > 0);
      }
    }
  }
}
