// The control protocol between coordinator and worker: JSON messages over transport/control.hpp, named here in one place.
//
//   coordinator                                   worker
//   hello {protocol}                      →
//                                         ←       welcome {name, cores, memory_bytes, protocol} | refuse {reason}
//   open {session, token, number, graph, backend, threads, data_bind}
//        backend: a name, or "auto": the worker's own choice
//                                         →
//                                         ←       opened {data_address}
//   connect {peers: [[number, address]]}  →
//                                         ←       connected
//   plan {key, members, graph, plan, mode, fingerprint}
//                                         →
//                                         ←       planned {key, arena_bytes}
//   run {key, pass, run}                  →       (a phase of the program: scatter, scatter_momentum, forward, backward, gather: silent;
//                                                 last_backward, with the reduction: summed {run, not_finite: a node or -1})
//   commit {run, learning_rate, momentum, decay, batch}
//                                         →       (update and share)
//   abort {}                              →
//                                         ←       aborted {}: what it has trained is lost
//   close {}                              →
//   beat {}                               ↔       every kBeatInterval, both ways; the worker's carry its usage
//                                         ←       failed {code, message, peer}: the current work cannot go on
#pragma once

#include <cstdint>

#include "base/clock.hpp"

namespace tessera::cluster {

// Changes whenever a message or a program's meaning does.
inline constexpr int kProtocol = 3;

inline constexpr base::Milliseconds kBeatInterval{500};
// A worker that is not heard for this long is lost. Together with the interval below the 3 s promised in README.
inline constexpr base::Milliseconds kWorkerSilence{2400};
// A worker gives a silent coordinator longer: dropping the session is final.
inline constexpr base::Milliseconds kCoordinatorSilence{10000};
// One answer to one command, when the worker's beats show that it lives.
inline constexpr base::Milliseconds kAnswerPatience{60000};
// Short enough for a mistake in a cluster file to show within 5 s.
inline constexpr base::Milliseconds kConnectPatience{3000};
// Until a worker that was just started on this machine listens: a small computer loads the program for seconds.
inline constexpr base::Milliseconds kLocalStartPatience{30000};
// One wait for a piece of a tensor.
inline constexpr base::Milliseconds kPiecePatience{120000};

}  // namespace tessera::cluster
