#include <algorithm>
#include <numeric>

#include "program/compile.hpp"

namespace tessera::program {

namespace {

void note_use(Program& program, int buffer, int step) {
  if (buffer < 0) return;
  Buffer& b = program.buffers[static_cast<std::size_t>(buffer)];
  if (b.first_step < 0) b.first_step = step;
  b.last_step = step;
}

bool in_arena(const Buffer& b) { return b.storage == Storage::kArena || b.storage == Storage::kKept; }

bool lives_overlap(const Buffer& a, const Buffer& b) { return a.first_step <= b.last_step && b.first_step <= a.last_step; }

std::size_t align_up(std::size_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

// Which buffer is placed before which.
using Order = bool (*)(const Buffer&, const Buffer&);

bool larger_first(const Buffer& a, const Buffer& b) { return a.bytes > b.bytes; }
int life(const Buffer& b) { return b.last_step - b.first_step; }
bool longer_life_first(const Buffer& a, const Buffer& b) { return life(a) != life(b) ? life(a) > life(b) : larger_first(a, b); }
bool more_memory_time_first(const Buffer& a, const Buffer& b) {
  return static_cast<double>(a.bytes) * (life(a) + 1) > static_cast<double>(b.bytes) * (life(b) + 1);
}
bool earlier_first(const Buffer& a, const Buffer& b) {
  return a.first_step != b.first_step ? a.first_step < b.first_step : larger_first(a, b);
}

// Puts each buffer, in this order, at the lowest offset where nothing that lives at the same time lies; returns the
// arena's size.
std::size_t place(std::vector<Buffer>& buffers, Order before) {
  std::vector<std::size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return before(buffers[a], buffers[b]); });
  std::size_t arena_bytes = 0;
  std::vector<const Buffer*> placed;  // by ascending offset
  for (std::size_t i : order) {
    Buffer& buffer = buffers[i];
    if (!in_arena(buffer) || buffer.first_step < 0) continue;
    std::size_t offset = 0;
    for (const Buffer* other : placed)
      if (lives_overlap(buffer, *other)) {
        if (offset + buffer.bytes <= other->offset) break;
        offset = std::max(offset, align_up(other->offset + other->bytes));
      }
    buffer.offset = offset;
    arena_bytes = std::max(arena_bytes, align_up(offset + buffer.bytes));
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), &buffer, [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }),
        &buffer);
  }
  return arena_bytes;
}

}  // namespace

namespace {

// The number of steps in which tensors live.
int note_lives(Program& program) {
  int index = 0;
  for (const Phase phase : {Phase::kLoad, Phase::kForward, Phase::kBackward})
    for (const Step& step : program.steps(phase)) {
      for (int buffer : {step.a, step.b, step.c}) note_use(program, buffer, index);
      ++index;
    }
  for (Buffer& buffer : program.buffers)
    if (buffer.storage == Storage::kKept) buffer.first_step = 0, buffer.last_step = std::max(0, index - 1);
  return std::max(1, index);
}

}  // namespace

void bound_memory(Program& program) {
  std::vector<std::ptrdiff_t> change(static_cast<std::size_t>(note_lives(program)) + 1);
  for (const Buffer& buffer : program.buffers) {
    if (!in_arena(buffer) || buffer.first_step < 0) continue;
    change[static_cast<std::size_t>(buffer.first_step)] += static_cast<std::ptrdiff_t>(buffer.bytes);
    change[static_cast<std::size_t>(buffer.last_step) + 1] -= static_cast<std::ptrdiff_t>(buffer.bytes);
  }
  std::ptrdiff_t most = 0, live = 0;
  for (const std::ptrdiff_t by : change) most = std::max(most, live += by);
  program.arena_bytes = static_cast<std::size_t>(most);
}

void plan_memory(Program& program) {
  note_lives(program);
  // The best placement is a hard problem; of a few greedy ones the smallest is usually within some percent of it.
  bool first = true;
  for (Order order : {larger_first, longer_life_first, more_memory_time_first, earlier_first}) {
    std::vector<Buffer> buffers = program.buffers;
    const std::size_t bytes = place(buffers, order);
    if (!first && bytes >= program.arena_bytes) continue;
    program.buffers = std::move(buffers);
    program.arena_bytes = bytes;
    first = false;
  }
}

}  // namespace tessera::program
