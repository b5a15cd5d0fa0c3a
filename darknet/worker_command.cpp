// darknet worker: serves training sessions until it is told to stop.
#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <csignal>
#include <cstdio>

#include "cluster/worker.hpp"
#include "darknet/commands.hpp"

namespace tessera::darknet {

namespace {

std::atomic<bool> stopping = false;

void announce(const std::string& address) {
  fmt::print("worker listens at {}\n", address);
  std::fflush(stdout);
}

}  // namespace

base::Result<int> run_worker(const Arguments& arguments) {
  cluster::WorkerOptions options;
  options.listen = arguments.text("listen", options.listen);
  options.name = arguments.text("name", "");
  options.threads = static_cast<int>(arguments.integer("threads", 0));
  options.parent = static_cast<int>(arguments.integer("parent", 0));
  options.insecure = arguments.has("insecure");
  options.once = arguments.has("once");
  if (options.threads < 0) return base::error(base::ErrorCode::kInvalidArgument, "-threads {}: a number of threads, or 0 for all cores", options.threads);
  spdlog::set_default_logger(spdlog::stderr_color_mt("worker"));
  // A worker started by a coordinator speaks through it.
  spdlog::set_level(options.once ? spdlog::level::warn : spdlog::level::info);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, [](int) { stopping = true; });
  const auto served = cluster::serve(options, stopping, options.once ? [](const std::string&) {} : announce);
  if (!served) return tl::unexpected(served.error());
  return 0;
}

}  // namespace tessera::darknet
