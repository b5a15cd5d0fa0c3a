#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/text.hpp"
#include "darknet/training/checkpoint.hpp"
#include "darknet/training/saver.hpp"

using namespace tessera;
using namespace tessera::darknet;

namespace {

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "checkpoint-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()));
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name) const { return path + "/" + name; }
  std::string path;
};

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

base::Deadline soon() { return base::Deadline::after(base::Milliseconds(20000)); }

}  // namespace

TEST_CASE("a checkpoint comes back whole, or not at all: cut off anywhere, or with any byte changed") {
  const Folder folder;
  TrainingState state;
  state.seed = 7;
  state.best_precision = 0.5;
  const CheckpointBytes made = checkpoint_bytes(state, "weights", [](std::string& all) { all += std::string("momentum\0", 9); });
  const std::string& bytes = made.all;
  const std::string path = folder.file("x_1.checkpoint");
  CHECK(bytes.substr(made.weights_at, made.weights_bytes) == "weights");
  REQUIRE(base::write_file_atomically(path, bytes));
  const auto back = read_checkpoint(path);
  REQUIRE(back);
  CHECK(back->state.seed == 7);
  CHECK(back->state.best_precision == 0.5);
  CHECK(back->weights == "weights");
  CHECK(back->momentum == std::string("momentum\0", 9));
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    CAPTURE(at);
    std::ofstream(path, std::ios::binary) << bytes.substr(0, at);
    CHECK_FALSE(read_checkpoint(path));
    std::string changed = bytes;
    changed[at] ^= 0x10;
    std::ofstream(path, std::ios::binary) << changed;
    CHECK_FALSE(read_checkpoint(path));
  }
  CHECK_FALSE(read_checkpoint(folder.path));
}

TEST_CASE("the last checkpoints are kept, and those of a training that was started over are not") {
  const Folder folder;
  for (const char* name : {"x_100", "x_200", "x_1000", "x_9000", "xy_100", "x_y", "x_"})
    std::ofstream(folder.file(std::string(name) + ".checkpoint")) << "";
  CHECK(find_checkpoints(folder.path, "x") == std::vector{folder.file("x_9000.checkpoint"), folder.file("x_1000.checkpoint"),
                                                          folder.file("x_200.checkpoint"), folder.file("x_100.checkpoint")});
  prune_checkpoints(folder.path, "x", folder.file("x_1000.checkpoint"));
  CHECK(find_checkpoints(folder.path, "x") == std::vector{folder.file("x_1000.checkpoint"), folder.file("x_200.checkpoint")});
  CHECK(find_checkpoints(folder.path, "xy").size() == 1);
}

TEST_CASE("a folder is for one training of a name at a time") {
  const Folder folder;
  {
    const auto lock = FolderLock::take(folder.path, "x");
    REQUIRE(lock);
    const auto second = FolderLock::take(folder.path, "x");
    REQUIRE_FALSE(second);
    CHECK(second.error().message.find("another training (process " + std::to_string(getpid()) + ")") != std::string::npos);
    CHECK(FolderLock::take(folder.path, "y"));
  }
  CHECK(FolderLock::take(folder.path, "x"));
}

TEST_CASE("what cannot be written is said once, tried again and written when it can be") {
  const Folder folder;
  std::mutex mutex;
  std::vector<std::string> said;
  Saver saver(
      [&](const std::string& line) {
        std::lock_guard lock(mutex);
        said.push_back(line);
      },
      base::Milliseconds(10));
  saver.post({"last",
              {Saver::File::whole(folder.file("made/a"), "1"), Saver::File::whole(folder.file("made/b"), "2")},
              nullptr});  // the folder is made
  REQUIRE(saver.flush(soon()));
  CHECK(content(folder.file("made/b")) == "2");

  std::ofstream(folder.file("taken")) << "a file where the folder should be";
  bool written = false;
  saver.post({"last", {Saver::File::whole(folder.file("taken/a"), "older")}, nullptr});
  CHECK_FALSE(saver.flush(base::Deadline::after(base::Milliseconds(300))));
  saver.post({"last", {Saver::File::whole(folder.file("taken/a"), "newer")}, [&] { written = true; }});
  CHECK_FALSE(saver.flush(base::Deadline::after(base::Milliseconds(300))));
  CHECK_FALSE(written);
  std::filesystem::remove(folder.file("taken"));
  REQUIRE(saver.flush(soon()));
  CHECK(written);
  CHECK(content(folder.file("taken/a")) == "newer");
  std::lock_guard lock(mutex);
  REQUIRE(said.size() == 2);
  CHECK(said[0].find("tried again") != std::string::npos);
  CHECK(said[1].find("is saved now") != std::string::npos);
}
