// The programs of examples/ on small inputs.
#include <doctest/doctest.h>

#include <fstream>

#include "base/text.hpp"
#include "data/image_set.hpp"
#include "tests/cluster/commands_fixture.hpp"
#include "tests/support/worker_process.hpp"

using namespace tessera;
using testing::Process;

TEST_CASE("Fashion-MNIST's JSON files become IDX files, divided by the seed") {
  const testing::Workshop workshop;
  const std::string program = std::string(TESSERA_BUILD_DIR) + "/examples/fashion/to_idx";
  std::string pixels = "0";
  for (int i = 1; i < 784; ++i) pixels += "," + std::to_string(i % 256);
  for (int c = 0; c < 10; ++c) {
    std::string text = "{\"data\":[";
    for (int i = 0; i < 7; ++i) text += "[" + pixels + "],";
    workshop.write(std::to_string(c) + ".json", text + "[]]}");
  }
  Process good({program, ".", ".", "3"}, workshop.path("."));
  REQUIRE_MESSAGE(good.wait(60) == 0, good.all());
  CHECK(good.out().find("70 pictures: 55 to train with, 5 to validate, 10 to test, divided by seed 3") == 0);
  std::vector<int> of_class(10);
  for (const auto& [part, count] : {std::pair{"train", 55u}, {"valid", 5u}, {"test", 10u}}) {
    const auto set = data::open_image_set("idx:" + workshop.path(part) + "-images-idx3-ubyte:" + workshop.path(part) + "-labels-idx1-ubyte",
                                          std::vector<std::string>(10, "x"));
    REQUIRE(set);
    CHECK((*set)->size() == count);
    for (const int c : (*set)->classes()) ++of_class[static_cast<std::size_t>(c)];
    CHECK((*set)->picture(0)->at<cv::Vec3b>(9, 5)[0] == (9 * 28 + 5) % 256);
  }
  CHECK(of_class == std::vector<int>(10, 7));
  workshop.write("3.json", "{\"data\":[[1,2,3]]}");
  Process bad({program, ".", ".", "3"}, workshop.path("."));
  CHECK(bad.wait(60) == 1);
  CHECK(bad.err().find("./3.json: is not {\"data\": [[784 numbers], ...]}") != std::string::npos);
}
