// to_idx CLOTHES OUT SEED: the ten files CLOTHES/0.json to 9.json ({"data": [[784 numbers of 0 to 255], ...]}, the pictures of one
// class each) as IDX files for training, validation and test. The set's own division is not in those files: the seed draws one.
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "data/packed_images.hpp"
#include "data/pad_crop.hpp"

namespace {

using namespace tessera;

constexpr int kClasses = 10, kSide = 28;
constexpr std::size_t kPixels = kSide * kSide;

struct Pictures {
  std::vector<std::string> pixels;
  std::string classes;
};

base::Status read_class(const std::string& path, int number, Pictures& pictures) {
  std::ifstream file(path);
  const nlohmann::json parsed = nlohmann::json::parse(file, nullptr, false);
  const auto wrong = [&] {
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is not {{\"data\": [[{} numbers], ...]}}", path, kPixels);
  };
  if (!parsed.is_object() || !parsed.contains("data") || !parsed["data"].is_array()) return wrong();
  for (const nlohmann::json& picture : parsed["data"]) {
    if (picture.is_array() && picture.empty()) continue;  // the package has two of those
    if (!picture.is_array() || picture.size() != kPixels) return wrong();
    std::string pixels;
    for (const nlohmann::json& pixel : picture) {
      if (!pixel.is_number_integer() || pixel < 0 || pixel > 255) return wrong();
      pixels += static_cast<char>(pixel.get<int>());
    }
    pictures.pixels.push_back(std::move(pixels));
    pictures.classes += static_cast<char>(number);
  }
  return {};
}

base::Status write_part(const Pictures& pictures, std::uint64_t seed, std::size_t begin, std::size_t end, const std::string& prefix) {
  std::string pixels, classes;
  for (std::size_t i = begin; i < end; ++i) {
    const std::size_t from = data::shuffled(seed, 0, i, pictures.pixels.size());
    pixels += pictures.pixels[from];
    classes += pictures.classes[from];
  }
  TESSERA_TRY(base::write_file_atomically(prefix + "-images-idx3-ubyte", data::idx_images(end - begin, kSide, kSide, pixels)));
  return base::write_file_atomically(prefix + "-labels-idx1-ubyte", data::idx_labels(classes));
}

// A seventh for the test, as in the set's own division, and a fourteenth for validation.
base::Status convert(const std::string& clothes, const std::string& out, std::uint64_t seed) {
  Pictures pictures;
  for (int c = 0; c < kClasses; ++c) TESSERA_TRY(read_class(fmt::format("{}/{}.json", clothes, c), c, pictures));
  const std::size_t count = pictures.pixels.size(), test = count / 7, valid = count / 14;
  TESSERA_TRY(write_part(pictures, seed, 0, test, out + "/test"));
  TESSERA_TRY(write_part(pictures, seed, test, test + valid, out + "/valid"));
  TESSERA_TRY(write_part(pictures, seed, test + valid, count, out + "/train"));
  fmt::print("{} pictures: {} to train with, {} to validate, {} to test, divided by seed {} (not the set's published division)\n", count,
             count - test - valid, valid, test, seed);
  return {};
}

}  // namespace

int main(int count, char** words) {
  const auto seed = count == 4 ? base::to_integer(words[3]) : std::nullopt;
  if (!seed) {
    fmt::print(stderr, "to_idx CLOTHES OUT SEED\n");
    return 2;
  }
  if (const auto done = convert(words[1], words[2], static_cast<std::uint64_t>(*seed)); !done) {
    fmt::print(stderr, "to_idx: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
