// darknet-worker: `darknet worker` as a program of its own, which loads in a moment and holds little besides its tensors.
#include <fmt/format.h>

#include <exception>
#include <string>
#include <vector>

#include "base/heap.hpp"
#include "base/output.hpp"
#include "darknet/commands/blas_start.hpp"
#include "darknet/commands/run_command.hpp"

namespace {

using namespace tessera;
using namespace tessera::darknet;

// Takes the same command line as darknet, where the word `worker` may stand between options; it may be left out, too.
int run(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  auto arguments = parse_arguments(argv[0], words, all_options());
  if (!arguments) return print_error(arguments.error().message, kExitUsage);
  const Command command = worker_command(serve_as_worker);
  if (!arguments->positional.empty() && arguments->positional[0] == command.words) arguments->command_words = 1;
  return run_command(command, *arguments);
}

}  // namespace

int main(int argc, char** argv) {
  tessera::darknet::start_with_best_blas(argv);
  tessera::base::keep_output_from_failing();
  tessera::base::return_freed_memory(4 * tessera::base::kMebibyte);  // most messages are smaller
  try {
    return run(argc, argv);
  } catch (const std::exception& failure) {
    return print_error(fmt::format("internal error: {}", failure.what()), kExitFailure);
  }
}
