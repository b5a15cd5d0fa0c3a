// Latency and bandwidth between two participants of one machine, next to what copying memory costs.
//
//   round_trip/<medium>/<bytes>          there and back, urgent lane
//   stream/<medium>/<bytes>              one way; of_memcpy = share of this machine's memcpy bandwidth
//   urgent_under_load/<medium>/<lane>    round trip of 64 bytes while 4 MB messages stream along on the bulk lane
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <unistd.h>

#include "transport/inproc.hpp"
#include "transport/zmq_endpoint.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

namespace tessera::transport {
namespace {

base::Deadline soon() { return base::Deadline::after(base::Milliseconds(30'000)); }

enum Medium { kInproc, kShared, kIpc, kTcp };  // kShared: ipc, and payloads in shared memory
const char* const kMediumNames[] = {"inproc", "shared", "ipc", "tcp"};

struct Pair {
  std::unique_ptr<Endpoint> a, b;
};

template <typename T>
T value(base::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  return std::move(*result);
}

void must(const base::Status& status) {
  if (!status) throw std::runtime_error(status.error().message);
}

std::string any_address(Medium medium) {
  static int count = 0;
  return medium == kTcp ? "tcp://127.0.0.1:*" : fmt::format("ipc://@tessera-bench-{}-{}", getpid(), ++count);
}

Pair connected_pair(Medium medium) {
  Pair pair;
  if (medium == kInproc) {
    auto endpoints = make_inproc_endpoints(2);
    pair = {std::move(endpoints[0]), std::move(endpoints[1])};
  } else {
    ZmqOptions options;
    options.token = make_session_token();
    options.bind = any_address(medium);
    if (medium == kShared) options.shared_memory = value(SharedMemory::create(2));
    options.max_queued_bytes = std::size_t{64} << 20;
    pair.a = value(make_zmq_endpoint(options));
    options.self = 1;
    options.bind = any_address(medium);
    pair.b = value(make_zmq_endpoint(options));
  }
  must(pair.a->connect(1, value(pair.b->address()), soon()));
  must(pair.b->connect(0, value(pair.a->address()), soon()));
  return pair;
}

double memcpy_bytes_per_second() {
  static const double best = [] {
    constexpr std::size_t kBytes = std::size_t{64} << 20;
    std::vector<char> from(kBytes, 1), to(kBytes, 2);
    double seconds = 1e9;
    for (int i = 0; i < 7; ++i) {
      const auto start = base::Clock::now();
      std::memcpy(to.data(), from.data(), kBytes);
      benchmark::DoNotOptimize(to.data());
      benchmark::ClobberMemory();
      seconds = std::min(seconds, base::seconds_between(start, base::Clock::now()));
    }
    return static_cast<double>(kBytes) / seconds;
  }();
  return best;
}

// Receives at `endpoint` in a thread of its own until destroyed; sends header-only messages back if `echo`.
class Receiver {
 public:
  Receiver(Endpoint& endpoint, bool echo) : endpoint_(endpoint), thread_([this, echo] { run(echo); }) {}
  ~Receiver() {
    stop_ = true;
    endpoint_.wake();
    thread_.join();
  }
  std::uint64_t bulk_bytes() const { return bulk_bytes_; }

 private:
  void run(bool echo) {
    while (!stop_) {
      auto received = endpoint_.receive(soon());
      if (!received || !*received) continue;
      Incoming& message = **received;
      if (echo && !message.header.empty()) {
        must(endpoint_.send(message.peer, message.lane, std::move(message.header), std::move(message.payload), soon()));
      } else {
        bulk_bytes_ += message.payload.size();
      }
    }
  }

  Endpoint& endpoint_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> bulk_bytes_{0};
  std::thread thread_;
};

Frame filled(std::size_t bytes) {
  Frame frame = Frame::allocate(bytes);
  if (bytes > 0) std::memset(frame.data(), 1, bytes);
  return frame;
}

void ping(Endpoint& endpoint, Lane lane, std::size_t bytes) {
  must(endpoint.send(1, lane, filled(80), filled(bytes), soon()));
  if (!value(endpoint.receive(soon()))) throw std::runtime_error("no answer");
}

void round_trip(benchmark::State& state, Medium medium, std::size_t bytes) {
  Pair pair = connected_pair(medium);
  const Receiver echo(*pair.b, true);
  for (auto _ : state) ping(*pair.a, Lane::kUrgent, bytes);
}

// Each iteration ends when what it sent has arrived, so that queueing is not taken for bandwidth.
void stream(benchmark::State& state, Medium medium, std::size_t bytes) {
  Pair pair = connected_pair(medium);
  const Receiver receiver(*pair.b, false);
  const std::size_t messages = std::max<std::size_t>(1, (std::size_t{64} << 20) / bytes);
  std::uint64_t sent = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < messages; ++i) {
      Frame payload = pair.a->allocate(bytes);
      payload.data()[0] = std::byte{1};
      must(pair.a->send(1, Lane::kBulk, {}, std::move(payload), soon()));
      sent += bytes;
    }
    while (receiver.bulk_bytes() < sent) std::this_thread::yield();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(sent));
  state.counters["of_memcpy"] = benchmark::Counter(static_cast<double>(sent) / memcpy_bytes_per_second(), benchmark::Counter::kIsRate);
}

void urgent_under_load(benchmark::State& state, Medium medium, Lane lane) {
  constexpr std::size_t kBulkBytes = std::size_t{4} << 20;
  Pair pair = connected_pair(medium);
  const Receiver echo(*pair.b, true);
  std::uint64_t sent = 0;
  for (auto _ : state) {
    state.PauseTiming();
    for (int i = 0; i < 4; ++i) {
      must(pair.a->send(1, Lane::kBulk, {}, filled(kBulkBytes), soon()));
      sent += kBulkBytes;
    }
    state.ResumeTiming();
    ping(*pair.a, lane, 64);
    state.PauseTiming();
    while (echo.bulk_bytes() < sent) std::this_thread::yield();
    state.ResumeTiming();
  }
}

void add_benchmarks() {
  for (const Medium medium : {kInproc, kShared, kIpc, kTcp}) {
    const std::string name = kMediumNames[medium];
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{64}, std::size_t{4096}, std::size_t{65536}}) {
      benchmark::RegisterBenchmark(("round_trip/" + name + "/" + std::to_string(bytes)).c_str(), round_trip, medium, bytes)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
    for (const std::size_t bytes : {std::size_t{4096}, std::size_t{65536}, std::size_t{1} << 20, std::size_t{16} << 20}) {
      benchmark::RegisterBenchmark(("stream/" + name + "/" + std::to_string(bytes)).c_str(), stream, medium, bytes)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
    for (const Lane lane : {Lane::kUrgent, Lane::kBulk}) {
      const std::string lane_name = lane == Lane::kUrgent ? "urgent" : "bulk";
      benchmark::RegisterBenchmark(("urgent_under_load/" + name + "/" + lane_name).c_str(), urgent_under_load, medium, lane)
          ->UseRealTime()
          ->Iterations(60)
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace tessera::transport

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  tessera::transport::add_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
