#include "darknet/upstream/weights_file.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/file_kind.hpp"
#include "base/text.hpp"
#include "darknet/upstream/weights_layout.hpp"

static_assert(std::endian::native == std::endian::little, "weights files are little-endian");

namespace tessera::darknet {
namespace {

constexpr std::int32_t kMajor = 0, kMinor = 2, kRevision = 0;
constexpr std::uint64_t kVersionBytes = 12;
constexpr std::uint64_t kWideHeader = kVersionBytes + 8, kNarrowHeader = kVersionBytes + 4;
constexpr char kMomentumMagic[8] = {'T', 'S', 'R', 'M', 'O', 'M', '0', '2'};

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Closer>;

// FNV-1a over 32-bit words: fast enough for every save, and any changed float changes it.
class Hash {
 public:
  void add(const float* values, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) value_ = (value_ ^ std::bit_cast<std::uint32_t>(values[i])) * 0x100000001B3u;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xCBF29CE484222325u;
};

bool finite(const float* values, std::size_t count) {
  constexpr std::uint32_t kExponent = 0x7F800000u;  // all ones: infinite or not a number
  std::uint32_t bad = 0;
  for (std::size_t i = 0; i < count; ++i) bad |= (std::bit_cast<std::uint32_t>(values[i]) & kExponent) == kExponent;
  return bad == 0;
}

void append(std::string& bytes, const void* from, std::size_t count) { bytes.append(static_cast<const char*>(from), count); }

struct Header {
  std::uint64_t bytes = 0, seen = 0;
  bool transposed = false;
};

std::uint64_t block_bytes(const std::vector<WeightBlock>& blocks) {
  std::uint64_t bytes = 0;
  for (const WeightBlock& block : blocks) bytes += block.count * sizeof(float);
  return bytes;
}

// Compares the file's size with what the layers need. Fills info->layers, layers_total and next_layer.
base::Status match_sizes(const network* net, const std::string& path, const LoadRange& range, const Header& header,
                         std::uint64_t file_bytes, WeightsInfo* info) {
  const LayoutUse use = header.transposed ? LayoutUse::kLoadTransposed : LayoutUse::kLoad;
  std::uint64_t left = file_bytes - header.bytes;
  *info = {header.seen, 0, 0, net->n, 0};
  bool ended = false;
  for (int i = range.start; i < std::min(net->n, range.cutoff); ++i) {
    const layer& l = net->layers[i];
    if (l.numload > l.n)
      return base::error(base::ErrorCode::kInvalidArgument, "{}: numload={} is more than the {} filters there are", layer_label(net, i),
                         l.numload, l.n);
    const std::uint64_t needed = block_bytes(weight_blocks(l, use));
    if (needed == 0) continue;
    ++info->layers_total;
    if (!ended && left == 0) {
      ended = true;
      info->next_layer = i;
    }
    if (ended) continue;
    if (left < needed)
      return base::error(base::ErrorCode::kInvalidArgument,
                         "{}: does not fit the cfg: {} needs {} bytes of weights, but only {} are left in the file; it "
                         "was made with another cfg (or is cut off)",
                         path, layer_label(net, i), needed, left);
    left -= needed;
    ++info->layers;
  }
  if (left > 0)
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}: does not fit the cfg: the file has {} bytes more than its {} layers with weights need; it "
                       "was made with another cfg (take the part you need with `darknet partial`)",
                       path, left, info->layers_total);
  if (ended && range.complete)
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}: has the weights of the first {} layers only, from {} on they are missing; give the weights "
                       "of the whole network",
                       path, info->next_layer, layer_label(net, info->next_layer));
  return {};
}

base::Result<Header> read_header(std::FILE* file, const std::string& path, std::uint64_t file_bytes) {
  std::int32_t version[3];
  if (file_bytes < kNarrowHeader || std::fread(version, sizeof version, 1, file) != 1)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is no weights file: {} bytes are less than its header{}", path, file_bytes,
                       base::it_is(path));
  if (const base::FileNature nature = base::nature_of_file(path); nature.kind != base::FileKind::kWeights && !nature.name.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is no weights file{}", path, base::it_is(path));
  Header header;
  header.transposed = version[0] > 1000 || version[1] > 1000;
  if (version[0] < 0 || version[1] < 0 || (!header.transposed && version[0] > 10))
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is no weights file: version {}.{}.{} is unknown", path, version[0],
                       version[1], version[2]);
  const bool wide = !header.transposed && version[0] * 10 + version[1] >= 2;
  std::uint32_t low = 0, high = 0;
  if (std::fread(&low, sizeof low, 1, file) != 1 || (wide && file_bytes >= kWideHeader && std::fread(&high, sizeof high, 1, file) != 1))
    return base::error(base::ErrorCode::kIo, "{}: reading the header failed", path);
  header.bytes = wide ? kWideHeader : kNarrowHeader;
  header.seen = low | (wide ? static_cast<std::uint64_t>(high) << 32 : 0);
  return header;
}

// 32-bit Darknets wrote `seen` in 4 bytes under the same version. The size tells, and that the upper half of what would
// be a 64-bit count is not 0: it is the first bias then. (Without that a file cut off by 4 bytes would pass.)
base::Result<Header> fitting_header(const network* net, const std::string& path, const LoadRange& range, Header header,
                                    std::uint64_t file_bytes, WeightsInfo* info) {
  if (file_bytes < header.bytes)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is no weights file: {} bytes are less than its header", path, file_bytes);
  const base::Status status = match_sizes(net, path, range, header, file_bytes, info);
  if (status) return header;
  if (header.bytes == kWideHeader && header.seen >> 32 != 0) {
    const Header narrow{kNarrowHeader, header.seen & 0xFFFFFFFFu, false};
    if (match_sizes(net, path, range, narrow, file_bytes, info)) return narrow;
  }
  return tl::unexpected(status.error());
}

bool read_block(std::FILE* file, const WeightBlock& block) {
  if (block.transposed_rows == 0) return std::fread(block.values, sizeof(float), block.count, file) == block.count;
  std::vector<float> stored(block.count);
  if (std::fread(stored.data(), sizeof(float), block.count, file) != block.count) return false;
  const std::size_t rows = block.transposed_rows, columns = block.count / rows;
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t column = 0; column < columns; ++column) block.values[column * rows + row] = stored[row * columns + column];
  return true;
}

base::Result<std::uint64_t> file_size(const std::string& path, const char* what) {
  std::error_code failure;
  if (std::filesystem::is_directory(path, failure))
    return base::error(base::ErrorCode::kNotFound, "{}: is a folder; the {} must be a file", path, what);
  const std::uint64_t bytes = std::filesystem::file_size(path, failure);
  if (failure) return base::error(base::ErrorCode::kNotFound, "{}: cannot open the {}: {}", path, what, failure.message());
  return bytes;
}

}  // namespace

base::Result<WeightsInfo> load_weights_file(network* net, const std::string& path, const LoadRange& range) {
  TESSERA_ASSIGN(const std::uint64_t bytes, file_size(path, "weights file"));
  const File file(std::fopen(path.c_str(), "rb"));
  if (!file) return base::error(base::ErrorCode::kNotFound, "{}: cannot open the weights file: {}", path, std::strerror(errno));
  TESSERA_ASSIGN(Header header, read_header(file.get(), path, bytes));
  WeightsInfo info;
  TESSERA_ASSIGN(header, fitting_header(net, path, range, header, bytes, &info));

  std::fseek(file.get(), static_cast<long>(header.bytes), SEEK_SET);
  const LayoutUse use = header.transposed ? LayoutUse::kLoadTransposed : LayoutUse::kLoad;
  Hash hash;
  for (int i = range.start; i < std::min({net->n, range.cutoff, info.next_layer}); ++i)
    for (const WeightBlock& block : weight_blocks(net->layers[i], use)) {
      if (!read_block(file.get(), block))
        return base::error(base::ErrorCode::kIo, "{}: reading the weights of {} failed", path, layer_label(net, i));
      if (!finite(block.values, block.count))
        return base::error(base::ErrorCode::kInvalidArgument, "{}: the weights of {} are not all numbers; use an earlier weights file",
                           path, layer_label(net, i));
      hash.add(block.values, block.count);
    }
  *net->seen = static_cast<std::size_t>(info.seen);
  info.hash = hash.value();
  if (weights_loaded) TESSERA_TRY(weights_loaded(*net));
  return info;
}

base::Result<WeightsImage> weights_image(const network* net, const std::string& path, int cutoff) {
  WeightsImage image;
  image.info = {*net->seen, 0, 0, net->n, 0};
  const std::int32_t version[3] = {kMajor, kMinor, kRevision};
  std::uint64_t bytes = sizeof version + sizeof image.info.seen;
  for (int i = 0; i < std::min(net->n, cutoff); ++i) bytes += block_bytes(weight_blocks(net->layers[i], LayoutUse::kSave));
  image.bytes.reserve(bytes);
  append(image.bytes, version, sizeof version);
  append(image.bytes, &image.info.seen, sizeof image.info.seen);
  Hash hash;
  for (int i = 0; i < std::min(net->n, cutoff); ++i) {
    const std::vector<WeightBlock> blocks = weight_blocks(net->layers[i], LayoutUse::kSave);
    image.info.layers += !blocks.empty();
    for (const WeightBlock& block : blocks) {
      if (!finite(block.values, block.count))
        return base::error(base::ErrorCode::kAborted, "{}: not saved: the weights of {} are no longer numbers", path, layer_label(net, i));
      append(image.bytes, block.values, block.count * sizeof(float));
      hash.add(block.values, block.count);
    }
  }
  image.info.layers_total = image.info.layers;
  image.info.hash = hash.value();
  return image;
}

base::Result<WeightsInfo> save_weights_file(const network* net, const std::string& path, int cutoff) {
  TESSERA_ASSIGN(const WeightsImage image, weights_image(net, path, cutoff));
  TESSERA_TRY(base::write_file_atomically(path, image.bytes));
  return image.info;
}

std::string momentum_image(const network* net) {
  std::string bytes;
  append_momentum(net, bytes);
  return bytes;
}

void append_momentum(const network* net, std::string& bytes) {
  bytes.append(kMomentumMagic, sizeof kMomentumMagic);
  const std::int64_t updates = *net->t;
  append(bytes, &updates, sizeof updates);
  for (int i = 0; i < net->n; ++i)
    for (const WeightBlock& block : momentum_blocks(*net, net->layers[i])) append(bytes, block.values, block.count * sizeof(float));
}

base::Status load_momentum(network* net, std::string_view bytes, const std::string& name) {
  std::int64_t updates = 0;
  std::uint64_t needed = sizeof kMomentumMagic + sizeof updates;
  for (int i = 0; i < net->n; ++i) needed += block_bytes(momentum_blocks(*net, net->layers[i]));
  if (bytes.size() != needed || !bytes.starts_with(std::string_view(kMomentumMagic, sizeof kMomentumMagic)))
    return base::error(base::ErrorCode::kInvalidArgument, "{}: its momentum does not fit the cfg", name);
  bytes.remove_prefix(sizeof kMomentumMagic);
  const auto take = [&](void* to, std::size_t count) {
    std::memcpy(to, bytes.data(), count);
    bytes.remove_prefix(count);
  };
  take(&updates, sizeof updates);
  for (int i = 0; i < net->n; ++i)
    for (const WeightBlock& block : momentum_blocks(*net, net->layers[i])) take(block.values, block.count * sizeof(float));
  *net->t = static_cast<int>(updates);
  return {};
}

std::string layer_label(const network* net, int index) {
  return fmt::format("layer {} ({})", index, layer_type_name(net->layers[index].type));
}

std::string first_bad_layer(const network* net) {
  for (int i = 0; i < net->n; ++i) {
    const layer& l = net->layers[i];
    if (l.output && !finite(l.output, static_cast<std::size_t>(l.outputs) * static_cast<std::size_t>(net->batch)))
      return layer_label(net, i) + ", in its output";
    for (const WeightBlock& block : weight_blocks(l, LayoutUse::kSave))
      if (!finite(block.values, block.count)) return layer_label(net, i) + ", in its weights";
  }
  return "";
}

const char* layer_type_name(LAYER_TYPE type) {
  switch (type) {
    case CONVOLUTIONAL:
      return "convolutional";
    case DECONVOLUTIONAL:
      return "deconvolutional";
    case CONNECTED:
      return "connected";
    case MAXPOOL:
      return "maxpool";
    case SOFTMAX:
      return "softmax";
    case DETECTION:
      return "detection";
    case DROPOUT:
      return "dropout";
    case CROP:
      return "crop";
    case ROUTE:
      return "route";
    case COST:
      return "cost";
    case NORMALIZATION:
      return "normalization";
    case AVGPOOL:
      return "avgpool";
    case LOCAL:
      return "local";
    case SHORTCUT:
      return "shortcut";
    case ACTIVE:
      return "activation";
    case RNN:
      return "rnn";
    case GRU:
      return "gru";
    case LSTM:
      return "lstm";
    case CRNN:
      return "crnn";
    case BATCHNORM:
      return "batchnorm";
    case REGION:
      return "region";
    case YOLO:
      return "yolo";
    case ISEG:
      return "iseg";
    case REORG:
      return "reorg";
    case UPSAMPLE:
      return "upsample";
    case LOGXENT:
      return "logistic";
    case L2NORM:
      return "l2norm";
    default:
      return "unknown";
  }
}

}  // namespace tessera::darknet
