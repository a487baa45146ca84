// A convolution's sizes, slowest first: x (batch, channels, spatial), w (outputs, channels, spatial), y as x.
struct knet_conv_shape {
  int nd, x[5], w[5], y[5], padding[3], stride[3], upscale[3];
  cudnnConvolutionMode_t mode;
};
struct knet_conv {
  cudnnTensorDescriptor_t x, y;
  cudnnFilterDescriptor_t w;
  cudnnConvolutionDescriptor_t conv;
  cudnnConvolutionFwdAlgo_t forward;
  cudnnConvolutionBwdDataAlgo_t back_x;
  cudnnConvolutionBwdFilterAlgo_t back_w;
};
// Describes a convolution for a batch and chooses its algorithms, from the ones that give the same bits in every run;
// raises *workspace to the bytes that they need.
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
  size_t bytes = 0;
  c->forward = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
  if (cudnnGetConvolutionForwardWorkspaceSize(dnn, c->x, c->w, c->conv, c->y, c->forward, &bytes)) {
    c->forward = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM;
    TRY(cudnnGetConvolutionForwardWorkspaceSize(dnn, c->x, c->w, c->conv, c->y, c->forward, &bytes));
  }
  if (bytes > *workspace) *workspace = bytes;
  c->back_x = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
  TRY(cudnnGetConvolutionBackwardDataWorkspaceSize(dnn, c->w, c->y, c->conv, c->x, c->back_x, &bytes));
  if (bytes > *workspace) *workspace = bytes;
  c->back_w = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
  TRY(cudnnGetConvolutionBackwardFilterWorkspaceSize(dnn, c->x, c->y, c->conv, c->w, c->back_w, &bytes));
  if (bytes > *workspace) *workspace = bytes;
  return 0;
}
static inline int knet_conv_release(knet_conv* c) {
  if (c->x) TRY(cudnnDestroyTensorDescriptor(c->x));
  if (c->y) TRY(cudnnDestroyTensorDescriptor(c->y));
  if (c->w) TRY(cudnnDestroyFilterDescriptor(c->w));
  if (c->conv) TRY(cudnnDestroyConvolutionDescriptor(c->conv));
  return 0;
}
