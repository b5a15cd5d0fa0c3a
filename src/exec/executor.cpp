#include "exec/executor.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.hpp"
#include "kernels/elementwise.hpp"
#include "kernels/half.hpp"
#include "kernels/pool.hpp"
#include "program/work.hpp"

namespace tessera::exec {

using base::ErrorCode;
using geometry::Box;
using geometry::FloatView;
using graph::LayerKind;
using program::Op;
using program::Slot;
using program::Step;
using transport::Frame;
using transport::Lane;

namespace {

constexpr geometry::Index kMomentFields = sizeof(kernels::ChannelMoments) / sizeof(double);
constexpr geometry::Index kSumFields = sizeof(kernels::ChannelSums) / sizeof(double);

std::size_t at(int i) { return static_cast<std::size_t>(i); }

bool is_transfer(Op op) { return program::is_send(op) || program::is_receive(op); }

bool is_backward(Op op) { return op >= Op::kConvolutionData; }

// A box of bytes (winners) to or from contiguous memory, row by row.
template <typename Copy>
void for_each_row(const Box& box, Copy copy) {
  for (auto n = box.n.begin; n < box.n.end; ++n)
    for (auto c = box.c.begin; c < box.c.end; ++c)
      for (auto y = box.y.begin; y < box.y.end; ++y) copy(n, c, y);
}

kernels::ShortcutShape shortcut_shape(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  return {graph[layer.inputs[1]].out, layer.out, layer.alpha, layer.beta};
}

kernels::PoolShape pool_shape(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  const auto& in = graph[layer.inputs[0]].out;
  return {in.y, in.x, layer.kernel, layer.stride, layer.pad};
}

kernels::ReorgShape reorg_shape(const graph::Graph& graph, int node) {
  return {graph[graph[node].inputs[0]].out, graph[node].stride, graph[node].reverse};
}

kernels::ConvolutionShape convolution_shape(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  const auto& in = graph[layer.inputs[0]].out;
  return {in.c, in.y, in.x, layer.out.c, layer.kernel, layer.stride, layer.pad};
}

geometry::Index route_offset(const graph::Graph& graph, int node, int input) {
  geometry::Index offset = 0;
  for (int i = 0; i < input; ++i) offset += graph[graph[node].inputs[at(i)]].out.c;
  return offset;
}

}  // namespace

std::vector<kernels::ConvolutionShape> convolution_shapes(const graph::Graph& graph) {
  std::vector<kernels::ConvolutionShape> shapes;
  for (int node = 0; node < graph.size(); ++node)
    if (graph[node].trainable()) shapes.push_back(convolution_shape(graph, node));
  return shapes;
}

Executor::Executor(const graph::Graph& graph, const Parameters& parameters, kernels::Backend backend, base::ThreadPool& pool,
                   bool inference)
    : graph_(graph),
      parameters_(parameters),
      backend_(backend),
      inference_(inference),
      pool_(pool),
      gradients_(inference ? graph::Graph{} : graph),
      convolutions_(graph.layers.size()),
      norms_(graph.layers.size()) {
  remember();
}

base::Status Executor::load(const graph::Graph& graph, std::shared_ptr<const program::Program> program, program::Mode mode, int self,
                            int participants, geometry::Index batch) {
  TESSERA_CHECK(!inference_ || mode == program::Mode::kTest, "training on an executor for inference");
  TESSERA_CHECK(graph.size() == graph_.size(), "{} nodes, {} before", graph.size(), graph_.size());
  TESSERA_TRY(load_convolutions(*program, graph));
  activations_.clear();
  for (int node = 0; node < graph.size(); ++node) {
    TESSERA_ASSIGN(const auto activation, kernels::activation_from_string(graph[node].activation));
    activations_.push_back(activation);
    if (!graph[node].batch_normalize) continue;
    const auto channels = at(static_cast<int>(graph[node].out.c)), parts = channels * at(participants);
    Norm& n = norm(node);
    n.mean.resize(channels), n.variance.resize(channels), n.total.resize(channels);
    n.moments.assign(parts, {}), n.sums.assign(parts, {});
  }
  if (program->arena_bytes > arena_bytes_ || program->arena_bytes < arena_bytes_ / 2) {
    arena_.reset();  // before the new one is made, so that both are never held
    arena_bytes_ = 0;
    arena_.reset(new (std::align_val_t{program::kBufferAlignment}, std::nothrow) std::byte[program->arena_bytes + 1]);
    if (!arena_)
      return base::error(ErrorCode::kOutOfMemory,
                         "no {} MB for tensors; use more workers, a smaller batch (more subdivisions) or a smaller image",
                         program->arena_bytes >> 20);
    arena_bytes_ = program->arena_bytes;
  }
  gradients_.forget_places();
  for (int node = 0; node < graph.size() && mode == program::Mode::kTrain; ++node)
    if (graph[node].trainable()) gradients_.set_window(node, program->gradient_windows[at(node)]);
  for (const auto& buffer : program->buffers)
    if (buffer.slot == Slot::kGradient)
      gradients_.place_summed(buffer.node, {reinterpret_cast<float*>(arena_.get() + buffer.offset), buffer.bytes / sizeof(float)});
  if (mode == program::Mode::kTrain && participants == 1) gradients_.accumulate_in(graph, parameters_);
  if (mode == program::Mode::kTrain && participants > 1) shard_.assign(program->sharding, self);
  graph_ = graph;
  program_ = std::move(program);
  mode_ = mode;
  self_ = self;
  participants_ = participants;
  batch_ = batch;
  external_.clear();
  return {};
}

base::Status Executor::load_convolutions(const program::Program& program, const graph::Graph& graph) {
  for (int node = 0; node < graph.size(); ++node) {
    const auto& layer = graph[node];
    if (!layer.trainable()) continue;
    const auto shape = convolution_shape(graph, node);
    auto& convolution = convolutions_[at(node)];
    if (!convolution || !(convolution->shape() == shape)) {
      TESSERA_ASSIGN(convolution, kernels::make_convolution(backend_, shape, pool_, scratch_, inference_));
    }
  }
  for (const auto* steps : {&program.forward, &program.backward})
    for (const Step& step : *steps) {
      kernels::ConvolutionWork work;
      if (step.op == Op::kConvolution)
        work.forward = step.box;
      else if (step.op == Op::kConvolutionData)
        work.backward_data = step.box;
      else if (step.op == Op::kConvolutionWeights)
        work.backward_weights = step.box;
      else
        continue;
      scratch_.reserve(convolutions_[at(step.node)]->scratch_bytes(work));
    }
  return {};
}

void Executor::release() {
  program_.reset();
  arena_.reset();
  arena_bytes_ = 0;
  for (auto& convolution : convolutions_) convolution.reset();
  scratch_ = {};
}

void Executor::bind(int node, Slot slot, float* data) { external_[{node, slot}] = data; }

base::Status Executor::forward(Mailbox& mailbox, bool inputs_are_sent) { return run(program_->forward, mailbox, {inputs_are_sent, false}); }

base::Status Executor::backward(Mailbox& mailbox, bool last) { return run(program_->backward, mailbox, {false, last}); }

bool Executor::sends_input(const Step& step) const {
  return step.op == Op::kSend && graph_[step.node].kind == LayerKind::kInput && program_->buffers[at(step.a)].slot == Slot::kStored;
}

base::Status Executor::send_inputs(Mailbox& mailbox, std::uint64_t ahead) {
  for (const Step& step : program_->forward)
    if (sends_input(step)) TESSERA_TRY(send({&step, 1}, mailbox, ahead));
  return {};
}

void Executor::update(const OptimizerStep& step) {
  if (self_ == 0) {
    gradients_.apply(graph_, parameters_, step, pool_);
  } else {
    gradients_.apply_norm(graph_, parameters_, step, pool_);
    shard_.apply(graph_, parameters_, step, pool_);
  }
  weights_changed();
  remember();
}

base::Status Executor::share_update(Mailbox& mailbox) {
  const auto status = exchange_updates(graph_, parameters_, *program_->sharding, self_, participants_, mailbox, pool_);
  weights_changed();
  return status;
}

void Executor::weights_changed() {
  for (auto& convolution : convolutions_)
    if (convolution) convolution->weights_changed();
}

void Executor::remember() {
  remembered_.clear();
  for (const auto& p : parameters_.layers) {
    auto& rolling = remembered_.emplace_back(p.rolling_mean.begin(), p.rolling_mean.end());
    rolling.insert(rolling.end(), p.rolling_variance.begin(), p.rolling_variance.end());
  }
}

void Executor::restore() {
  for (std::size_t node = 0; node < remembered_.size(); ++node) {
    const auto& p = parameters_.layers[node];
    const auto middle = remembered_[node].begin() + static_cast<std::ptrdiff_t>(p.rolling_mean.size());
    std::copy(remembered_[node].begin(), middle, p.rolling_mean.begin());
    std::copy(middle, remembered_[node].end(), p.rolling_variance.begin());
  }
  gradients_.clear();
  shard_.clear_sums();
}

base::Status Executor::run(const std::vector<Step>& steps, Mailbox& mailbox, Pass pass) {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Step& step = steps[i];
    if (program::sums_gradients(step.op)) {
      if (pass.sums_gradients) TESSERA_TRY(sum_gradient(step, mailbox));
    } else if (pass.inputs_are_sent && sends_input(step)) {
      continue;
    } else if (step.op == Op::kSend) {
      const auto same = same_sends(steps, i);
      TESSERA_TRY(send(same, mailbox));
      i += same.size() - 1;
    } else if (is_transfer(step.op)) {
      TESSERA_TRY(transfer(step, mailbox));
    } else {
      const auto start = base::Clock::now();
      compute(step);
      usage_.busy_seconds += base::seconds_between(start, base::Clock::now());
    }
  }
  return {};
}

void Executor::compute(const Step& step) {
  if (step.op == Op::kCopy) {
    if (step.accumulate)
      kernels::add(view(step.a), view(step.b), step.box, 1.0f, pool_);
    else
      kernels::copy(view(step.a), view(step.b), step.box, pool_);
  } else if (step.op == Op::kFill) {
    kernels::fill(view(step.a), step.box, 0.0f, pool_);
  } else if (is_backward(step.op)) {
    backward_step(step);
  } else {
    forward_step(step);
  }
}

void Executor::forward_step(const Step& step) {
  const auto& layer = graph_[step.node];
  const auto activation = activations_[at(step.node)];
  switch (step.op) {
    case Op::kConvolution:
      convolution(step.node).forward(view(step.a), filters(step.node, step.box.c.begin), view(step.b), step.box);
      break;
    case Op::kBiasActivate:
      kernels::bias_activate(view(step.a), parameters(step.node).biases.data(), activation, step.box, pool_);
      break;
    case Op::kMoments:
      kernels::moments(view(step.a), step.box, part(norm(step.node).moments, self_, step.node), pool_);
      break;
    case Op::kMergeMoments: {
      Norm& n = norm(step.node);
      std::vector<kernels::ChannelMoments> total(n.total.size());
      kernels::merge_moments(n.moments, total);
      const auto& p = parameters(step.node);
      kernels::finish_moments(total, n.mean.data(), n.variance.data(), p.rolling_mean.data(), p.rolling_variance.data());
      break;
    }
    case Op::kNormalize:
      kernels::normalize_activate(view(step.a), norm_parameters(step.node), view(step.b), step.box, pool_);
      break;
    case Op::kMaxpool:
      kernels::maxpool_forward(pool_shape(graph_, step.node), view(step.a), view(step.b), winners(step.c), step.box, pool_);
      break;
    case Op::kNormalizeMaxpool:
      kernels::normalize_maxpool_forward(pool_shape(graph_, step.node), view(step.a), norm_parameters(layer.inputs[0]), view(step.b),
                                         winners(step.c), step.box, pool_);
      break;
    case Op::kRoute:
      kernels::route_forward(view(step.a), route_offset(graph_, step.node, step.input), view(step.b), step.box, pool_);
      break;
    case Op::kShortcut:
      kernels::shortcut_forward(shortcut_shape(graph_, step.node), view(step.a), view(step.c), view(step.b), step.box, pool_);
      if (activation != kernels::Activation::kLinear) kernels::bias_activate(view(step.b), nullptr, activation, step.box, pool_);
      break;
    case Op::kUpsample:
      kernels::upsample_forward({layer.stride, layer.scale, false}, view(step.a), view(step.b), step.box, pool_);
      break;
    case Op::kReorg:
      kernels::reorg_forward(reorg_shape(graph_, step.node), view(step.a), view(step.b), step.box, pool_);
      break;
    default:
      TESSERA_CHECK(false, "{} is not a forward step", to_string(step.op));
  }
}

void Executor::backward_step(const Step& step) {
  const auto& layer = graph_[step.node];
  switch (step.op) {
    case Op::kConvolutionData:
      convolution(step.node).backward_data(view(step.a), filters(step.node, view(step.a).box.c.begin), view(step.b), step.box,
                                           step.accumulate);
      break;
    case Op::kConvolutionWeights:
      convolution(step.node).backward_weights(view(step.a), view(step.b), step.box, gradients_.filters(step.node, step.box.c.begin).data());
      break;
    case Op::kMaxpoolBackward:
      kernels::maxpool_backward(pool_shape(graph_, step.node), view(step.a), winners(step.c), view(step.b), step.box, step.accumulate,
                                pool_);
      break;
    case Op::kRouteBackward:
      kernels::route_backward(view(step.a), route_offset(graph_, step.node, step.input), view(step.b), step.box, step.accumulate, pool_);
      break;
    case Op::kShortcutBackward:
      if (step.input == 0)
        kernels::shortcut_backward_input(shortcut_shape(graph_, step.node), view(step.a), view(step.b), step.box, step.accumulate, pool_);
      else
        kernels::shortcut_backward_from(shortcut_shape(graph_, step.node), view(step.a), view(step.b), step.box, step.accumulate, pool_);
      break;
    case Op::kUpsampleBackward:
      kernels::upsample_backward({layer.stride, layer.scale, false}, view(step.a), view(step.b), step.box, step.accumulate, pool_);
      break;
    case Op::kReorgBackward:
      kernels::reorg_backward(reorg_shape(graph_, step.node), view(step.a), view(step.b), step.box, pool_);
      break;
    case Op::kActivationDelta: {
      std::vector<kernels::ChannelSums> sums(layer.trainable() ? at(static_cast<int>(layer.out.c)) : 0);
      // A linear activation does not look at its output, but the kernel wants one of the right size.
      const geometry::ConstFloatView stored = view(step.b < 0 ? step.a : step.b);
      kernels::activation_delta(view(step.a), stored, activations_[at(step.node)], step.box, step.owned, sums, pool_);
      const auto biases = gradients_.biases(step.node);
      for (std::size_t c = 0; c < sums.size(); ++c) biases[c] += static_cast<float>(sums[c].delta);
      break;
    }
    case Op::kNormSums:
      kernels::activation_delta_sums(view(step.a), view(step.b), norm_parameters(step.node), step.box, step.owned,
                                     part(norm(step.node).sums, self_, step.node), pool_);
      break;
    case Op::kMergeSums: {
      Norm& n = norm(step.node);
      kernels::merge_sums(n.sums, n.total);
      kernels::add_norm_gradients(n.total, norm_parameters(step.node), gradients_.scales(step.node).data(), gradients_.biases(step.node).data());
      break;
    }
    case Op::kNormDelta:
      kernels::normalize_delta(view(step.a), view(step.b), norm_parameters(step.node), norm(step.node).total,
                               static_cast<double>(batch_ * layer.out.y * layer.out.x), step.box, pool_);
      break;
    default:
      TESSERA_CHECK(false, "{} is not a backward step", to_string(step.op));
  }
}

// From `first` on, the sends of one box of one buffer.
std::span<const Step> Executor::same_sends(const std::vector<Step>& steps, std::size_t first) const {
  std::size_t end = first + 1;
  while (end < steps.size() && steps[end].op == Op::kSend && steps[end].a == steps[first].a && steps[end].box == steps[first].box) ++end;
  return std::span(steps).subspan(first, end - first);
}

base::Status Executor::transfer(const Step& step, Mailbox& mailbox) {
  switch (step.op) {
    case Op::kReceive:
      return receive(step, mailbox);
    case Op::kSendMoments:
      return send_part(step, mailbox, std::as_bytes(part(norm(step.node).moments, self_, step.node)), kMomentFields);
    case Op::kReceiveMoments:
      return receive_part(step, mailbox, std::as_writable_bytes(part(norm(step.node).moments, step.peer, step.node)), kMomentFields);
    case Op::kSendSums:
      return send_part(step, mailbox, std::as_bytes(part(norm(step.node).sums, self_, step.node)), kSumFields);
    default:
      return receive_part(step, mailbox, std::as_writable_bytes(part(norm(step.node).sums, step.peer, step.node)), kSumFields);
  }
}

// What a kSend or kReceive step moves.
Piece Executor::piece(const Step& step) const {
  if (program_->buffers[at(step.a)].slot == Slot::kWinners) return {step.transfer, wire::ElementType::kUint8, step.box};
  if (!program::is_half(*program_, step)) return {step.transfer, wire::ElementType::kFloat32, step.box};
  const auto halves = static_cast<geometry::Index>(kernels::half_message_bytes(step.box) / 2);
  return {step.transfer, wire::ElementType::kFloat16, {{0, 1}, {0, 1}, {0, 1}, {0, halves}}};
}

base::Status Executor::send(std::span<const Step> steps, Mailbox& mailbox, std::uint64_t ahead) {
  const Step& step = steps.front();
  const Piece piece = this->piece(step);
  Frame frame = mailbox.allocate(static_cast<std::size_t>(piece.box.elements()) * wire::element_bytes(piece.type));
  if (piece.type == wire::ElementType::kUint8) {
    const auto source = winners(step.a);
    std::byte* to = frame.data();
    for_each_row(step.box, [&](auto n, auto c, auto y) {
      std::memcpy(to, &source.at(n, c, y, step.box.x.begin), at(static_cast<int>(step.box.x.size())));
      to += step.box.x.size();
    });
  } else if (piece.type == wire::ElementType::kFloat16) {
    kernels::pack_half(view(step.a), step.box, frame.bytes(), pool_);
  } else {
    kernels::pack(view(step.a), step.box, frame.bytes(), pool_);
  }
  auto frames = Frame::share(std::move(frame), steps.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    Piece part = piece;
    part.transfer = steps[i].transfer;
    TESSERA_TRY(mailbox.send(steps[i].peer, Lane::kBulk, part, std::move(frames[i]), ahead));
  }
  return {};
}

base::Status Executor::receive(const Step& step, Mailbox& mailbox) {
  const Piece piece = this->piece(step);
  TESSERA_ASSIGN(const Frame frame, mailbox.receive(step.peer, piece));
  if (piece.type == wire::ElementType::kUint8) {
    const auto target = winners(step.a);
    const std::byte* from = frame.data();
    for_each_row(step.box, [&](auto n, auto c, auto y) {
      std::memcpy(&target.at(n, c, y, step.box.x.begin), from, at(static_cast<int>(step.box.x.size())));
      from += step.box.x.size();
    });
  } else if (piece.type == wire::ElementType::kFloat16) {
    if (!kernels::unpack_half(frame.bytes(), view(step.a), step.box, step.accumulate, pool_))
      return base::error(ErrorCode::kProtocol, "participant {} sent transfer {} with an impossible exponent", step.peer, step.transfer);
  } else if (step.accumulate) {
    kernels::unpack_add(frame.bytes(), view(step.a), step.box, pool_);
  } else {
    kernels::unpack(frame.bytes(), view(step.a), step.box, pool_);
  }
  return {};
}

base::Status Executor::send_part(const Step& step, Mailbox& mailbox, std::span<const std::byte> part, geometry::Index fields) {
  Frame frame = mailbox.allocate(part.size());
  std::memcpy(frame.data(), part.data(), part.size());
  const Box box{{0, 1}, {0, graph_[step.node].out.c}, {0, 1}, {0, fields}};
  return mailbox.send(step.peer, Lane::kUrgent, {step.transfer, wire::ElementType::kFloat64, box}, std::move(frame));
}

base::Status Executor::receive_part(const Step& step, Mailbox& mailbox, std::span<std::byte> part, geometry::Index fields) {
  const Box box{{0, 1}, {0, graph_[step.node].out.c}, {0, 1}, {0, fields}};
  TESSERA_ASSIGN(const Frame frame, mailbox.receive(step.peer, {step.transfer, wire::ElementType::kFloat64, box}));
  std::memcpy(part.data(), frame.data(), part.size());
  return {};
}

base::Status Executor::sum_gradient(const Step& step, Mailbox& mailbox) {
  if (step.op == Op::kDropGradient) {
    gradients_.drop_summed(step.node);
    return {};
  }
  const auto own = [&] {
    const auto window = gradients_.window(step.node);
    TESSERA_CHECK(window.contains(step.box.x), "elements from {} of node {} are not this participant's", step.box.x.begin, step.node);
    return FloatView{gradients_.summed(step.node).subspan(static_cast<std::size_t>(step.box.x.begin - window.begin)).data(), step.box};
  };
  // The coordinator sums, and gathers the sums, in place of its own part, which has been sent by then.
  const auto sum = [&] { return self_ == 0 ? own() : FloatView{shard_.sum(step.node, step.box.x).data(), step.box}; };
  const Piece piece{step.transfer, wire::ElementType::kFloat32, step.box};
  if (program::is_send(step.op)) {
    Frame frame = mailbox.allocate(at(static_cast<int>(step.box.elements())) * sizeof(float));
    kernels::pack(step.op == Op::kSendGradient ? own() : sum(), step.box, frame.bytes(), pool_);
    return mailbox.send(step.peer, Lane::kBulk, piece, std::move(frame));
  }
  if (step.op == Op::kOwnGradient) {
    if (!step.accumulate)
      kernels::fill(sum(), step.box, 0.0f, pool_);
    else if (self_ != 0)
      kernels::copy(own(), sum(), step.box, pool_);
    return {};
  }
  TESSERA_ASSIGN(const Frame frame, mailbox.receive(step.peer, piece));
  if (step.op == Op::kReceiveGradient)
    kernels::unpack_add(frame.bytes(), sum(), step.box, pool_);
  else
    kernels::unpack(frame.bytes(), own(), step.box, pool_);
  return {};
}

geometry::FloatView Executor::view(int buffer) const {
  if (buffer < 0) return {};
  const auto& b = program_->buffers[at(buffer)];
  if (!b.external) return {reinterpret_cast<float*>(arena_.get() + b.offset), b.box};
  const auto found = external_.find({b.node, b.slot});
  TESSERA_CHECK(found != external_.end(), "no memory bound for {} of node {}", to_string(b.slot), b.node);
  return {found->second, b.box};
}

geometry::View<std::uint8_t> Executor::winners(int buffer) const {
  if (buffer < 0) return {};
  const auto& b = program_->buffers[at(buffer)];
  return {reinterpret_cast<std::uint8_t*>(arena_.get() + b.offset), b.box};
}

kernels::NormParameters Executor::norm_parameters(int node) const {
  const LayerParameters& p = parameters(node);
  const Norm& n = norms_[at(node)];
  const bool test = mode_ == program::Mode::kTest;
  return {test ? p.rolling_mean.data() : n.mean.data(), test ? p.rolling_variance.data() : n.variance.data(), p.scales.data(),
          p.biases.data(), activations_[at(node)], graph_[node].epsilon_in_root};
}

const float* Executor::filters(int node, geometry::Index first) const {
  return parameters(node).weights.data() + first * graph_.input_channels(node) * graph_[node].kernel * graph_[node].kernel;
}

template <typename T>
std::span<T> Executor::part(std::vector<T>& all, int participant, int node) const {
  const auto channels = at(static_cast<int>(graph_[node].out.c));
  return std::span<T>(all).subspan(at(participant) * channels, channels);
}

}  // namespace tessera::exec
