#include "wire/hash.hpp"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <charconv>

namespace tessera::wire {
namespace {

std::uint64_t never_zero(std::uint64_t hash) { return hash == 0 ? 1 : hash; }

}  // namespace

std::uint64_t content_hash(std::span<const std::byte> bytes) { return never_zero(XXH3_64bits(bytes.data(), bytes.size())); }

struct ContentHasher::State {
  XXH3_state_t xxh;
};

ContentHasher::ContentHasher() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh); }
ContentHasher::~ContentHasher() = default;
ContentHasher::ContentHasher(ContentHasher&&) noexcept = default;
ContentHasher& ContentHasher::operator=(ContentHasher&&) noexcept = default;

void ContentHasher::add(std::span<const std::byte> bytes) {
  if (!bytes.empty()) XXH3_64bits_update(&state_->xxh, bytes.data(), bytes.size());
}

std::uint64_t ContentHasher::value() const { return never_zero(XXH3_64bits_digest(&state_->xxh)); }

std::string hash_to_text(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

base::Result<std::uint64_t> hash_from_text(std::string_view text) {
  std::uint64_t hash = 0;
  // from_chars alone would take upper case, and fewer digits.
  const bool digits = text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  if (!digits || std::from_chars(text.data(), text.data() + text.size(), hash, 16).ec != std::errc{}) {
    return base::error(base::ErrorCode::kProtocol, "a hash is 16 lower-case hexadecimal digits");
  }
  return hash;
}

}  // namespace tessera::wire
