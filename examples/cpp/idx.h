// Reads the IDX files of MNIST, which hold bytes behind a header of big-endian sizes, for `lenet_mnist.cpp`.
//
// Before: the four unpacked files of MNIST, or one file that is those four behind one another. After: minibatches as a
// model takes them, pixels in [0, 1] and labels as one-hot columns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <istream>
#include <stdexcept>
#include <string>
#include <vector>

#include "lenet.h"

namespace idx {

constexpr int kClasses = 10;
constexpr size_t kPixels = 28 * 28;

struct Digits {
  std::vector<unsigned char> pixels;  // each image's rows after one another
  std::vector<unsigned char> labels;
  int count() const { return static_cast<int>(labels.size()); }
};
struct Data {
  Digits train, test;
};

inline uint32_t read_number(std::istream& in) {
  unsigned char bytes[4] = {};
  in.read(reinterpret_cast<char*>(bytes), 4);
  return uint32_t(bytes[0]) << 24 | uint32_t(bytes[1]) << 16 | uint32_t(bytes[2]) << 8 | bytes[3];
}

// The bytes of one array with `dims` sizes, which must be `count` of `size` bytes each; a count of 0 is any.
inline std::vector<unsigned char> read_array(std::istream& in, const std::string& name, unsigned dims, size_t size,
                                             size_t count) {
  if (read_number(in) != (0x0800 | dims) || !in) throw std::runtime_error(name + " is not an unpacked IDX file");
  const size_t found = read_number(in);
  size_t each = 1;
  for (unsigned i = 1; i < dims; i++) each *= read_number(in);
  if (!in || each != size || (count && found != count) || found == 0 || found > 10000000)
    throw std::runtime_error(name + " has other sizes than digits of 28x28 pixels with a label each");
  std::vector<unsigned char> bytes(found * each);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!in) throw std::runtime_error(name + " ends too early");
  return bytes;
}

inline Digits read_digits(std::istream& images, std::istream& labels, const std::string& name) {
  Digits digits;
  digits.pixels = read_array(images, name, 3, kPixels, 0);
  digits.labels = read_array(labels, name, 1, 1, digits.pixels.size() / kPixels);
  for (unsigned char label : digits.labels)
    if (label >= kClasses) throw std::runtime_error(name + " has a label that is no digit");
  return digits;
}

inline std::ifstream open(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (in) return in;
  if (std::ifstream(path + ".gz")) throw std::runtime_error(path + " is still packed: gunzip -k " + path + ".gz");
  throw std::runtime_error("cannot read " + path);
}

// The four files of a folder, or of its subfolder mnist.
inline Data read_folder(std::string folder) {
  if (std::ifstream(folder + "/mnist/t10k-labels-idx1-ubyte") ||
      std::ifstream(folder + "/mnist/t10k-labels-idx1-ubyte.gz"))
    folder += "/mnist";
  const auto part = [&](const std::string& prefix) {
    std::ifstream images = open(folder + "/" + prefix + "-images-idx3-ubyte");
    std::ifstream labels = open(folder + "/" + prefix + "-labels-idx1-ubyte");
    return read_digits(images, labels, folder + "/" + prefix + "-*");
  };
  Data data;
  data.train = part("train");
  data.test = part("t10k");
  return data;
}

// One file: training images, training labels, test images, test labels, as `cat` puts the four together.
inline Data read_file(const std::string& path) {
  std::ifstream in = open(path);
  Data data;
  data.train = read_digits(in, in, path);
  data.test = read_digits(in, in, path);
  return data;
}

// Columns first, first+1, ... of `digits`: x [28,28,1,count], gold [10,count], both column-major.
template <class Real>
void take_batch(const Digits& digits, int first, int count, std::vector<Real>& x, std::vector<Real>& gold) {
  x.resize(kPixels * count);
  gold.assign(size_t(kClasses) * count, 0);
  const unsigned char* pixels = digits.pixels.data() + kPixels * first;
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<Real>(pixels[i]) / 255;
  for (int i = 0; i < count; i++) gold[size_t(kClasses) * i + digits.labels[first + i]] = 1;
}

}  // namespace idx
