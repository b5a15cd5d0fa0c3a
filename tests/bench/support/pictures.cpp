#include "tests/bench/support/pictures.hpp"

#include <cstdlib>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <random>

#include "tests/bench/support/network.hpp"

namespace tessera::bench {

namespace fs = std::filesystem;

TemporaryFolder::TemporaryFolder() {
  std::string path = (fs::temp_directory_path() / "tessera-bench-XXXXXX").string();
  if (::mkdtemp(path.data()) != nullptr) path_ = path;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

base::Status write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text << std::flush;
  if (!file) return base::error(base::ErrorCode::kIo, "{}: cannot be written", path.string());
  return {};
}

base::Result<std::string> write_pictures(const fs::path& folder) {
  constexpr int kPictures = 32, kWidth = 480, kHeight = 360;
  for (const char* sub : {"images", "labels", "backup"}) fs::create_directories(folder / sub);
  std::minstd_rand random(1);
  const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  std::string list, names;
  for (int i = 0; i < kPictures; ++i) {
    const int colour = i % kClasses, width = 60 + below(160), height = 60 + below(160);
    const cv::Rect box(below(kWidth - width), below(kHeight - height), width, height);
    cv::Mat picture(kHeight, kWidth, CV_8UC3, cv::Scalar(90, 90, 90));
    cv::rectangle(picture, box, cv::Scalar(colour == 0 ? 255 : 0, colour == 1 ? 255 : 0, colour == 2 ? 255 : 0), cv::FILLED);
    const std::string path = (folder / "images" / fmt::format("{:03}.jpg", i)).string();
    if (!cv::imwrite(path, picture)) return base::error(base::ErrorCode::kIo, "{}: cannot be written", path);
    TESSERA_TRY(
        write_text(folder / "labels" / fmt::format("{:03}.txt", i),
                   fmt::format("{} {:.6f} {:.6f} {:.6f} {:.6f}\n", colour, (box.x + width / 2.) / kWidth, (box.y + height / 2.) / kHeight,
                               static_cast<double>(width) / kWidth, static_cast<double>(height) / kHeight)));
    list += path + "\n";
  }
  for (int i = 0; i < kClasses; ++i) names += fmt::format("class{}\n", i);
  const std::string at = folder.string();
  TESSERA_TRY(write_text(folder / "train.txt", list));
  TESSERA_TRY(write_text(folder / "obj.names", names));
  const std::string data =
      fmt::format("classes={0}\ntrain={1}/train.txt\nvalid={1}/train.txt\nnames={1}/obj.names\nbackup={1}/backup\n", kClasses, at);
  TESSERA_TRY(write_text(folder / "obj.data", data));
  return at + "/obj.data";
}

}  // namespace tessera::bench
