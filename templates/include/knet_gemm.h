// c = op(a) * op(b), all column-major: op(a) is m x k, op(b) k x n. The columns of a are lda elements apart, and so on.
inline cublasStatus_t knet_gemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                const float* a, int lda, const float* b, int ldb, float* c, int ldc) {
  const float one = 1, zero = 0;
  return cublasSgemm(handle, ta, tb, m, n, k, &one, a, lda, b, ldb, &zero, c, ldc);
}
inline cublasStatus_t knet_gemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                const double* a, int lda, const double* b, int ldb, double* c, int ldc) {
  const double one = 1, zero = 0;
  return cublasDgemm(handle, ta, tb, m, n, k, &one, a, lda, b, ldb, &zero, c, ldc);
}
