// darknet worker: serves training sessions until it is told to stop. What this file needs, the program darknet-worker is
// made of: nothing of Darknet's own, and no OpenCV.
#include <fmt/format.h>
#include <unistd.h>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <csignal>
#include <cstdio>

#include "cluster/local_workers.hpp"
#include "cluster/worker.hpp"
#include "darknet/commands/cache_file.hpp"
#include "darknet/commands/commands.hpp"

namespace tessera::darknet {

namespace {

std::atomic<bool> stopping = false;

void announce(const std::string& address) {
  fmt::print("worker listens at {}\n", address);
  std::fflush(stdout);
}

// The command line again, without options that are accepted without effect: those have been spoken of.
std::vector<std::string> command_line(const Arguments& arguments) {
  std::vector<std::string> words{arguments.program, "worker"};
  for (const char* name : worker_command(nullptr).options)
    for (const OptionSpec& option : all_options())
      if (std::string_view(option.name) == name && arguments.has(name))
        words.push_back(option.kind == OptionKind::kFlag ? fmt::format("-{}", name) : fmt::format("-{}={}", name, arguments.text(name)));
  return words;
}

}  // namespace

Command worker_command(base::Result<int> (*run)(const Arguments&)) {
  return {"worker",
          0,
          0,
          "",
          "compute for a coordinator on another machine",
          {"listen", "name", "threads", "insecure", "once", "parent", "shared_memory"},
          run};
}

base::Result<int> run_worker(const Arguments& arguments) {
  if (const std::string program = cluster::worker_program(); !program.empty()) {
    std::vector<std::string> words = command_line(arguments);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(program.c_str(), argv.data());  // comes back only when it cannot be run: made for another machine, say
  }
  return serve_as_worker(arguments);
}

base::Result<int> serve_as_worker(const Arguments& arguments) {
  cluster::WorkerOptions options;
  options.listen = arguments.text("listen", options.listen);
  options.name = arguments.text("name", "");
  options.threads = static_cast<int>(arguments.integer("threads", 0));
  options.parent = static_cast<int>(arguments.integer("parent", 0));
  options.shared_memory = static_cast<int>(arguments.integer("shared_memory", -1));
  options.insecure = arguments.has("insecure");
  options.once = arguments.has("once");
  options.backend_cache = backend_cache_file();
  if (options.threads < 0)
    return base::error(base::ErrorCode::kInvalidArgument, "-threads {}: a number of threads, or 0 for all cores", options.threads);
  spdlog::set_default_logger(spdlog::stderr_color_mt("worker"));
  // A worker started by a coordinator speaks through it.
  spdlog::set_level(options.once ? spdlog::level::warn : spdlog::level::info);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) std::signal(number, [](int) { stopping = true; });
  const auto served = cluster::serve(options, stopping, options.once ? [](const std::string&) {} : announce);
  if (!served) return tl::unexpected(served.error());
  return 0;
}

}  // namespace tessera::darknet
