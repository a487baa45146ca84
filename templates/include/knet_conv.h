// A convolution's sizes, slowest first: x (batch, channels, spatial), w (outputs, channels, spatial), y as x.
struct knet_conv_shape {
  int nd, x[5], w[5], y[5], padding[3], stride[3], upscale[3];
  cudnnConvolutionMode_t mode;
};
struct knet_conv {
  cudnnTensorDescriptor_t x, y;
  cudnnFilterDescriptor_t w;
  cudnnConvolutionDescriptor_t conv;
  int forward, back_x, back_w;  // which algorithm of the tables below is in use
};
// The algorithms, the second for what cuDNN does not support with the first. All give the same bits in every run but
// the second ones of the backward passes, which add atomically and know every upscale.
static const cudnnConvolutionFwdAlgo_t knet_forward_algorithms[2] = {
    CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM};
static const cudnnConvolutionBwdDataAlgo_t knet_back_x_algorithms[2] = {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1,
                                                                        CUDNN_CONVOLUTION_BWD_DATA_ALGO_0};
static const cudnnConvolutionBwdFilterAlgo_t knet_back_w_algorithms[2] = {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1,
                                                                          CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0};

// Whether a call is to be made again with the second algorithm: cuDNN does not support it with the first. *algorithm is
// the second from then on.
static inline bool knet_conv_again(cudnnStatus_t status, int* algorithm) {
  const bool unsupported = status >= CUDNN_STATUS_NOT_SUPPORTED && status < CUDNN_STATUS_NOT_SUPPORTED + 1000;
  if (!unsupported || *algorithm) return false;
  *algorithm = 1;
  return true;
}
// Raises *workspace to what both algorithms need, as far as cuDNN supports them, and chooses the first that it does.
template <class Bytes> static inline int knet_conv_choose(Bytes bytes_of, int* algorithm, size_t* workspace) {
  cudnnStatus_t status[2];
  for (int i = 0; i < 2; i++) {
    size_t bytes = 0;
    status[i] = bytes_of(i, &bytes);
    if (!status[i] && bytes > *workspace) *workspace = bytes;
  }
  *algorithm = status[0] ? 1 : 0;
  if (status[0] && status[1]) TRY(status[0]);
  return 0;
}
// Describes a convolution for a batch and chooses its algorithms; raises *workspace to the bytes that they need.
static inline int knet_conv_prepare(cudnnHandle_t dnn, knet_conv* c, const knet_conv_shape& s, int batch,
                                    cudnnDataType_t type, cudnnMathType_t math, size_t* workspace) {
  if (!c->x) TRY(cudnnCreateTensorDescriptor(&c->x));
  if (!c->y) TRY(cudnnCreateTensorDescriptor(&c->y));
  if (!c->w) TRY(cudnnCreateFilterDescriptor(&c->w));
  if (!c->conv) TRY(cudnnCreateConvolutionDescriptor(&c->conv));
  TRY(knet_describe(c->x, type, s.nd, s.x, batch));
  TRY(knet_describe(c->y, type, s.nd, s.y, batch));
  TRY(cudnnSetFilterNdDescriptor(c->w, type, CUDNN_TENSOR_NCHW, s.nd, s.w));
  TRY(cudnnSetConvolutionNdDescriptor(c->conv, s.nd - 2, s.padding, s.stride, s.upscale, s.mode, type));
  TRY(cudnnSetConvolutionMathType(c->conv, math));
  const auto forward = [=](int i, size_t* bytes) {
    return cudnnGetConvolutionForwardWorkspaceSize(dnn, c->x, c->w, c->conv, c->y, knet_forward_algorithms[i], bytes);
  };
  const auto back_x = [=](int i, size_t* bytes) {
    return cudnnGetConvolutionBackwardDataWorkspaceSize(dnn, c->w, c->y, c->conv, c->x, knet_back_x_algorithms[i],
                                                        bytes);
  };
  const auto back_w = [=](int i, size_t* bytes) {
    return cudnnGetConvolutionBackwardFilterWorkspaceSize(dnn, c->x, c->y, c->conv, c->w, knet_back_w_algorithms[i],
                                                          bytes);
  };
  TRY(knet_conv_choose(forward, &c->forward, workspace));
  TRY(knet_conv_choose(back_x, &c->back_x, workspace));
  TRY(knet_conv_choose(back_w, &c->back_w, workspace));
  return 0;
}
// Destroys all descriptors, past failures; the last failure's code.
static inline int knet_conv_release(knet_conv* c) {
  int code = 0;
  const auto check = [&code](cudnnStatus_t status) {
    const int failed = knet_check(status, "releasing a convolution", __LINE__);
    if (failed) code = failed;
  };
  if (c->x) check(cudnnDestroyTensorDescriptor(c->x));
  if (c->y) check(cudnnDestroyTensorDescriptor(c->y));
  if (c->w) check(cudnnDestroyFilterDescriptor(c->w));
  if (c->conv) check(cudnnDestroyConvolutionDescriptor(c->conv));
  return code;
}
