#include "tests/cluster/commands_fixture.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <random>

namespace tessera::testing {
namespace {

constexpr int kSide = 64, kTrain = 24, kValid = 8;

constexpr const char* kTinyCfg = R"(
[net]
batch=8
subdivisions=2
width=64
height=64
channels=3
momentum=0.9
decay=0.0005
hue=.1
saturation=1.5
exposure=1.5
learning_rate=0.003
burn_in=5
max_batches=20
policy=steps
steps=15,18
scales=.1,.1

[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
activation=leaky

[maxpool]
size=2
stride=2

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[convolutional]
size=1
stride=1
pad=1
filters=21
activation=linear

[yolo]
mask=0,1,2
anchors=12,12, 20,20, 30,30
classes=2
num=3
jitter=.1
ignore_thresh=.7
truth_thresh=1
random=0
)";

void draw_sample(std::mt19937_64& random, int class_id, const std::string& image, const std::string& label) {
  const auto below = [&](int count) { return static_cast<int>(random() % static_cast<unsigned>(count)); };
  cv::Mat picture(kSide, kSide, CV_8UC3);
  for (int y = 0; y < kSide; ++y)
    for (int x = 0; x < 3 * kSide; ++x) picture.ptr<unsigned char>(y)[x] = static_cast<unsigned char>(110 + below(30));
  const int size = 14 + below(18), left = below(kSide - size), top = below(kSide - size);
  if (class_id == 0)
    cv::rectangle(picture, cv::Rect(left, top, size, size), {240, 240, 240}, cv::FILLED);
  else
    cv::circle(picture, {left + size / 2, top + size / 2}, size / 2, {20, 20, 20}, cv::FILLED);
  REQUIRE(cv::imwrite(image, picture));
  const auto relative = [](double value) { return std::to_string(value / kSide); };
  std::ofstream(label) << class_id << ' ' << relative(left + size / 2.0) << ' ' << relative(top + size / 2.0) << ' ' << relative(size)
                       << ' ' << relative(size) << '\n';
}

// Reads both pipes until they end or time is up.
class Reader {
 public:
  Reader(int out, int err) : handles_{out, err} {}

  // False at the end of both.
  bool read_some(int milliseconds, Outcome& outcome) {
    pollfd polls[2];
    for (int i = 0; i < 2; ++i) polls[i] = {handles_[i], POLLIN, 0};
    if (::poll(polls, 2, milliseconds) <= 0) return true;
    for (int i = 0; i < 2; ++i) {
      if (handles_[i] < 0 || !polls[i].revents) continue;
      char buffer[4096];
      const ssize_t count = ::read(handles_[i], buffer, sizeof buffer);
      if (count > 0) (i == 0 ? outcome.out : outcome.err).append(buffer, static_cast<std::size_t>(count));
      if (count <= 0) {
        ::close(handles_[i]);
        handles_[i] = -1;
      }
    }
    return handles_[0] >= 0 || handles_[1] >= 0;
  }

  ~Reader() {
    for (const int handle : handles_)
      if (handle >= 0) ::close(handle);
  }

 private:
  int handles_[2];
};

}  // namespace

std::string program() {
  const char* path = std::getenv("TESSERA_DARKNET");
  return path ? path : TESSERA_DARKNET;
}

Workshop::Workshop() {
  std::string pattern = (std::filesystem::temp_directory_path() / "tessera-commands-XXXXXX").string();
  REQUIRE(::mkdtemp(pattern.data()) != nullptr);
  folder_ = pattern;
  std::filesystem::create_directories(folder_ / "images");
  std::filesystem::create_directories(folder_ / "labels");
  std::mt19937_64 random(20240607);
  std::string train, valid;
  for (int i = 0; i < kTrain + kValid; ++i) {
    const std::string name = (i % 2 ? "disc" : "square") + std::to_string(i);
    draw_sample(random, i % 2, path("images/" + name + ".png"), path("labels/" + name + ".txt"));
    (i < kTrain ? train : valid) += "images/" + name + ".png\n";
  }
  write("train.txt", train);
  write("valid.txt", valid);
  write("obj.names", "square\ndisc\n");
  write("obj.data", "classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = backup\n");
  write("tiny.cfg", kTinyCfg);
  derive_cfg("region.cfg", "mask=0,1,2\nanchors=12,12, 20,20, 30,30\n", "anchors=1.5,1.5, 2.5,2.5, 4,4\nbias_match=1\nsoftmax=1\n");
  derive_cfg("region.cfg", "[yolo]", "[region]", "region.cfg");
  derive_cfg("region.cfg", "ignore_thresh=.7\ntruth_thresh=1\n", "thresh=.6\n", "region.cfg");
}

Workshop::~Workshop() { std::filesystem::remove_all(folder_); }

void Workshop::write(const std::string& name, const std::string& text) const { std::ofstream(folder_ / name, std::ios::binary) << text; }

std::string Workshop::read(const std::string& name) const {
  std::ifstream file(folder_ / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Workshop::derive_cfg(const std::string& name, const std::string& from, const std::string& to, const std::string& base) const {
  std::string text = read(base);
  const std::size_t at = text.find(from);
  REQUIRE_MESSAGE(at != std::string::npos, from);
  write(name, text.replace(at, from.size(), to));
}

Outcome Workshop::run(const std::vector<std::string>& words, const std::string& input, double limit_seconds,
                      const std::string& signal_after_line) const {
  write(".stdin", input);
  int out[2], err[2];
  REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
  REQUIRE(::pipe2(err, O_CLOEXEC) == 0);
  const std::string executable = has("darknet") ? path("darknet") : program();
  std::vector<std::string> all = {executable};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> arguments;
  for (std::string& word : all) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const std::string stdin_path = path(".stdin");

  const auto start = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int in = ::open(stdin_path.c_str(), O_RDONLY);
    if (::chdir(folder_.c_str()) == 0 && ::dup2(in, 0) >= 0 && ::dup2(out[1], 1) >= 0 && ::dup2(err[1], 2) >= 0)
      ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);

  Outcome outcome;
  Reader reader(out[0], err[0]);
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  bool signalled = signal_after_line.empty();
  while (reader.read_some(100, outcome)) {
    if (!signalled && ("\n" + outcome.out).find("\n" + signal_after_line) != std::string::npos) {
      ::kill(child, SIGINT);
      signalled = true;
    }
    if (seconds() > limit_seconds) {
      outcome.timed_out = true;
      ::kill(child, SIGKILL);
      break;
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  outcome.seconds = seconds();
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

}  // namespace tessera::testing
