// cuDNN's descriptors as this look-alike keeps them, for `cudnn.cpp`, which sets them, and `convolution.cpp` and
// `pooling.cpp`, which read them. Two spatial dimensions are kept as three, the first of size 1, so that one set of loops
// serves both.
#pragma once
#include <cudnn.h>

#include "emu.h"

namespace knetemu {

constexpr int kSpatial = 3;

// A packed tensor; a filter's `batch` is its number of outputs.
struct Shape {
  bool set = false;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  int dims = 0;  // as the user gave it: 4 or 5
  int batch = 0, channels = 0, size[kSpatial] = {1, 1, 1};

  size_t plane() const { return static_cast<size_t>(size[0]) * static_cast<size_t>(size[1]) * static_cast<size_t>(size[2]); }
  size_t image() const { return plane() * static_cast<size_t>(channels); }
  size_t count() const { return image() * static_cast<size_t>(batch); }
  size_t bytes() const { return count() * (type == CUDNN_DATA_DOUBLE ? sizeof(double) : sizeof(float)); }
  bool same_as(const Shape& o) const {
    return type == o.type && batch == o.batch && channels == o.channels && size[0] == o.size[0] &&
           size[1] == o.size[1] && size[2] == o.size[2];
  }
};

}  // namespace knetemu

struct cudnnContext {
  cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct : knetemu::Shape {};
struct cudnnFilterStruct : knetemu::Shape {};
struct cudnnConvolutionStruct {
  bool set = false;
  int spatial = 0;  // as the user gave it: 2 or 3
  int pad[knetemu::kSpatial], stride[knetemu::kSpatial], dilation[knetemu::kSpatial];
  cudnnConvolutionMode_t mode;
  cudnnDataType_t compute;
};
struct cudnnPoolingStruct {
  bool set = false;
  int spatial = 0;
  int window[knetemu::kSpatial], pad[knetemu::kSpatial], stride[knetemu::kSpatial];
  cudnnPoolingMode_t mode;
  bool propagate_nan;
};

namespace knetemu {

cudnnContext& get(cudnnHandle_t handle);
const cudnnTensorStruct& get(cudnnTensorDescriptor_t tensor);
const cudnnFilterStruct& get(cudnnFilterDescriptor_t filter);
const cudnnConvolutionStruct& get(cudnnConvolutionDescriptor_t conv);
const cudnnPoolingStruct& get(cudnnPoolingDescriptor_t pooling);

// alpha and beta are of the tensors' type, in host memory.
template <class T> T scalar(const void* value, const char* who) {
  if (is_device(value)) die("%s: a scalar is device memory", who);
  return *static_cast<const T*>(value);
}
// p = beta p; p is not read where beta is 0.
template <class T> void scale(T* p, size_t count, T beta) {
  if (beta == 1) return;
  for (size_t i = 0; i < count; i++) p[i] = beta == 0 ? 0 : beta * p[i];
}

}  // namespace knetemu
