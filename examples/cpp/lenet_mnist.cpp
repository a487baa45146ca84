// Trains LeNet on MNIST through the C interface of the emitted file alone.
//
// Before: `knetc` made lenet.cu and lenet.h from lenet.knet. Prints losses and the share of wrong answers, saves the
// parameters, and loads them into a second model, which must answer as the first. Several processes share every
// minibatch where it is built with NCCL. See README.md.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "idx.h"
#include "lenet.h"
#include "ranks.h"

namespace {

struct Settings {
  std::string folder, digits, save = "lenet.par", id;
  long epochs = 1, steps = 0, every = 100, batch = 100;  // steps: 0 for no limit
  unsigned long long seed = 1;
  double lr = 0.1, momentum = 0;
};

const char* const kUsage =
    "usage: lenet_mnist [FOLDER] [--digits FILE] [--epochs N] [--steps N] [--every N] [--batch N] [--seed N]\n"
    "                   [--lr X] [--momentum X] [--save FILE] [--id FILE]\n"
    "FOLDER (or the variable KNETC_DATA) holds the four unpacked files of MNIST, or a folder mnist with them.";

// Turns the code of a knet_ function into an exception that has its text.
void check(int code, const char* call) {
  if (code != KNET_OK)
    throw std::runtime_error(std::string(call) + ": error " + std::to_string(code) + ", " + lenet_last_error());
}

// A model that is freed at the end of its block.
class Model {
 public:
  explicit Model(unsigned long long seed) { check(lenet_create(&model_, seed, nullptr), "lenet_create"); }
  ~Model() {
    if (lenet_destroy(model_) != KNET_OK) std::fprintf(stderr, "lenet_destroy: %s\n", lenet_last_error());
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  operator lenet_model*() const { return model_; }

 private:
  lenet_model* model_ = nullptr;
};

double number(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end) throw std::invalid_argument(option + " needs a number, not " + text);
  return value;
}
unsigned long long whole(const std::string& option, const std::string& text, unsigned long long most) {
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || text.size() > 20 || text.find_first_not_of("0123456789") != std::string::npos || value > most)
    throw std::invalid_argument(option + " needs a whole number, not " + text);
  return value;
}
long count(const std::string& option, const std::string& text, long least) {
  const long value = static_cast<long>(whole(option, text, 1000000000));
  if (value < least) throw std::invalid_argument(option + " needs at least " + std::to_string(least));
  return value;
}

void read_option(Settings& s, const std::string& option, const std::string& value) {
  if (option == "--digits") s.digits = value;
  else if (option == "--save") s.save = value;
  else if (option == "--id") s.id = value;
  else if (option == "--epochs") s.epochs = count(option, value, 0);
  else if (option == "--steps") s.steps = count(option, value, 0);
  else if (option == "--every") s.every = count(option, value, 1);
  else if (option == "--batch") s.batch = count(option, value, 1);
  else if (option == "--seed") s.seed = whole(option, value, ~0ULL);
  else if (option == "--lr") s.lr = number(option, value);
  else if (option == "--momentum") s.momentum = number(option, value);
  else throw std::invalid_argument("there is no option " + option);
}

Settings read_settings(int argc, char** argv) {
  Settings s;
  if (const char* folder = std::getenv("KNETC_DATA")) s.folder = folder;
  for (int i = 1; i < argc; i++) {
    const std::string word = argv[i];
    if (word.compare(0, 2, "--") != 0) {
      s.folder = word;
    } else {
      if (i + 1 == argc) throw std::invalid_argument(word + " needs a value, or is no option");
      read_option(s, word, argv[++i]);
    }
  }
  if (s.folder.empty() && s.digits.empty()) throw std::invalid_argument("no data: give FOLDER, KNETC_DATA or --digits");
  return s;
}

// One pass over the training digits, or fewer steps; the last minibatch may be smaller. `step` counts on. Each process
// takes its own columns of a minibatch; each of them weighs 1/columns of the whole, and one that has none takes a column
// that weighs 0.
void train(lenet_model* model, const idx::Digits& digits, const Settings& s, const ranks::World& w, long& step) {
  std::vector<lenet_real> x, gold, weights;
  for (long first = 0; first < digits.count() && (!s.steps || step < s.steps); first += s.batch) {
    const int whole = static_cast<int>(std::min(s.batch, digits.count() - first));
    int begin = 0, mine = 0;
    w.share(whole, begin, mine);
    const int batch = std::max(mine, 1);
    if (!mine) begin = 0;
    idx::take_batch(digits, static_cast<int>(first) + begin, batch, x, gold);
    weights.assign(batch, static_cast<lenet_real>(mine) / whole);
    const lenet_real* inputs[] = {x.data()};
    const bool shown = ++step % s.every == 0 || step == 1;
    lenet_real loss = 0;
    check(lenet_set_columns(model, begin), "lenet_set_columns");
    check(lenet_forward(model, KNET_NO_CONDITION, inputs, batch, nullptr), "lenet_forward");
    check(lenet_backward(model, KNET_SOFTLOSS, gold.data(), weights.data(), 0, shown ? &loss : nullptr),
          "lenet_backward");
    check(lenet_update(model, 0, 1), "lenet_update");
    if (shown && w.rank == 0) std::printf("step %ld loss %.9g\n", step, static_cast<double>(loss));
    if (!shown) check(lenet_synchronize(model), "lenet_synchronize");  // x and gold are filled again
  }
}

// The share of digits whose largest output is not their label.
double error_rate(lenet_model* model, const idx::Digits& digits, const Settings& s) {
  std::vector<lenet_real> x, gold, y;
  long wrong = 0;
  for (long first = 0; first < digits.count(); first += s.batch) {
    const int batch = static_cast<int>(std::min(s.batch, digits.count() - first));
    idx::take_batch(digits, static_cast<int>(first), batch, x, gold);
    y.resize(gold.size());
    const lenet_real* inputs[] = {x.data()};
    check(lenet_forward(model, KNET_NO_CONDITION, inputs, batch, y.data()), "lenet_forward");
    for (int i = 0; i < batch; i++) {
      const auto column = y.begin() + i * idx::kClasses;
      wrong += std::max_element(column, column + idx::kClasses) - column != digits.labels[first + i];
    }
  }
  return static_cast<double>(wrong) / digits.count();
}

int run(const Settings& s) {
  const ranks::World w = ranks::world();
  const ranks::Communicator comm(w, s.id);
  const idx::Data data = s.digits.empty() ? idx::read_folder(s.folder) : idx::read_file(s.digits);
  if (w.rank == 0) std::printf("%d digits to train on, %d to test on\n", data.train.count(), data.test.count());
  Model model(s.seed);
  check(comm.give(model), "lenet_set_communicator");
  check(lenet_set_option(model, nullptr, "lr", s.lr), "lenet_set_option");
  check(lenet_set_option(model, nullptr, "momentum", s.momentum), "lenet_set_option");
  long step = 0;
  for (long epoch = 1; epoch <= s.epochs && (!s.steps || step < s.steps); epoch++) {
    train(model, data.train, s, w, step);
    if (w.rank) continue;
    std::printf("epoch %ld test error %.6f\n", epoch, error_rate(model, data.test, s));
    std::fflush(stdout);
  }
  if (w.rank) return 0;  // all have the same parameters
  const double error = error_rate(model, data.test, s);
  check(lenet_save(model, s.save.c_str()), "lenet_save");
  Model second(s.seed + 1);  // other parameters until those of the file are in
  check(lenet_load(second, s.save.c_str()), "lenet_load");
  const double loaded = error_rate(second, data.test, s);
  std::printf("saved to %s: test error %.6f, loaded: test error %.6f\n", s.save.c_str(), error, loaded);
  if (loaded == error) return 0;
  std::fprintf(stderr, "lenet_mnist: the loaded model differs\n");
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(read_settings(argc, argv));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "lenet_mnist: %s\n%s\n", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lenet_mnist: %s\n", error.what());
    return 1;
  }
}
