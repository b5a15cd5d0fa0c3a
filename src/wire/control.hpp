// Control messages: one JSON object each, with a string field "type". The text comes from another process and is
// never trusted: nothing here throws, and every error (kProtocol) is one line naming the message and the field.
#pragma once

#include "base/result.hpp"

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

namespace tessera::wire {

struct JsonLimits {
  std::size_t max_bytes = 8u << 20;
  int max_depth = 32;  // nested arrays and objects
};

// Any JSON value. Refuses text that is too long, too deep, not UTF-8 or not JSON.
[[nodiscard]] base::Result<nlohmann::json> parse_json(std::string_view text, const JsonLimits& limits = {});

struct ControlMessage {
  std::string type;     // 1 to 64 of a-z 0-9 _ -
  nlohmann::json body;  // the whole object, "type" included
};

[[nodiscard]] base::Result<ControlMessage> parse_control(std::string_view text, const JsonLimits& limits = {});

// `body` is an object (or null for a message without fields). Strings that are not UTF-8 get replacement characters.
std::string control_text(std::string_view type, nlohmann::json body = nullptr);

// Reads the fields of one JSON object. `what` names the object in errors, for example "message 'hello'"; the
// object must outlive the reader. Every get fails if the field is missing, of another type or out of range.
class Fields {
 public:
  Fields(const nlohmann::json& object, std::string what) : object_(object), what_(std::move(what)) {}
  explicit Fields(const ControlMessage& message) : Fields(message.body, "message '" + message.type + "'") {}

  bool has(std::string_view field) const;

  [[nodiscard]] base::Result<std::int64_t> integer(std::string_view field, std::int64_t min = std::numeric_limits<std::int64_t>::min(),
                                                   std::int64_t max = std::numeric_limits<std::int64_t>::max()) const;
  [[nodiscard]] base::Result<std::uint64_t> unsigned_integer(std::string_view field) const;
  [[nodiscard]] base::Result<double> number(std::string_view field) const;  // finite; integers are numbers too
  [[nodiscard]] base::Result<bool> boolean(std::string_view field) const;
  [[nodiscard]] base::Result<std::string> string(std::string_view field, std::size_t max_bytes = 4096) const;
  [[nodiscard]] base::Result<std::uint64_t> hash(std::string_view field) const;  // hash_to_text() form

  // Pointers into the object given to the constructor; never null in a success.
  [[nodiscard]] base::Result<const nlohmann::json*> array(std::string_view field, std::size_t max_items = 1u << 20) const;
  [[nodiscard]] base::Result<const nlohmann::json*> object(std::string_view field) const;

 private:
  base::Result<const nlohmann::json*> find(std::string_view field) const;

  const nlohmann::json& object_;
  std::string what_;
};

}  // namespace tessera::wire
