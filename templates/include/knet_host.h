// Errors: every function below returns 0, or one of the codes of the interface with the reason in knet_error_text.
static thread_local char knet_error_text[512];

static int knet_fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(knet_error_text, sizeof knet_error_text, format, arguments);
  va_end(arguments);
  return code;
}
static inline int knet_check(int code, const char*, int) { return code; }  // the text is already set
static inline int knet_check(cudaError_t status, const char* call, int line) {
  if (status == cudaSuccess) return 0;
  cudaGetLastError();  // an error that can be cleared must not come back at the next call
  return knet_fail(status == cudaErrorMemoryAllocation ? KNET_MEMORY : KNET_CUDA, "%s: %s (line %d: %s)",
                   cudaGetErrorName(status), cudaGetErrorString(status), line, call);
}
// Returns from the enclosing function where the call fails.
#define TRY(...)                                                        \
  do {                                                                  \
    int code_ = knet_check((__VA_ARGS__), #__VA_ARGS__, __LINE__);      \
    if (code_) return code_;                                            \
  } while (0)

// For what goes on past failures: *code keeps the first, and knet_error_text its reason.
#define NOTE(code, ...)                                                   \
  do {                                                                    \
    const auto status_ = (__VA_ARGS__);                                   \
    if (*(code)) cudaGetLastError();                                      \
    else *(code) = knet_check(status_, #__VA_ARGS__, __LINE__);           \
  } while (0)

// A kernel: its name, and its entry, which is its address or, where the kernels come from a cubin, a handle.
struct knet_entry {
  const char* name;
  const void* address;
};
template <class Signature> struct knet_kernel : knet_entry {};
#ifdef KNET_HOST_ONLY
#define KNET_MEMBER(member, name, signature) knet_kernel<void signature> member = {{#name, nullptr}};
#else
#define KNET_MEMBER(member, name, signature) \
  knet_kernel<void signature> member = {{#name, (const void*)static_cast<void(*) signature>(name)}};
#endif
#define KNET_ENTRY(member, name, signature) &kernels.member,
#define KNET_REGISTER(member, name, signature) knetemu::reg(name),

// So many elements, rounded up so that what follows them is aligned to 16 bytes.
static inline size_t knet_round(size_t elements) { return (elements + 3) / 4 * 4; }
//? knet_swap
template <class T>
static inline void knet_swap(T*& a, T*& b) {
  T* const c = a;
  a = b, b = c;
}
//.
//? knet_zero
// Zeroes rows x columns elements, the columns a pitch apart.
template <class T> static cudaError_t knet_zero(T* data, size_t rows, size_t columns, size_t pitch, cudaStream_t s) {
  return cudaMemset2DAsync(data, pitch * sizeof(T), 0, rows * sizeof(T), columns, s);
}
//.

template <class T> struct knet_identity { typedef T type; };
// Launches a kernel; the arguments are converted to its parameters' types.
template <class... P>
static cudaError_t knet_launch(const knet_kernel<void(P...)>& kernel, dim3 grid, dim3 block, size_t shared,
                               cudaStream_t stream, typename knet_identity<P>::type... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
  return cudaLaunchKernel(kernel.address, grid, block, pointers, shared, stream);
}
// Launches a kernel over n elements, which it takes as its last parameter; its threads stride over them.
template <class... P, class... A>
static cudaError_t knet_launch_each(const knet_kernel<void(P...)>& kernel, int n, cudaStream_t stream, A... arguments) {
  const int blocks = (n + 255) / 256;
  return knet_launch(kernel, blocks < 65536 ? blocks : 65536, 256, 0, stream, arguments..., n);
}
