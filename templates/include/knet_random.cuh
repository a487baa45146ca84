// Random numbers that do not depend on order, batch, threads or machine: element i of an array is word i of the stream
// that (seed, stream, call) name. Philox 4x32-10 (Salmon et al., SC11), then float64 by operations that IEEE 754 rounds
// exactly, never fused, so that every machine draws the same bits.
static inline __device__ unsigned knet_random_word(unsigned long long seed, unsigned i, unsigned call,
                                                   unsigned stream) {
  unsigned c0 = i / 4, c1 = 0, c2 = call, c3 = stream;
  unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return i % 4 == 0 ? c0 : i % 4 == 1 ? c1 : i % 4 == 2 ? c2 : c3;
}
