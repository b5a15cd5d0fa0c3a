// The control protocol between coordinator and worker: JSON messages over transport/control.hpp, named here in one place.
//
//   coordinator                                   worker
//   hello {protocol}                      →
//                                         ←       welcome {name, cores, memory_bytes, protocol} | refuse {reason}
//   open {session, token, number, graph, parameters_hash, parameters_bytes, backend, threads, data_bind}
//        backend: a name, or "auto": the worker's own choice
//                                         →
//                                         ←       opened {data_address, has_parameters}
//   parameters {offset} + blob, repeated  →       (only when it does not have them)
//                                         ←       parameters_taken {offset}, each; parameters_loaded {hash}, at the end
//   connect {peers: [[number, address]]}  →
//                                         ←       connected
//   plan {key, members, graph, plan, mode, fingerprint}
//                                         →
//                                         ←       planned {key, arena_bytes}
//   momentum {offset} + blob, repeated    →       (of its chunks; only after a training plan that divides them otherwise)
//                                         ←       momentum_taken {offset}, each
//   run {key, pass, run}                  →       (forward, backward: silent; last_backward: summed {run})
//   commit {run, learning_rate, momentum, decay, batch}
//                                         →
//   abort {}                              →
//                                         ←       aborted {complete}: false when it lacks weights, or they are a mixture of two updates
//   close {}                              →
//   beat {}                               ↔       every kBeatInterval, both ways; the worker's carry its usage
//                                         ←       failed {code, message, peer}: the current work cannot go on
#pragma once

#include <cstdint>

#include "base/clock.hpp"

namespace tessera::cluster {

// Changes whenever a message or a program's meaning does.
inline constexpr int kProtocol = 2;

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
// Pieces in which parameters and momentum travel, small enough for beats to pass between them.
inline constexpr std::size_t kParameterPieceBytes = std::size_t{1} << 20;
inline constexpr std::size_t kParameterPiecesAhead = 4;

}  // namespace tessera::cluster
