// What people watch during training: a live line, and a table of devices.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "observe/device_report.hpp"

namespace tessera::observe {

struct Progress {
  std::uint64_t iteration = 0, iterations = 0;
  double images_per_second = 0;
  double seconds_left = 0;
  double loss = 0;       // average
  double best_map = -1;  // in 0..1; negative: not known
};

// "[#####-----] 50.0%  500/1000  123.4 images/s  1h02m left  loss 0.5432  best mAP 81.2%", at most `columns` wide.
std::string live_line(const Progress& progress, int columns);

// One line per device under a heading: share of the time busy and waiting, bytes sent and received per second,
// memory now and at most. `seconds` is the time the reports cover. Ends with a line end.
std::string device_table(std::span<const DeviceReport> devices, double seconds);

// "1h02m", "3m20s", "12s".
std::string duration_text(double seconds);

// "1.2 GB", "34 MB", "567 B" (powers of 1000).
std::string bytes_text(double bytes);

}  // namespace tessera::observe
