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

bool lives_overlap(const Buffer& a, const Buffer& b) { return a.first_step <= b.last_step && b.first_step <= a.last_step; }

std::size_t align_up(std::size_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

}  // namespace

void plan_memory(Program& program) {
  int index = 0;
  for (const auto* steps : {&program.forward, &program.backward})
    for (const Step& step : *steps) {
      for (int buffer : {step.a, step.b, step.c}) note_use(program, buffer, index);
      ++index;
    }
  // Largest first, each at the lowest offset where nothing that lives at the same time lies.
  std::vector<std::size_t> order(program.buffers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return program.buffers[a].bytes > program.buffers[b].bytes; });
  std::vector<const Buffer*> placed;  // by ascending offset
  for (std::size_t i : order) {
    Buffer& buffer = program.buffers[i];
    if (buffer.external || buffer.first_step < 0) continue;
    std::size_t offset = 0;
    for (const Buffer* other : placed)
      if (lives_overlap(buffer, *other)) {
        if (offset + buffer.bytes <= other->offset) break;
        offset = std::max(offset, align_up(other->offset + other->bytes));
      }
    buffer.offset = offset;
    program.arena_bytes = std::max(program.arena_bytes, align_up(offset + buffer.bytes));
    placed.insert(std::upper_bound(placed.begin(), placed.end(), &buffer,
                                   [](const Buffer* a, const Buffer* b) { return a->offset < b->offset; }), &buffer);
  }
}

}  // namespace tessera::program
