// The one device there is, and error codes as text; see `emu.h`.
#include "emu.h"

namespace knetemu {
namespace {
thread_local cudaError_t last_error = cudaSuccess;

struct Description {
  cudaError_t error;
  const char *name, *text;
};
#define DESCRIBE(error, text) {error, #error, text}
const Description descriptions[] = {
    DESCRIBE(cudaSuccess, "no error"),
    DESCRIBE(cudaErrorInvalidValue, "invalid argument"),
    DESCRIBE(cudaErrorMemoryAllocation, "out of memory"),
    DESCRIBE(cudaErrorInitializationError, "initialization error"),
    DESCRIBE(cudaErrorCudartUnloading, "the runtime is shutting down"),
    DESCRIBE(cudaErrorInvalidConfiguration, "invalid launch configuration"),
    DESCRIBE(cudaErrorInvalidPitchValue, "rows of a copy that overlap"),
    DESCRIBE(cudaErrorInvalidMemcpyDirection, "invalid direction of a copy"),
    DESCRIBE(cudaErrorInsufficientDriver, "the driver is too old for this runtime"),
    DESCRIBE(cudaErrorInvalidDeviceFunction, "not a kernel of this device"),
    DESCRIBE(cudaErrorNoDevice, "no device"),
    DESCRIBE(cudaErrorInvalidDevice, "invalid number of a device"),
    DESCRIBE(cudaErrorInvalidResourceHandle, "invalid handle"),
    DESCRIBE(cudaErrorIllegalState, "not legal in this state"),
    DESCRIBE(cudaErrorSymbolNotFound, "symbol not found"),
    DESCRIBE(cudaErrorNotReady, "not ready"),
    DESCRIBE(cudaErrorIllegalAddress, "illegal memory access"),
    DESCRIBE(cudaErrorLaunchOutOfResources, "too many resources requested for a launch"),
    DESCRIBE(cudaErrorLaunchFailure, "launch failure"),
    DESCRIBE(cudaErrorNotSupported, "not supported"),
    DESCRIBE(cudaErrorStreamCaptureUnsupported, "not permitted while a stream is captured"),
    DESCRIBE(cudaErrorStreamCaptureInvalidated, "an earlier error has broken the capture"),
    DESCRIBE(cudaErrorStreamCaptureUnjoined, "a captured stream was not joined"),
    DESCRIBE(cudaErrorUnknown, "unknown error"),
};
#undef DESCRIBE
const Description* describe(cudaError_t error) {
  for (const Description& d : descriptions)
    if (d.error == error) return &d;
  return nullptr;
}
}  // namespace

cudaError_t fail(cudaError_t error) { return last_error = error; }

}  // namespace knetemu

using namespace knetemu;
extern "C" {
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t error) {
  const Description* d = describe(error);
  return d ? d->name : "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  const Description* d = describe(error);
  return d ? d->text : "unrecognized error code";
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice); }
cudaError_t cudaGetDevice(int* device) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr attribute, int device) {
  Call call;
  if (call.fails()) return fail(cudaErrorUnknown);
  if (device != 0) return fail(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(kSharedMemory); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(kSharedMemoryOptIn); break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;  // few: grids stay small
    case cudaDevAttrL2CacheSize: *value = 4 << 20; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    default: return fail(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
}
