// c = op(a) * op(b), all column-major and dense: op(a) is m x k, op(b) k x n.
inline cublasStatus_t knet_gemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                       int k, const float* a, const float* b, float* c) {
  const float one = 1, zero = 0;
  return cublasSgemm(handle, ta, tb, m, n, k, &one, a, ta == CUBLAS_OP_N ? m : k, b, tb == CUBLAS_OP_N ? k : n, &zero,
                     c, m);
}
inline cublasStatus_t knet_gemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                       int k, const double* a, const double* b, double* c) {
  const double one = 1, zero = 0;
  return cublasDgemm(handle, ta, tb, m, n, k, &one, a, ta == CUBLAS_OP_N ? m : k, b, tb == CUBLAS_OP_N ? k : n, &zero,
                     c, m);
}
