#include <doctest/doctest.h>

#include "wire/control.hpp"

#include <string>

namespace tessera::wire {
namespace {

using nlohmann::json;

std::string json_error(std::string_view text, const JsonLimits& limits = {}) {
  const auto parsed = parse_json(text, limits);
  return parsed ? "" : parsed.error().message;
}

std::string control_error(std::string_view text) {
  const auto parsed = parse_control(text);
  return parsed ? "" : parsed.error().message;
}

template <typename T>
std::string message(const base::Result<T>& result) {
  return result ? "" : result.error().message;
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
}

}  // namespace

TEST_CASE("control messages: text and back") {
  const std::string text = control_text("run", {{"iteration", 12}, {"device", "pi-3"}});
  const auto parsed = parse_control(text);
  REQUIRE(parsed);
  CHECK(parsed->type == "run");
  CHECK(Fields(*parsed).integer("iteration").value() == 12);
  CHECK(Fields(*parsed).string("device").value() == "pi-3");
  CHECK(parse_control(control_text("stop"))->type == "stop");
  CHECK(parse_control(control_text("error", {{"what", "bad \xff byte"}})).has_value());
}

TEST_CASE("control messages: text that is no control message") {
  CHECK(json_error("") == "not JSON: error at byte 1 of 0");
  CHECK(json_error("{\"a\":1,}").starts_with("not JSON: error at byte 8"));
  CHECK(json_error("{} {}").starts_with("not JSON"));
  CHECK(json_error("\"\xc3\x28\"").starts_with("not JSON"));
  CHECK(json_error("nan").starts_with("not JSON"));
  CHECK(json_error("1e999") == "not JSON: a number is out of range");
  CHECK(json_error(std::string("{\"a\"\0:1}", 8)).starts_with("not JSON"));
  CHECK(control_error("[]") == "a control message must be a JSON object");
  CHECK(control_error("{}") == "control message: field 'type' is missing");
  CHECK(control_error("{\"type\":7}") == "control message: field 'type' must be a string");
  for (const char* type : {"", "Run", "a b", "a\\n", "\\u0007"}) {
    CHECK(control_error(std::string("{\"type\":\"") + type + "\"}") ==
          "control message: field 'type' must be 1 to 64 of a-z, 0-9, _ and -");
  }
  CHECK(control_error("{\"type\":\"" + std::string(65, 'a') + "\"}").ends_with("0-9, _ and -"));
}

TEST_CASE("control messages: size and depth are limited") {
  CHECK(json_error(nested(32)).empty());
  CHECK(json_error(nested(33)) == "JSON text is nested 33 deep, over the limit of 32");
  CHECK(json_error(std::string(1'000'000, '[')).starts_with("JSON text is nested 1000000 deep"));
  // Brackets in strings are not nesting, and an escaped quote does not end a string.
  CHECK(json_error("\"" + nested(100) + "\"").empty());
  CHECK(json_error("\"\\\"" + nested(100) + "\"").empty());
  CHECK(json_error("[1,2,3]", {7, 32}).empty());
  CHECK(json_error("[1,2,3]", {6, 32}) == "JSON text of 7 bytes is over the limit of 6");
}

TEST_CASE("control messages: fields are checked and named") {
  const json object = json::parse(R"({"i": -5, "u": 18446744073709551615, "d": 1.5, "b": true, "s": "text",
                                      "a": [1, 2], "o": {"x": 1}, "n": null, "h": "00000000000000ff"})");
  const Fields fields(object, "message 'x'");
  CHECK(fields.integer("i").value() == -5);
  CHECK(fields.integer("i", -5, -5).value() == -5);
  CHECK(fields.unsigned_integer("u").value() == 18446744073709551615u);
  CHECK(fields.number("d").value() == 1.5);
  CHECK(fields.number("i").value() == -5.0);
  CHECK(fields.boolean("b").value());
  CHECK(fields.string("s").value() == "text");
  CHECK(fields.array("a").value()->size() == 2);
  CHECK(Fields(*fields.object("o").value(), "o").integer("x").value() == 1);
  CHECK(fields.hash("h").value() == 255);
  CHECK(fields.has("n"));
  CHECK_FALSE(fields.has("zz"));

  CHECK(message(fields.integer("zz")) == "message 'x': field 'zz' is missing");
  CHECK(message(fields.integer("d")) == "message 'x': field 'd' must be an integer");
  CHECK(message(fields.integer("i", 0, 9)) == "message 'x': field 'i' must be between 0 and 9");
  CHECK(message(fields.integer("u", 0)).starts_with("message 'x': field 'u' must be between 0 and"));
  CHECK(message(fields.unsigned_integer("i")) == "message 'x': field 'i' must be an integer of at least 0");
  CHECK(message(fields.number("s")) == "message 'x': field 's' must be a number");
  CHECK(message(fields.boolean("n")) == "message 'x': field 'n' must be true or false");
  CHECK(message(fields.string("b")) == "message 'x': field 'b' must be a string");
  CHECK(message(fields.string("s", 3)) == "message 'x': field 's' has 4 bytes, over the limit of 3");
  CHECK(message(fields.array("o")) == "message 'x': field 'o' must be an array");
  CHECK(message(fields.array("a", 1)) == "message 'x': field 'a' has 2 items, over the limit of 1");
  CHECK(message(fields.object("a")) == "message 'x': field 'a' must be an object");
  CHECK(message(fields.hash("s")) == "message 'x': field 's' must be 16 lower-case hexadecimal digits");
  const json number = 3;
  CHECK(message(Fields(number, "entry 2").integer("i")) == "entry 2: not an object");
}

}  // namespace tessera::wire
