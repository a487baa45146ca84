// Matrix products with an epilogue, by cuBLASLt: what it is told of a call of certain sizes, and the algorithm that it
// chose for it, if it has one.
struct knet_product_plan {
  int m, n, k;         // m is 0 where there is no plan
  unsigned alignment;  // bytes by which the addresses of all arrays can be divided
  cublasLtMatmulDesc_t call;
  cublasLtMatrixLayout_t a, b, d;
  cublasLtMatmulAlgo_t algorithm;
  bool fused;  // whether there is an algorithm
};
// A product of this file: its plans of the last sizes, which of them the next sizes take, and whether the epilogue was
// computed when it last ran.
struct knet_product {
  knet_product_plan plans[4];
  int next;
  bool fused;
};
// A number that all addresses can be divided by: a power of two, at most the 256 that an algorithm may ask for.
template <class... P> static unsigned knet_alignment(P... addresses) {
  const uintptr_t bits = ((uintptr_t)addresses | ... | (uintptr_t)256);
  return (unsigned)(bits & (~bits + 1));
}
template <class T>
static cublasStatus_t knet_set(cublasLtMatmulDesc_t call, cublasLtMatmulDescAttributes_t attribute, T value) {
  return cublasLtMatmulDescSetAttribute(call, attribute, &value, sizeof value);
}
template <class T>
static cublasStatus_t knet_set(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  return cublasLtMatmulPreferenceSetAttribute(p, attribute, &value, sizeof value);
}
static inline void knet_product_release(knet_product_plan* p, int* code) {
  if (p->call) NOTE(code, cublasLtMatmulDescDestroy(p->call));
  for (cublasLtMatrixLayout_t layout : {p->a, p->b, p->d})
    if (layout) NOTE(code, cublasLtMatrixLayoutDestroy(layout));
  *p = {};
}
// Asks cuBLASLt for an algorithm, the best by its heuristics, that needs no more than so many bytes of workspace. That
// there is none is no error.
static inline int knet_product_choose(cublasLtHandle_t lt, knet_product_plan* p, cublasLtMatmulPreference_t preference,
                                      size_t workspace) {
  TRY(knet_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)workspace));
  for (cublasLtMatmulPreferenceAttributes_t attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    TRY(knet_set(preference, attribute, (uint32_t)p->alignment));
  cublasLtMatmulHeuristicResult_t best = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(lt, p->call, p->a, p->b, p->d, p->d, preference, 1, &best, &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) TRY(status);
  p->fused = !status && count > 0 && best.state == CUBLAS_STATUS_SUCCESS;
  p->algorithm = best.algo;
  return 0;
}
