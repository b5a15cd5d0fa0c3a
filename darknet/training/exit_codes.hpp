// What the program's exit codes mean.
#pragma once

namespace tessera::darknet {

inline constexpr int kExitFailure = 1;     // a file, a cfg, a device: the message says what to do
inline constexpr int kExitUsage = 2;       // the command line itself
inline constexpr int kExitNotANumber = 3;  // training diverged; the last good weights are kept
inline constexpr int kExitInterrupted = 130;

}  // namespace tessera::darknet
