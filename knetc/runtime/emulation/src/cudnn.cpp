// Look-alike of cuDNN: the handle, and the descriptors with the limits that cuDNN sets to them (packed NCHW tensors of
// float or double with 2 or 3 spatial dimensions). After: `convolution.cpp` and `pooling.cpp`.
#include <limits.h>

#include "dnn.h"

namespace knetemu {
namespace {

template <class T> Registry<T>& all(const char* kind) {
  static Registry<T> live(kind);
  return live;
}
Registry<cudnnContext>& handles() { return all<cudnnContext>("a cuDNN handle"); }
Registry<cudnnTensorStruct>& tensors() { return all<cudnnTensorStruct>("a tensor descriptor"); }
Registry<cudnnFilterStruct>& filters() { return all<cudnnFilterStruct>("a filter descriptor"); }
Registry<cudnnConvolutionStruct>& convolutions() { return all<cudnnConvolutionStruct>("a convolution descriptor"); }
Registry<cudnnPoolingStruct>& poolings() { return all<cudnnPoolingStruct>("a pooling descriptor"); }

template <class T> cudnnStatus_t create(Registry<T>& live, T** object) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  *object = live.add(new T);
  return CUDNN_STATUS_SUCCESS;
}
template <class T> cudnnStatus_t destroy(Registry<T>& live, T* object) {
  Call call;
  live.destroy(object);
  return call.fails() ? CUDNN_STATUS_INTERNAL_ERROR : CUDNN_STATUS_SUCCESS;
}

// Sizes slowest first, as cuDNN takes them, into a shape.
cudnnStatus_t set_shape(Shape& shape, cudnnDataType_t type, int dims, const int* size) {
  shape.set = false;
  if (type != CUDNN_DATA_FLOAT && type != CUDNN_DATA_DOUBLE) return CUDNN_STATUS_NOT_SUPPORTED;
  if (dims < 4 || dims > 5) return CUDNN_STATUS_NOT_SUPPORTED;
  double count = 1;
  for (int i = 0; i < dims; i++) {
    if (size[i] < 1) return CUDNN_STATUS_BAD_PARAM;
    count *= size[i];
  }
  if (count > INT_MAX) return CUDNN_STATUS_NOT_SUPPORTED;
  shape.set = true;
  shape.type = type;
  shape.dims = dims;
  shape.batch = size[0];
  shape.channels = size[1];
  shape.size[0] = dims == 5 ? size[2] : 1;
  shape.size[1] = size[dims - 2];
  shape.size[2] = size[dims - 1];
  return CUDNN_STATUS_SUCCESS;
}

bool packed(int dims, const int* size, const int* stride) {
  long step = 1;
  for (int i = dims - 1; i >= 0; step *= size[i--])
    if (size[i] > 1 && stride[i] != step) return false;
  return true;
}

// `values`, one a spatial dimension, into three; false where one is below `least`.
bool set_spatial(int (&to)[kSpatial], int dims, const int* values, int least, int otherwise) {
  to[0] = otherwise;
  for (int i = 0; i < dims; i++) {
    if (values[i] < least) return false;
    to[kSpatial - dims + i] = values[i];
  }
  return true;
}

}  // namespace

cudnnContext& get(cudnnHandle_t handle) { return handles().get(handle); }
const cudnnTensorStruct& get(cudnnTensorDescriptor_t tensor) { return tensors().get(tensor); }
const cudnnFilterStruct& get(cudnnFilterDescriptor_t filter) { return filters().get(filter); }
const cudnnConvolutionStruct& get(cudnnConvolutionDescriptor_t conv) { return convolutions().get(conv); }
const cudnnPoolingStruct& get(cudnnPoolingDescriptor_t pooling) { return poolings().get(pooling); }

}  // namespace knetemu

using namespace knetemu;
extern "C" {
size_t cudnnGetVersion() { return CUDNN_VERSION; }
const char* cudnnGetErrorString(cudnnStatus_t status) {
  switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_INTERNAL_ERROR: return "CUDNN_STATUS_INTERNAL_ERROR";
    case CUDNN_STATUS_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "unrecognized status";
  }
}

cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return create(handles(), handle); }
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) { return destroy(handles(), handle); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  handles().get(handle).stream = stream;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t* stream) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  *stream = handles().get(handle).stream;
  return CUDNN_STATUS_SUCCESS;
}

// --- tensors and filters ---------------------------------------------------------------------------------------------

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* tensor) { return create(tensors(), tensor); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensor) { return destroy(tensors(), tensor); }
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int dims,
                                         const int size[], const int stride[]) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  cudnnTensorStruct& shape = tensors().get(tensor);
  const cudnnStatus_t status = set_shape(shape, type, dims, size);
  if (status == CUDNN_STATUS_SUCCESS && !packed(dims, size, stride)) {
    shape.set = false;
    return CUDNN_STATUS_NOT_SUPPORTED;
  }
  return status;
}
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t tensor, cudnnTensorFormat_t format,
                                         cudnnDataType_t type, int n, int c, int h, int w) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  if (format != CUDNN_TENSOR_NCHW) return CUDNN_STATUS_NOT_SUPPORTED;
  const int size[] = {n, c, h, w};
  return set_shape(tensors().get(tensor), type, 4, size);
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* filter) { return create(filters(), filter); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filter) { return destroy(filters(), filter); }
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int dims, const int size[]) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  if (format != CUDNN_TENSOR_NCHW) return CUDNN_STATUS_NOT_SUPPORTED;
  return set_shape(filters().get(filter), type, dims, size);
}
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type,
                                         cudnnTensorFormat_t format, int k, int c, int h, int w) {
  const int size[] = {k, c, h, w};
  return cudnnSetFilterNdDescriptor(filter, type, format, 4, size);
}

// --- convolutions and poolings ---------------------------------------------------------------------------------------

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* conv) {
  return create(convolutions(), conv);
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t conv) {
  return destroy(convolutions(), conv);
}
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t conv, int dims, const int pad[],
                                              const int stride[], const int dilation[], cudnnConvolutionMode_t mode,
                                              cudnnDataType_t compute) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  cudnnConvolutionStruct& c = convolutions().get(conv);
  c.set = false;
  if (dims < 2 || dims > kSpatial) return CUDNN_STATUS_NOT_SUPPORTED;
  if (!set_spatial(c.pad, dims, pad, 0, 0) || !set_spatial(c.stride, dims, stride, 1, 1) ||
      !set_spatial(c.dilation, dims, dilation, 1, 1))
    return CUDNN_STATUS_BAD_PARAM;
  c.spatial = dims;
  c.mode = mode;
  c.compute = compute;
  c.set = true;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t conv, int pad_h, int pad_w, int stride_h,
                                              int stride_w, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
  const int pad[] = {pad_h, pad_w}, stride[] = {stride_h, stride_w}, dilation[] = {dilation_h, dilation_w};
  return cudnnSetConvolutionNdDescriptor(conv, 2, pad, stride, dilation, mode, compute);
}
// Has no effect here: TF32 is not imitated.
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t conv, cudnnMathType_t) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  convolutions().get(conv);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCreatePoolingDescriptor(cudnnPoolingDescriptor_t* pooling) { return create(poolings(), pooling); }
cudnnStatus_t cudnnDestroyPoolingDescriptor(cudnnPoolingDescriptor_t pooling) { return destroy(poolings(), pooling); }
cudnnStatus_t cudnnSetPoolingNdDescriptor(cudnnPoolingDescriptor_t pooling, const cudnnPoolingMode_t mode,
                                          const cudnnNanPropagation_t nan, int dims, const int window[],
                                          const int pad[], const int stride[]) {
  Call call;
  if (call.fails()) return CUDNN_STATUS_INTERNAL_ERROR;
  cudnnPoolingStruct& p = poolings().get(pooling);
  p.set = false;
  if (dims < 2 || dims > kSpatial) return CUDNN_STATUS_NOT_SUPPORTED;
  if (!set_spatial(p.window, dims, window, 1, 1) || !set_spatial(p.pad, dims, pad, 0, 0) ||
      !set_spatial(p.stride, dims, stride, 1, 1))
    return CUDNN_STATUS_BAD_PARAM;
  p.spatial = dims;
  p.mode = mode;
  p.propagate_nan = nan == CUDNN_PROPAGATE_NAN;
  p.set = true;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetPooling2dDescriptor(cudnnPoolingDescriptor_t pooling, cudnnPoolingMode_t mode,
                                          cudnnNanPropagation_t nan, int window_h, int window_w, int pad_h, int pad_w,
                                          int stride_h, int stride_w) {
  const int window[] = {window_h, window_w}, pad[] = {pad_h, pad_w}, stride[] = {stride_h, stride_w};
  return cudnnSetPoolingNdDescriptor(pooling, mode, nan, 2, window, pad, stride);
}
}
