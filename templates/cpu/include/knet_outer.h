//? knet_product_columns
// Whether all numbers are finite. (A compiler that is told that all are, as by -ffast-math, may say so unseen.)
template <class T>
KNET_LOOPS bool knet_finite(int n, const T* x) {
  T sum = 0;
  KNET_SIMD(reduction(+ : sum))
  for (int i = 0; i < n; i++) sum += 0 * x[i];
  return sum == 0;
}
// y = factor x, or y += factor x.
template <bool ADD, class T>
static inline void knet_put_multiple(int n, T factor, const T* __restrict x, T* __restrict y) {
  // Longer vectors would span cache lines.
  typedef knet_vector<T, KNET_REGISTER_BYTES < 32 ? KNET_REGISTER_BYTES : 32> vector;
  int i = 0;
  for (; i + vector::lanes <= n; i += vector::lanes) {
    const typename vector::type term = factor * vector::load(x + i);
    vector::store(y + i, ADD ? vector::load(y + i) + term : term);
  }
  for (; i < n; i++) y[i] = ADD ? y[i] + factor * x[i] : factor * x[i];
}
// c += a b', a column times a row, in some columns. Where b is zero, as at the background of an image, and a is finite,
// nothing is added: those columns are passed over.
template <class T>
KNET_LOOPS void knet_add_outer(int m, const T* __restrict a, const T* __restrict b, const knet_sink<T>& c,
                               knet_range columns) {
  enum { BLOCK = 256 };
  const bool all = !knet_finite(m, a);
  const T scale = c.scale;
  const size_t apart = c.apart(m);
  T factor[BLOCK];
  int used[BLOCK];  // found before any is added, so that no branch has to be guessed
  for (int from = columns.from; from < columns.to; from += BLOCK) {
    const int n = columns.to - from < BLOCK ? columns.to - from : (int)BLOCK;
    T* const to = c.to + apart * from;
    for (int j = 0; j < n; j++) factor[j] = scale * b[from + j];
    int count = 0;
    for (int j = 0; j < n; j++) {
      used[count] = j;
      count += all || factor[j] != 0;
    }
    for (int q = 0; q < count; q++) knet_put_multiple<true>(m, factor[used[q]], a, to + apart * used[q]);
  }
}
// c = a b' likewise, of which no column can be passed over.
template <class T>
KNET_LOOPS void knet_outer(int m, const T* a, const T* b, const knet_sink<T>& c, knet_range columns) {
  const size_t apart = c.apart(m);
  for (int j = columns.from; j < columns.to; j++) knet_put_multiple<false>(m, c.scale * b[j], a, c.to + apart * j);
}
// Some columns of a product as `knet_gemm` makes.
template <class T>
static inline void knet_product_columns(bool ta, bool tb, int m, int, int k, const T* a, int lda,
                                        const T* b, int ldb, const knet_sink<T>& c, knet_range columns) {
  if (columns.size() <= 0 || m <= 0) return;
  if (!ta && tb && k == 1) return c.add ? knet_add_outer(m, a, b, c, columns) : knet_outer(m, a, b, c, columns);
  const T* const part = b + (tb ? columns.from : (size_t)columns.from * ldb);
  const int pitch = c.apart(m);
  knet_gemm(ta, tb, m, columns.size(), k, a, lda, part, ldb,
            {c.to + (size_t)columns.from * pitch, c.scale, c.add, pitch});
}
//.
