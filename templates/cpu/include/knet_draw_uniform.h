//? knet_fill_uniform
template <class T>
KNET_LOOPS void knet_fill_uniform(T* y, int first, int n, unsigned long long seed, unsigned call, unsigned stream,
                                  double low, double high) {
  for (int i = 0; i < n; i++)
    y[i] = (T)(knet_rounded(knet_uniform(knet_random_word(seed, first + i, call, stream)) * (high - low)) + low);
}
//.
//? knet_fill_bernoulli
template <class T>
KNET_LOOPS void knet_fill_bernoulli(T* y, int first, int n, unsigned long long seed, unsigned call, unsigned stream,
                                    double p, double scale) {
  for (int i = 0; i < n; i++) y[i] = knet_uniform(knet_random_word(seed, first + i, call, stream)) < p ? (T)scale : 0;
}
//.
