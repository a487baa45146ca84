// Look-alike of cuBLASLt: column-major products with the epilogues relu, bias and the first operand's bias gradient. An
// algorithm holds for the problem, the alignments and the workspace that it was chosen for; use beyond that, a layout
// that does not fit and a missing bias end the process, where cuBLASLt would report one status for all or nothing.
#include <cublasLt.h>
#include <string.h>

#include <algorithm>

#include "emu.h"

struct cublasLtContext {};

namespace knetemu {
namespace {

struct Layout {
  cudaDataType type;
  int rows, columns, ld;
};
struct Operation {
  cublasComputeType_t compute;
  cudaDataType scale;
  int32_t ta = CUBLAS_OP_N, tb = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};
// What an algorithm was chosen for; it stands in the opaque part of one.
struct Choice {
  int32_t m, n, k, lda, ldb, ldd;
  int32_t compute, ta, tb, epilogue;
  uint16_t alignment[4], bias;
  uint16_t workspace, mark;
};
static_assert(sizeof(Choice) <= sizeof(cublasLtMatmulAlgo_t), "");
constexpr uint16_t kMark = 0x4c74, kWorkspace = 512;

// The types are opaque and complete in NVIDIA's header, so a descriptor is handed out as a pointer of theirs.
template <class Handle, class T> class Descriptors {
 public:
  explicit Descriptors(const char* kind) : all_(kind) {}
  Handle add(T* object) { return reinterpret_cast<Handle>(all_.add(object)); }
  T& get(Handle handle) const { return all_.get(reinterpret_cast<T*>(handle)); }
  void destroy(Handle handle) { all_.destroy(reinterpret_cast<T*>(handle)); }

 private:
  Registry<T> all_;
};
Registry<cublasLtContext>& contexts() {
  static Registry<cublasLtContext> all("a cuBLASLt handle");
  return all;
}
Descriptors<cublasLtMatrixLayout_t, Layout>& layouts() {
  static Descriptors<cublasLtMatrixLayout_t, Layout> all("a matrix layout");
  return all;
}
Descriptors<cublasLtMatmulDesc_t, Operation>& operations() {
  static Descriptors<cublasLtMatmulDesc_t, Operation> all("a description of a product");
  return all;
}
Descriptors<cublasLtMatmulPreference_t, Preference>& preferences() {
  static Descriptors<cublasLtMatmulPreference_t, Preference> all("a preference for products");
  return all;
}

template <class T> cublasStatus_t set(T* to, const void* from, size_t size) {
  if (!from || size != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(to, from, size);
  return CUBLAS_STATUS_SUCCESS;
}

uint32_t alignment(const void* pointer) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// The problem that the descriptors describe; ends the process where they do not fit together.
Choice problem(const Operation& o, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const cudaDataType type = o.compute == CUBLAS_COMPUTE_64F ? CUDA_R_64F : CUDA_R_32F;
  if (o.scale != type || a.type != type || b.type != type || c.type != type || d.type != type)
    die("cublasLt: element, scale and compute types that do not go together are not emulated");
  for (const Layout& x : {a, b, c, d})
    if (x.rows < 1 || x.columns < 1 || x.ld < x.rows) die("cublasLt: a matrix of %d x %d, %d apart", x.rows, x.columns, x.ld);
  const bool at = o.ta != CUBLAS_OP_N, bt = o.tb != CUBLAS_OP_N;
  const int m = at ? a.columns : a.rows, k = at ? a.rows : a.columns, n = bt ? b.rows : b.columns;
  if (k != (bt ? b.columns : b.rows) || m != d.rows || n != d.columns || c.rows != d.rows || c.columns != d.columns)
    die("cublasLt: matrices of sizes that do not go together");
  const bool vector = o.epilogue & (CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_BGRADA);
  if (vector && !o.bias) die("cublasLt: an epilogue with a vector, and no pointer to one");
  return {m, n, k, a.ld, b.ld, d.ld, o.compute, o.ta, o.tb, static_cast<int32_t>(o.epilogue), {}, 0, kWorkspace, kMark};
}
bool supported(uint32_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_DEFAULT || epilogue == CUBLASLT_EPILOGUE_RELU ||
         epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_RELU_BIAS ||
         epilogue == CUBLASLT_EPILOGUE_BGRADA;
}

template <class T> T number(const void* scalar) {
  if (is_device(scalar)) die("cublasLtMatmul: a scalar is device memory in host pointer mode");
  T value;
  memcpy(&value, scalar, sizeof value);
  return value;
}
template <class T> void check_matrix(const void* pointer, const Layout& x) {
  const size_t last = static_cast<size_t>(x.columns - 1) * static_cast<size_t>(x.ld) + static_cast<size_t>(x.rows);
  check(pointer, sizeof(T) * last, "cublasLtMatmul");
}
template <class T> void finish(const Choice& p, const T* a, T* d, T* vector) {
  const bool relu = p.epilogue & CUBLASLT_EPILOGUE_RELU, bias = p.epilogue & CUBLASLT_EPILOGUE_BIAS;
  for (ptrdiff_t j = 0; j < p.n && (relu || bias); j++)
    for (ptrdiff_t i = 0; i < p.m; i++) {
      T& x = d[j * p.ldd + i];
      if (bias) x += vector[i];
      if (relu && x < 0) x = 0;
    }
  if (p.epilogue != CUBLASLT_EPILOGUE_BGRADA) return;
  for (ptrdiff_t i = 0; i < p.m; i++) {
    T sum = 0;
    for (ptrdiff_t l = 0; l < p.k; l++) sum += p.ta == CUBLAS_OP_N ? a[l * p.lda + i] : a[i * p.lda + l];
    vector[i] = sum;
  }
}
template <class T>
void run(cudaStream_t stream, const Operation& o, const Choice& p, const void* alpha, const void* pa, const Layout& a,
         const void* pb, const Layout& b, const void* beta, void* pd, const Layout& d) {
  const T alpha_value = number<T>(alpha), beta_value = number<T>(beta);
  T* const vector = static_cast<T*>(o.bias);
  const bool needs = p.epilogue & (CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_BGRADA);
  submit(stream, [=] {
    check_matrix<T>(pa, a);
    check_matrix<T>(pb, b);
    check_matrix<T>(pd, d);
    if (needs) check(vector, sizeof(T) * static_cast<size_t>(p.m), "cublasLtMatmul");
    DeviceMode device;
    const T* const first = static_cast<const T*>(pa);
    T* const to = static_cast<T*>(pd);
    gemm(p.ta != CUBLAS_OP_N, p.tb != CUBLAS_OP_N, p.m, p.n, p.k, alpha_value, first, p.lda, static_cast<const T*>(pb),
         p.ldb, beta_value, to, p.ldd);
    finish(p, first, to, vector);
    products++;
  });
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;
extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = contexts().add(new cublasLtContext);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  Call call;
  contexts().destroy(handle);
  return call.fails() ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  *layout = layouts().add(new Layout{type, static_cast<int>(rows), static_cast<int>(cols), static_cast<int>(ld)});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  Call call;
  layouts().destroy(layout);
  return call.fails() ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* from, size_t size) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  layouts().get(layout);
  int32_t order = CUBLASLT_ORDER_COL;
  const cublasStatus_t status = set(&order, from, size);
  if (attribute != CUBLASLT_MATRIX_LAYOUT_ORDER || (!status && order != CUBLASLT_ORDER_COL))
    die("cublasLtMatrixLayoutSetAttribute: only column-major matrices are emulated");
  return status;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  Operation* const made = new Operation;
  made->compute = compute;
  made->scale = scale;
  *operation = operations().add(made);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  Call call;
  operations().destroy(operation);
  return call.fails() ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t size) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  Operation& o = operations().get(operation);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(&o.ta, from, size);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(&o.tb, from, size);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&o.epilogue, from, size);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&o.bias, from, size);
    default: die("cublasLtMatmulDescSetAttribute: attribute %d is not emulated", static_cast<int>(attribute));
  }
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  *preference = preferences().add(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  Call call;
  preferences().destroy(preference);
  return call.fails() ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    size_t size) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  Preference& p = preferences().get(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(&p.workspace, from, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(&p.alignment[0], from, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(&p.alignment[1], from, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(&p.alignment[2], from, size);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(&p.alignment[3], from, size);
    default: die("cublasLtMatmulPreferenceSetAttribute: attribute %d is not emulated", static_cast<int>(attribute));
  }
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* found, int* count) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  contexts().get(handle);
  const Operation& o = operations().get(operation);
  const Preference& p = preferences().get(preference);
  Choice choice = problem(o, layouts().get(a), layouts().get(b), layouts().get(c), layouts().get(d));
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  *count = 0;
  if (!supported(o.epilogue) || options().epilogues == Epilogues::none) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < 4; i++) choice.alignment[i] = static_cast<uint16_t>(p.alignment[i]);
  choice.bias = static_cast<uint16_t>(alignment(o.bias));
  if (p.workspace < kWorkspace) choice.workspace = 0;
  found[0] = {};
  memcpy(&found[0].algo, &choice, sizeof choice);
  found[0].workspaceSize = choice.workspace;
  found[0].state = CUBLAS_STATUS_SUCCESS;
  found[0].wavesCount = 1;
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* A,
                              cublasLtMatrixLayout_t a, const void* B, cublasLtMatrixLayout_t b, const void* beta,
                              const void* C, cublasLtMatrixLayout_t c, void* D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_EXECUTION_FAILED;
  contexts().get(handle);
  const Operation& o = operations().get(operation);
  const Layout &la = layouts().get(a), &lb = layouts().get(b), &lc = layouts().get(c), &ld = layouts().get(d);
  if (!alpha || !beta || !A || !B || !D || !algorithm) return CUBLAS_STATUS_INVALID_VALUE;
  if (C != D || lc.ld != ld.ld) die("cublasLtMatmul: C that is not D is not emulated");
  Choice now = problem(o, la, lb, lc, ld), choice;
  memcpy(&choice, algorithm, sizeof choice);
  const void* const arrays[] = {A, B, C, D};
  for (int i = 0; i < 4; i++) {
    if (alignment(arrays[i]) < choice.alignment[i])
      die("cublasLtMatmul: array %d is aligned to %u bytes, its algorithm was chosen for %d", i, alignment(arrays[i]),
          choice.alignment[i]);
    now.alignment[i] = choice.alignment[i];
  }
  if (alignment(o.bias) < choice.bias) die("cublasLtMatmul: the vector is aligned worse than its algorithm was chosen for");
  now.bias = choice.bias;
  now.workspace = choice.workspace;
  if (memcmp(&now, &choice, sizeof now) != 0) die("cublasLtMatmul: the algorithm was chosen for another product");
  if (workspace_bytes < choice.workspace) return CUBLAS_STATUS_INVALID_VALUE;
  if (choice.workspace) check(workspace, choice.workspace, "cublasLtMatmul");
  if (options().epilogues == Epilogues::late) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (o.compute == CUBLAS_COMPUTE_64F)
    run<double>(stream, o, now, alpha, A, la, B, lb, beta, D, ld);
  else
    run<float>(stream, o, now, alpha, A, la, B, lb, beta, D, ld);
  return CUBLAS_STATUS_SUCCESS;
}
}
