#include "base/file_kind.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/text.hpp"

namespace tessera::base {
namespace {

using namespace std::string_view_literals;
using enum FileKind;

constexpr std::size_t kStart = 4096;  // bytes that are looked at

struct Magic {
  std::size_t at;
  std::string_view bytes;
  FileKind kind;
  const char* name;
};
constexpr Magic kMagic[] = {
    {0, "PK\x03\x04"sv, kOther, "a zip archive (PyTorch saves such)"},
    {0, "\x80\x02"sv, kOther, "a Python pickle (PyTorch saves such)"},
    {0, "\x89HDF\r\n"sv, kOther, "an HDF5 file (Keras saves such)"},
    {0, "\x1f\x8b"sv, kOther, "a gzip archive; unpack it"},
    {0, "Rar!"sv, kOther, "a rar archive; unpack it"},
    {0, "7z\xbc\xaf"sv, kOther, "a 7z archive; unpack it"},
    {257, "ustar"sv, kOther, "a tar archive; unpack it"},
    {4, "TFL3"sv, kOther, "a TensorFlow Lite model"},
    {0, "\x08\x03\x12"sv, kOther, "an ONNX model"},
    {0,
     "\x7f"
     "ELF"sv,
     kOther, "a program"},
    {0, "%PDF"sv, kOther, "a PDF"},
    {0, "version https://git-lfs"sv, kOther, "a Git LFS pointer, the file itself was not fetched; run `git lfs pull`"},
    {0, "\xff\xd8\xff"sv, kImage, "a JPEG picture"},
    {0, "\x89PNG"sv, kImage, "a PNG picture"},
    {0, "GIF8"sv, kImage, "a GIF picture"},
    {0, "II*\0"sv, kImage, "a TIFF picture"},
    {0, "MM\0*"sv, kImage, "a TIFF picture"},
    {8, "WEBP"sv, kImage, "a WebP picture"},
    {4, "ftyp"sv, kOther, "a video or a HEIC picture"},
};

// Darknet's header: version 0.x, or 1000 and more where matrices lie transposed.
bool is_weights(std::string_view start) {
  std::int32_t version[3];
  if (start.size() < 16) return false;
  std::memcpy(version, start.data(), sizeof version);
  return version[0] == 0 && version[1] >= 0 && version[1] < 10 && version[2] >= 0 && version[2] < 100;
}

FileNature nature_of_text(std::string_view start) {
  std::string lower(start);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower.find("<html") != std::string::npos || lower.find("<!doctype html") != std::string::npos) return {kOther, "a web page"};
  for (const std::string& raw : split(lower, '\n')) {
    const std::string line = without_spaces(raw);
    if (line.empty() || line.front() == '#' || line.front() == ';') continue;
    if (line.starts_with("[net]") || line.starts_with("[network]")) return {kCfg, "a cfg file"};
    for (const char* key : {"classes=", "train=", "valid=", "names=", "backup="})
      if (line.starts_with(key)) return {kData, "a .data file"};
    break;
  }
  return {};
}

FileKind kind_of_extension(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (name.ends_with(".data")) return kData;
  if (name.ends_with(".cfg")) return kCfg;
  if (name.ends_with(".weights") || name.ends_with(".backup") || name.find(".conv.") != std::string::npos) return kWeights;
  for (const char* extension : {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
    if (name.ends_with(extension)) return kImage;
  return kUnknown;
}

}  // namespace

FileNature nature_of_bytes(std::string_view start) {
  for (const Magic& magic : kMagic)
    if (start.size() >= magic.at && start.substr(magic.at).starts_with(magic.bytes)) return {magic.kind, magic.name};
  if (start.size() > 9 && start.substr(8, 2) == "{\"") return {kOther, "a safetensors file"};
  if (is_weights(start)) return {kWeights, "a weights file"};
  return nature_of_text(decoded_text(start));
}

FileNature nature_of_file(const std::string& path) {
  std::array<char, kStart> bytes;
  std::ifstream file;
  if (check_regular(path, "file")) file.open(path, std::ios::binary);
  if (file.is_open()) {
    file.read(bytes.data(), bytes.size());
    const FileNature nature = nature_of_bytes({bytes.data(), static_cast<std::size_t>(file.gcount())});
    if (nature.kind != kUnknown) return nature;
  }
  return {kind_of_extension(path), ""};
}

std::string it_is(const std::string& path) {
  const std::string name = nature_of_file(path).name;
  return name.empty() ? "" : "; it is " + name;
}

}  // namespace tessera::base
