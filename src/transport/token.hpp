// The shared secret of one session: a connection that does not open with it is a stranger's.
#pragma once

#include "base/result.hpp"

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace tessera::transport {

struct SessionToken {
  std::array<std::byte, 16> bytes{};
};

// From the system's random source.
SessionToken make_session_token();

// Takes the same time wherever the tokens differ.
bool same_token(const SessionToken& a, const SessionToken& b);

// 32 lower-case hexadecimal digits.
std::string token_to_text(const SessionToken& token);
[[nodiscard]] base::Result<SessionToken> token_from_text(std::string_view text);

}  // namespace tessera::transport
