// oneDNN convolution primitives and reorders for one layer, created on first use and kept. Internal to
// convolution_onednn.cpp.
#pragma once

#include <omp.h>
#include <dnnl.hpp>

#include <array>
#include <list>
#include <map>
#include <mutex>

#include "base/check.hpp"
#include "kernels/convolution.hpp"
#include "kernels/interleave.hpp"

namespace tessera::kernels::onednn {

// oneDNN starts OpenMP threads of its own. With the calling thread's team limited to itself it runs in that thread, and
// the pool's threads are the only ones. The limit is per thread and given back.
class InThisThread {
 public:
  InThisThread() : kept_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~InThisThread() { omp_set_num_threads(kept_); }
  InThisThread(const InThisThread&) = delete;
  InThisThread& operator=(const InThisThread&) = delete;

 private:
  int kept_;
};

enum class Pass { kForward, kBackwardData, kBackwardWeights };

// Geometry of one block: a convolution whose image is the block, with its own padding at each side.
struct Block {
  Pass pass = Pass::kForward;
  Index samples = 0, in_c = 0, in_y = 0, in_x = 0, out_c = 0, out_y = 0, out_x = 0, top = 0, left = 0;

  auto operator<=>(const Block&) const = default;
};

struct Prepared {
  dnnl::primitive primitive;
  dnnl::memory::desc source, weights, target;  // in the layouts the primitive chose; source = image, target = output
  dnnl::memory::desc scratchpad;
  Index source_group = 0, target_group = 0;  // interleaved_group()
};

// Plain cells of a view, or weights: out_c, in_c, ky, kx.
struct Plain : PlainCells {
  dnnl::memory::desc desc() const {
    return {
        {sizes[0], sizes[1], sizes[2], sizes[3]}, dnnl::memory::data_type::f32, dnnl::memory::dims{strides[0], strides[1], strides[2], 1}};
  }
};

// Channels that are neighbours in a layout of cells that interleave() makes; 0 for other layouts.
inline Index interleaved_group(const dnnl::memory::desc& layout) {
  using Tag = dnnl::memory::format_tag;
  const auto sizes = layout.dims();
  const auto is = [&](Tag tag) { return layout == dnnl::memory::desc(sizes, dnnl::memory::data_type::f32, tag); };
  if (is(Tag::acdb)) return sizes[1];
  return sizes[1] % 16 == 0 && is(Tag::aBcd16b) ? 16 : 0;
}

class Primitives {
 public:
  explicit Primitives(const ConvolutionShape& shape) : shape_(shape), engine_(dnnl::engine::kind::cpu, 0) {}

  const dnnl::engine& engine() const { return engine_; }

  // The references stay valid.
  const Prepared& convolution(const Block& block) {
    const auto found = convolutions_.find(block);
    if (found != convolutions_.end()) return found->second;
    Prepared& made = convolutions_.emplace(block, create(block)).first->second;
    made.source_group = interleaved_group(made.source);
    made.target_group = interleaved_group(made.target);
    return made;
  }

  // From plain cells into a layout, or back; `add` adds to what is there.
  // Any thread may ask.
  const dnnl::reorder& reorder(const dnnl::memory::desc& from, const dnnl::memory::desc& to, bool add) {
    const std::lock_guard lock(reorder_mutex_);
    for (const Reorder& known : reorders_)
      if (known.add == add && known.from == from && known.to == to) return known.primitive;
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (add) {
      dnnl::post_ops sum;
      sum.append_sum(1);
      attributes.set_post_ops(sum);
    }
    const dnnl::reorder::primitive_desc description(engine_, from, engine_, to, attributes);
    TESSERA_CHECK(description.scratchpad_desc().get_size() == 0, "reorder wants {} bytes", description.scratchpad_desc().get_size());
    return reorders_.emplace_back(Reorder{from, to, add, dnnl::reorder(description)}).primitive;
  }

 private:
  struct Reorder {
    dnnl::memory::desc from, to;
    bool add;
    dnnl::reorder primitive;
  };

  Prepared create(const Block& b) const {
    using dnnl::algorithm;
    using dnnl::memory;
    const auto any = [](const memory::dims& sizes) { return memory::desc(sizes, memory::data_type::f32, memory::format_tag::any); };
    const Index kernel = shape_.kernel, stride = shape_.stride;
    const auto source = any({b.samples, b.in_c, b.in_y, b.in_x}), weights = any({b.out_c, b.in_c, kernel, kernel}),
               target = any({b.samples, b.out_c, b.out_y, b.out_x});
    const memory::dims strides{stride, stride}, low{b.top, b.left},
        high{(b.out_y - 1) * stride + kernel - b.in_y - b.top, (b.out_x - 1) * stride + kernel - b.in_x - b.left};
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto direct = algorithm::convolution_direct;
    const dnnl::convolution_forward::primitive_desc forward(
        {b.pass == Pass::kForward ? dnnl::prop_kind::forward_inference : dnnl::prop_kind::forward_training, direct, source, weights, target,
         strides, low, high},
        attributes, engine_);
    switch (b.pass) {
      case Pass::kForward:
        return {dnnl::convolution_forward(forward), forward.src_desc(), forward.weights_desc(), forward.dst_desc(),
                forward.scratchpad_desc()};
      case Pass::kBackwardData: {
        const dnnl::convolution_backward_data::primitive_desc d({direct, source, weights, target, strides, low, high}, attributes, engine_,
                                                                forward);
        return {dnnl::convolution_backward_data(d), d.diff_src_desc(), d.weights_desc(), d.diff_dst_desc(), d.scratchpad_desc()};
      }
      case Pass::kBackwardWeights:
        break;
    }
    const dnnl::convolution_backward_weights::primitive_desc d({direct, source, weights, target, strides, low, high}, attributes, engine_,
                                                               forward);
    return {dnnl::convolution_backward_weights(d), d.src_desc(), d.diff_weights_desc(), d.diff_dst_desc(), d.scratchpad_desc()};
  }

  ConvolutionShape shape_;
  dnnl::engine engine_;
  std::map<Block, Prepared> convolutions_;
  std::mutex reorder_mutex_;
  std::list<Reorder> reorders_;
};

}  // namespace tessera::kernels::onednn
