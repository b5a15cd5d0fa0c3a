// Convolution by oneDNN primitives; but 1 x 1 layers are products of the tensors as they lie, which are BLAS's. Otherwise
// tensors stay plain outside; a block of a tile is reordered into the layout the primitive wants, convolved, and reordered
// back while it is in the cache. Padding of a block is explicit per side, so nothing is copied to make borders. Each thread
// of the pool runs single-threaded primitives on blocks of its own; how work is cut depends on the layer, the box and the
// number of threads only.
#include <algorithm>
#include <atomic>
#include <deque>
#include <unordered_map>

#include "kernels/convolution_backends.hpp"
#include "kernels/onednn_pieces.hpp"

namespace tessera::kernels {
namespace {

using namespace onednn;

// Gradients up to this size are summed per thread over a part of the map. Larger ones are cut along the input channels, so
// that a part is about this large: what a block adds to the gradient is still in the cache then. The price is that the delta
// is converted for every part; down to this size the cache gains more.
constexpr Index kGradientFloats = 512 * 1024;
// Input channels are cut at multiples of this.
constexpr Index kChannelBlock = 16;
// In backward weights a gradient is written once per block: blocks are this many times the gradient's size.
constexpr Index kGradientShare = 4;
// Weights are packed in parallel in multiples of this many filters; no layout has larger blocks.
constexpr Index kPackedFilters = 64;

std::size_t bytes_of(const dnnl::memory::desc& desc) { return align_up(desc.get_size()); }

class OnednnConvolution final : public Convolution {
 public:
  OnednnConvolution(const ConvolutionShape& shape, base::ThreadPool& pool, Scratch& scratch, bool keep_packed)
      : Convolution(shape),
        pool_(pool),
        scratch_(scratch),
        keep_packed_(keep_packed),
        taps_(shape.kernel * shape.kernel),
        primitives_(shape) {}

  void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) override {
    if (compute.empty()) return;
    check_forward(shape_, input, output, compute);
    const Call call = plan(cut(shape_, Pass::kForward, compute, {0, shape_.in_c}, compute.c, 1, pool_.size()));
    std::byte* memory = scratch_.take(call.shared_bytes() + threads() * call.thread_bytes());
    const auto packed = pack(call, weights, compute.c, {0, shape_.in_c}, memory);
    run(call, memory + call.shared_bytes(), [&](std::size_t i, std::byte* own) {
      const Piece& piece = call.pieces[i];
      clear(output, piece.whole, piece.output);
      if (piece.output.empty()) return;
      const Prepared& ready = *call.prepared[i];
      std::byte* image = own;
      std::byte* result = image + call.image_bytes;
      std::byte* pad = result + call.output_bytes;
      const dnnl::memory source = load(plain(input, piece.image), ready.source, ready.source_group, image);
      const Plain to = plain(output, piece.output);
      const dnnl::memory target = place(to, ready.target, result);
      execute(ready.primitive, {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, packed[i]}, {DNNL_ARG_DST, target}, scratchpad(ready, pad)});
      store(target, ready.target_group, to, false);
    });
  }

  void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) override {
    if (compute.empty()) return;
    check_backward_data(shape_, delta_out, delta_in, compute);
    const Range filters = delta_out.box.c;
    const Call call = plan(cut(shape_, Pass::kBackwardData, compute, compute.c, filters, 1, pool_.size()));
    std::byte* memory = scratch_.take(call.shared_bytes() + threads() * call.thread_bytes());
    const auto packed = pack(call, weights, filters, compute.c, memory);
    run(call, memory + call.shared_bytes(), [&](std::size_t i, std::byte* own) {
      const Piece& piece = call.pieces[i];
      if (!accumulate) clear(delta_in, piece.whole, piece.image);
      if (piece.image.empty()) return;
      const Prepared& ready = *call.prepared[i];
      std::byte* image = own;
      std::byte* delta = image + call.image_bytes;
      std::byte* pad = delta + call.output_bytes;
      const dnnl::memory target = load(plain(delta_out, piece.output), ready.target, ready.target_group, delta);
      const Plain to = plain(delta_in, piece.image);
      const dnnl::memory source = accumulate ? in(ready.source, image) : place(to, ready.source, image);
      execute(ready.primitive,
              {{DNNL_ARG_DIFF_DST, target}, {DNNL_ARG_WEIGHTS, packed[i]}, {DNNL_ARG_DIFF_SRC, source}, scratchpad(ready, pad)});
      store(source, ready.source_group, to, accumulate);
    });
  }

  void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) override {
    if (delta_box.empty()) return;
    check_backward_weights(shape_, input, delta_out, delta_box);
    const GradientPlan gradients = plan_gradient(delta_box);
    const std::size_t own_bytes = gradients.thread_bytes();
    std::byte* memory = scratch_.take(threads() * own_bytes);
    if (gradients.sum_bytes == 0) {
      pool_.parallel_for(gradients.parts, [&](std::ptrdiff_t part, int thread) {
        const InThisThread guard;
        const Call& call = gradients.calls[static_cast<std::size_t>(part)];
        for (std::size_t i = 0; i < call.pieces.size(); ++i) {
          const Piece& piece = call.pieces[i];
          float* values = gradient + weight_offset(piece.output.c.begin - delta_box.c.begin, piece.image.c.begin);
          gradient_piece(call, i, input, delta_out, plain_weights(values, piece.output.c, piece.image.c),
                         memory + static_cast<std::size_t>(thread) * own_bytes);
        }
      });
      return;
    }
    // A share of the blocks and a gradient per thread, added up in order.
    const Call& call = gradients.calls.front();
    const auto blocks = static_cast<Index>(call.pieces.size()), shares = std::min<Index>(pool_.size(), blocks);
    const Index size = delta_box.c.size() * shape_.in_c * taps_;
    pool_.parallel_for(shares, [&](std::ptrdiff_t share, int) {
      const InThisThread guard;
      std::byte* own = memory + static_cast<std::size_t>(share) * own_bytes;
      auto* sum = reinterpret_cast<float*>(own + call.thread_bytes());
      std::fill(sum, sum + size, 0.f);
      const Plain to = plain_weights(sum, delta_box.c, {0, shape_.in_c});
      for (Index i = blocks * share / shares; i < blocks * (share + 1) / shares; ++i)
        gradient_piece(call, static_cast<std::size_t>(i), input, delta_out, to, own);
    });
    for (Index share = 0; share < shares; ++share) {
      const auto* __restrict sum =
          reinterpret_cast<const float*>(memory + static_cast<std::size_t>(share) * own_bytes + call.thread_bytes());
      for (Index i = 0; i < size; ++i) gradient[i] += sum[i];
    }
  }

  void weights_changed() override {
    for (Kept& kept : kept_) kept.current = false;
  }

  std::size_t scratch_bytes(const ConvolutionWork& work) override {
    std::size_t bytes = 0;
    const auto add = [&](const Call& call) { bytes = std::max(bytes, call.shared_bytes() + threads() * call.thread_bytes()); };
    const Range all_in{0, shape_.in_c}, all_out{0, shape_.out_c};
    if (!work.forward.empty()) add(plan(cut(shape_, Pass::kForward, work.forward, all_in, work.forward.c, 1, pool_.size())));
    if (!work.backward_data.empty())
      add(plan(cut(shape_, Pass::kBackwardData, work.backward_data, work.backward_data.c,
                   work.backward_filters.empty() ? all_out : work.backward_filters, 1, pool_.size())));
    if (!work.backward_weights.empty()) bytes = std::max(bytes, threads() * plan_gradient(work.backward_weights).thread_bytes());
    return bytes;
  }

  std::size_t resident_bytes() const override {
    std::size_t bytes = 0;
    for (const Kept& kept : kept_) bytes += kept.memory.bytes();
    return bytes;
  }

  std::uint64_t conversion_bytes() const override { return converted_; }

  Backend backend() const override { return Backend::kOnednn; }

 private:
  // The blocks of one call with their primitives, and the memory they need.
  struct Call {
    std::vector<Piece> pieces;
    std::vector<const Prepared*> prepared;    // null for pieces that see only padding
    std::vector<dnnl::memory::desc> layouts;  // the weight layouts in use, nearly always one
    std::size_t image_bytes = 0, output_bytes = 0, weight_bytes = 0, scratchpad_bytes = 0, packed_bytes = 0;

    std::size_t thread_bytes() const { return image_bytes + output_bytes + scratchpad_bytes + weight_bytes; }
    std::size_t shared_bytes() const { return packed_bytes; }
  };

  // backward_weights: parts of the input channels with their blocks, or blocks to be shared out.
  struct GradientPlan {
    Index parts;
    std::vector<Call> calls;
    std::size_t sum_bytes;  // of a thread's private gradient; 0 when blocks add to the gradient itself

    std::size_t thread_bytes() const {
      std::size_t bytes = 0;
      for (const Call& call : calls) bytes = std::max(bytes, call.thread_bytes());
      return bytes + sum_bytes;
    }
  };

  struct Kept {
    Range filters, channels;
    dnnl::memory::desc layout;
    Scratch memory;
    bool current;
  };

  std::size_t threads() const { return static_cast<std::size_t>(pool_.size()); }

  Call plan(std::vector<Piece> pieces) {
    const InThisThread guard;  // primitives are made for the number of threads they find
    Call call;
    call.pieces = std::move(pieces);
    for (const Piece& piece : call.pieces) {
      if (piece.image.empty()) {
        call.prepared.push_back(nullptr);
        continue;
      }
      const Prepared& ready = primitives_.convolution(piece.block);
      call.prepared.push_back(&ready);
      call.image_bytes = std::max(call.image_bytes, bytes_of(ready.source));
      call.output_bytes = std::max(call.output_bytes, bytes_of(ready.target));
      call.scratchpad_bytes = std::max(call.scratchpad_bytes, bytes_of(ready.scratchpad));
      if (piece.block.pass == Pass::kBackwardWeights) {
        call.weight_bytes = std::max(call.weight_bytes, bytes_of(ready.weights));
      } else if (std::find(call.layouts.begin(), call.layouts.end(), ready.weights) == call.layouts.end()) {
        call.layouts.push_back(ready.weights);
        if (!keep_packed_) call.packed_bytes += bytes_of(ready.weights);
      }
    }
    return call;
  }

  GradientPlan plan_gradient(const Box& box) {
    GradientPlan result{1, {}, 0};
    const Index size = box.c.size() * shape_.in_c * taps_;
    if (size > kGradientFloats) {
      const Index for_each_thread = (size / kGradientFloats + pool_.size()) / pool_.size();
      result.parts = std::clamp<Index>(shape_.in_c / kChannelBlock, 1, for_each_thread * pool_.size());
    }
    for (Index part = 0; part < result.parts; ++part) {
      const Index blocks = (shape_.in_c + kChannelBlock - 1) / kChannelBlock;
      const Range channels{blocks * part / result.parts * kChannelBlock,
                           std::min(shape_.in_c, blocks * (part + 1) / result.parts * kChannelBlock)};
      // A part's blocks are done one after the other; blocks to be shared out suit the threads.
      result.calls.push_back(
          plan(cut(shape_, Pass::kBackwardWeights, box, channels, box.c, kGradientShare, result.parts > 1 ? 1 : pool_.size())));
    }
    if (result.parts == 1 && pool_.size() > 1) result.sum_bytes = align_up(static_cast<std::size_t>(size) * sizeof(float));
    return result;
  }

  template <typename Body>
  void run(const Call& call, std::byte* memory, const Body& body) {
    pool_.parallel_for(static_cast<std::ptrdiff_t>(call.pieces.size()), [&](std::ptrdiff_t i, int thread) {
      const InThisThread guard;
      body(static_cast<std::size_t>(i), memory + static_cast<std::size_t>(thread) * call.thread_bytes());
    });
  }

  // oneDNN takes the cells it only reads as non-const pointers, too.
  static Plain plain(const ConstFloatView& view, const Box& box) {
    const Index row = view.box.x.size(), plane = row * view.box.y.size();
    return {{const_cast<float*>(&view.at(box.n.begin, box.c.begin, box.y.begin, box.x.begin)),
             {box.n.size(), box.c.size(), box.y.size(), box.x.size()},
             {plane * view.box.c.size(), plane, row}}};
  }

  // Filters and input channels of a weight array; `values` points to the first of them.
  Plain plain_weights(const float* values, Range filters, Range channels) const {
    return {{const_cast<float*>(values),
             {filters.size(), channels.size(), shape_.kernel, shape_.kernel},
             {shape_.in_c * taps_, taps_, shape_.kernel}}};
  }
  Index weight_offset(Index filter, Index channel) const { return (filter * shape_.in_c + channel) * taps_; }

  dnnl::memory in(const dnnl::memory::desc& layout, void* buffer) const { return {layout, primitives_.engine(), buffer}; }

  // Memory in `layout`: the cells themselves when they already lie so, else the buffer.
  dnnl::memory place(const Plain& cells, const dnnl::memory::desc& layout, void* buffer) const {
    return in(layout, cells.desc() == layout ? cells.data : buffer);
  }

  void execute(const dnnl::primitive& primitive, const std::unordered_map<int, dnnl::memory>& arguments) const {
    dnnl::stream stream(primitives_.engine());
    primitive.execute(stream, arguments);
    stream.wait();
  }

  void convert(const dnnl::memory& from, const dnnl::memory& to, bool add) {
    count(from.get_desc().dims(), add);
    execute(primitives_.reorder(from.get_desc(), to.get_desc(), add), {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
  }

  // `group`: of the layout, see interleaved_group(). The library's own conversions between these layouts read and write
  // one value at a time.
  dnnl::memory load(const Plain& cells, const dnnl::memory::desc& layout, Index group, void* buffer) {
    const dnnl::memory memory = place(cells, layout, buffer);
    if (memory.get_data_handle() == cells.data) return memory;
    if (group == 0) {
      convert(in(cells.desc(), cells.data), memory, false);
    } else {
      count(memory.get_desc().dims(), false);
      interleave(cells, group, static_cast<float*>(buffer));
    }
    return memory;
  }

  void store(const dnnl::memory& memory, Index group, const Plain& cells, bool add) {
    if (memory.get_data_handle() == cells.data) return;
    if (group == 0) return convert(memory, in(cells.desc(), cells.data), add);
    count(memory.get_desc().dims(), add);
    deinterleave(static_cast<const float*>(memory.get_data_handle()), group, cells, add);
  }

  // Read, written, and read again where added to.
  void count(const dnnl::memory::dims& sizes, bool add) {
    const auto values = static_cast<std::uint64_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3]);
    converted_.fetch_add(values * sizeof(float) * (add ? 3 : 2), std::memory_order_relaxed);
  }

  std::pair<const int, dnnl::memory> scratchpad(const Prepared& ready, std::byte* memory) const {
    return {DNNL_ARG_SCRATCHPAD, in(ready.scratchpad, memory)};
  }

  // Zero in the cells of `whole` that are not in `computed`: those see nothing but padding.
  static void clear(const FloatView& view, const Box& whole, const Box& computed) {
    for (const Box& box : geometry::subtract(whole, computed))
      for (Index n = box.n.begin; n < box.n.end; ++n)
        for (Index c = box.c.begin; c < box.c.end; ++c)
          for (Index y = box.y.begin; y < box.y.end; ++y) {
            float* row = &view.at(n, c, y, box.x.begin);
            std::fill(row, row + box.x.size(), 0.f);
          }
  }

  // The weights of a call in the layout of each of its pieces: packed into `memory`, or kept from an earlier call.
  std::vector<dnnl::memory> pack(const Call& call, const float* weights, Range filters, Range channels, std::byte* memory) {
    std::vector<dnnl::memory> by_layout;
    const Plain values = plain_weights(weights + weight_offset(0, channels.begin), filters, channels);
    for (const auto& layout : call.layouts) {
      if (!keep_packed_) {
        by_layout.push_back(in(layout, memory));
        pack_layout(values, by_layout.back());
        memory += bytes_of(layout);
        continue;
      }
      auto kept = std::find_if(kept_.begin(), kept_.end(),
                               [&](const Kept& k) { return k.filters == filters && k.channels == channels && k.layout == layout; });
      if (kept == kept_.end()) kept = kept_.insert(kept_.end(), Kept{filters, channels, layout, {}, false});
      by_layout.push_back(in(layout, kept->memory.take(bytes_of(layout))));
      if (!kept->current) pack_layout(values, by_layout.back());
      kept->current = true;
    }
    std::vector<dnnl::memory> by_piece;
    for (const Prepared* ready : call.prepared) {
      if (ready == nullptr) {
        by_piece.emplace_back();
        continue;
      }
      const auto found = std::find(call.layouts.begin(), call.layouts.end(), ready->weights);
      by_piece.push_back(by_layout[static_cast<std::size_t>(found - call.layouts.begin())]);
    }
    return by_piece;
  }

  // In parallel over filters where the layout can be cut so.
  void pack_layout(const Plain& values, const dnnl::memory& packed) {
    const auto parts = filter_parts(values, packed.get_desc());
    pool_.parallel_for(static_cast<std::ptrdiff_t>(parts.size()), [&](std::ptrdiff_t i, int) {
      const InThisThread guard;
      const auto& [filters, layout] = parts[static_cast<std::size_t>(i)];
      Plain some = values;
      some.data += filters.begin * some.strides[0];
      some.sizes[0] = filters.size();
      convert(in(some.desc(), some.data), in(layout, packed.get_data_handle()), false);
    });
  }

  struct FilterPart {
    Range filters;
    dnnl::memory::desc layout;
  };

  // Equal parts, one for each thread. Only one where the last block of the layout is padded, or its blocks are larger than
  // the usual ones (the library chooses blocks of 48 filters for some small maps).
  std::vector<FilterPart> filter_parts(const Plain& values, const dnnl::memory::desc& layout) const {
    const std::vector<FilterPart> whole = {{{0, values.sizes[0]}, layout}};
    const Index blocks = values.sizes[0] / kPackedFilters, parts = std::min<Index>(pool_.size(), blocks);
    if (values.sizes[0] % kPackedFilters != 0 || parts < 2) return whole;
    std::vector<FilterPart> result;
    for (Index part = 0; part < parts; ++part) {
      const Range filters{blocks * part / parts * kPackedFilters, blocks * (part + 1) / parts * kPackedFilters};
      const auto some =
          layout.submemory_desc({filters.size(), values.sizes[1], values.sizes[2], values.sizes[3]}, {filters.begin, 0, 0, 0}, true);
      if (some.is_zero()) return whole;
      result.push_back({filters, some});
    }
    return result;
  }

  void gradient_piece(const Call& call, std::size_t i, const ConstFloatView& input, const ConstFloatView& delta_out, const Plain& to,
                      std::byte* own) {
    const Piece& piece = call.pieces[i];
    if (piece.image.empty()) return;
    const Prepared& ready = *call.prepared[i];
    std::byte* image = own;
    std::byte* delta = image + call.image_bytes;
    std::byte* gradient = delta + call.output_bytes;
    std::byte* pad = gradient + call.weight_bytes;
    const dnnl::memory source = load(plain(input, piece.image), ready.source, ready.source_group, image);
    const dnnl::memory target = load(plain(delta_out, piece.output), ready.target, ready.target_group, delta);
    const dnnl::memory sum = in(ready.weights, gradient);
    execute(ready.primitive, {{DNNL_ARG_SRC, source}, {DNNL_ARG_DIFF_DST, target}, {DNNL_ARG_DIFF_WEIGHTS, sum}, scratchpad(ready, pad)});
    convert(sum, in(to.desc(), to.data), true);
  }

  base::ThreadPool& pool_;
  Scratch& scratch_;
  bool keep_packed_;
  Index taps_;
  Primitives primitives_;
  std::deque<Kept> kept_;
  std::atomic<std::uint64_t> converted_ = 0;
};

}  // namespace

bool onednn_built() { return true; }

std::string onednn_version() {
  const dnnl_version_t* version = dnnl::version();
  return fmt::format("onednn {}.{}.{} {}", version->major, version->minor, version->patch, static_cast<int>(dnnl::get_effective_cpu_isa()));
}

std::unique_ptr<Convolution> make_onednn_convolution(const ConvolutionShape& shape, base::ThreadPool& pool, Scratch& scratch,
                                                     bool keep_packed) {
  // oneDNN's own product is some 15 % faster there, but takes 6 MB for code that it makes, in every process.
  if (columns_are_input(shape) || !shape.is_dense()) return make_blas_convolution(Backend::kOnednn, shape, pool, scratch);
  return std::make_unique<OnednnConvolution>(shape, pool, scratch, keep_packed);
}

}  // namespace tessera::kernels
