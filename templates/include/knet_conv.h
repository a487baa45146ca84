// A convolution's sizes, slowest first: x (batch, channels, spatial), w (outputs, channels, spatial), y as x.
struct knet_conv_shape {
  int nd, x[5], w[5], y[5], padding[3], stride[3], upscale[3];
  cudnnConvolutionMode_t mode;
};
enum { KNET_CHOICES = 3, KNET_PLANS = 4, KNET_FOUND = 16 };
const size_t KNET_WORKSPACE_LIMIT = (size_t)256 << 20;  // bytes; an algorithm that needs more is passed over
const size_t KNET_SEARCH_WORKSPACE = (size_t)32 << 20;  // what a timed search may use

// The algorithms of one call, the best first, and which of them is in use: the next one takes over where cuDNN does not
// support it after all.
struct knet_choice {
  int count, at, algorithm[KNET_CHOICES];
  bool searched;
};
// What has been chosen for a batch, and the workspace that it needs.
struct knet_conv_plan {
  int batch;
  knet_choice forward, back_x, back_w;
  size_t bytes;
};
struct knet_conv {
  cudnnTensorDescriptor_t x, y;
  cudnnFilterDescriptor_t w;
  cudnnConvolutionDescriptor_t conv;
  knet_conv_plan plans[KNET_PLANS], *plan;  // of the last batches; and the one in use
  int next;                                 // which of them the next batch takes
};

static inline bool knet_unsupported(cudnnStatus_t status) {
  return status >= CUDNN_STATUS_NOT_SUPPORTED && status < CUDNN_STATUS_NOT_SUPPORTED + 1000;
}
// Whether a call is to be made again with the next algorithm: cuDNN does not support the one in use.
static inline bool knet_conv_again(cudnnStatus_t status, knet_choice* choice) {
  if (!knet_unsupported(status) || choice->at + 1 >= choice->count) return false;
  choice->at++;
  return true;
}
// Adds an algorithm to a choice if cuDNN supports it within the limit of memory; raises *bytes to what it needs.
template <class Bytes> static int knet_conv_add(knet_choice* choice, int algorithm, Bytes bytes_of, size_t* bytes) {
  for (int i = 0; i < choice->count; i++)
    if (choice->algorithm[i] == algorithm) return 0;
  if (choice->count == KNET_CHOICES) return 0;
  size_t needed = 0;
  const cudnnStatus_t status = bytes_of(algorithm, &needed);
  if (knet_unsupported(status) || needed > KNET_WORKSPACE_LIMIT) return 0;
  TRY(status);
  choice->algorithm[choice->count++] = algorithm;
  if (needed > *bytes) *bytes = needed;
  return 0;
}
// Takes the best of the algorithms that cuDNN lists, the best first. Where only deterministic ones are wanted, the
// others stand behind them: better than none.
template <class Found, class Bytes>
static int knet_conv_choose(knet_choice* choice, const Found* found, int count, bool deterministic, Bytes bytes_of,
                            size_t* bytes) {
  choice->count = choice->at = 0;
  for (int i = 0; i < count; i++)
    if (!found[i].status && (!deterministic || found[i].determinism == CUDNN_DETERMINISTIC) &&
        choice->count < KNET_CHOICES - 1)
      TRY(knet_conv_add(choice, found[i].algo, bytes_of, bytes));
  for (int i = 0; i < count; i++)
    if (!found[i].status) TRY(knet_conv_add(choice, found[i].algo, bytes_of, bytes));
  return choice->count ? 0 : knet_fail(KNET_CUDNN, "cuDNN has no algorithm for a convolution of this shape");
}

static inline auto knet_forward_bytes(cudnnHandle_t dnn, const knet_conv* c) {
  return [=](int algorithm, size_t* bytes) {
    return cudnnGetConvolutionForwardWorkspaceSize(dnn, c->x, c->w, c->conv, c->y,
                                                   (cudnnConvolutionFwdAlgo_t)algorithm, bytes);
  };
}
static inline auto knet_back_x_bytes(cudnnHandle_t dnn, const knet_conv* c) {
  return [=](int algorithm, size_t* bytes) {
    return cudnnGetConvolutionBackwardDataWorkspaceSize(dnn, c->w, c->y, c->conv, c->x,
                                                        (cudnnConvolutionBwdDataAlgo_t)algorithm, bytes);
  };
}
static inline auto knet_back_w_bytes(cudnnHandle_t dnn, const knet_conv* c) {
  return [=](int algorithm, size_t* bytes) {
    return cudnnGetConvolutionBackwardFilterWorkspaceSize(dnn, c->x, c->y, c->conv, c->w,
                                                          (cudnnConvolutionBwdFilterAlgo_t)algorithm, bytes);
  };
}
// Chooses the algorithms for a batch by cuDNN's heuristics.
static inline int knet_conv_heuristics(cudnnHandle_t dnn, const knet_conv* c, bool deterministic,
                                       knet_conv_plan* plan) {
  int count = 0;
  cudnnConvolutionFwdAlgoPerf_t forward[KNET_FOUND];
  TRY(cudnnGetConvolutionForwardAlgorithm_v7(dnn, c->x, c->w, c->conv, c->y, KNET_FOUND, &count, forward));
  TRY(knet_conv_choose(&plan->forward, forward, count, deterministic, knet_forward_bytes(dnn, c), &plan->bytes));
  cudnnConvolutionBwdDataAlgoPerf_t back_x[KNET_FOUND];
  TRY(cudnnGetConvolutionBackwardDataAlgorithm_v7(dnn, c->w, c->y, c->conv, c->x, KNET_FOUND, &count, back_x));
  TRY(knet_conv_choose(&plan->back_x, back_x, count, deterministic, knet_back_x_bytes(dnn, c), &plan->bytes));
  cudnnConvolutionBwdFilterAlgoPerf_t back_w[KNET_FOUND];
  TRY(cudnnGetConvolutionBackwardFilterAlgorithm_v7(dnn, c->x, c->y, c->conv, c->w, KNET_FOUND, &count, back_w));
  TRY(knet_conv_choose(&plan->back_w, back_w, count, deterministic, knet_back_w_bytes(dnn, c), &plan->bytes));
  return 0;
}
// Describes a convolution for a batch and chooses its algorithms, once for each batch; raises *workspace to the bytes
// that they need.
static inline int knet_conv_prepare(cudnnHandle_t dnn, knet_conv* c, const knet_conv_shape& s, int batch,
                                    cudnnDataType_t type, cudnnMathType_t math, bool deterministic,
                                    size_t* workspace) {
  if (!c->x) TRY(cudnnCreateTensorDescriptor(&c->x));
  if (!c->y) TRY(cudnnCreateTensorDescriptor(&c->y));
  if (!c->w) TRY(cudnnCreateFilterDescriptor(&c->w));
  if (!c->conv) TRY(cudnnCreateConvolutionDescriptor(&c->conv));
  TRY(knet_describe(c->x, type, s.nd, s.x, batch));
  TRY(knet_describe(c->y, type, s.nd, s.y, batch));
  TRY(cudnnSetFilterNdDescriptor(c->w, type, CUDNN_TENSOR_NCHW, s.nd, s.w));
  TRY(cudnnSetConvolutionNdDescriptor(c->conv, s.nd - 2, s.padding, s.stride, s.upscale, s.mode, type));
  TRY(cudnnSetConvolutionMathType(c->conv, math));
  c->plan = nullptr;
  for (knet_conv_plan& plan : c->plans)
    if (plan.batch == batch) c->plan = &plan;
  if (!c->plan) {
    knet_conv_plan* const plan = &c->plans[c->next];
    *plan = {};
    TRY(knet_conv_heuristics(dnn, c, deterministic, plan));
    plan->batch = batch;
    c->plan = plan;
    c->next = (c->next + 1) % KNET_PLANS;
  }
  if (c->plan->bytes > *workspace) *workspace = c->plan->bytes;
  return 0;
}
static inline void knet_conv_release(knet_conv* c, int* code) {
  if (c->x) NOTE(code, cudnnDestroyTensorDescriptor(c->x));
  if (c->y) NOTE(code, cudnnDestroyTensorDescriptor(c->y));
  if (c->w) NOTE(code, cudnnDestroyFilterDescriptor(c->w));
  if (c->conv) NOTE(code, cudnnDestroyConvolutionDescriptor(c->conv));
}
