// All parameters and momentum as they were after some update, to go back to: what is gathered from their homes is staged in an
// unnamed temporary file, so that the one before stays whole until the next one is.
#pragma once

#include <cstdio>
#include <memory>
#include <span>

#include "exec/parameters.hpp"

namespace tessera::cluster {

class Snapshot {
 public:
  // Of `parameters` (of all filters), which hold the last whole one.
  Snapshot(const graph::Graph& graph, const exec::Parameters& parameters);

  // A new one is being gathered: forgets pieces that came before.
  [[nodiscard]] base::Status begin();
  // A piece of an array (exec::Executor::Sink). An error of the file shows in finish().
  void add(int node, program::Slot slot, const geometry::Box& box, std::span<const float> values);
  // Every element has come: they are the parameters now. kIo when the file could not be written, kProtocol when some are missing;
  // the parameters are untouched then.
  [[nodiscard]] base::Status finish();

  std::size_t bytes() const { return bytes_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::size_t offset_of(int node, program::Slot slot) const;

  const graph::Graph& graph_;
  const exec::Parameters& parameters_;
  std::vector<std::vector<std::size_t>> offsets_;  // [node][array], bytes
  std::size_t bytes_ = 0, arrived_ = 0;
  std::unique_ptr<std::FILE, Close> file_;
  bool failed_ = false;
};

}  // namespace tessera::cluster
