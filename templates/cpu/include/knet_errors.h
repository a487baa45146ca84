// Errors: every function below returns 0, or one of the codes of the interface with the reason in knet_error_text.
thread_local char knet_error_text[512];

int knet_fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(knet_error_text, sizeof knet_error_text, format, arguments);
  va_end(arguments);
  return code;
}
// Returns from the enclosing function where the call fails.
#define TRY(...)                   \
  do {                             \
    const int code_ = __VA_ARGS__; \
    if (code_) return code_;       \
  } while (0)
