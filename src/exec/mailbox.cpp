#include "exec/mailbox.hpp"

#include <fmt/format.h>

namespace tessera::exec {

using base::ErrorCode;

namespace {

constexpr std::uint64_t kMaxPayloadBytes = std::uint64_t{1} << 30;

wire::BoxRanges ranges(const geometry::Box& box) {
  wire::BoxRanges r;
  std::size_t i = 0;
  for (const auto& axis : {box.n, box.c, box.y, box.x}) {
    r.begin[i] = static_cast<std::uint32_t>(axis.begin);
    r.end[i] = static_cast<std::uint32_t>(axis.end);
    ++i;
  }
  return r;
}

}  // namespace

Mailbox::Mailbox(transport::Endpoint& endpoint, std::uint64_t session, base::Milliseconds patience)
    : endpoint_(endpoint), session_(session), patience_(patience) {}

void Mailbox::start_run(std::uint64_t run) {
  run_ = run;
  arrived_.erase(arrived_.begin(), arrived_.lower_bound({oldest(), 0, 0}));
}

void Mailbox::hold(std::optional<std::uint64_t> run) {
  held_ = run;
  arrived_.erase(arrived_.begin(), arrived_.lower_bound({oldest(), 0, 0}));
}

base::Status Mailbox::send(int participant, transport::Lane lane, const Piece& piece, transport::Frame payload, std::uint64_t ahead) {
  const int peer = endpoint_number(participant);
  if (aborted_) return base::error(ErrorCode::kAborted, "abandoned");
  wire::Header header = wire::tensor_header(piece.type, ranges(piece.box));
  header.session = session_;
  header.run = run_ + ahead;
  header.transfer = piece.transfer;
  header.source = static_cast<std::uint16_t>(endpoint_.self());
  usage_.sent_bytes += payload.size() + wire::kHeaderBytes;
  const auto bytes = wire::encode_header(header);
  const auto start = base::Clock::now();
  auto status = endpoint_.send(peer, lane, transport::Frame::copy_of(bytes), std::move(payload), base::Deadline::after(patience_));
  usage_.waiting_seconds += base::seconds_between(start, base::Clock::now());
  if (!status && status.error().code != ErrorCode::kAborted) blamed_ = peer;
  return status;
}

base::Result<transport::Frame> Mailbox::receive(int participant, const Piece& piece, std::optional<std::uint64_t> run) {
  const int peer = endpoint_number(participant);
  const Key key{run.value_or(run_), peer, piece.transfer};
  const auto start = base::Clock::now();
  const auto deadline = base::Deadline::after(patience_);
  auto found = arrived_.find(key);
  while (found == arrived_.end()) {
    if (aborted_) return base::error(ErrorCode::kAborted, "abandoned");
    if (lost_.contains(peer)) {
      blamed_ = peer;
      return base::error(ErrorCode::kPeerLost, "device {} is gone", peer);
    }
    if (deadline.passed()) {
      blamed_ = peer;
      return base::error(ErrorCode::kTimeout, "device {} sent nothing for {} s", peer, patience_.count() / 1000);
    }
    TESSERA_TRY(take_one(deadline));
    found = arrived_.find(key);
  }
  usage_.waiting_seconds += base::seconds_between(start, base::Clock::now());
  Arrived arrived = std::move(found->second);
  arrived_.erase(found);
  if (arrived.header.type != piece.type || !(arrived.header.box == ranges(piece.box))) {
    blamed_ = peer;
    return base::error(ErrorCode::kProtocol, "device {} sent another piece than transfer {} asks for", peer, piece.transfer);
  }
  return std::move(arrived.payload);
}

base::Status Mailbox::take_one(base::Deadline deadline) {
  auto incoming = endpoint_.receive(deadline);
  if (!incoming) {
    if (incoming.error().code != ErrorCode::kPeerLost) return tl::unexpected(incoming.error());
    for (int peer : endpoint_.lost_peers()) lost_.insert(peer);
    return {};
  }
  if (*incoming) keep(std::move(**incoming));
  return {};
}

void Mailbox::keep(transport::Incoming incoming) {
  const auto header = wire::decode_header(incoming.header.bytes(), kMaxPayloadBytes);
  // A peer that sends what cannot be decoded costs itself the transfer: nobody gets it, and the wait for it ends in
  // an error that names the peer.
  if (!header || header->kind != wire::MessageKind::kTensor || !wire::check_payload(*header, incoming.payload.bytes())) return;
  if (header->session != session_ || header->run < oldest() || header->run > run_ + kMostRunsAhead) return;
  usage_.received_bytes += incoming.payload.size() + wire::kHeaderBytes;
  arrived_.insert_or_assign({header->run, incoming.peer, header->transfer}, Arrived{*header, std::move(incoming.payload)});
}

void Mailbox::abort() {
  aborted_ = true;
  endpoint_.wake();
}

}  // namespace tessera::exec
