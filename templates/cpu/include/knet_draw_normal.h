template <class T>
KNET_LOOPS void knet_fill_normal(T* y, int first, int n, unsigned long long seed, unsigned call, unsigned stream,
                                 double mean, double std) {
  for (int i = 0; i < n; i++)
    y[i] = (T)(knet_rounded(knet_normal(knet_random_word(seed, first + i, call, stream)) * std) + mean);
}
