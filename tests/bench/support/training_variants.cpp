#include "tests/bench/support/training_variants.hpp"

#include <algorithm>
#include <filesystem>

#include "tests/bench/support/pictures.hpp"

namespace tessera::bench {
namespace {

namespace fs = std::filesystem;

class Adder {
 public:
  Adder(NetworkReport& report, const Network& network, const TrainingPrograms& programs, const TrainingSetup& setup)
      : report_(report), network_(network), programs_(programs), setup_(setup) {}

  base::Result<Roles> run() {
    const bool all = network_.subdivisions == 1;
    if (all) TESSERA_TRY(add_stock());
    TESSERA_TRY(add_ours());
    TESSERA_TRY(add_workers());
    if (!all) return roles_;
    TESSERA_TRY(add_torch());
    TESSERA_TRY(add_floor());
    return roles_;
  }

 private:
  std::string path(const char* extension) const {
    return fmt::format("{}/variant{}.{}", setup_.folder, report_.variants.size(), extension);
  }

  // The next variant's cfg, written; `distributed` empty: without that section.
  base::Result<std::string> write_cfg(int timed, const Options& distributed) {
    TESSERA_ASSIGN(cfg::CfgFile file, plain_cfg(setup_.cfg_folder, network_, kWarmup + timed));
    if (!distributed.empty()) file = distributed_cfg(std::move(file), distributed);
    TESSERA_TRY(write_text(path("cfg"), cfg_text(file)));
    return path("cfg");
  }

  void add(const std::string& name, int threads, int timed, std::vector<std::string> arguments) {
    Command command{std::move(arguments), {{"OMP_NUM_THREADS", fmt::to_string(setup_.threads)}}, setup_.folder, "", path("log")};
    command.timed = timed;
    report_.variants.push_back({name, threads, std::move(command), "", {}});
  }

  void add_absent(const std::string& name, int threads, const std::string& why) {
    report_.variants.push_back({name, threads, {}, why, {}});
  }

  base::Status add_stock() {
    constexpr int kTimed = 1;  // its iterations are long
    for (const auto& [name, program] : {std::pair{"stock -Ofast", programs_.stock_ofast}, {"stock -O2", programs_.stock_o2}}) {
      TESSERA_ASSIGN(const std::string cfg, write_cfg(kTimed, {}));
      add(name, setup_.threads, kTimed, {program, "detector", "train", setup_.data, cfg});
      roles_.stock.push_back(name);
    }
    return {};
  }

  base::Status add_trained_by_us(const std::string& name, int threads, const Options& distributed) {
    TESSERA_ASSIGN(const std::string cfg, write_cfg(setup_.iterations, distributed));
    add(name, threads, setup_.iterations, {programs_.ours, "detector", "train", setup_.data, cfg, "-dont_show"});
    return {};
  }

  base::Status add_ours() {
    const auto built = kernels::built_backends();
    for (const auto& [backend, role] : {std::pair{kernels::Backend::kOnednn, &roles_.onednn}, {kernels::Backend::kBlas, &roles_.blas}}) {
      const std::string name(kernels::to_string(backend));
      if (std::find(built.begin(), built.end(), backend) == built.end()) {
        add_absent(name, setup_.threads, "not built here");
        continue;
      }
      *role = name;
      TESSERA_TRY(add_trained_by_us(name, setup_.threads, one_process(name, setup_.threads)));
    }
    roles_.fastest = roles_.onednn.empty() ? roles_.blas : roles_.onednn;
    return {};
  }

  static Options one_process(const std::string& backend, int threads) {
    return {{"workers", "none"}, {"backend", backend}, {"threads", fmt::to_string(threads)}};
  }

  base::Status add_workers() {
    const int workers = network_.workers, each = std::max(1, setup_.threads / workers), all = each * workers;
    roles_.as_many_threads = roles_.fastest;
    if (all != setup_.threads) {
      report_.notes.push_back(
          fmt::format("{} threads cannot be shared evenly by {} workers: each has {}, {} in all", setup_.threads, workers, each, all));
      roles_.as_many_threads = fmt::format("{}, {} threads", roles_.fastest, all);
      TESSERA_TRY(add_trained_by_us(roles_.as_many_threads, all, one_process(roles_.fastest, all)));
    }
    Options distributed{{"workers", fmt::format("local:{}", workers)}, {"backend", roles_.fastest}, {"threads", fmt::to_string(each)}};
    roles_.workers = fmt::format("{}, {} workers", roles_.fastest, workers);
    TESSERA_TRY(add_trained_by_us(roles_.workers, all, distributed));
    distributed.push_back({"recompute", "on"});
    const std::string recompute = roles_.workers + ", recompute";
    TESSERA_ASSIGN(cfg::CfgFile plain, plain_cfg(setup_.cfg_folder, network_, 1));
    plain.path = network_.cfg;  // for the message
    if (const auto accepted = cfg::check_cfg(distributed_cfg(plain, distributed)); !accepted) {
      add_absent(recompute, all, "refused: " + accepted.error().message);
      return {};
    }
    roles_.recompute = recompute;
    return add_trained_by_us(recompute, all, distributed);
  }

  base::Status add_torch() {
    const std::pair<const char*, const char*> layouts[] = {{"PyTorch", "contiguous"}, {"PyTorch, channels last", "channels_last"}};
    const Command probe{{programs_.python, "-c", "import torch; print(torch.__version__)"}, {}, setup_.folder, "", path("log")};
    const bool there = run_to_end(probe).has_value();
    if (there) report_.notes.push_back(fmt::format("PyTorch is {} of {}", last_line(probe.log), programs_.python));
    for (const auto& [name, layout] : layouts) {
      if (!there) {
        add_absent(name, setup_.threads, "python3-torch not installed");
        continue;
      }
      TESSERA_ASSIGN(const std::string cfg, write_cfg(setup_.iterations, {}));
      add(name, setup_.threads, setup_.iterations,
          {programs_.python, TESSERA_SOURCE_ROOT "/tests/bench/pytorch_training.py", cfg, fmt::to_string(setup_.threads),
           fmt::to_string(kWarmup + setup_.iterations), layout});
      roles_.torch.push_back(name);
    }
    return {};
  }

  base::Status add_floor() {
    const std::pair<const char*, const char*> kinds[] = {
        {"oneDNN's convolutions alone", "best"}, {"oneDNN's alone, direct", "direct"}, {"oneDNN's alone, channels last", "channels_last"}};
    const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "floor_onednn";
    for (const auto& [name, kind] : kinds) {
      if (!fs::exists(program)) {
        add_absent(name, setup_.threads, "oneDNN is not built in here");
        continue;
      }
      TESSERA_ASSIGN(const std::string cfg, write_cfg(setup_.iterations, {}));
      add(name, setup_.threads, setup_.iterations, {program.string(), cfg, fmt::to_string(kWarmup + setup_.iterations), kind});
      if (roles_.floor.empty())
        roles_.floor = name;
      else
        roles_.exact_floors.push_back(name);
    }
    return {};
  }

  NetworkReport& report_;
  const Network& network_;
  const TrainingPrograms& programs_;
  const TrainingSetup& setup_;
  Roles roles_;
};

}  // namespace

base::Result<Roles> add_training_variants(NetworkReport& report, const Network& network, const TrainingPrograms& programs,
                                          const TrainingSetup& setup) {
  return Adder(report, network, programs, setup).run();
}

}  // namespace tessera::bench
