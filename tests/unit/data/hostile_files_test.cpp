// Lists name files that nobody has looked at.
#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "base/text.hpp"
#include "base/thread_pool.hpp"
#include "data/image_file.hpp"
#include "data/label_file.hpp"
#include "tests/support/transport_raw.hpp"

using namespace tessera;

namespace {

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "hostile-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()));
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

}  // namespace

TEST_CASE("a pipe, a folder and a name that is too long are no images and no labels, and nobody waits for them") {
  const Folder folder;
  const std::string pipe = folder.path / "pipe.png", text_pipe = folder.path / "pipe.txt";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  REQUIRE(mkfifo(text_pipe.c_str(), 0600) == 0);
  CHECK_FALSE(data::read_image(pipe));
  CHECK_FALSE(data::read_image_size(pipe));
  CHECK_FALSE(data::read_labels(text_pipe));
  const std::string longest = folder.path / std::string(300, 'x');
  for (const std::string& path : {longest + ".jpg", folder.path.string(), std::string("/dev/zero")}) {
    INFO(path);
    CHECK_FALSE(data::read_image(path));
    CHECK_FALSE(data::read_image_size(path));
  }
  const auto labels = data::read_labels(longest + ".txt");
  REQUIRE_FALSE(labels);
  CHECK(labels.error().code == base::ErrorCode::kNotFound);
}

TEST_CASE("a picture of a few bytes that claims to be of enormous size is not decoded") {
  const Folder folder;
  const std::string path = folder.path / "bomb.png";
  const unsigned char start[] = {0x89, 'P', 'N', 'G',  '\r', '\n', 0x1a, '\n', 0,    0, 0, 13, 'I', 'H', 'D',
                                 'R',  0,   0,   0x75, 0x30, 0,    0,    0x75, 0x30, 8, 2, 0,  0,   0};
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(start), sizeof start).write(std::string(100, '\0').data(), 100);
  for (const auto& error : {data::read_image(path).error(), data::read_image_size(path).error()})
    CHECK(error.message.find("30000x30000 pixels are more than") != std::string::npos);
}

TEST_CASE("a pool whose threads cannot all start computes with those that did") {
  const testing::Child child([](const testing::Child::Pipe& pipe) {
    const rlimit memory{std::size_t{1} << 30, std::size_t{1} << 30};  // stacks for fewer than 1024 threads
    setrlimit(RLIMIT_AS, &memory);
    base::ThreadPool pool(1024);
    std::atomic<int> sum{0};
    pool.parallel_for(100, [&](std::ptrdiff_t index, int) { sum += static_cast<int>(index); });
    pipe.say(std::to_string(sum) + (pool.size() < 1024 ? " fewer" : " all"));
  });
  CHECK(child.pipe().hear() == "4950 fewer");
}
