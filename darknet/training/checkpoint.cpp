#include "darknet/training/checkpoint.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <span>

#include "base/text.hpp"
#include "wire/hash.hpp"

namespace tessera::darknet {
namespace {

constexpr std::string_view kMagic = "TSRCKPT1", kExtension = ".checkpoint";
constexpr std::size_t kLengths = 3, kHeaderBytes = 8 + kLengths * 8, kHashBytes = 8;

void put(std::string& out, std::uint64_t value) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

std::uint64_t get(std::string_view from) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) value |= std::uint64_t{static_cast<unsigned char>(from[i])} << (8 * i);
  return value;
}

// Of "<name>_<iteration>.checkpoint"; nothing for other files.
std::optional<long> iteration_of(const std::string& file, const std::string& name) {
  const std::string before = name + "_";
  if (!file.starts_with(before) || !file.ends_with(kExtension) || file.size() <= before.size() + kExtension.size()) return std::nullopt;
  return base::to_integer(std::string_view(file).substr(before.size(), file.size() - before.size() - kExtension.size()));
}

}  // namespace

std::uint64_t weights_bytes_hash(std::string_view bytes) { return wire::content_hash(std::as_bytes(std::span(bytes))); }

CheckpointBytes checkpoint_bytes(TrainingState state, std::string weights, const std::function<void(std::string&)>& append_momentum) {
  state.weights_hash = weights_bytes_hash(weights);
  const std::string text = to_json(state);
  CheckpointBytes bytes{{}, kHeaderBytes + text.size(), weights.size()};
  std::string& all = bytes.all;
  all.reserve(bytes.weights_at + 2 * weights.size() + (weights.size() >> 4) + kHashBytes);  // momentum is about as large
  all += kMagic;
  put(all, text.size()), put(all, weights.size()), put(all, 0);
  all += text;
  all += weights;
  std::string().swap(weights);
  const std::size_t momentum_at = all.size();
  append_momentum(all);
  std::string length;
  put(length, all.size() - momentum_at);
  all.replace(kHeaderBytes - length.size(), length.size(), length);
  put(all, weights_bytes_hash(all));
  return bytes;
}

base::Result<Checkpoint> read_checkpoint(const std::string& path) {
  const auto bad = [&](const char* why) {
    return base::error(base::ErrorCode::kInvalidArgument, "{}: is no whole checkpoint: {}; take an earlier one", path, why);
  };
  TESSERA_TRY(base::check_regular(path, "checkpoint"));
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (!file || bytes.size() < kHeaderBytes + kHashBytes || !bytes.starts_with(kMagic)) return bad("it is cut off, or another file");
  const std::string_view content(bytes.data(), bytes.size() - kHashBytes);
  if (weights_bytes_hash(content) != get(std::string_view(bytes).substr(content.size()))) return bad("it is damaged");
  std::string parts[kLengths];
  std::size_t at = kHeaderBytes;
  for (std::size_t i = 0; i < kLengths; ++i) {
    const std::uint64_t length = get(content.substr(8 + 8 * i));
    if (length > content.size() - at) return bad("its parts are longer than it is");
    parts[i] = content.substr(at, length);
    at += length;
  }
  if (at != content.size()) return bad("it has more bytes than its parts");
  TESSERA_ASSIGN(TrainingState state, parse_training_state(parts[0], path));
  if (state.weights_hash != weights_bytes_hash(parts[1])) return bad("its weights are not those of its state");
  return Checkpoint{std::move(state), std::move(parts[1]), std::move(parts[2])};
}

std::string checkpoint_path(const std::string& folder, const std::string& name, std::uint64_t iteration) {
  return fmt::format("{}/{}_{}{}", folder, name, iteration, kExtension);
}

std::vector<std::string> find_checkpoints(const std::string& folder, const std::string& name) {
  std::vector<std::pair<long, std::string>> found;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder.empty() ? "." : folder, none))
    if (const auto iteration = iteration_of(entry.path().filename().string(), name)) found.emplace_back(*iteration, entry.path().string());
  std::sort(found.rbegin(), found.rend());
  std::vector<std::string> paths;
  for (auto& [iteration, path] : found) paths.push_back(std::move(path));
  return paths;
}

void prune_checkpoints(const std::string& folder, const std::string& name, const std::string& newest) {
  const std::vector<std::string> all = find_checkpoints(folder, name);
  const auto own = std::find_if(all.begin(), all.end(), [&](const std::string& path) {
    return std::filesystem::path(path).filename() == std::filesystem::path(newest).filename();
  });
  if (own == all.end()) return;
  std::error_code ignored;
  for (auto path = all.begin(); path != all.end(); ++path)
    if (path < own || path - own >= static_cast<std::ptrdiff_t>(kCheckpointsKept)) std::filesystem::remove(*path, ignored);
}

base::Result<FolderLock> FolderLock::take(const std::string& folder, const std::string& name) {
  const std::string path = fmt::format("{}/.{}.lock", folder, name);
  const int handle = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (handle < 0) return base::error(base::ErrorCode::kIo, "{}: cannot lock the backup folder: {}", path, std::strerror(errno));
  FolderLock lock(handle);
  if (::flock(handle, LOCK_EX | LOCK_NB) == 0) {
    const std::string owner = fmt::format("{}\n", ::getpid());
    if (::ftruncate(handle, 0) != 0 || ::pwrite(handle, owner.data(), owner.size(), 0) < 0) errno = 0;  // only for the message below
    return lock;
  }
  if (errno != EWOULDBLOCK) return lock;  // a file system without locks
  char owner[32] = "";
  const ssize_t read = ::pread(handle, owner, sizeof owner - 1, 0);
  return base::error(
      base::ErrorCode::kInvalidArgument,
      "{}: another training (process {}) writes {}_* there; wait for its end, stop it, or set another backup= in the .data file", folder,
      read > 0 ? base::trimmed(owner) : "unknown", name);
}

FolderLock::~FolderLock() {
  if (handle_ >= 0) ::close(handle_);
}

}  // namespace tessera::darknet
