// A file of parameters: the text knetpar1, the size of an element, the number of parameters; for each the length of its
// name, the name, the number of its dimensions, the dimensions, its elements; at the end the CRC-32 of what stands
// before. Numbers are unsigned 64-bit, in the machine's order.
static const char knet_file_mark[9] = "knetpar1";

struct knet_file {
  char* data;
  size_t size, at;
};
inline void knet_file_put(knet_file* f, const void* from, size_t size) {
  memcpy(f->data + f->at, from, size);
  f->at += size;
}
inline void knet_file_put(knet_file* f, unsigned long long number) { knet_file_put(f, &number, sizeof number); }
// Whether the next bytes of the file are these; steps over them.
inline bool knet_file_has(knet_file* f, const void* wanted, size_t size) {
  if (f->size - f->at < size || memcmp(f->data + f->at, wanted, size)) return false;
  f->at += size;
  return true;
}
inline bool knet_file_has(knet_file* f, unsigned long long number) { return knet_file_has(f, &number, sizeof number); }
inline unsigned knet_file_sum(const knet_file* f, size_t size) {
  static const unsigned table[16] = {  // the remainders of the sixteen half bytes
      0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
      0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  unsigned sum = ~0u;
  for (size_t i = 0; i < size; i++) {
    sum ^= (unsigned char)f->data[i];
    sum = sum >> 4 ^ table[sum & 15];
    sum = sum >> 4 ^ table[sum & 15];
  }
  return ~sum;
}
// The size of the file of a model's parameters.
inline size_t knet_file_size() {
  size_t size = 8 + 3 * sizeof(unsigned long long);
  for (int i = 0; i < PARAMETERS; i++)
    size += strlen(parameters[i].name) + (2 + parameters[i].count) * sizeof(unsigned long long) +
            elements(parameters[i], 1) * sizeof(knet_real);
  return size;
}
inline int knet_file_fill(knet_model* m, knet_file* f) {
  knet_file_put(f, knet_file_mark, 8);
  knet_file_put(f, sizeof(knet_real));
  knet_file_put(f, PARAMETERS);
  for (int i = 0; i < PARAMETERS; i++) {
    const knet_array& a = parameters[i];
    knet_file_put(f, strlen(a.name));
    knet_file_put(f, a.name, strlen(a.name));
    knet_file_put(f, a.count);
    for (int k = 0; k < a.count; k++) knet_file_put(f, a.dims[k]);
    const size_t size = elements(a, 1) * sizeof(knet_real);
    TRY(copy_parameter(m, a, (knet_real*)(f->data + f->at), true));
    f->at += size;
  }
  knet_file_put(f, knet_file_sum(f, f->at));
  return 0;
}
// Writes beside the place and renames, so that a file is whole or not there.
inline int knet_file_write(const knet_file* f, const char* path) {
  char beside[4096];
  if ((size_t)snprintf(beside, sizeof beside, "%s.part", path) >= sizeof beside)
    return knet_fail(KNET_ARGUMENT, "the path is too long: %s", path);
  FILE* file = fopen(beside, "wb");
  if (!file) return knet_fail(KNET_ARGUMENT, "cannot write %s: %s", beside, strerror(errno));
  const bool written = fwrite(f->data, 1, f->size, file) == f->size;
  const bool closed = fclose(file) == 0;
  if (written && closed && rename(beside, path) == 0) return 0;
  const int code = knet_fail(KNET_ARGUMENT, "cannot write %s: %s", path, strerror(errno));
  remove(beside);
  return code;
}
inline int knet_file_read(knet_file* f, const char* path) {
  FILE* file = fopen(path, "rb");
  if (!file) return knet_fail(KNET_ARGUMENT, "cannot read %s: %s", path, strerror(errno));
  const size_t got = fread(f->data, 1, f->size, file);
  const bool more = fgetc(file) != EOF;
  fclose(file);
  return got == f->size && !more ? 0 : knet_fail(KNET_ARGUMENT, "%s does not hold this model's parameters", path);
}
// Checks a whole file before anything is taken from it; then copies its parameters.
inline int knet_file_take(knet_model* m, knet_file* f, const char* path) {
  const size_t body = f->size - sizeof(unsigned long long);
  for (int copying = 0; copying < 2; copying++) {
    f->at = 0;
    bool fits = knet_file_has(f, knet_file_mark, 8);
    fits = fits && knet_file_has(f, sizeof(knet_real)) && knet_file_has(f, PARAMETERS);
    for (int i = 0; i < PARAMETERS && fits; i++) {
      const knet_array& a = parameters[i];
      fits = knet_file_has(f, strlen(a.name)) && knet_file_has(f, a.name, strlen(a.name)) && knet_file_has(f, a.count);
      for (int k = 0; k < a.count && fits; k++) fits = knet_file_has(f, a.dims[k]);
      const size_t size = elements(a, 1) * sizeof(knet_real);
      if (fits && copying) TRY(copy_parameter(m, a, (knet_real*)(f->data + f->at), false));
      f->at += size;
    }
    fits = fits && f->at == body && knet_file_has(f, knet_file_sum(f, body));
    if (!fits) return knet_fail(KNET_ARGUMENT, "%s does not hold this model's parameters, or is damaged", path);
  }
  return 0;
}
