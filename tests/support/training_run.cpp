#include "tests/support/training_run.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <random>
#include <stdexcept>

namespace tessera::testing {
namespace {

constexpr int kPictureSide = 64, kTrainPictures = 20, kTestPictures = 6;
constexpr double kStartSeconds = 30, kIterationSeconds = 60;
constexpr std::size_t kSeenAt = 12, kWeightsAt = 20;  // bytes of a weights file

constexpr const char* kNetwork = R"(
[convolutional]
batch_normalize=1
filters=6
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=12
size=3
stride=1
pad=1
activation=leaky

[shortcut]
from=-2
activation=linear

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[upsample]
stride=2

[route]
layers=-1,4

[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=leaky

)";

constexpr const char* kHeavy = R"(
[convolutional]
batch_normalize=1
filters=512
size=3
stride=1
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=1024
size=3
stride=1
pad=1
activation=leaky
)";

constexpr const char* kBeforeHead = R"(
[convolutional]
size=1
stride=1
pad=1
filters=21
activation=linear
)";

std::string label(int class_id, const cv::Rect& box) {
  const double side = kPictureSide;
  return fmt::format("{} {} {} {} {}\n", class_id, (box.x + box.width / 2.0) / side, (box.y + box.height / 2.0) / side, box.width / side,
                     box.height / side);
}

// Draws one object of the class into this half of the picture (0 left, 1 right) and returns its label.
std::string draw_object(cv::Mat& picture, std::mt19937_64& random, int class_id, int half) {
  const auto below = [&](int count) { return static_cast<int>(random() % static_cast<unsigned>(count)); };
  const int size = 12 + below(14), room = kPictureSide / 2;
  const cv::Rect box(half * room + below(room - size + 1), below(kPictureSide - size + 1), size, size);
  if (class_id == 0)
    cv::rectangle(picture, box, {240, 240, 240}, cv::FILLED);
  else
    cv::circle(picture, {box.x + size / 2, box.y + size / 2}, size / 2, {20, 20, 20}, cv::FILLED);
  return label(class_id, box);
}

std::string draw_picture(cv::Mat& picture, std::mt19937_64& random, int number) {
  for (int y = 0; y < picture.rows; ++y)
    for (int x = 0; x < 3 * picture.cols; ++x) picture.ptr<unsigned char>(y)[x] = static_cast<unsigned char>(110 + random() % 30);
  std::string labels = draw_object(picture, random, number % 2, static_cast<int>(random() % 2));
  if (number % 5 == 0) labels = draw_object(picture, random, number % 2, 0) + draw_object(picture, random, 1 - number % 2, 1);
  return labels;
}

}  // namespace

std::string TrainingCfg::text() const {
  if (!whole.empty()) return whole;
  std::string text = fmt::format(
      "[net]\nbatch={}\nsubdivisions={}\nwidth={}\nheight={}\nchannels=3\nmomentum=0.9\ndecay=0.0005\nhue=."
      "1\nsaturation=1.5\nexposure=1.5\n"
      "learning_rate={}\nburn_in=5\nmax_batches={}\npolicy=constant\n",
      batch, subdivisions, side, side, learning_rate, iterations);
  if (!distributed.empty()) text += "\n[distributed]\n";
  for (const auto& line : distributed) text += line + '\n';
  if (!distributed.empty()) text += fmt::format("backend={}\n", backend);
  text += network.empty() ? kNetwork : network;
  if (heavy) text += kHeavy;
  text += kBeforeHead;
  text += fmt::format(
      "\n[yolo]\nmask=0,1,2\nanchors=12,12, 20,20, "
      "30,30\nclasses=2\nnum=3\njitter=.1\nignore_thresh=.7\ntruth_thresh=1\nrandom={}\n",
      random ? 1 : 0);
  return text;
}

TrainingFolder::TrainingFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "tessera-training-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) throw std::runtime_error(pattern + ": cannot be made");
  folder_ = pattern;
  for (const char* name : {"images", "labels", "tmp"}) std::filesystem::create_directories(folder_ / name);
  std::mt19937_64 random(20180914);
  std::string train, valid;
  for (int i = 0; i < kTrainPictures + kTestPictures; ++i) {
    cv::Mat picture(kPictureSide, kPictureSide, CV_8UC3);
    write(fmt::format("labels/{}.txt", i), draw_picture(picture, random, i));
    const std::string name = fmt::format("images/{}.png", i);
    if (!cv::imwrite(path(name), picture)) throw std::runtime_error(path(name) + ": cannot be written");
    (i < kTrainPictures ? train : valid) += name + '\n';
  }
  write("train.txt", train);
  write("valid.txt", valid);
  write("obj.names", "square\ndisc\n");
  write("obj.data", "classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = backup\n");
}

TrainingFolder::~TrainingFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void TrainingFolder::write(const std::string& name, const std::string& text) const {
  std::ofstream file(folder_ / name, std::ios::binary);
  if (!(file << text).flush()) throw std::runtime_error(path(name) + ": cannot be written");
}

std::string TrainingFolder::read(const std::string& name) const {
  std::ifstream file(folder_ / name, std::ios::binary);
  if (!file) throw std::runtime_error(path(name) + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

void TrainingFolder::write_cluster_file(const std::vector<std::string>& addresses, const std::string& name) const {
  std::string workers;
  for (std::size_t i = 0; i < addresses.size(); ++i)
    workers += fmt::format("{}{{\"name\": \"w{}\", \"address\": \"{}\"}}", i ? ", " : "", i + 1, addresses[i]);
  write(name, "{\"workers\": [" + workers + "]}\n");
}

std::vector<std::string> TrainingFolder::leftovers() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "tmp")) names.push_back(entry.path().filename().string());
  return names;
}

namespace {

std::vector<std::string> training_command(const TrainingFolder& folder, const std::string& name, const TrainingCfg& cfg,
                                          const std::vector<std::string>& options, std::vector<std::string> command) {
  folder.write(name + ".cfg", cfg.text());
  for (const std::string& word : {darknet_program(), std::string("detector"), std::string("train"), std::string("obj.data"), name + ".cfg"})
    command.push_back(word);
  command.insert(command.end(), options.begin(), options.end());
  command.push_back("-dont_show");
  return command;
}

std::size_t local_workers(const TrainingCfg& cfg) {
  const std::string key = "workers=local:";
  for (const auto& line : cfg.distributed)
    if (line.starts_with(key)) return static_cast<std::size_t>(std::atoi(line.c_str() + key.size()));
  return 0;
}

}  // namespace

TrainingRun::TrainingRun(const TrainingFolder& folder, const std::string& name, const TrainingCfg& cfg,
                         const std::vector<std::string>& options, const std::vector<std::string>& before)
    : Process(training_command(folder, name, cfg, options, before), folder.path()),
      folder_(folder),
      name_(name),
      workers_(local_workers(cfg)) {}

std::vector<pid_t> TrainingRun::worker_pids() const {
  std::vector<pid_t> pids;
  for (std::size_t i = 1; i <= workers_; ++i) {
    const std::string words = fmt::format("worker local:{} is process ", i);
    const std::string line = wait_for_line(words, kStartSeconds);
    pids.push_back(std::stoi(line.substr(line.find(words) + words.size())));
  }
  return pids;
}

void TrainingRun::wait_for_iteration(int iteration) const {
  const std::string begin = fmt::format("{}: ", iteration);
  const auto there = [&] { return ("\n" + out()).find("\n" + begin) != std::string::npos; };
  if (!becomes_true(there, kIterationSeconds))
    throw std::runtime_error(fmt::format("iteration {} did not come; so far:\n{}", iteration, all()));
}

std::string TrainingRun::finish(double limit_seconds) {
  if (const int code = wait(limit_seconds); code != 0)
    throw std::runtime_error(fmt::format("training {} ended with code {}:\n{}", name_, code, all()));
  return folder_.read("backup/" + name_ + "_final.weights");
}

std::string train(const TrainingFolder& folder, const std::string& name, const TrainingCfg& cfg, const std::vector<std::string>& options) {
  return TrainingRun(folder, name, cfg, options).finish();
}

std::uint64_t seen_images(const std::string& weights) {
  std::uint64_t seen = 0;
  if (weights.size() < kWeightsAt) throw std::runtime_error("a weights file without a whole header");
  std::memcpy(&seen, weights.data() + kSeenAt, sizeof seen);
  return seen;
}

double weights_distance(const std::string& a, const std::string& b) {
  if (a.size() != b.size() || a.size() <= kWeightsAt) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (std::size_t at = kWeightsAt; at + sizeof(float) <= a.size(); at += sizeof(float)) {
    float x, y;
    std::memcpy(&x, a.data() + at, sizeof x);
    std::memcpy(&y, b.data() + at, sizeof y);
    difference += (double{x} - y) * (double{x} - y);
    norm += double{y} * y;
  }
  return std::sqrt(difference / norm);
}

}  // namespace tessera::testing
