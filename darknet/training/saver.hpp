// Files written in the background, and again until they are.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace tessera::darknet {

// Each file is written atomically, the files of one job in their order. What cannot be written (a full, read-only or vanished folder,
// which is made again) is reported once and tried again, at growing intervals, until it is, or a newer job of its kind takes its
// place. So memory holds at most one job of each kind and the one being written.
class Saver {
 public:
  struct File {
    std::string path;
    std::shared_ptr<const std::string> held;  // `bytes` is a part of it
    std::string_view bytes;

    static File whole(std::string path, std::string content) {
      auto held = std::make_shared<const std::string>(std::move(content));
      return {std::move(path), held, *held};
    }
  };
  struct Job {
    std::string kind;
    std::vector<File> files;
    std::function<void()> written;  // called in the saver's thread; may be empty
  };

  // `say` gets lines for people; called in the saver's thread.
  explicit Saver(std::function<void(const std::string&)> say, base::Milliseconds first_retry = base::Milliseconds(1000));
  ~Saver();  // what waits is given up
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  void post(Job job);

  // Until everything is written. An error, the last one met, when that is not so by the deadline.
  [[nodiscard]] base::Status flush(base::Deadline deadline);

 private:
  void work();
  base::Status write(const Job& job);

  const std::function<void(const std::string&)> say_;
  const base::Milliseconds first_retry_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool writing_ = false, stopping_ = false, hurry_ = false;
  base::Status last_;
  std::thread thread_;
};

}  // namespace tessera::darknet
