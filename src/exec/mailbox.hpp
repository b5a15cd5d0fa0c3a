// Pieces of tensors between participants: an endpoint's messages, matched to the steps that wait for them.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "base/clock.hpp"
#include "geometry/box.hpp"
#include "transport/endpoint.hpp"
#include "wire/header.hpp"

namespace tessera::exec {

// What is on its way: both ends know it from their programs, so anything else is refused.
struct Piece {
  std::uint32_t transfer = 0;
  wire::ElementType type = wire::ElementType::kFloat32;
  geometry::Box box;
};

struct MailboxUsage {
  double waiting_seconds = 0;
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
};

// One thread, the endpoint's. abort() may be called from any.
class Mailbox {
 public:
  static constexpr std::uint64_t kMostRunsAhead = 4;

  // `session` and the endpoint's own checks keep strangers' messages out. `patience`: how long one wait may last before
  // it is an error (kTimeout); failures are normally noticed much earlier, by abort() or a lost connection.
  Mailbox(transport::Endpoint& endpoint, std::uint64_t session, base::Milliseconds patience);

  // Which endpoint number each participant of the current plan has; without it, its own. Participants of a plan are
  // numbered without gaps, endpoints keep their number when others are lost.
  void set_members(std::vector<int> members) { members_ = std::move(members); }

  // Messages carry the number of the run they belong to. Starting run n drops what is left of runs before n; messages of
  // the kMostRunsAhead runs after it are kept.
  void start_run(std::uint64_t run);
  std::uint64_t run() const { return run_; }
  // Messages of this run and those after it are kept although newer ones start, until it is called without one.
  void hold(std::optional<std::uint64_t> run);

  transport::Frame allocate(std::size_t bytes) { return endpoint_.allocate(bytes); }
  // `ahead`: how many runs later the receiver will ask for it.
  [[nodiscard]] base::Status send(int participant, transport::Lane lane, const Piece& piece, transport::Frame payload,
                                  std::uint64_t ahead = 0);
  // Waits for exactly this piece from this participant, of this run or one that is held. Errors: kPeerLost, kTimeout, kAborted,
  // kProtocol.
  [[nodiscard]] base::Result<transport::Frame> receive(int participant, const Piece& piece, std::optional<std::uint64_t> run = {});

  // The current wait and every later one fail with kAborted until resume().
  void abort();
  void resume() { aborted_ = false; }
  bool aborted() const { return aborted_; }

  // Endpoint number that the last kPeerLost or kTimeout blamed, -1 before any.
  int blamed() const { return blamed_; }
  void forgive() { blamed_ = -1; }

  // Since construction; read from the mailbox's thread.
  const MailboxUsage& usage() const { return usage_; }

 private:
  using Key = std::tuple<std::uint64_t, int, std::uint32_t>;  // run, peer, transfer
  struct Arrived {
    wire::Header header;
    transport::Frame payload;
  };

  int endpoint_number(int participant) const { return members_.empty() ? participant : members_[static_cast<std::size_t>(participant)]; }
  std::uint64_t oldest() const { return held_ ? std::min(*held_, run_) : run_; }
  // Takes one message, if any comes before the deadline, into arrived_.
  base::Status take_one(base::Deadline deadline);
  void keep(transport::Incoming incoming);

  transport::Endpoint& endpoint_;
  const std::uint64_t session_;
  const base::Milliseconds patience_;
  std::vector<int> members_;
  std::uint64_t run_ = 0;
  std::optional<std::uint64_t> held_;
  std::map<Key, Arrived> arrived_;
  std::set<int> lost_;
  std::atomic<bool> aborted_ = false;
  int blamed_ = -1;
  MailboxUsage usage_;
};

}  // namespace tessera::exec
