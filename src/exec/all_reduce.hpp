// The sum of an array over participants, left with everybody: reduce-scatter, then all-gather, bucket by bucket.
//
// Each participant owns one shard of a bucket, adds the parts of all contributors in participant order (so the result
// is the same on every run and every machine) and sends the sum to everybody. With N participants that all contribute,
// each sends 2·(N−1)/N times the array; one that contributes nothing sends (N−1)/N of it.
#pragma once

#include <span>
#include <vector>

#include "exec/mailbox.hpp"

namespace tessera::exec {

// `contributes[p]`: participant p has something to add; the values of others are not read. All participants call it
// with arrays of the same size, in a run of its own. After an error `values` are undefined.
[[nodiscard]] base::Status all_reduce(std::span<float> values, const std::vector<bool>& contributes, int self, Mailbox& mailbox);

}  // namespace tessera::exec
