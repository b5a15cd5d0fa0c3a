#include "transport/shared_memory.hpp"

#include "base/check.hpp"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace tessera::transport {
namespace {

using base::ErrorCode;

// The first page says what follows.
struct Title {
  std::uint64_t magic = 0x5445535345524131;
  std::uint32_t sharers = 0;
  std::uint32_t reserved = 0;
  std::uint64_t part_bytes = 0;
};

constexpr std::size_t kTitleBytes = 4096;
// Address space, not memory: what is not used is not there. Together few enough for a process of 32 bits.
constexpr std::size_t kMostPartBytes = std::size_t{64} << 20;
constexpr std::size_t kMostBytes = std::size_t{512} << 20;
// A payload lies behind its block's head.
constexpr std::size_t kHeadBytes = kFrameAlignment;

std::size_t round_up(std::size_t bytes) { return (bytes + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment; }

std::uint32_t bit(int participant) { return std::uint32_t{1} << static_cast<unsigned>(participant); }

// The pages stay what they are, and with the process that owns the part; this one has read them and holds them no longer.
void unmap_pages(std::span<std::byte> bytes) {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t before = (page - reinterpret_cast<std::uintptr_t>(bytes.data()) % page) % page;  // to the first whole page
  if (before + page > bytes.size()) return;
  madvise(bytes.data() + before, (bytes.size() - before) / page * page, MADV_DONTNEED);  // of shared memory nothing is lost
}

base::Result<std::byte*> map(int descriptor, std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (memory == MAP_FAILED) return base::error(ErrorCode::kIo, "cannot map {} bytes of shared memory: {}", bytes, std::strerror(errno));
  return static_cast<std::byte*>(memory);
}

}  // namespace

base::Result<std::shared_ptr<SharedMemory>> SharedMemory::create(int sharers) {
  TESSERA_CHECK(sharers > 0 && sharers <= kMostSharers, "sharers={}", sharers);
  const std::size_t part_bytes = std::min(kMostPartBytes, kMostBytes / static_cast<std::size_t>(sharers));
  const std::size_t bytes = kTitleBytes + part_bytes * static_cast<std::size_t>(sharers);
  const int descriptor = memfd_create("tessera", MFD_CLOEXEC);
  if (descriptor < 0) return base::error(ErrorCode::kIo, "cannot create shared memory: {}", std::strerror(errno));
  std::byte* memory = nullptr;
  if (ftruncate(descriptor, static_cast<off_t>(bytes)) == 0) {
    if (const auto mapped = map(descriptor, bytes)) memory = *mapped;
  }
  if (memory == nullptr) {
    const int failure = errno;
    ::close(descriptor);
    return base::error(ErrorCode::kIo, "cannot create {} bytes of shared memory: {}", bytes, std::strerror(failure));
  }
  new (memory) Title{.sharers = static_cast<std::uint32_t>(sharers), .part_bytes = part_bytes};
  return std::shared_ptr<SharedMemory>(new SharedMemory(descriptor, memory, sharers, part_bytes));
}

base::Result<std::shared_ptr<SharedMemory>> SharedMemory::open(int descriptor) {
  const auto refuse = [&] {
    return base::error(ErrorCode::kInvalidArgument,
                       "descriptor {} is no shared memory of a coordinator; only the process that starts a worker can give one",
                       descriptor);
  };
  struct stat status {};
  Title title{.magic = 0};
  if (fstat(descriptor, &status) != 0 || pread(descriptor, &title, sizeof title, 0) != sizeof title) return refuse();
  if (title.magic != Title{}.magic || title.sharers < 1 || title.sharers > kMostSharers) return refuse();
  if (title.part_bytes > kMostPartBytes || title.part_bytes % kFrameAlignment != 0) return refuse();
  const std::size_t bytes = kTitleBytes + static_cast<std::size_t>(title.part_bytes) * title.sharers;
  if (static_cast<std::uint64_t>(status.st_size) != bytes) return refuse();
  TESSERA_ASSIGN(std::byte* const memory, map(descriptor, bytes));
  return std::shared_ptr<SharedMemory>(
      new SharedMemory(descriptor, memory, static_cast<int>(title.sharers), static_cast<std::size_t>(title.part_bytes)));
}

SharedMemory::~SharedMemory() {
  munmap(memory_, mapped_bytes());
  ::close(descriptor_);
}

std::size_t SharedMemory::mapped_bytes() const { return kTitleBytes + part_bytes_ * static_cast<std::size_t>(sharers_); }

std::byte* SharedMemory::part(int participant) const { return memory_ + kTitleBytes + part_bytes_ * static_cast<std::size_t>(participant); }

Frame SharedMemory::frame(std::byte* payload, std::size_t bytes, int holder, bool borrowed) {
  struct Hold {
    std::shared_ptr<SharedMemory> memory;
    std::span<std::byte> payload;
    int holder;
    bool borrowed;
  };
  auto hold = std::make_unique<Hold>(Hold{shared_from_this(), {payload, bytes}, holder, borrowed});
  return {payload, bytes, hold.release(), [](void* owner) {
            const std::unique_ptr<Hold> ours(static_cast<Hold*>(owner));
            if (ours->borrowed) unmap_pages(ours->payload);
            Holders& holders = *std::launder(reinterpret_cast<Holders*>(ours->payload.data() - kHeadBytes));
            holders.fetch_and(~bit(ours->holder), std::memory_order_release);
          }};
}

base::Result<Frame> SharedMemory::borrow(int receiver, int sender, const Place& place) {
  const bool possible = sender >= 0 && sender < sharers_ && receiver >= 0 && receiver < sharers_ && place.length > 0 &&
                        place.offset >= kHeadBytes && place.offset % kFrameAlignment == 0 && place.offset < part_bytes_ &&
                        place.length <= part_bytes_ - place.offset;
  if (!possible)
    return base::error(ErrorCode::kProtocol, "{} bytes at {} are not in the memory shared with participant {}", place.length, place.offset,
                       sender);
  return frame(part(sender) + place.offset, static_cast<std::size_t>(place.length), receiver, true);
}

SharedPart::SharedPart(std::shared_ptr<SharedMemory> memory, int self)
    : memory_(std::move(memory)), self_(self), begin_(memory_->part(self)) {
  TESSERA_CHECK(self >= 0 && self < memory_->sharers(), "self={} sharers={}", self, memory_->sharers());
}

SharedMemory::Holders& SharedPart::holders(const Block& block) const {
  return *std::launder(reinterpret_cast<SharedMemory::Holders*>(begin_ + block.offset));
}

// The first gap that is large enough: what is used stays low, and so does the number of pages that were ever touched.
std::optional<Frame> SharedPart::allocate(std::size_t bytes) {
  if (bytes == 0 || bytes > memory_->part_bytes()) return std::nullopt;
  std::erase_if(blocks_, [&](const Block& block) { return holders(block).load(std::memory_order_acquire) == 0; });
  Block fresh{0, kHeadBytes + round_up(bytes)};
  auto next = blocks_.begin();
  for (; next != blocks_.end() && fresh.offset + fresh.bytes > next->offset; ++next) fresh.offset = next->offset + next->bytes;
  if (fresh.offset + fresh.bytes > memory_->part_bytes()) return std::nullopt;
  blocks_.insert(next, fresh);
  new (begin_ + fresh.offset) SharedMemory::Holders(bit(self_));
  return memory_->frame(begin_ + fresh.offset + kHeadBytes, bytes, self_, false);
}

std::optional<Place> SharedPart::lend(const Frame& frame, int peer) {
  const std::byte* const data = frame.data();
  if (frame.empty() || data < begin_ || data >= begin_ + memory_->part_bytes()) return std::nullopt;
  if (peer < 0 || peer >= memory_->sharers() || peer == self_) return std::nullopt;
  const auto offset = static_cast<std::size_t>(data - begin_) - kHeadBytes;
  const auto block = std::lower_bound(blocks_.begin(), blocks_.end(), offset,
                                      [](const Block& candidate, std::size_t at) { return candidate.offset < at; });
  TESSERA_CHECK(block != blocks_.end() && block->offset == offset, "offset={}", offset);
  if (holders(*block).fetch_or(bit(peer), std::memory_order_release) & bit(peer)) return std::nullopt;
  return Place{offset + kHeadBytes, frame.size()};
}

void SharedPart::forget(int peer) {
  if (peer < 0 || peer >= memory_->sharers()) return;
  for (const Block& block : blocks_) holders(block).fetch_and(~bit(peer), std::memory_order_relaxed);
}

}  // namespace tessera::transport
