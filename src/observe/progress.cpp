#include "observe/progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tessera::observe {
namespace {

std::string share(double part, double whole) { return whole > 0 ? fmt::format("{:.0f}%", 100 * part / whole) : "-"; }

}  // namespace

std::string duration_text(double seconds) {
  if (!(seconds >= 0) || seconds > 8.64e8) return "?";
  const auto whole = static_cast<std::uint64_t>(std::llround(seconds));
  if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return fmt::format("{}m{:02}s", whole / 60, whole % 60);
  return fmt::format("{}s", whole);
}

std::string bytes_text(double bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit > 0 && bytes < 9.95 ? 1 : 0, kUnits[unit]);
}

std::string live_line(const Progress& p, int columns) {
  constexpr std::size_t kBar = 24;
  const double done = p.iterations > 0 ? std::min(1.0, static_cast<double>(p.iteration) / static_cast<double>(p.iterations)) : 0;
  const auto filled = static_cast<std::size_t>(done * kBar);
  std::string line =
      fmt::format("[{}{}] {:.1f}%  {}/{}  {:.1f} images/s  {} left  loss {:.4g}", std::string(filled, '#'), std::string(kBar - filled, '-'),
                  100 * done, p.iteration, p.iterations, p.images_per_second, duration_text(p.seconds_left), p.loss);
  if (p.best_map >= 0) line += fmt::format("  best mAP {:.1f}%", 100 * p.best_map);
  if (columns > 0 && line.size() > static_cast<std::size_t>(columns)) line.resize(static_cast<std::size_t>(columns));
  return line;
}

std::string device_table(std::span<const DeviceReport> devices, double seconds) {
  std::size_t name_width = 6;
  for (const DeviceReport& device : devices) name_width = std::max(name_width, device.name.size());
  std::string table = fmt::format("{:<{}}  {:>5}  {:>7}  {:>10}  {:>10}  {:>8}  {:>8}\n", "device", name_width, "busy", "waiting", "sent/s",
                                  "received/s", "memory", "peak");
  for (const DeviceReport& d : devices) {
    if (!d.alive) {
      table += fmt::format("{:<{}}  lost\n", d.name, name_width);
      continue;
    }
    const double per_second = seconds > 0 ? 1 / seconds : 0;
    table += fmt::format("{:<{}}  {:>5}  {:>7}  {:>10}  {:>10}  {:>8}  {:>8}\n", d.name, name_width, share(d.busy_seconds, seconds),
                         share(d.waiting_seconds, seconds), bytes_text(static_cast<double>(d.sent_bytes) * per_second),
                         bytes_text(static_cast<double>(d.received_bytes) * per_second), bytes_text(static_cast<double>(d.memory_bytes)),
                         bytes_text(static_cast<double>(d.memory_peak_bytes)));
  }
  return table;
}

}  // namespace tessera::observe
