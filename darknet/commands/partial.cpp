// darknet partial CFG WEIGHTS OUT N
#include "base/text.hpp"
#include "darknet/commands/commands.hpp"
#include "darknet/upstream/network_file.hpp"
#include "darknet/upstream/weights_file.hpp"

namespace tessera::darknet {

base::Result<int> run_partial(const Arguments& arguments) {
  const std::string out = arguments.operand(2);
  const auto count = base::to_integer(arguments.operand(3));
  TESSERA_ASSIGN(const LoadedNetwork loaded, load_network_file(arguments.operand(0), 0));
  network* net = loaded.net.get();
  if (!count || *count < 1 || *count > net->n)
    return base::error(base::ErrorCode::kInvalidArgument, "'{}' is no number of layers; {} has {}, so 1 to {}", arguments.operand(3),
                       arguments.operand(0), net->n, net->n);
  const int layers = static_cast<int>(*count);
  TESSERA_ASSIGN(const WeightsInfo loaded_info, load_weights_file(net, arguments.operand(1)));
  if (loaded_info.next_layer < layers)
    return base::error(base::ErrorCode::kInvalidArgument, "{}: has weights for the first {} layers only; {} were asked for",
                       arguments.operand(1), loaded_info.next_layer, layers);
  *net->seen = 0;  // a start for new trainings
  TESSERA_ASSIGN(const WeightsInfo saved, save_weights_file(net, out, layers));
  fmt::print("{}: the first {} layers ({} with weights) of {}\n", out, layers, saved.layers, arguments.operand(1));
  return 0;
}

}  // namespace tessera::darknet
