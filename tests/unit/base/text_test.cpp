// Text as people's editors and shells leave it, and files that are not what they are taken for.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/file_kind.hpp"
#include "base/text.hpp"

using namespace tessera;
using namespace std::string_literals;

namespace {

using Lines = std::vector<std::string>;

std::string utf16(const std::string& text, bool little, bool mark) {
  std::string bytes = !mark ? "" : little ? "\xFF\xFE" : "\xFE\xFF";
  for (const char c : text) bytes += little ? std::string{c, '\0'} : std::string{'\0', c};
  return bytes;
}

}  // namespace

TEST_CASE("text is read as it was meant: byte order marks, UTF-16 of either order, line ends of every system") {
  CHECK(base::decoded_text("\xEF\xBB\xBFred\n") == "red\n");
  for (const bool little : {true, false})
    for (const bool mark : {true, false}) CHECK(base::decoded_text(utf16("red\r\nblue", little, mark)) == "red\r\nblue");
  CHECK(base::decoded_text("\xFF\xFE\xFC\x00\x3D\xD8\x00\xDE"s) == "\xC3\xBC\xF0\x9F\x98\x80");  // U+00FC, U+1F600 as a pair
  CHECK(base::decoded_text("F\xFC\xDF") == "F\xFC\xDF");                                         // Latin-1: a path may be of any bytes
  CHECK(base::decoded_text("").empty());
  CHECK(base::lines_of("a\r\nb\rc\n\nd ") == Lines{"a", "b", "c", "", "d"});
}

TEST_CASE("what a message quotes is one line of printable text, cut off where it is long") {
  CHECK(base::quoted("red") == "red");
  CHECK(base::quoted("a\x01\n\xFFz\xC3\xBC") == "a\\x01\\x0a\\xffz\xC3\xBC");
  CHECK(base::quoted(std::string(500, 'x'), 20) == std::string(20, 'x') + "...");
  CHECK(base::quoted("\xC3") == "\\xc3");
}

TEST_CASE("comments end a value, not a path; backslashes are slashes where there is no such file") {
  CHECK(base::without_comment("train = data/a#b.txt # mine") == "train = data/a#b.txt");
  CHECK(base::without_comment("; all of it").empty());
  CHECK(base::without_comment("x=1\t;y") == "x=1");
  CHECK(base::local_path("data\\obj\\p1.jpg") == "data/obj/p1.jpg");
  CHECK(base::local_path("data/p1.jpg") == "data/p1.jpg");
}

TEST_CASE("files are told apart by their first bytes") {
  using enum base::FileKind;
  const auto kind = [](std::string_view bytes) { return base::nature_of_bytes(bytes).kind; };
  CHECK(kind("\0\0\0\0\2\0\0\0\0\0\0\0abcdefgh"s) == kWeights);
  CHECK(kind("# mine\n\n[net]\nbatch=1\n") == kCfg);
  CHECK(kind("\xEF\xBB\xBF[network]\n") == kCfg);
  CHECK(kind("classes = 2\ntrain = a.txt\n") == kData);
  CHECK(kind("\xFF\xD8\xFF\xE0") == kImage);
  CHECK(kind("0 0.5 0.5 0.1 0.1\n") == kUnknown);
  CHECK(base::nature_of_bytes("<!DOCTYPE html><html>").name == "a web page");
  CHECK(base::nature_of_bytes("version https://git-lfs.github.com/spec/v1\n").name.find("git lfs pull") != std::string::npos);
  CHECK(base::nature_of_bytes("PK\x03\x04zzzz").name.find("PyTorch") != std::string::npos);
  CHECK(base::nature_of_bytes("\x80\x02\x8A\x0Alllll").name.find("pickle") != std::string::npos);
  CHECK(base::nature_of_file("nowhere/x.weights").kind == kWeights);
  CHECK(base::nature_of_file("nowhere/darknet19.conv.23").kind == kWeights);
}
