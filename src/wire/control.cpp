#include "wire/control.hpp"

#include "wire/hash.hpp"

#include <algorithm>
#include <cmath>

namespace tessera::wire {
namespace {

using nlohmann::json;

// Deepest nesting of brackets outside strings: checked before parsing, so that depth costs nothing.
int nesting_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// A type is shown in errors, so it must be plain text.
bool is_type_name(const std::string& type) {
  return !type.empty() && type.size() <= 64 && type.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string::npos;
}

}  // namespace

base::Result<json> parse_json(std::string_view text, const JsonLimits& limits) {
  using base::ErrorCode;
  if (text.size() > limits.max_bytes) {
    return base::error(ErrorCode::kProtocol, "JSON text of {} bytes is over the limit of {}", text.size(), limits.max_bytes);
  }
  if (const int depth = nesting_depth(text); depth > limits.max_depth) {
    return base::error(ErrorCode::kProtocol, "JSON text is nested {} deep, over the limit of {}", depth, limits.max_depth);
  }
  try {
    return json::parse(text);
  } catch (const json::parse_error& failure) {
    return base::error(ErrorCode::kProtocol, "not JSON: error at byte {} of {}", failure.byte, text.size());
  } catch (const json::exception&) {
    return base::error(ErrorCode::kProtocol, "not JSON: a number is out of range");
  }
}

base::Result<ControlMessage> parse_control(std::string_view text, const JsonLimits& limits) {
  TESSERA_ASSIGN(json body, parse_json(text, limits));
  if (!body.is_object()) return base::error(base::ErrorCode::kProtocol, "a control message must be a JSON object");
  TESSERA_ASSIGN(std::string type, Fields(body, "control message").string("type"));
  if (!is_type_name(type)) {
    return base::error(base::ErrorCode::kProtocol, "control message: field 'type' must be 1 to 64 of a-z, 0-9, _ and -");
  }
  return ControlMessage{std::move(type), std::move(body)};
}

std::string control_text(std::string_view type, json body) {
  body["type"] = type;
  return body.dump(-1, ' ', false, json::error_handler_t::replace);
}

bool Fields::has(std::string_view field) const { return object_.is_object() && object_.contains(field); }

base::Result<const json*> Fields::find(std::string_view field) const {
  if (!object_.is_object()) return base::error(base::ErrorCode::kProtocol, "{}: not an object", what_);
  const auto found = object_.find(field);
  if (found == object_.end()) return base::error(base::ErrorCode::kProtocol, "{}: field '{}' is missing", what_, field);
  return &*found;
}

base::Result<std::int64_t> Fields::integer(std::string_view field, std::int64_t min, std::int64_t max) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_number_integer()) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be an integer", what_, field);
  }
  const bool too_large =
      value->is_number_unsigned() && value->get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()};
  if (too_large || value->get<std::int64_t>() < min || value->get<std::int64_t>() > max) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be between {} and {}", what_, field, min, max);
  }
  return value->get<std::int64_t>();
}

base::Result<std::uint64_t> Fields::unsigned_integer(std::string_view field) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_number_unsigned()) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be an integer of at least 0", what_, field);
  }
  return value->get<std::uint64_t>();
}

base::Result<double> Fields::number(std::string_view field) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be a number", what_, field);
  }
  return value->get<double>();
}

base::Result<bool> Fields::boolean(std::string_view field) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_boolean()) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be true or false", what_, field);
  }
  return value->get<bool>();
}

base::Result<std::string> Fields::string(std::string_view field, std::size_t max_bytes) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_string()) return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be a string", what_, field);
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' has {} bytes, over the limit of {}", what_, field, text.size(),
                       max_bytes);
  }
  return text;
}

base::Result<std::uint64_t> Fields::hash(std::string_view field) const {
  TESSERA_ASSIGN(const std::string text, string(field));
  const auto hash = hash_from_text(text);
  if (!hash) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be 16 lower-case hexadecimal digits", what_, field);
  }
  return *hash;
}

base::Result<const json*> Fields::array(std::string_view field, std::size_t max_items) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_array()) return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be an array", what_, field);
  if (value->size() > max_items) {
    return base::error(base::ErrorCode::kProtocol, "{}: field '{}' has {} items, over the limit of {}", what_, field, value->size(),
                       max_items);
  }
  return value;
}

base::Result<const json*> Fields::object(std::string_view field) const {
  TESSERA_ASSIGN(const json* value, find(field));
  if (!value->is_object()) return base::error(base::ErrorCode::kProtocol, "{}: field '{}' must be an object", what_, field);
  return value;
}

}  // namespace tessera::wire
