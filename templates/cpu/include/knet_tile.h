// Parts of a matrix product whose sums stay in registers: vectors of rows, and so many columns. KNET_TILES: whether
// products are made of them. They are where the compiler may use wide vectors and multiply-add; otherwise a BLAS, which
// looks for these at run time, is faster. -DKNET_TILES=0 leaves all products to the BLAS.
#if defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
enum { KNET_TILE_VECTORS = 3, KNET_TILE_COLUMNS = 8 };
#else  // 16
enum { KNET_TILE_VECTORS = 2, KNET_TILE_COLUMNS = 6 };
#endif
#ifndef KNET_TILES
#if defined(__FMA__) || defined(__aarch64__)
#define KNET_TILES 1
#else
#define KNET_TILES 0
#endif
#endif
// c = a b of one tile, the sum of `depth` products: columns of a are lda elements apart; of b an element is `down` from
// the one above and `across` from the one to its left. Vectors have so many bytes.
template <int BYTES, int VECTORS, int COLUMNS, class T>
static inline void knet_tile(int depth, const T* __restrict a, size_t lda, const T* __restrict b, size_t down,
                             size_t across, const knet_sink<T>& c) {
  typedef knet_vector<T, BYTES> vector;
  typename vector::type sum[COLUMNS][VECTORS] = {};
  for (int i = 0; i < depth; i++, a += lda, b += down) {
    typename vector::type rows[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) rows[v] = vector::load(a + vector::lanes * v);
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; j++)
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; v++) sum[j][v] += rows[v] * b[across * j];
  }
  const T scale = c.scale;
  const bool add = c.add;
#pragma GCC unroll 8
  for (int j = 0; j < COLUMNS; j++)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; v++) {
      T* const to = c.to + (size_t)c.pitch * j + vector::lanes * v;
      vector::store(to, add ? vector::load(to) + scale * sum[j][v] : scale * sum[j][v]);
    }
}
// Some rows of all n columns of c, VECTORS vectors of them.
template <int BYTES, int VECTORS, class T>
KNET_LOOPS void knet_tile_row(int n, int depth, const T* a, int lda, const T* b, int down, int across, knet_sink<T> c) {
  constexpr int most = KNET_TILE_COLUMNS;
  int j = 0;
  for (; j + most <= n; j += most, b += (size_t)most * across, c.to += (size_t)most * c.pitch)
    knet_tile<BYTES, VECTORS, most>(depth, a, lda, b, down, across, c);
  if constexpr (VECTORS > 1) {  // fewer rows are little work
    constexpr int half = most / 2;
    for (; j + half <= n; j += half, b += (size_t)half * across, c.to += (size_t)half * c.pitch)
      knet_tile<BYTES, VECTORS, half>(depth, a, lda, b, down, across, c);
  }
  for (; j < n; j++, b += across, c.to += c.pitch) knet_tile<BYTES, VECTORS, 1>(depth, a, lda, b, down, across, c);
}
// Whether a product of a plain m x k matrix is made of tiles: its rows fill vectors, and it is small enough for the
// matrices to be read where they stand, columns within a page of memory.
template <class T>
static inline bool knet_is_tiled(int m, int n, int k, int lda) {
  constexpr int row = KNET_TILE_VECTORS * knet_vector<T, KNET_REGISTER_BYTES>::lanes, least = knet_vector<T, 16>::lanes;
  const bool small = lda * sizeof(T) <= 4096 && n <= 512;
  return KNET_TILES && small && m >= row && m % least == 0 && n >= KNET_TILE_COLUMNS / 2 && k >= 16;
}
// c = a op(b), of which c says its pitch.
template <class T>
KNET_LOOPS void knet_tiled_product(bool tb, int m, int n, int k, const T* a, int lda, const T* b, int ldb,
                                   knet_sink<T> c) {
  enum { DEPTH = 512 };  // what is multiplied at a time stays in the second cache
  constexpr int lanes = knet_vector<T, KNET_REGISTER_BYTES>::lanes, least = knet_vector<T, 16>::lanes;
  const int down = tb ? ldb : 1, across = tb ? 1 : ldb;
  for (int first = 0; first < k; first += DEPTH, c.add = true) {
    const int depth = k - first < DEPTH ? k - first : DEPTH;
    const T *from = a + (size_t)lda * first, *const by = b + (size_t)down * first;
    knet_sink<T> to = c;
    const auto take = [&](int rows) { from += rows, to.to += rows; };
    int left = m;
    for (int rows = KNET_TILE_VECTORS * lanes; left >= rows; left -= rows, take(rows))
      knet_tile_row<KNET_REGISTER_BYTES, KNET_TILE_VECTORS>(n, depth, from, lda, by, down, across, to);
    for (; left >= lanes; left -= lanes, take(lanes))
      knet_tile_row<KNET_REGISTER_BYTES, 1>(n, depth, from, lda, by, down, across, to);
    for (; left >= least; left -= least, take(least))
      knet_tile_row<16, 1>(n, depth, from, lda, by, down, across, to);
  }
}
