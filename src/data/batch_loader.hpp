// Makes the next batches in threads of its own while the current one is computed. With one request for every take() it
// holds two batches, the one that was taken and the one being made, whose memory takes turns.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/result.hpp"

namespace tessera::data {

// What a batch consists of. `sample` counts from the start of training: batch * rows + row.
struct BatchShape {
  int rows = 0;
  int width = 0, height = 0, channels = 3;
  int truth_columns = 0;

  std::size_t input_columns() const { return static_cast<std::size_t>(channels) * height * width; }
};

// A batch as it lies in memory: `rows` rows of inputs (planes of channels, y, x) and of truths.
struct Batch {
  BatchShape shape;
  std::span<float*const> inputs, truths;
};

// Fills one row: `input` has shape.input_columns() floats, `truth` shape.truth_columns zeros. Called from several
// threads at once; the result must depend on its arguments only.
using MakeSample = std::function<base::Status(std::uint64_t sample, const BatchShape& shape, float* input, float* truth)>;

class BatchLoader {
 public:
  BatchLoader(MakeSample make, int threads);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // Starts on a batch. Requested batches are taken in the same order.
  void request(std::uint64_t batch, const BatchShape& shape);

  // Waits for the oldest requested batch. The rows stay valid until the next take().
  [[nodiscard]] base::Result<Batch> take();

  // What the next take() will return, when it is complete by now.
  std::optional<Batch> peek();

  // Spent in take() so far, waiting for pictures.
  double waiting_seconds() const { return waiting_seconds_; }

 private:
  struct Job {
    std::uint64_t batch = 0;
    BatchShape shape;
    std::unique_ptr<float[]> inputs;  // not cleared: every cell is written by `make`
    std::size_t inputs_size = 0;
    std::vector<float> truths;
    std::vector<float*> input_rows, truth_rows;
    int next_row = 0, open_rows = 0;
    base::Status status;
  };
  static Batch rows_of(const Job& job);

  void work();
  void reserve_inputs(Job& job, std::size_t size);

  MakeSample make_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Job>> jobs_;
  std::unique_ptr<Job> taken_;  // what take() handed out last
  std::unique_ptr<Job> spare_;  // what it handed out before that: its memory is used again
  double waiting_seconds_ = 0;
  bool stopping_ = false;
};

}  // namespace tessera::data
