// Look-alike of cuBLAS: checks of the arguments as cuBLAS makes them, checks of every operand's extent against the live
// allocations, then `gemm.cpp`. Scalars are taken from the host when the call is made, so that a captured graph keeps
// them; device pointer mode is not emulated.
#include <cublas_v2.h>

#include <algorithm>
#include <atomic>

#include "emu.h"

struct cublasContext {
  cudaStream_t stream = nullptr;
  cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
};

namespace knetemu {
std::atomic<long long> products;

namespace {

Registry<cublasContext>& handles() {
  static Registry<cublasContext> all("a cuBLAS handle");
  return all;
}

// Elements from the first to the last of a column-major matrix.
size_t extent(int rows, int columns, int ld) {
  return rows > 0 && columns > 0 ? static_cast<size_t>(columns - 1) * static_cast<size_t>(ld) + static_cast<size_t>(rows)
                                 : 0;
}

template <class T> T scalar(const cublasContext& handle, const T* value, const char* who) {
  if (handle.pointer_mode == CUBLAS_POINTER_MODE_DEVICE) die("%s: device pointer mode is not emulated", who);
  if (is_device(value)) die("%s: a scalar is device memory in host pointer mode", who);
  return *value;
}

template <class T>
cublasStatus_t checked_gemm(const char* who, cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m,
                            int n, int k, const T* alpha, const T* a, int lda, const T* b, int ldb, const T* beta, T* c,
                            int ldc) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_EXECUTION_FAILED;
  const cublasContext& context = handles().get(handle);
  const bool at = ta != CUBLAS_OP_N, bt = tb != CUBLAS_OP_N;
  if (m < 0 || n < 0 || k < 0 || !alpha || !beta || lda < std::max(1, at ? k : m) || ldb < std::max(1, bt ? n : k) ||
      ldc < std::max(1, m))
    return CUBLAS_STATUS_INVALID_VALUE;
  const T alpha_value = scalar(context, alpha, who), beta_value = scalar(context, beta, who);
  submit(context.stream, [=] {
    check(a, sizeof(T) * (at ? extent(k, m, lda) : extent(m, k, lda)), who);
    check(b, sizeof(T) * (bt ? extent(n, k, ldb) : extent(k, n, ldb)), who);
    check(c, sizeof(T) * extent(m, n, ldc), who);
    DeviceMode device;
    gemm(at, bt, m, n, k, alpha_value, a, lda, b, ldb, beta_value, c, ldc);
    products++;
  });
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t checked_axpy(const char* who, cublasHandle_t handle, int n, const T* alpha, const T* x, int incx, T* y,
                            int incy) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_EXECUTION_FAILED;
  const cublasContext& context = handles().get(handle);
  if (incx < 1 || incy < 1) die("%s: steps below 1 are not emulated", who);
  const T a = scalar(context, alpha, who);
  submit(context.stream, [=] {
    check(x, sizeof(T) * extent(1, n, incx), who);
    check(y, sizeof(T) * extent(1, n, incy), who);
    DeviceMode device;
    for (ptrdiff_t i = 0; i < n; i++) y[i * incy] += a * x[i * incx];
  });
  return CUBLAS_STATUS_SUCCESS;
}

struct Description {
  cublasStatus_t status;
  const char *name, *text;
};
#define DESCRIBE(status, text) {status, #status, text}
const Description descriptions[] = {
    DESCRIBE(CUBLAS_STATUS_SUCCESS, "success"),
    DESCRIBE(CUBLAS_STATUS_NOT_INITIALIZED, "the library is not initialized"),
    DESCRIBE(CUBLAS_STATUS_ALLOC_FAILED, "out of memory"),
    DESCRIBE(CUBLAS_STATUS_INVALID_VALUE, "invalid argument"),
    DESCRIBE(CUBLAS_STATUS_ARCH_MISMATCH, "not available on this device"),
    DESCRIBE(CUBLAS_STATUS_MAPPING_ERROR, "device memory could not be reached"),
    DESCRIBE(CUBLAS_STATUS_EXECUTION_FAILED, "execution failed"),
    DESCRIBE(CUBLAS_STATUS_INTERNAL_ERROR, "internal error"),
    DESCRIBE(CUBLAS_STATUS_NOT_SUPPORTED, "not supported"),
    DESCRIBE(CUBLAS_STATUS_LICENSE_ERROR, "licence error"),
};
#undef DESCRIBE
const Description* describe(cublasStatus_t status) {
  for (const Description& d : descriptions)
    if (d.status == status) return &d;
  return nullptr;
}

}  // namespace
}  // namespace knetemu

using namespace knetemu;
extern "C" {
const char* cublasGetStatusName(cublasStatus_t status) {
  const Description* d = describe(status);
  return d ? d->name : "unrecognized status";
}
const char* cublasGetStatusString(cublasStatus_t status) {
  const Description* d = describe(status);
  return d ? d->text : "unrecognized status";
}

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = handles().add(new cublasContext);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  Call call;
  handles().destroy(handle);
  return call.fails() ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  handles().get(handle).stream = stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  *stream = handles().get(handle).stream;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  handles().get(handle).pointer_mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}
// Has no effect here: TF32 is not imitated.
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  handles().get(handle).math = mode;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  *mode = handles().get(handle).math;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t size) {
  Call call;
  if (call.fails()) return CUBLAS_STATUS_INTERNAL_ERROR;
  handles().get(handle);
  check(workspace, size, "cublasSetWorkspace");
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                              int k, const float* alpha, const float* A, int lda, const float* B, int ldb,
                              const float* beta, float* C, int ldc) {
  return checked_gemm("cublasSgemm", handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n,
                              int k, const double* alpha, const double* A, int lda, const double* B, int ldb,
                              const double* beta, double* C, int ldc) {
  return checked_gemm("cublasDgemm", handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}
cublasStatus_t cublasSaxpy_v2(cublasHandle_t handle, int n, const float* alpha, const float* x, int incx, float* y,
                              int incy) {
  return checked_axpy("cublasSaxpy", handle, n, alpha, x, incx, y, incy);
}
cublasStatus_t cublasDaxpy_v2(cublasHandle_t handle, int n, const double* alpha, const double* x, int incx, double* y,
                              int incy) {
  return checked_axpy("cublasDaxpy", handle, n, alpha, x, incx, y, incy);
}
long long knetemu_products() { return knetemu::products; }
}
