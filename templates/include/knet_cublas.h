static inline int knet_check(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return 0;
  return knet_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? KNET_MEMORY : KNET_CUBLAS, "%s (line %d: %s)",
                   cublasGetStatusString(status), line, call);
}
