// 64-bit content hashes for weights and programs ("does the worker have these already?") and for finding damaged
// payloads. XXH3: fast and the same on every byte order, but not cryptographic, so never a proof against a forger.
#pragma once

#include "base/result.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tessera::wire {

// Never 0, so that 0 can mean "no hash".
std::uint64_t content_hash(std::span<const std::byte> bytes);

// The hash of a concatenation, piece by piece: equal to content_hash() of the whole.
class ContentHasher {
 public:
  ContentHasher();
  ~ContentHasher();
  ContentHasher(ContentHasher&&) noexcept;
  ContentHasher& operator=(ContentHasher&&) noexcept;

  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  std::uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 16 lower-case hexadecimal digits, as hashes and session numbers appear in control messages and on screen.
std::string hash_to_text(std::uint64_t hash);
[[nodiscard]] base::Result<std::uint64_t> hash_from_text(std::string_view text);

}  // namespace tessera::wire
