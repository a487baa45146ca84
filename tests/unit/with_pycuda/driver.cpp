// The part of CUDA's driver that pycuda uses here, on the emulation: so that `runtime/cuda.py` runs with the true pycuda on
// a machine without a device. Compiled against NVIDIA's <cuda.h> and loaded before pycuda in place of libcuda.so.1.
// Also the loading of kernels, from a library of the C++ compiler whose path stands where a cubin would.
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <vector>

namespace {
int primary;  // its address is the context
thread_local std::vector<CUcontext> stack;
CUresult result(cudaError_t e) { return static_cast<CUresult>(e); }
void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(p); }
// What needs a current context, as on a device.
#define IN_CONTEXT() \
  if (stack.empty() || !stack.back()) return CUDA_ERROR_INVALID_CONTEXT
}  // namespace

extern "C" {
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int size, CUdevice) { return snprintf(name, size, "emulated"), CUDA_SUCCESS; }
CUresult cuDeviceTotalMem_v2(size_t* size, CUdevice) { return *size = size_t(64) << 30, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device)) *value = 65536;  // never read
  return CUDA_SUCCESS;
}
CUresult cuDeviceComputeCapability(int* major, int* minor, CUdevice) { return *major = 9, *minor = 0, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  return *context = reinterpret_cast<CUcontext>(&primary), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent_v2(CUcontext context) { return stack.push_back(context), CUDA_SUCCESS; }
CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  IN_CONTEXT();
  if (context) *context = stack.back();
  return stack.pop_back(), CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  return *context = stack.empty() ? nullptr : stack.back(), CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) {
  if (!stack.empty()) stack.pop_back();
  if (context) stack.push_back(context);
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuCtxSynchronize() {
  IN_CONTEXT();
  return result(cudaDeviceSynchronize());
}
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) { return result(cudaMemGetInfo(free, total)); }
CUresult cuMemAlloc_v2(CUdeviceptr* to, size_t size) {
  IN_CONTEXT();
  void* memory = nullptr;
  const cudaError_t e = cudaMalloc(&memory, size);
  *to = reinterpret_cast<CUdeviceptr>(memory);
  return result(e);
}
CUresult cuMemFree_v2(CUdeviceptr p) {
  IN_CONTEXT();
  return result(cudaFree(pointer(p)));
}
CUresult cuMemHostAlloc(void** to, size_t size, unsigned flags) {
  IN_CONTEXT();
  return result(cudaHostAlloc(to, size, flags));
}
CUresult cuMemFreeHost(void* p) { return result(cudaFreeHost(p)); }
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t size) {
  IN_CONTEXT();
  return result(cudaMemcpy(pointer(to), from, size, cudaMemcpyHostToDevice));
}
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t size) {
  IN_CONTEXT();
  return result(cudaMemcpy(to, pointer(from), size, cudaMemcpyDeviceToHost));
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
  IN_CONTEXT();
  return result(cudaMemcpy(pointer(to), pointer(from), size, cudaMemcpyDeviceToDevice));
}
CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  IN_CONTEXT();
  return result(cudaStreamCreateWithFlags(stream, flags));
}
CUresult cuStreamDestroy_v2(CUstream stream) { return result(cudaStreamDestroy(stream)); }
CUresult cuStreamSynchronize(CUstream stream) { return result(cudaStreamSynchronize(stream)); }
CUresult cuEventCreate(CUevent* event, unsigned flags) {
  IN_CONTEXT();
  return result(cudaEventCreateWithFlags(event, flags));
}
CUresult cuEventDestroy_v2(CUevent event) { return result(cudaEventDestroy(event)); }
CUresult cuEventRecord(CUevent event, CUstream stream) {
  IN_CONTEXT();
  return result(cudaEventRecord(event, stream));
}
CUresult cuEventSynchronize(CUevent event) { return result(cudaEventSynchronize(event)); }
CUresult cuGetErrorString(CUresult code, const char** text) {
  return *text = cudaGetErrorString(static_cast<cudaError_t>(code)), CUDA_SUCCESS;
}

// --- kernels from a library instead of a cubin ---

cudaError_t cudaLibraryLoadData(cudaLibrary_t* library, const void* code, cudaJitOption*, void**, unsigned,
                                cudaLibraryOption*, void**, unsigned) {
  void* const loaded = dlopen(static_cast<const char*>(code), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!loaded) return fprintf(stderr, "%s\n", dlerror()), cudaErrorInvalidValue;
  *library = static_cast<cudaLibrary_t>(loaded);
  return cudaSuccess;
}
cudaError_t cudaLibraryGetKernel(cudaKernel_t* kernel, cudaLibrary_t library, const char* name) {
  *kernel = reinterpret_cast<cudaKernel_t>(dlsym(library, name));
  return *kernel ? cudaSuccess : cudaErrorSymbolNotFound;
}
cudaError_t cudaLibraryUnload(cudaLibrary_t library) {
  return dlclose(library) ? cudaErrorInvalidValue : cudaSuccess;
}
}
