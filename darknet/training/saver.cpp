#include "darknet/training/saver.hpp"

#include <algorithm>
#include <filesystem>

#include "base/text.hpp"

namespace tessera::darknet {
namespace {

constexpr base::Milliseconds kLongestRetry{60000};

}  // namespace

Saver::Saver(std::function<void(const std::string&)> say, base::Milliseconds first_retry)
    : say_(std::move(say)), first_retry_(first_retry), thread_([this] { work(); }) {}

Saver::~Saver() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Saver::post(Job job) {
  {
    std::lock_guard lock(mutex_);
    std::erase_if(jobs_, [&](const Job& waiting) { return waiting.kind == job.kind; });
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

base::Status Saver::flush(base::Deadline deadline) {
  std::unique_lock lock(mutex_);
  hurry_ = true;
  changed_.notify_all();
  const bool all = changed_.wait_until(lock, deadline.when(), [this] { return jobs_.empty() && !writing_; });
  hurry_ = false;
  if (all) return {};
  return last_ ? base::error(base::ErrorCode::kTimeout, "saving takes too long") : last_;
}

base::Status Saver::write(const Job& job) {
  for (const File& file : job.files) {
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(file.path).parent_path(), ignored);
    TESSERA_TRY(base::write_file_atomically(file.path, file.bytes));
  }
  return {};
}

void Saver::work() {
  base::Milliseconds pause = first_retry_;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (stopping_) return;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    writing_ = true;
    const bool failed_before = !last_;
    lock.unlock();
    const base::Status status = write(job);
    if (status && job.written) job.written();
    if (status && failed_before) say_(fmt::format("{} is saved now", job.files.back().path));
    if (!status && !failed_before) say_(status.error().message + "; the training goes on, and this is tried again");
    lock.lock();
    writing_ = false;
    last_ = status;
    if (status) {
      pause = first_retry_;
      changed_.notify_all();
      continue;
    }
    const bool replaced = std::any_of(jobs_.begin(), jobs_.end(), [&](const Job& newer) { return newer.kind == job.kind; });
    if (!replaced) jobs_.push_front(std::move(job));
    // Whoever starts to wait for the end has it tried again at once, and often.
    const bool hurried = hurry_;
    changed_.wait_until(lock, base::Clock::now() + (hurried ? first_retry_ : pause), [&] { return stopping_ || hurry_ != hurried; });
    pause = std::min(2 * pause, kLongestRetry);
  }
}

}  // namespace tessera::darknet
