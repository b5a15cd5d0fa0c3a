// A fixed set of threads for data-parallel loops inside one device.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace tessera::base {

// `threads` counts the caller: ThreadPool(1) starts no thread and runs everything in the calling one. Where the system
// refuses a thread, the pool has fewer (size()).
// parallel_for() is called from one thread at a time and must not be nested.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, thread) for every index in [0, count), each once, in any order; `thread` is in
  // [0, size()). Returns when all calls have returned. An exception from body is rethrown here.
  void parallel_for(std::ptrdiff_t count, const std::function<void(std::ptrdiff_t index, int thread)>& body);

 private:
  void work(int thread);
  void drain(int thread);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(std::ptrdiff_t, int)>* body_ = nullptr;
  std::ptrdiff_t count_ = 0, next_ = 0;
  int busy_ = 0;
  unsigned long generation_ = 0;
  bool stopping_ = false;
  std::exception_ptr failure_;
};

}  // namespace tessera::base
