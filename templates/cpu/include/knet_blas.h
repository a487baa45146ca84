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
static inline void knet_call_gemm(int ta, int tb, int m, int n, int k, float alpha, const float* a, int lda,
                                  const float* b, int ldb, float beta, float* c, int ldc) {
  KNET_BLAS(cblas_sgemm)(KNET_COLUMN_MAJOR, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
static inline void knet_call_gemm(int ta, int tb, int m, int n, int k, double alpha, const double* a, int lda,
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
// c = op(a) op(b): c is m x n, and k is what is summed over. The columns of a are lda elements apart, those of b ldb,
// those of c its pitch.
template <class T>
static inline void knet_gemm(bool ta, bool tb, int m, int n, int k, const T* a, int lda, const T* b, int ldb,
                             const knet_sink<T>& c) {
  const knet_sink<T> to = {c.to, c.scale, c.add, c.apart(m)};
  if (!ta && knet_is_tiled<T>(m, n, k, lda)) return knet_tiled_product(tb, m, n, k, a, lda, b, ldb, to);
  knet_call_gemm(ta ? KNET_TRANSPOSED : KNET_PLAIN, tb ? KNET_TRANSPOSED : KNET_PLAIN, m, n, k, c.scale, a, lda, b, ldb,
                 c.add ? 1 : 0, to.to, to.pitch);
}
// Some rows of such a product.
template <class T>
static inline void knet_product_rows(bool ta, bool tb, int m, int n, int k, const T* a, int lda,
                                     const T* b, int ldb, const knet_sink<T>& c, knet_range rows) {
  if (rows.size() <= 0 || n <= 0) return;
  const T* const part = a + (ta ? (size_t)rows.from * lda : rows.from);
  const knet_sink<T> to = {c.to + rows.from, c.scale, c.add, c.apart(m)};
  if (n > 1 || (tb && ldb != 1)) return knet_gemm(ta, tb, rows.size(), n, k, part, lda, b, ldb, to);
  knet_gemv(ta ? KNET_TRANSPOSED : KNET_PLAIN, ta ? k : rows.size(), ta ? rows.size() : k, c.scale, part, lda, b,
            c.add ? 1 : 0, to.to);
}
