#include "data/image_file.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <string_view>
#include <vector>

#include "base/file_kind.hpp"
#include "base/text.hpp"
#include "data/decoder_output.hpp"

namespace tessera::data {
namespace {

using Bytes = std::array<unsigned char, 32>;

int little_endian(const unsigned char* bytes) { return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | bytes[3] << 24; }

int big_endian(const unsigned char* bytes, int count) {
  int value = 0;
  for (int i = 0; i < count; ++i) value = value << 8 | bytes[i];
  return value;
}

// Does EXIF data (a JPEG's first segment of that name) turn the picture by a quarter? OpenCV then does when it reads it.
bool quarter_turn(const std::vector<unsigned char>& exif) {
  constexpr std::size_t kTiff = 6;  // after "Exif" and two zeros
  if (exif.size() < kTiff + 8 || std::memcmp(exif.data(), "Exif\0", 6) != 0) return false;
  const bool big = exif[kTiff] == 'M';
  const auto number = [&](std::size_t at, std::size_t count) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < count && kTiff + at + i < exif.size(); ++i)
      value |= static_cast<std::uint32_t>(exif[kTiff + at + i]) << 8 * (big ? count - 1 - i : i);
    return value;
  };
  const std::size_t directory = number(4, 4), entries = number(directory, 2);
  for (std::size_t i = 0; i < entries && kTiff + directory + 2 + 12 * i + 12 <= exif.size(); ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    if (number(entry, 2) == 0x0112) return number(entry + 8, 2) >= 5 && number(entry + 8, 2) <= 8;
  }
  return false;
}

// Walks a JPEG's segments to the start-of-frame, which has the size. As people see the picture: turned as its EXIF data says.
ImageSize jpeg_size(std::ifstream& file) {
  file.seekg(2);
  bool turned = false;
  std::array<unsigned char, 4> marker;
  while (file.read(reinterpret_cast<char*>(marker.data()), 4) && marker[0] == 0xFF) {
    const int kind = marker[1], length = big_endian(&marker[2], 2);
    if (kind == 0xFF) {  // fill byte before a marker
      file.seekg(-3, std::ios::cur);
      continue;
    }
    const bool frame = kind >= 0xC0 && kind <= 0xCF && kind != 0xC4 && kind != 0xC8 && kind != 0xCC;
    if (frame) {
      std::array<unsigned char, 5> sizes{};
      if (!file.read(reinterpret_cast<char*>(sizes.data()), 5)) break;
      const int width = big_endian(&sizes[3], 2), height = big_endian(&sizes[1], 2);
      return turned ? ImageSize{height, width} : ImageSize{width, height};
    }
    if (length < 2) break;
    const std::streamoff next = static_cast<std::streamoff>(file.tellg()) + length - 2;
    if (kind == 0xE1) {
      std::vector<unsigned char> exif(static_cast<std::size_t>(length - 2));
      file.read(reinterpret_cast<char*>(exif.data()), length - 2);
      turned = turned || quarter_turn(exif);
    }
    file.seekg(next);
  }
  return {};
}

// Does the file end as a whole one does? Where it does not, the decoder must be asked (some programs write on behind the picture).
bool ends_well(std::ifstream& file) {
  char first = 0;
  file.clear();
  file.seekg(0);
  file.get(first);
  if (first != '\xFF' && first != '\x89') return false;
  const std::string_view ending = first == '\xFF' ? "\xFF\xD9" : "IEND";
  char tail[64] = {};
  file.clear();
  file.seekg(0, std::ios::end);
  const std::streamoff bytes = file.tellg(), count = std::min<std::streamoff>(bytes, sizeof tail);
  file.seekg(bytes - count);
  file.read(tail, count);
  return std::string_view(tail, sizeof tail).find(ending) != std::string_view::npos;
}

ImageSize header_size(std::ifstream& file) {
  Bytes start{};
  file.read(reinterpret_cast<char*>(start.data()), start.size());
  if (file.gcount() < 26) return {};
  file.clear();
  if (start[0] == 0xFF && start[1] == 0xD8) return jpeg_size(file);
  if (std::memcmp(start.data(), "\x89PNG\r\n\x1a\n", 8) == 0) return {big_endian(&start[16], 4), big_endian(&start[20], 4)};
  if (start[0] == 'B' && start[1] == 'M') return {little_endian(&start[18]), std::abs(little_endian(&start[22]))};
  return {};
}

// A few kilobytes can claim any size, and decoding would take the memory for it.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 27;

base::Status check_pixels(const std::string& path, ImageSize size) {
  if (std::int64_t{size.width} * size.height <= kMostPixels) return {};
  return base::error(base::ErrorCode::kInvalidArgument, "{}: {}x{} pixels are more than the {} million an image may have; scale it down",
                     path, size.width, size.height, kMostPixels / 1000000);
}

// Where a cell of the scaled grid lies between two of the original one.
struct Tap {
  int first, second;
  float weight;  // of `second`
};

// `columns`: the last one is the source's last. Upstream does not take that care of rows: where rounding leaves the last row
// a little before the source's last, it is the row above times almost nothing, i.e. black.
std::vector<Tap> taps(int count, int source, bool columns) {
  const float step = static_cast<float>(source - 1) / static_cast<float>(count - 1);
  std::vector<Tap> result;
  for (int i = 0; i + (columns || count == 1) < count; ++i) {
    const float at = static_cast<float>(i) * step;
    const int first = static_cast<int>(at);
    result.push_back({first, std::min(first + 1, source - 1), at - static_cast<float>(first)});
  }
  if (columns || count == 1) result.push_back({source - 1, source - 1, 0});
  return result;
}

float between(float a, float b, float weight) { return (1 - weight) * a + weight * b; }

// Bilinear with the corners of both grids on each other, first along x, then along y, as upstream's resize_image(); in the
// middle of planes of width x height.
void resize(const cv::Mat& picture, int inner_width, int inner_height, int width, int height, float* planes) {
  const std::size_t plane = static_cast<std::size_t>(width) * height;
  const std::vector<Tap> columns = taps(inner_width, picture.cols, true), rows = taps(inner_height, picture.rows, false);
  const auto scaled_row = [&](int y, std::size_t c, std::vector<float>& out) {
    const unsigned char* pixels = picture.ptr<unsigned char>(y) + (2 - c);
    const auto value = [&](int x) { return static_cast<float>(pixels[3 * x] / 255.); };
    for (std::size_t x = 0; x < columns.size(); ++x) out[x] = between(value(columns[x].first), value(columns[x].second), columns[x].weight);
  };
  float* const corner = planes + static_cast<std::size_t>((height - inner_height) / 2) * width + (width - inner_width) / 2;
  std::vector<float> upper(columns.size()), lower(columns.size());
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t y = 0; y < rows.size(); ++y) {
      scaled_row(rows[y].first, c, upper);
      scaled_row(rows[y].second, c, lower);
      float* out = corner + c * plane + y * static_cast<std::size_t>(width);
      const bool last = y + 1 == rows.size();
      for (std::size_t x = 0; x < columns.size(); ++x)
        out[x] = last ? (1 - rows[y].weight) * upper[x] : between(upper[x], lower[x], rows[y].weight);
    }
}

}  // namespace

base::Result<cv::Mat> read_image(const std::string& path, std::string* damage) {
  TESSERA_TRY(base::check_regular(path, "image"));
  std::ifstream file(path, std::ios::binary);
  TESSERA_TRY(check_pixels(path, header_size(file)));
  cv::Mat picture;
  DecoderOutput words;
  try {
    picture = cv::imread(path, cv::IMREAD_COLOR);
  } catch (const std::exception&) {
    picture.release();  // too large, or damaged in a way the decoder throws at: unreadable all the same
  }
  if (!picture.empty() && words.damage().empty()) return picture;
  if (!picture.empty() && damage) {
    *damage = fmt::format("{}: is damaged: {}", path, words.damage());
    return picture;
  }
  if (!picture.empty()) return base::error(base::ErrorCode::kIo, "{}: is damaged: {}", path, words.damage());
  const base::FileNature nature = base::nature_of_file(path);
  if (nature.kind != base::FileKind::kImage && !nature.name.empty())
    return base::error(base::ErrorCode::kIo, "{}: cannot be read as an image; it is {}", path, nature.name);
  return base::error(base::ErrorCode::kIo, "{}: cannot be read as an image; it is damaged or of an unknown format{}", path,
                     words.damage().empty() ? "" : fmt::format(" ({})", words.damage()));
}

base::Result<ImageSize> read_image_size(const std::string& path) {
  TESSERA_TRY(base::check_regular(path, "image"));
  std::ifstream file(path, std::ios::binary);
  if (!file) return base::error(base::ErrorCode::kNotFound, "{}: cannot open the image: {}", path, std::strerror(errno));
  const ImageSize size = header_size(file);
  TESSERA_TRY(check_pixels(path, size));
  if (size.width > 0 && size.height > 0 && ends_well(file)) return size;
  file.close();
  TESSERA_ASSIGN(const cv::Mat picture, read_image(path));
  return ImageSize{picture.cols, picture.rows};
}

base::Status write_image(const std::string& path, const cv::Mat& picture) {
  std::string extension = std::filesystem::path(path).extension().string();
  std::vector<unsigned char> bytes;
  try {
    if (!cv::imencode(extension, picture, bytes)) bytes.clear();
  } catch (const cv::Exception&) {
    bytes.clear();  // the extension is no image format
  }
  if (bytes.empty()) return base::error(base::ErrorCode::kInvalidArgument, "{}: cannot write this kind of image; use .jpg or .png", path);
  return base::write_file_atomically(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

void letterbox(const cv::Mat& picture, int width, int height, float* planes) {
  const bool wide =
      static_cast<float>(width) / static_cast<float>(picture.cols) < static_cast<float>(height) / static_cast<float>(picture.rows);
  const int inner_width = wide ? width : picture.cols * height / picture.rows;
  const int inner_height = wide ? picture.rows * width / picture.cols : height;
  std::fill_n(planes, std::size_t{3} * width * height, 0.5f);
  resize(picture, inner_width, inner_height, width, height, planes);
}

void stretch(const cv::Mat& picture, int width, int height, float* planes) { resize(picture, width, height, width, height, planes); }

}  // namespace tessera::data
