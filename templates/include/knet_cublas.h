static inline int knet_check(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return 0;
  return knet_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? KNET_MEMORY : KNET_CUBLAS, "%s (line %d: %s)",
                   cublasGetStatusString(status), line, call);
}
// The workspace that cuBLAS uses, given to it before anything is captured: bytes as NVIDIA recommends for the device.
static inline int knet_blas_workspace(int device, size_t* bytes) {
#ifdef KNET_EMULATED
  (void)device;
  *bytes = 1024;
#else
  int major = 0;
  TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  *bytes = (size_t)(major >= 9 ? 32 : 4) << 20;
#endif
  return 0;
}
