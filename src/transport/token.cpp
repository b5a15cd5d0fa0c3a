#include "transport/token.hpp"

#include <random>

namespace tessera::transport {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

}  // namespace

SessionToken make_session_token() {
  std::random_device random;  // getrandom / rdrand, not a seeded generator
  SessionToken token;
  for (auto& byte : token.bytes) byte = static_cast<std::byte>(random() & 0xff);
  return token;
}

bool same_token(const SessionToken& a, const SessionToken& b) {
  std::byte difference{0};
  for (std::size_t i = 0; i < a.bytes.size(); ++i) difference |= a.bytes[i] ^ b.bytes[i];
  return difference == std::byte{0};
}

std::string token_to_text(const SessionToken& token) {
  std::string text;
  for (const auto byte : token.bytes) {
    text += kDigits[std::to_integer<unsigned>(byte) >> 4];
    text += kDigits[std::to_integer<unsigned>(byte) & 15];
  }
  return text;
}

base::Result<SessionToken> token_from_text(std::string_view text) {
  SessionToken token;
  if (text.size() != 2 * token.bytes.size() || text.find_first_not_of(kDigits) != std::string_view::npos) {
    return base::error(base::ErrorCode::kProtocol, "a session token is 32 lower-case hexadecimal digits");
  }
  for (std::size_t i = 0; i < token.bytes.size(); ++i) {
    token.bytes[i] = static_cast<std::byte>(kDigits.find(text[2 * i]) << 4 | kDigits.find(text[2 * i + 1]));
  }
  return token;
}

}  // namespace tessera::transport
