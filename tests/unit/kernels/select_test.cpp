// The measured choice of a backend, and the file that remembers it.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/convolution_select.hpp"

using namespace tessera;
using kernels::Backend;
using kernels::BackendChoice;
using kernels::ConvolutionShape;
using Origin = kernels::BackendChoice::Origin;
namespace fs = std::filesystem;

namespace {

const std::vector<ConvolutionShape> kLayers = {
    {3, 24, 24, 8, 3, 1, 1}, {8, 24, 24, 8, 3, 1, 1}, {8, 24, 24, 8, 3, 1, 1}, {8, 24, 24, 16, 1, 1, 0}};
constexpr double kBudget = 0.02;

class Folder {
 public:
  Folder() : path_((fs::temp_directory_path() / "tessera-select-XXXXXX").string()) { REQUIRE(::mkdtemp(path_.data()) != nullptr); }
  ~Folder() { fs::remove_all(path_); }
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Where there is nothing to choose, nothing is measured or written.
bool choice_is_open() { return kernels::built_backends().size() > 2; }

void check_usable(const BackendChoice& choice) {
  const auto built = kernels::built_backends();
  CHECK(choice.backend != Backend::kReference);
  CHECK(std::find(built.begin(), built.end(), choice.backend) != built.end());
  CHECK((choice.origin == Origin::kOnlyOne) == !choice_is_open());
}

nlohmann::json parse(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file, nullptr, false);
}

}  // namespace

TEST_CASE("the choice of a backend is measured once and then remembered, for these layers, threads and purpose") {
  const Folder folder;
  const std::string file = folder / "new/folder/backends.json";
  base::ThreadPool pool(2), one(1);
  const auto first = kernels::choose_backend(kLayers, true, pool, file, kBudget);
  check_usable(first);
  if (!choice_is_open()) return;
  CHECK(first.origin == Origin::kMeasured);
  CHECK(parse(file).size() == 1);
  for (int i = 0; i < 3; ++i) {
    const auto again = kernels::choose_backend(kLayers, true, pool, file, kBudget);
    CHECK(again.origin == Origin::kRemembered);
    CHECK(again.backend == first.backend);
  }
  CHECK(kernels::choose_backend(kLayers, false, pool, file, kBudget).origin == Origin::kMeasured);
  CHECK(kernels::choose_backend(kLayers, true, one, file, kBudget).origin == Origin::kMeasured);
  auto other = kLayers;
  other[1].in_y = other[2].in_y = 25;
  CHECK(kernels::choose_backend(other, true, pool, file, kBudget).origin == Origin::kMeasured);
  CHECK(parse(file).size() == 4);

  // What the file says is what is taken, unless it names something that cannot be.
  auto choices = parse(file);
  for (const Backend backend : kernels::built_backends()) {
    for (auto& choice : choices) choice = std::string(kernels::to_string(backend));
    std::ofstream(file) << choices;
    const auto told = kernels::choose_backend(kLayers, true, pool, file, kBudget);
    CHECK((told.origin == Origin::kRemembered) == (backend != Backend::kReference));
    if (backend != Backend::kReference) CHECK(told.backend == backend);
  }
  for (auto& choice : choices) choice = "cuda";
  std::ofstream(file) << choices;
  CHECK(kernels::choose_backend(kLayers, true, pool, file, kBudget).origin == Origin::kMeasured);
  CHECK(kernels::choose_backend(kLayers, true, pool, file, kBudget).origin == Origin::kRemembered);
}

TEST_CASE("nothing is measured where all backends leave all layers to BLAS") {
  const Folder folder;
  base::ThreadPool pool(1);
  const std::vector<ConvolutionShape> layers = {{8, 24, 24, 16, 1, 1, 0}, {16, 24, 24, 8, 1, 1, 0}};
  for (const auto& none_to_compare : {layers, std::vector<ConvolutionShape>()})
    CHECK(kernels::choose_backend(none_to_compare, true, pool, folder / "backends.json", kBudget).origin == Origin::kOnlyOne);
  CHECK(!fs::exists(folder / "backends.json"));
}

TEST_CASE("a cache that is damaged counts as empty, and is put right") {
  const Folder folder;
  const std::string file = folder / "backends.json";
  base::ThreadPool pool(1);
  for (const std::string& content : {std::string(), std::string("{"), std::string("[1,2]"), std::string("17"),
                                     std::string("\0\xff\xfe{}", 5), std::string("{\"a\":5,\"b\":[]}"), std::string(2 << 20, ' ')}) {
    std::ofstream(file) << content;
    check_usable(kernels::choose_backend(kLayers, false, pool, file, kBudget));
    if (!choice_is_open()) continue;
    CHECK(kernels::choose_backend(kLayers, false, pool, file, kBudget).origin == Origin::kRemembered);
  }
}

TEST_CASE("a cache that cannot be written, or none at all, stops nothing and leaves nothing") {
  const Folder folder;
  base::ThreadPool pool(1);
  check_usable(kernels::choose_backend(kLayers, false, pool, "", kBudget));
  // A file where the folder should be, and a folder where the file should be: in the way of root, too.
  std::ofstream(folder / "file") << "x";
  fs::create_directory(folder / "folder");
  for (const std::string& path : {folder / "file/backends.json", folder / "folder", std::string("/proc/tessera/backends.json")}) {
    CAPTURE(path);
    const auto choice = kernels::choose_backend(kLayers, false, pool, path, kBudget);
    check_usable(choice);
    CHECK(choice.origin != Origin::kRemembered);
  }
  CHECK(std::distance(fs::directory_iterator(folder / "."), fs::directory_iterator()) == 2);
}
