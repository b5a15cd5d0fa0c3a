#include "data/batch_loader.hpp"

#include "base/check.hpp"
#include "base/clock.hpp"

namespace tessera::data {

BatchLoader::BatchLoader(MakeSample make, int threads) : make_(std::move(make)) {
  TESSERA_CHECK(threads >= 1, "threads={}", threads);
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void BatchLoader::request(std::uint64_t batch, const BatchShape& shape) {
  auto job = std::make_unique<Job>();
  job->batch = batch;
  job->shape = shape;
  job->open_rows = shape.rows;
  const std::size_t rows = static_cast<std::size_t>(shape.rows), columns = static_cast<std::size_t>(shape.truth_columns);
  reserve_inputs(*job, rows * shape.input_columns());
  job->truths.assign(rows * columns, 0.0f);
  for (std::size_t row = 0; row < rows; ++row) {
    job->input_rows.push_back(job->inputs.get() + row * shape.input_columns());
    job->truth_rows.push_back(job->truths.data() + row * columns);
  }
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void BatchLoader::reserve_inputs(Job& job, std::size_t size) {
  const std::unique_ptr<Job> spare = std::move(spare_);
  if (spare && spare->inputs_size >= size && spare->inputs_size / 2 <= size) {
    job.inputs = std::move(spare->inputs);
    job.inputs_size = spare->inputs_size;
    return;
  }
  if (spare) spare->inputs.reset();  // before the new memory is made, so that both never exist together
  job.inputs = std::make_unique_for_overwrite<float[]>(size);
  job.inputs_size = size;
}

base::Result<Batch> BatchLoader::take() {
  const base::TimePoint start = base::Clock::now();
  std::unique_lock lock(mutex_);
  TESSERA_CHECK(!jobs_.empty(), "take() without request()");
  // Bounded by reading shape.rows pictures: workers never wait for anything but files.
  changed_.wait(lock, [&] { return jobs_.front()->open_rows == 0; });
  waiting_seconds_ += base::seconds_between(start, base::Clock::now());
  spare_ = std::move(taken_);
  taken_ = std::move(jobs_.front());
  jobs_.pop_front();
  if (!taken_->status) return tl::unexpected(taken_->status.error());
  return rows_of(*taken_);
}

std::optional<Batch> BatchLoader::peek() {
  const std::lock_guard lock(mutex_);
  if (jobs_.empty() || jobs_.front()->open_rows > 0 || !jobs_.front()->status) return std::nullopt;
  return rows_of(*jobs_.front());
}

Batch BatchLoader::rows_of(const Job& job) { return {job.shape, job.input_rows, job.truth_rows}; }

void BatchLoader::work() {
  std::unique_lock lock(mutex_);
  const auto open_job = [this]() -> Job* {
    for (const auto& job : jobs_)
      if (job->next_row < job->shape.rows) return job.get();
    return nullptr;
  };
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || open_job() != nullptr; });
    if (stopping_) return;
    Job* job = open_job();
    const std::size_t row = static_cast<std::size_t>(job->next_row++);
    lock.unlock();
    const std::uint64_t sample = job->batch * static_cast<std::uint64_t>(job->shape.rows) + row;
    base::Status status = make_(sample, job->shape, job->input_rows[row], job->truth_rows[row]);
    lock.lock();
    if (!status && job->status) job->status = std::move(status);
    if (--job->open_rows == 0) changed_.notify_all();
  }
}

}  // namespace tessera::data
