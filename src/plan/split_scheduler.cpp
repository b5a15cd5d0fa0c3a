#include "plan/split_scheduler.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>

namespace tessera::plan {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr int kMostSteps = 100;         // of the alternation, which ends much sooner
constexpr double kMostDivisions = 2e6;  // devices x batch^2 up to which dividing is exact
constexpr int kMostHalvings = 200;      // of an interval of doubles
constexpr double kNothing = 1e-12;      // relative improvement that is rounding

double batch_sum(std::span<const SplitDevice> devices) {
  double sum = 0;
  for (const SplitDevice& device : devices) sum += device.batch;
  return sum;
}

// A device at a cut: T = fixed + bytes / share, with at most `link` as share.
struct Option {
  int cut = 0;
  double fixed = 0, bytes = 0;
};

struct Choices {
  std::vector<Option> options;  // the feasible ones
  double link = 0;

  double seconds(const Option& option, double share) const {
    const double rate = std::min(share, link);
    return option.fixed + (option.bytes > 0 ? option.bytes / rate : 0);
  }
  // Bandwidth needed to be done in `target`.
  double need(const Option& option, double target) const {
    if (option.bytes <= 0 && option.fixed <= target) return 0;
    if (!(option.fixed < target)) return kNever;
    const double rate = option.bytes / (target - option.fixed);
    if (rate <= link) return rate;
    return kNever;
  }
  const Option& least_needed(double target) const {
    return *std::min_element(options.begin(), options.end(),
                             [&](const Option& a, const Option& b) { return need(a, target) < need(b, target); });
  }
  double need(double target) const { return need(least_needed(target), target); }
  const Option& quickest(double share) const {
    return *std::min_element(options.begin(), options.end(),
                             [&](const Option& a, const Option& b) { return seconds(a, share) < seconds(b, share); });
  }
};

Option option_at(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device, double samples, int cut) {
  const SplitTimes t = split_times(network, setting, device, static_cast<int>(samples), cut, 1);
  return {cut, t.computation + t.server, t.upload + t.download};
}

Choices choices_of(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device, double samples) {
  Choices choices;
  choices.link = device.link > 0 ? std::min(device.link, setting.bandwidth) : setting.bandwidth;
  for (int cut = 0; cut < static_cast<int>(network.cuts.size()); ++cut)
    if (is_feasible(network, setting, device, cut)) choices.options.push_back(option_at(network, setting, device, samples, cut));
  return choices;
}

// Why a device has no cut, with what it would take.
base::Status no_cut(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device) {
  double least = kNever;
  for (const SplitCut& cut : network.cuts)
    if (cut.allowed && cut.depth >= setting.least_depth) least = std::min(least, cut.memory_bytes + cut.sample_memory_bytes * device.batch);
  if (least == kNever)
    return base::error(base::ErrorCode::kInvalidArgument, "device {}: no boundary of the network lies behind {} layers; ask for fewer",
                       device.name, setting.least_depth);
  return base::error(
      base::ErrorCode::kOutOfMemory,
      "device {}: no cut fits into its {:.1f} MB; the least takes {:.1f} MB for a batch of {}: give it a smaller batch, or leave it out",
      device.name, device.memory / 1e6, least / 1e6, device.batch);
}

base::Result<std::vector<Choices>> all_choices(const SplitNetwork& network, const SplitSetting& setting,
                                               std::span<const SplitDevice> devices) {
  if (devices.empty()) return base::error(base::ErrorCode::kInvalidArgument, "there is no device to split with");
  const double samples = batch_sum(devices);
  std::vector<Choices> all;
  for (const SplitDevice& device : devices) {
    all.push_back(choices_of(network, setting, device, samples));
    if (all.back().options.empty()) TESSERA_TRY(no_cut(network, setting, device));
  }
  return all;
}

// The least time for which `reachable`, which stays true once it is; `low` is not above it.
template <typename Reachable>
double least_time(double low, const Reachable& reachable) {
  if (reachable(low)) return low;
  double high = std::max(low, 1e-9);
  while (!reachable(high)) {
    low = high;
    high *= 2;
    if (!std::isfinite(high)) return kNever;
  }
  for (int i = 0; i < kMostHalvings; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (reachable(middle) ? high : low) = middle;
  }
  return high;
}

SplitAssignment share(const std::vector<Choices>& all, const std::vector<Option>& chosen, double bandwidth) {
  double low = 0;
  for (std::size_t i = 0; i < all.size(); ++i) low = std::max(low, all[i].seconds(chosen[i], kNever));
  SplitAssignment assignment;
  assignment.seconds = least_time(low, [&](double target) {
    double sum = 0;
    for (std::size_t i = 0; i < all.size(); ++i) sum += all[i].need(chosen[i], target);
    return sum <= bandwidth;
  });
  for (std::size_t i = 0; i < all.size(); ++i) {
    assignment.cuts.push_back(chosen[i].cut);
    assignment.shares.push_back(std::min(all[i].need(chosen[i], assignment.seconds), all[i].link));
  }
  return assignment;
}

SplitAssignment alternate_from(const std::vector<Choices>& all, SplitAssignment now, std::vector<Option> chosen, double bandwidth) {
  now.history = {now.seconds};
  for (int step = 0; step < kMostSteps; ++step) {
    std::vector<Option> next = chosen;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Option& best = all[i].quickest(now.shares[i]);
      if (all[i].seconds(best, now.shares[i]) < all[i].seconds(chosen[i], now.shares[i]) * (1 - kNothing)) next[i] = best;
    }
    SplitAssignment better = share(all, next, bandwidth);
    if (!(better.seconds < now.seconds * (1 - kNothing))) break;
    better.history = std::move(now.history);
    better.history.push_back(better.seconds);
    now = std::move(better);
    chosen = std::move(next);
  }
  return now;
}

// Bandwidth that a device needs for a batch.
using Need = std::function<double(std::size_t, int)>;

// Batches that sum to `total`, one at least, with the least bandwidth in all; nothing when that is more than there is.
std::vector<int> divide_exactly(const Need& need, std::size_t devices, int total, double bandwidth) {
  const std::size_t width = static_cast<std::size_t>(total) + 1;
  std::vector<double> least(width, kNever);  // of the devices so far, by their samples
  least[0] = 0;
  std::vector<std::vector<int>> taken(devices, std::vector<int>(width, 0));
  for (std::size_t i = 0; i < devices; ++i) {
    std::vector<double> next(width, kNever);
    for (int batch = 1; batch <= total; ++batch) {
      const double more = need(i, batch);
      if (more > bandwidth) break;  // a larger batch needs no less
      for (std::size_t sum = static_cast<std::size_t>(batch); sum < width; ++sum)
        if (const double all = least[sum - static_cast<std::size_t>(batch)] + more; all < next[sum]) {
          next[sum] = all;
          taken[i][sum] = batch;
        }
    }
    least = std::move(next);
  }
  if (!(least.back() <= bandwidth)) return {};
  std::vector<int> batches(devices);
  std::size_t sum = width - 1;
  for (std::size_t i = devices; i-- > 0; sum -= static_cast<std::size_t>(batches[i])) batches[i] = taken[i][sum];
  return batches;
}

// The same, sample by sample to the device that needs least more for it.
std::vector<int> divide_greedily(const Need& need, std::size_t devices, int total, double bandwidth) {
  struct Next {
    double more = 0, then = 0;
    std::size_t device = 0;
    bool operator<(const Next& other) const { return more > other.more || (more == other.more && device > other.device); }
  };
  std::vector<int> batches(devices, 1);
  std::priority_queue<Next> queue;
  const auto offer = [&](std::size_t i, double now) {
    if (const double then = need(i, batches[i] + 1); then < kNever) queue.push({then - now, then, i});
  };
  double sum = 0;
  for (std::size_t i = 0; i < devices; ++i) {
    const double now = need(i, 1);
    if (!((sum += now) <= bandwidth)) return {};
    offer(i, now);
  }
  for (int left = total - static_cast<int>(devices); left > 0; --left) {
    if (queue.empty()) return {};
    const Next best = queue.top();
    queue.pop();
    if (!((sum += best.more) <= bandwidth)) return {};
    ++batches[best.device];
    offer(best.device, best.then);
  }
  return batches;
}

}  // namespace

SplitTimes split_times(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device, int samples, int cut,
                       double share) {
  const SplitCut& at = network.cuts[static_cast<std::size_t>(cut)];
  const double batch = device.batch, activations = batch * at.activation_bytes;
  const double parameters = at.parameter_bytes / setting.sync_every, rate = share * device.efficiency;
  SplitTimes times;
  times.computation = batch * at.work / device.speed;
  times.server = batch * (network.work - at.work) / (setting.server_speed * batch / samples);
  times.upload = (activations + batch * setting.label_bytes + parameters) / rate;
  times.download = (activations + parameters) / rate;
  return times;
}

bool is_feasible(const SplitNetwork& network, const SplitSetting& setting, const SplitDevice& device, int cut) {
  const SplitCut& at = network.cuts[static_cast<std::size_t>(cut)];
  return at.allowed && at.depth >= setting.least_depth &&
         (device.memory <= 0 || at.memory_bytes + at.sample_memory_bytes * device.batch <= device.memory);
}

SplitAssignment share_bandwidth(const SplitNetwork& network, const SplitSetting& setting, std::span<const SplitDevice> devices,
                                std::vector<int> cuts) {
  const double samples = batch_sum(devices);
  std::vector<Choices> all;
  std::vector<Option> chosen;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    all.push_back(choices_of(network, setting, devices[i], samples));
    chosen.push_back(option_at(network, setting, devices[i], samples, cuts[i]));
  }
  return share(all, chosen, setting.bandwidth);
}

base::Result<SplitAssignment> alternate(const SplitNetwork& network, const SplitSetting& setting, std::span<const SplitDevice> devices) {
  TESSERA_ASSIGN(const auto all, all_choices(network, setting, devices));
  std::vector<Option> chosen;
  for (const Choices& choices : all) chosen.push_back(choices.quickest(setting.bandwidth / static_cast<double>(all.size())));
  SplitAssignment first = share(all, chosen, setting.bandwidth);
  return alternate_from(all, std::move(first), std::move(chosen), setting.bandwidth);
}

base::Result<SplitAssignment> schedule_split(const SplitNetwork& network, const SplitSetting& setting,
                                             std::span<const SplitDevice> devices) {
  TESSERA_ASSIGN(const auto all, all_choices(network, setting, devices));
  const double seconds = least_time(0, [&](double target) {
    double sum = 0;
    for (const Choices& choices : all)
      if ((sum += choices.need(target)) > setting.bandwidth) return false;
    return true;
  });
  std::vector<Option> chosen;
  for (const Choices& choices : all) chosen.push_back(choices.least_needed(seconds));
  return share(all, chosen, setting.bandwidth);
}

base::Result<SplitAssignment> schedule_batches(const SplitNetwork& network, const SplitSetting& setting, std::vector<SplitDevice>& devices,
                                               int global_batch) {
  if (devices.empty() || global_batch < static_cast<int>(devices.size()))
    return base::error(base::ErrorCode::kInvalidArgument,
                       "a batch of {} does not give each of {} devices a sample; raise batch or leave devices out", global_batch,
                       devices.size());
  for (SplitDevice& device : devices) device.batch = 1;
  TESSERA_TRY(all_choices(network, setting, devices));
  const double size = static_cast<double>(devices.size()) * global_batch * global_batch;
  std::vector<int> batches;
  const auto reachable = [&](double target) {
    const Need need = [&](std::size_t i, int batch) {
      SplitDevice device = devices[i];
      device.batch = batch;
      const Choices choices = choices_of(network, setting, device, global_batch);
      return choices.options.empty() ? kNever : choices.need(target);
    };
    const auto divide = size <= kMostDivisions ? divide_exactly : divide_greedily;
    batches = divide(need, devices.size(), global_batch, setting.bandwidth);
    return !batches.empty();
  };
  const double seconds = least_time(0, reachable);
  if (seconds == kNever || !reachable(seconds))
    return base::error(base::ErrorCode::kOutOfMemory, "the devices' memory together does not hold a batch of {}; use a smaller one",
                       global_batch);
  for (std::size_t i = 0; i < devices.size(); ++i) devices[i].batch = batches[i];
  return schedule_split(network, setting, devices);
}

}  // namespace tessera::plan
