#include "data/packed_images.hpp"

#include <opencv2/imgproc.hpp>

#include <cstdint>
#include <fstream>
#include <iterator>

#include "base/text.hpp"

namespace tessera::data {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::size_t kCifarSide = 32, kCifarPixels = 3 * kCifarSide * kCifarSide;

Result<std::string> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (!file.good() && !file.eof()) return base::error(ErrorCode::kNotFound, "{}: cannot be opened; is the path right?", path);
  if (bytes.starts_with("\x1f\x8b")) return base::error(ErrorCode::kInvalidArgument, "{}: is compressed; unpack it with gunzip", path);
  return bytes;
}

int byte_at(const std::string& bytes, std::size_t at) { return static_cast<unsigned char>(bytes[at]); }

std::uint32_t number_at(const std::string& bytes, std::size_t at) {
  std::uint32_t number = 0;
  for (std::size_t i = at; i < at + 4; ++i) number = number << 8 | static_cast<std::uint32_t>(byte_at(bytes, i));
  return number;
}

void append_number(std::string& bytes, std::uint32_t number) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(number >> shift & 0xFF);
}

base::Status check_class(int c, std::size_t labels, const std::string& path, std::size_t picture) {
  if (static_cast<std::size_t>(c) < labels) return {};
  return base::error(ErrorCode::kInvalidArgument, "{}: picture {} has class {}, but there are {} labels (0 to {})", path, picture, c,
                     labels, labels - 1);
}

// The bytes of an IDX file behind its header, whose dimensions go to `sizes`.
Result<std::string> read_idx(const std::string& path, std::vector<std::size_t>& sizes) {
  TESSERA_ASSIGN(std::string bytes, read_bytes(path));
  const std::size_t dimensions = sizes.size(), header = 4 + 4 * dimensions;
  if (bytes.size() < header || byte_at(bytes, 0) != 0 || byte_at(bytes, 1) != 0 || byte_at(bytes, 2) != 8 ||
      static_cast<std::size_t>(byte_at(bytes, 3)) != dimensions)
    return base::error(ErrorCode::kInvalidArgument, "{}: is no IDX file of bytes with {} dimension{}", path, dimensions,
                       dimensions == 1 ? "" : "s");
  std::size_t elements = 1;
  for (std::size_t i = 0; i < dimensions; ++i) {
    sizes[i] = number_at(bytes, 4 + 4 * i);
    if (sizes[i] == 0 || sizes[i] > bytes.size() || (elements *= sizes[i]) > bytes.size()) elements = 0;
    if (elements == 0) break;
  }
  if (elements == 0 || bytes.size() != header + elements)
    return base::error(ErrorCode::kInvalidArgument, "{}: has {} bytes, which is not what its header says; is it whole?", path,
                       bytes.size());
  return bytes.substr(header);
}

class IdxImages : public ImageSet {
 public:
  static Result<std::unique_ptr<ImageSet>> open(const std::string& files, std::size_t labels) {
    const std::vector<std::string> paths = base::split(files, ':');
    if (paths.size() != 2) return base::error(ErrorCode::kInvalidArgument, "idx:{}: must name two files, idx:IMAGES:LABELS", files);
    auto set = std::make_unique<IdxImages>();
    std::vector<std::size_t> images(3), classes(1);
    TESSERA_ASSIGN(set->pixels_, read_idx(paths[0], images));
    TESSERA_ASSIGN(const std::string numbers, read_idx(paths[1], classes));
    if (images[0] != classes[0])
      return base::error(ErrorCode::kInvalidArgument, "{} has {} pictures, but {} has {} labels; they do not belong together", paths[0],
                         images[0], paths[1], classes[0]);
    set->path_ = paths[0], set->rows_ = static_cast<int>(images[1]), set->columns_ = static_cast<int>(images[2]);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      TESSERA_TRY(check_class(byte_at(numbers, i), labels, paths[1], i));
      set->classes_.push_back(byte_at(numbers, i));
    }
    return set;
  }

  Result<cv::Mat> picture(std::size_t index) const override {
    const cv::Mat grey(rows_, columns_, CV_8UC1, const_cast<char*>(pixels_.data()) + index * bytes_each());
    cv::Mat colours;
    cv::cvtColor(grey, colours, cv::COLOR_GRAY2BGR);
    return colours;
  }
  std::string name(std::size_t index) const override { return fmt::format("{} [{}]", path_, index); }
  Result<std::string> write_part(const std::vector<std::size_t>& indices, const std::string& prefix) const override {
    std::string pixels, labels;
    for (const std::size_t i : indices) {
      pixels.append(pixels_, i * bytes_each(), bytes_each());
      labels += static_cast<char>(classes_[i]);
    }
    const std::string images = prefix + "-images-idx3-ubyte", classes = prefix + "-labels-idx1-ubyte";
    TESSERA_TRY(base::write_file_atomically(images, idx_images(indices.size(), rows_, columns_, pixels)));
    TESSERA_TRY(base::write_file_atomically(classes, idx_labels(labels)));
    return fmt::format("idx:{}:{}", images, classes);
  }

 private:
  std::size_t bytes_each() const { return static_cast<std::size_t>(rows_) * static_cast<std::size_t>(columns_); }

  std::string path_, pixels_;
  int rows_ = 0, columns_ = 0;
};

class CifarImages : public ImageSet {
 public:
  explicit CifarImages(std::string kind) : kind_(std::move(kind)), label_bytes_(kind_ == "cifar10" ? 1 : 2) {}

  static Result<std::unique_ptr<ImageSet>> open(const std::string& kind, const std::string& files, std::size_t labels) {
    auto set = std::make_unique<CifarImages>(kind);
    for (const std::string& path : base::split(files, ',')) {
      TESSERA_ASSIGN(const std::string bytes, read_bytes(path));
      if (bytes.empty() || bytes.size() % set->record() != 0)
        return base::error(
            ErrorCode::kInvalidArgument,
            "{}: has {} bytes, not a multiple of the {} that a picture takes in {}'s binary batches; is it whole, and of that set?", path,
            bytes.size(), set->record(), kind == "cifar10" ? "CIFAR-10" : "CIFAR-100");
      for (std::size_t at = 0; at < bytes.size(); at += set->record()) {
        const int c = byte_at(bytes, at + (kind == "cifar100" ? 1 : 0));
        TESSERA_TRY(check_class(c, labels, path, at / set->record()));
        set->classes_.push_back(c);
      }
      set->records_ += bytes;
      set->files_.push_back({path, set->classes_.size()});
    }
    return set;
  }

  Result<cv::Mat> picture(std::size_t index) const override {
    cv::Mat picture(kCifarSide, kCifarSide, CV_8UC3);
    const char* pixels = records_.data() + index * record() + label_bytes_;
    for (std::size_t i = 0; i < kCifarPixels / 3; ++i)
      for (std::size_t c = 0; c < 3; ++c) picture.data[3 * i + 2 - c] = static_cast<unsigned char>(pixels[c * kCifarPixels / 3 + i]);
    return picture;
  }
  std::string name(std::size_t index) const override {
    std::size_t before = 0;
    for (const auto& [path, end] : files_) {
      if (index < end) return fmt::format("{} [{}]", path, index - before);
      before = end;
    }
    return "";
  }
  Result<std::string> write_part(const std::vector<std::size_t>& indices, const std::string& prefix) const override {
    std::string records;
    for (const std::size_t i : indices) records.append(records_, i * record(), record());
    TESSERA_TRY(base::write_file_atomically(prefix + ".bin", records));
    return kind_ + ":" + prefix + ".bin";
  }

 private:
  struct File {
    std::string path;
    std::size_t end;  // the first picture behind it
  };
  std::size_t record() const { return label_bytes_ + kCifarPixels; }

  std::string kind_, records_;
  std::size_t label_bytes_;
  std::vector<File> files_;
};

}  // namespace

std::string idx_images(std::size_t count, int rows, int columns, const std::string& pixels) {
  std::string bytes{'\0', '\0', '\x08', '\x03'};
  append_number(bytes, static_cast<std::uint32_t>(count));
  append_number(bytes, static_cast<std::uint32_t>(rows));
  append_number(bytes, static_cast<std::uint32_t>(columns));
  return bytes + pixels;
}

std::string idx_labels(const std::string& labels) {
  std::string bytes{'\0', '\0', '\x08', '\x01'};
  append_number(bytes, static_cast<std::uint32_t>(labels.size()));
  return bytes + labels;
}

Result<std::unique_ptr<ImageSet>> open_packed_images(const std::string& kind, const std::string& files, std::size_t labels) {
  if (kind == "idx") return IdxImages::open(files, labels);
  if (kind == "cifar10" || kind == "cifar100" || kind == "cifar100-coarse") return CifarImages::open(kind, files, labels);
  return base::error(ErrorCode::kInvalidArgument,
                     "{}:{}: there is no such kind of set; the kinds are folder, idx, cifar10, cifar100, cifar100-coarse", kind, files);
}

}  // namespace tessera::data
