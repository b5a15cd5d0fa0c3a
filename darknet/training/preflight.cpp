#include "darknet/training/preflight.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <set>
#include <thread>

#include "base/clock.hpp"
#include "base/text.hpp"
#include "data/image_file.hpp"
#include "data/label_file.hpp"
#include "observe/progress.hpp"

namespace tessera::darknet {
namespace {

constexpr double kTrainSeconds = 2.5, kValidSeconds = 1.0;  // errors are to be shown within 5 s
constexpr std::uint64_t kSavesToHave = 8;                   // weights files there must be room for: last, best, final and checkpoints

struct ImageFindings {
  bool done = false, crowded = false;
  std::vector<std::size_t> of_class;
  std::string bad_image, bad_label, missing_label;
};

ImageFindings check_image(const std::string& image, const ListCheck& check) {
  ImageFindings found;
  found.done = true;
  if (const auto size = data::read_image_size(image); !size) found.bad_image = size.error().message;
  if (!check.labels) return found;
  const std::string path = data::label_path(image);
  const auto labels = data::read_labels(path);
  if (!labels) {
    (labels.error().code == base::ErrorCode::kNotFound ? found.missing_label : found.bad_label) =
        labels.error().code == base::ErrorCode::kNotFound ? path : labels.error().message;
    return found;
  }
  found.crowded = check.most_boxes > 0 && labels->size() > static_cast<std::size_t>(check.most_boxes);
  found.of_class.resize(static_cast<std::size_t>(check.classes));
  for (const data::Label& label : *labels) {
    const std::string mistake = data::label_mistake(label, check.classes);
    if (mistake.empty()) {
      ++found.of_class[static_cast<std::size_t>(label.class_id)];
      continue;
    }
    found.bad_label = fmt::format("{}:{}: {}", path, label.line, mistake);
    break;
  }
  return found;
}

base::Status write_bad_list(const std::string& path, const std::vector<std::string>& lines) {
  if (lines.empty()) return {};
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return base::write_file_atomically(path, text);
}

std::string and_more(std::size_t count, const char* list) { return count > 1 ? fmt::format(" ({} such files, see {})", count, list) : ""; }

// The findings that no training may start with.
base::Status judge(const ListFindings& found, const cfg::DataFile& data, const std::string& key) {
  if (!found.bad_labels.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}{}", found.bad_labels.front(),
                       and_more(found.bad_labels.size(), "bad_label.list"));
  if (found.bad_images.size() == found.checked)
    return base::error(base::ErrorCode::kNotFound, "{}: none of the images of {}= can be read; the first: {}", data.where(key), key,
                       found.bad_images.front());
  if (found.missing_labels.size() == found.checked) {
    const std::string& first = found.missing_labels.front();
    return base::error(base::ErrorCode::kNotFound,
                       "{}: none of the images of {}= has a label file; the first would be {} (it may lie in a folder `labels` beside "
                       "`images`, or beside its image)",
                       data.where(key), key, first);
  }
  if (!found.of_class.empty() && found.objects == 0 && found.checked == found.images)
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}: none of the {} images of {}= has an object: all label files are empty; label some", data.where(key),
                       found.images, key);
  return {};
}

void add_warnings(const ListFindings& found, const std::string& key, int most_boxes, const std::vector<std::string>& names,
                  std::vector<std::string>& warnings) {
  if (!found.bad_images.empty())
    warnings.push_back(fmt::format("{} of {} {} images cannot be read and are skipped (see bad.list); the first: {}",
                                   found.bad_images.size(), found.checked, key, found.bad_images.front()));
  if (!found.missing_labels.empty())
    warnings.push_back(
        fmt::format("{} of {} {} images have no label file and count as images without objects (see bad_label.list); the first: {}",
                    found.missing_labels.size(), found.checked, key, found.missing_labels.front()));
  if (!found.crowded.empty())
    warnings.push_back(fmt::format(
        "{} of {} {} images have more than {} objects, and the network is told of {} in each pass, a random choice; max= in the head says "
        "how many; the first: {}",
        found.crowded.size(), found.checked, key, most_boxes, most_boxes, found.crowded.front()));
  if (found.checked == found.images) {
    std::string absent;
    for (std::size_t c = 0; c < found.of_class.size(); ++c)
      if (found.of_class[c] == 0)
        absent += fmt::format("{}{}{}", absent.empty() ? "" : ", ", c, c < names.size() ? " (" + names[c] + ")" : "");
    if (!absent.empty()) warnings.push_back(fmt::format("no {} image has an object of class {}", key, absent));
  } else
    warnings.push_back(fmt::format("{} of {} {} images were checked in the time for it; the rest is checked as it is loaded", found.checked,
                                   found.images, key));
}

std::vector<std::string> joined(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::vector<std::string> all = a;
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

// Pictures that are trained on prove nothing when they are tested on.
void compare_lists(const std::vector<std::string>& train, const std::vector<std::string>& valid, std::vector<std::string>& warnings) {
  const std::set<std::string> trained(train.begin(), train.end()), tested(valid.begin(), valid.end());
  std::vector<std::string> both;
  std::set_intersection(trained.begin(), trained.end(), tested.begin(), tested.end(), std::back_inserter(both));
  if (!both.empty())
    warnings.push_back(fmt::format("{} of {} valid images are in the training list, too, so mAP will look better than it is; the first: {}",
                                   both.size(), valid.size(), both.front()));
  if (tested.size() < valid.size())
    warnings.push_back(fmt::format("{} images are in the valid list more than once and count as often", valid.size() - tested.size()));
}

base::Status write_lists(const ListFindings& train, const ListFindings& valid) {
  TESSERA_TRY(write_bad_list("bad.list", joined(train.bad_images, valid.bad_images)));
  return write_bad_list("bad_label.list",
                        joined(joined(train.bad_labels, valid.bad_labels), joined(train.missing_labels, valid.missing_labels)));
}

}  // namespace

std::vector<std::string> usable_images(const std::vector<std::string>& images, const ListFindings& found) {
  std::vector<std::string> usable;
  for (std::size_t i = 0; i < images.size(); ++i)
    if (!std::binary_search(found.bad_indices.begin(), found.bad_indices.end(), i)) usable.push_back(images[i]);
  return usable;
}

base::Status preflight_list(const cfg::DataFile& data, const std::string& key, const std::vector<std::string>& images,
                            const ListCheck& check) {
  const ListFindings found = check_list(images, check);
  TESSERA_TRY(write_lists(found, {}));
  TESSERA_TRY(judge(found, data, key));
  if (!found.bad_images.empty() && !check.may_lack_images)
    return base::error(base::ErrorCode::kIo, "{}{}; take it out of the {} list", found.bad_images.front(),
                       and_more(found.bad_images.size(), "bad.list"), key);
  std::vector<std::string> warnings;
  add_warnings(found, key, check.most_boxes, {}, warnings);
  for (const std::string& warning : warnings) fmt::print(stderr, "warning: {}\n", warning);
  return {};
}

ListFindings check_list(const std::vector<std::string>& images, const ListCheck& check) {
  const base::Deadline deadline =
      base::Deadline::after(std::chrono::duration_cast<base::Clock::duration>(std::chrono::duration<double>(check.seconds)));
  // A step that has no common factor with the count visits every image once, far from the one before.
  const std::size_t count = images.size();
  std::size_t step = count / 2 + count / 9 + 1;
  while (std::gcd(step, count) != 1) ++step;

  std::vector<ImageFindings> found(count);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < count && !deadline.passed(); i = next++) {
      const std::size_t at = static_cast<std::size_t>(static_cast<std::uint64_t>(i) * step % count);
      found[at] = check_image(images[at], check);
    }
  };
  std::vector<std::thread> threads;
  const unsigned helpers = std::clamp(std::thread::hardware_concurrency(), 2u, 16u);  // at least 2: mostly waits for the disk
  for (unsigned i = 0; i < helpers; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();

  ListFindings all;
  all.images = count;
  if (check.labels) all.of_class.resize(static_cast<std::size_t>(check.classes));
  for (std::size_t i = 0; i < count; ++i) {
    ImageFindings& one = found[i];
    all.checked += one.done;
    for (std::size_t c = 0; c < one.of_class.size(); ++c) {
      all.of_class[c] += one.of_class[c];
      all.objects += one.of_class[c];
    }
    if (!one.bad_image.empty()) all.bad_indices.push_back(i);
    if (!one.bad_image.empty()) all.bad_images.push_back(std::move(one.bad_image));
    if (!one.bad_label.empty()) all.bad_labels.push_back(std::move(one.bad_label));
    if (!one.missing_label.empty()) all.missing_labels.push_back(std::move(one.missing_label));
    if (one.crowded) all.crowded.push_back(images[i]);
  }
  return all;
}

base::Status check_backup_folder(const std::string& folder, const std::string& where, std::uint64_t bytes) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure || !std::filesystem::is_directory(folder))
    return base::error(base::ErrorCode::kIo, "{}: the backup folder {} cannot be made: {}; make it, or set backup = FOLDER", where, folder,
                       failure ? failure.message() : "there is a file of that name");
  // Access rights alone do not tell (read-only mounts, quotas): write a file.
  std::string probe = folder + "/.tessera-XXXXXX";
  const int file = ::mkstemp(probe.data());
  if (file < 0)
    return base::error(base::ErrorCode::kIo,
                       "{}: the backup folder {} cannot be written to: {}; change its permissions, or set backup = FOLDER", where, folder,
                       std::strerror(errno));
  ::close(file);
  ::unlink(probe.c_str());
  const auto space = std::filesystem::space(folder, failure);
  if (!failure && space.available < kSavesToHave * bytes)
    return base::error(base::ErrorCode::kIo,
                       "{}: the backup folder {} has room for {}, but one weights file has {}; free some, or set backup = FOLDER", where,
                       folder, observe::bytes_text(static_cast<double>(space.available)), observe::bytes_text(static_cast<double>(bytes)));
  return {};
}

base::Result<std::vector<std::string>> read_image_list(const cfg::DataFile& data, const std::string& key, const std::string& path) {
  if (path.empty())
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has no {}=; add {} = FILE with one image path per line", data.path, key,
                       key);
  auto images = base::read_list(path, key + " list");
  if (!images) return base::error(images.error().code, "{}: {}", data.where(key), images.error().message);
  for (std::string& image : *images) image = base::local_path(std::move(image));
  if (images->empty()) return base::error(base::ErrorCode::kInvalidArgument, "{}: {} lists no images", data.where(key), path);
  return images;
}

base::Result<PreflightResult> preflight_detector(const PreflightInput& input) {
  const cfg::Cfg& cfg = *input.cfg;
  const cfg::DataFile& data = *input.data;
  if (cfg.classes == 0)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has no [yolo], [region] or [detection] layer; a detector needs one",
                       cfg.file.path);
  if (data.classes && data.classes != cfg.classes)
    return base::error(base::ErrorCode::kInvalidArgument,
                       "{}:{}: classes={}, but {} says classes={}; make them equal (and filters= of the layer before)", cfg.file.path,
                       cfg.classes_line, cfg.classes, data.where("classes"), data.classes);

  PreflightResult result;
  if (!data.names.empty()) {
    TESSERA_ASSIGN(result.names, cfg::read_names(data, cfg.classes));
  }
  TESSERA_ASSIGN(result.train, read_image_list(data, "train", data.train));
  if (input.with_map) {
    TESSERA_ASSIGN(result.valid, read_image_list(data, "valid", data.valid));
  }
  TESSERA_TRY(check_backup_folder(data.backup, data.where("backup"), input.weights_bytes));

  const ListFindings train = check_list(result.train, {cfg.classes, kTrainSeconds, true, input.most_boxes});
  ListFindings valid;
  if (input.with_map) valid = check_list(result.valid, {cfg.classes, kValidSeconds});
  TESSERA_TRY(write_lists(train, valid));
  TESSERA_TRY(judge(train, data, "train"));
  add_warnings(train, "train", input.most_boxes, result.names, result.warnings);
  if (input.with_map) {
    TESSERA_TRY(judge(valid, data, "valid"));
    add_warnings(valid, "valid", 0, result.names, result.warnings);
    compare_lists(result.train, result.valid, result.warnings);
    if (!valid.bad_images.empty())
      return base::error(base::ErrorCode::kIo, "{}; take it out of the valid list, mAP needs every image", valid.bad_images.front());
  }
  result.train = usable_images(result.train, train);
  result.summary = fmt::format("preflight: {} training images with {} objects of {} classes", train.images, train.objects, cfg.classes);
  if (input.with_map) result.summary += fmt::format(", {} validation images with {} objects", valid.images, valid.objects);
  result.summary += fmt::format(", backup in {}", data.backup);
  return result;
}

}  // namespace tessera::darknet
