// The training options of a parameter with their defaults, how many steps Adam has made, and the running averages,
// which are allocated when an option first needs them.
struct knet_options {
  double lr = 1, l1reg = 0, l2reg = 0, momentum = 0, nesterov = 0, gclip = 0, gscale = 1;
  bool adagrad = false, rmsprop = false, adam = false;
  int adam_steps = 0;
  knet_real *adagrad_squares = nullptr, *rmsprop_squares = nullptr, *adam_mean = nullptr, *adam_square = nullptr;
  knet_real *momentum_average = nullptr, *nesterov_average = nullptr;
};
KNET_LOOPS double knet_sum_of_squares(const knet_real* x, knet_range part) {
  double sum = 0;
  KNET_SIMD(reduction(+ : sum))
  for (int k = part.from; k < part.to; k++) sum += (double)x[k] * (double)x[k];
  return sum;
}
// Whether a parameter changes by its gradient and the learning rate alone.
inline bool knet_is_plain(const knet_options& o) {
  return o.l1reg == 0 && o.l2reg == 0 && !o.adagrad && !o.rmsprop && !o.adam && o.momentum == 0 && o.nesterov == 0;
}
// Changes part of a parameter, w, by its gradient times `factor` and its options; of the averages, w is element `at`.
KNET_LOOPS void knet_update(const knet_options& o, knet_real* w, const knet_real* dw, size_t at, knet_range part,
                            double factor) {
  const knet_real scale = (knet_real)factor, epsilon = (knet_real)1e-8, lr = (knet_real)o.lr;
  const knet_real l1reg = (knet_real)o.l1reg, l2reg = (knet_real)o.l2reg;
  const knet_real momentum = (knet_real)o.momentum, nesterov = (knet_real)o.nesterov;
  const knet_real mean_bias = (knet_real)(1 - pow(0.9, o.adam_steps));
  const knet_real square_bias = (knet_real)(1 - pow(0.999, o.adam_steps));
  if (knet_is_plain(o)) {
    for (int i = part.from; i < part.to; i++) w[i] -= lr * (scale * dw[i]);
    return;
  }
  for (int i = part.from; i < part.to; i++) {
    knet_real g = scale * dw[i];
    if (l1reg != 0) g += l1reg * (knet_real)((w[i] > 0) - (w[i] < 0));
    if (l2reg != 0) g += l2reg * w[i];
    if (o.adagrad) {
      o.adagrad_squares[at + i] += g * g;
      g /= epsilon + knet_sqrt(o.adagrad_squares[at + i]);
    }
    if (o.rmsprop) {
      o.rmsprop_squares[at + i] = (knet_real)0.9 * o.rmsprop_squares[at + i] + (knet_real)(1 - 0.9) * (g * g);
      g /= epsilon + knet_sqrt(o.rmsprop_squares[at + i]);
    }
    if (o.adam) {
      o.adam_mean[at + i] = (knet_real)0.9 * o.adam_mean[at + i] + (knet_real)(1 - 0.9) * g;
      o.adam_square[at + i] = (knet_real)0.999 * o.adam_square[at + i] + (knet_real)(1 - 0.999) * (g * g);
      g = o.adam_mean[at + i] / mean_bias / (knet_sqrt(o.adam_square[at + i] / square_bias) + epsilon);
    }
    if (o.momentum != 0) {
      g += momentum * o.momentum_average[at + i];
      o.momentum_average[at + i] = g;
    }
    if (o.nesterov != 0) {
      o.nesterov_average[at + i] = nesterov * o.nesterov_average[at + i] + g;
      g += nesterov * o.nesterov_average[at + i];
    }
    w[i] -= lr * g;
  }
}
