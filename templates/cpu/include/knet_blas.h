// Matrix products by a CBLAS, each on the one thread that calls it. KNET_BLAS makes the library's names of the usual
// ones; scipy_ stands before those of the wheel scipy-openblas32.
#ifndef KNET_BLAS
#define KNET_BLAS(name) name
#endif
extern "C" {
void KNET_BLAS(cblas_sgemm)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                            int);
void KNET_BLAS(cblas_dgemm)(int, int, int, int, int, int, double, const double*, int, const double*, int, double,
                            double*, int);
void KNET_BLAS(cblas_sgemv)(int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
void KNET_BLAS(cblas_dgemv)(int, int, int, int, double, const double*, int, const double*, int, double, double*, int);
#if defined(__ELF__)
__attribute__((weak))
#endif
void KNET_BLAS(openblas_set_num_threads)(int);
}
enum { KNET_COLUMN_MAJOR = 102, KNET_PLAIN = 111, KNET_TRANSPOSED = 112 };
static inline void knet_gemm(int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                             int ldb, float beta, float* c, int ldc) {
  KNET_BLAS(cblas_sgemm)(KNET_COLUMN_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
static inline void knet_gemm(int ta, int tb, int m, int n, int k, double alpha, const double* a, int lda,
                             const double* b, int ldb, double beta, double* c, int ldc) {
  KNET_BLAS(cblas_dgemm)(KNET_COLUMN_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
static inline void knet_gemv(int ta, int m, int n, float alpha, const float* a, int lda, const float* x, float beta,
                             float* y) {
  KNET_BLAS(cblas_sgemv)(KNET_COLUMN_MAJOR, ta, m, n, alpha, a, lda, x, 1, beta, y, 1);
}
static inline void knet_gemv(int ta, int m, int n, double alpha, const double* a, int lda, const double* x, double beta,
                             double* y) {
  KNET_BLAS(cblas_dgemv)(KNET_COLUMN_MAJOR, ta, m, n, alpha, a, lda, x, 1, beta, y, 1);
}
// c = op(a) op(b): c is m x n, and k is what is summed over. The columns of a are lda elements apart, those of b ldb, and
// those of c its pitch. Of c some rows,
template <class T>
static inline void knet_product_rows(bool ta, bool tb, int m, int n, int k, const T* a, int lda,
                                     const T* b, int ldb, const knet_sink<T>& c, knet_range rows) {
  if (rows.size() <= 0 || n <= 0) return;
  const T* const part = a + (ta ? (size_t)rows.from * lda : rows.from);
  const T beta = c.add ? 1 : 0;
  if (n == 1 && ta && (!tb || ldb == 1))
    knet_gemv(KNET_TRANSPOSED, k, rows.size(), c.scale, part, lda, b, beta, c.to + rows.from);
  else if (n == 1 && (!tb || ldb == 1))
    knet_gemv(KNET_PLAIN, rows.size(), k, c.scale, part, lda, b, beta, c.to + rows.from);
  else
    knet_gemm(ta ? KNET_TRANSPOSED : KNET_PLAIN, tb ? KNET_TRANSPOSED : KNET_PLAIN, rows.size(), n, k, c.scale, part,
              lda, b, ldb, beta, c.to + rows.from, c.apart(m));
}
// c = a b', of which a and b have K columns, in some columns: as fast as memory is, where K is small.
template <int K, class T>
KNET_LOOPS void knet_outer(int m, const T* __restrict a, int lda, const T* b, int ldb, const knet_sink<T>& c,
                           knet_range columns) {
  for (int j = columns.from; j < columns.to; j++) {
    T* __restrict to = c.to + (size_t)c.apart(m) * j;
    T factor[K];
    for (int k = 0; k < K; k++) factor[k] = c.scale * b[ldb * k + j];
    if (!c.add) memset(to, 0, m * sizeof(T));
    for (int i = 0; i < m; i++)
      for (int k = 0; k < K; k++) to[i] += factor[k] * a[lda * k + i];
  }
}
// or some columns.
template <class T>
static inline void knet_product_columns(bool ta, bool tb, int m, int, int k, const T* a, int lda,
                                        const T* b, int ldb, const knet_sink<T>& c, knet_range columns) {
  if (columns.size() <= 0 || m <= 0) return;
  if (!ta && tb && k == 1) return knet_outer<1>(m, a, lda, b, ldb, c, columns);
  if (!ta && tb && k == 2) return knet_outer<2>(m, a, lda, b, ldb, c, columns);
  const T* const part = b + (tb ? columns.from : (size_t)columns.from * ldb);
  knet_gemm(ta ? KNET_TRANSPOSED : KNET_PLAIN, tb ? KNET_TRANSPOSED : KNET_PLAIN, m, columns.size(), k, c.scale, a,
            lda, part, ldb, c.add ? 1 : 0, c.to + (size_t)columns.from * c.apart(m), c.apart(m));
}
