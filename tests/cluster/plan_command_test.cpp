// `darknet plan`, as people run it.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/cluster/commands_fixture.hpp"

using tessera::testing::Outcome;
using tessera::testing::Workshop;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Outcome run(const Workshop& workshop, const std::vector<std::string>& options, int code) {
  std::vector<std::string> words = {"plan"};
  words.insert(words.end(), options.begin(), options.end());
  Outcome outcome = workshop.run(words);
  INFO(outcome.out);
  INFO(outcome.err);
  REQUIRE_FALSE(outcome.timed_out);
  REQUIRE(outcome.code == code);
  return outcome;
}

}  // namespace

TEST_CASE("plan prints the grid, the groups, every layer and every device") {
  const Workshop workshop;
  const Outcome outcome = run(workshop, {"tiny.cfg", "-workers", "4"}, 0);
  INFO(outcome.out);
  for (const char* part : {"4 images a pass, 4 devices, grid ", "forward_groups = 0", "backward_groups = ", "convolutional", "maxpool",
                           "coordinator", "worker 1", "worker 4", "an iteration of 2 x 4 images", "'pi3'"})
    CHECK_MESSAGE(has(outcome.out, part), part);
  CHECK_FALSE(has(outcome.out, "worker 5"));
  CHECK_FALSE(has(outcome.out, "conv_forward"));
}

TEST_CASE("plan -print shows the steps of every device, -test none of training") {
  const Workshop workshop;
  const Outcome train = run(workshop, {"tiny.cfg", "-workers", "2", "-print"}, 0);
  for (const char* part : {"program of coordinator (training)", "program of worker 1 (training)", "program of worker 2 (training)",
                           "conv_forward", "normalize_maxpool", "conv_backward_weights", "boundary_first = ", "buffers: "})
    CHECK_MESSAGE(has(train.out, part), part);
  const Outcome test = run(workshop, {"tiny.cfg", "-workers", "2", "-print", "-test"}, 0);
  CHECK(has(test.out, "program of worker 2 (test)"));
  CHECK(has(test.out, "conv_forward"));
  CHECK_FALSE(has(test.out, "conv_backward_weights"));
}

TEST_CASE("plan -json is JSON that agrees with what was asked for") {
  const Workshop workshop;
  const Outcome outcome = run(workshop, {"tiny.cfg", "-workers", "4", "-grid", "2x2", "-batch", "3", "-json"}, 0);
  INFO(outcome.out);
  const auto json = nlohmann::json::parse(outcome.out, nullptr, false);
  REQUIRE(json.is_object());
  CHECK(json["grid"]["rows"] == 2);
  CHECK(json["grid"]["columns"] == 2);
  CHECK(json["boundary_first"].is_boolean());
  CHECK(json["grid"]["samples"] == 1);
  CHECK(json["plan"]["batch"] == 3);
  CHECK(json["plan"]["participants"] == 5);
  CHECK(json["forward_groups"][0] == 0);
  const auto& forecast = json["forecast"];
  CHECK(forecast["profile"] == "pi3");
  CHECK(forecast["fits"] == true);
  REQUIRE(forecast["devices"].size() == 5);
  CHECK(forecast["devices"][0]["name"] == "coordinator");
  CHECK(forecast["devices"][4]["multiply_adds"] > 0);
  const double seconds = forecast["iteration_seconds"], forward = forecast["forward_seconds"], backward = forecast["backward_seconds"],
               reduce = forecast["reduce_seconds"];
  CHECK(seconds == doctest::Approx(2 * (forward + backward) + reduce));
}

TEST_CASE("networks of the dialect are planned in tiles up to their first loss") {
  const Workshop workshop;
  const std::string folder = std::string(TESSERA_SOURCE_ROOT) + "/cfg/";
  const std::vector<std::pair<const char*, std::size_t>> wrapped = {
      {"yolov4-tiny.cfg", 30}, {"yolov4-tiny-3l.cfg", 30}, {"yolov4.cfg", 139}, {"yolov7-tiny.cfg", 90}};
  for (const auto& [name, layers] : wrapped) {
    CAPTURE(name);
    const auto plan = nlohmann::json::parse(run(workshop, {folder + name, "-workers", "6", "-json"}, 0).out);
    CHECK(plan["plan"]["owned"].size() == layers + 1);
  }
}

TEST_CASE("what cannot be planned is an error that says why") {
  const Workshop workshop;
  CHECK(has(run(workshop, {"tiny.cfg", "-workers", "4", "-grid", "3x2"}, 1).err,
            "grid 3x2 has 6 tiles for 4 workers; use grid = auto or 1x4 or 4x1"));
  CHECK(has(run(workshop, {"tiny.cfg", "-workers", "4", "-grid", "square"}, 1).err, "-grid square: "));
  CHECK(has(run(workshop, {"tiny.cfg", "-workers", "-1"}, 1).err, "-workers -1: "));
  CHECK(has(run(workshop, {"tiny.cfg", "-batch", "0"}, 1).err, "-batch 0: "));
  CHECK(has(run(workshop, {"tiny.cfg", "-workers", "2", "-profile", "pi9"}, 1).err, "there is no profile 'pi9'"));
  CHECK(has(run(workshop, {"missing.cfg"}, 1).err, "missing.cfg"));
  CHECK(has(run(workshop, {}, 2).err, "CFG"));
}
