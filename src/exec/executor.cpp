#include "exec/executor.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.hpp"
#include "graph/footprint.hpp"
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
using program::Phase;
using program::Slot;
using program::Step;
using program::Storage;
using transport::Frame;
using transport::Lane;

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

bool is_backward(Op op) { return op >= Op::kConvolutionData && op <= Op::kNormDelta; }

Box flat(std::size_t elements) { return {{0, 1}, {0, 1}, {0, 1}, {0, static_cast<geometry::Index>(elements)}}; }

// Whole filters lie one after the other: as rows, which are copied at once.
Box as_rows(Slot slot, const Box& box) {
  if (slot < Slot::kGradient || box.empty()) return box;
  return {box.n, {0, 1}, {0, 1}, {0, box.elements() / box.n.size()}};
}

// Calls copy(offset in `whole`, offset in `box`, bytes) for every row of the box.
template <typename Copy>
void for_each_row(const Box& whole, const Box& box, std::size_t element, Copy copy) {
  const geometry::View<std::byte> cells{nullptr, whole};
  const auto row = static_cast<std::size_t>(box.x.size()) * element;
  std::size_t done = 0;
  for (auto n = box.n.begin; n < box.n.end; ++n)
    for (auto c = box.c.begin; c < box.c.end; ++c)
      for (auto y = box.y.begin; y < box.y.end; ++y, done += row)
        copy(static_cast<std::size_t>(cells.offset(n, c, y, box.x.begin)) * element, done, row);
}

kernels::ShortcutShape shortcut_shape(const graph::Graph& graph, int node, int input) {
  const auto& layer = graph[node];
  return {graph[layer.inputs[at(input)]].out, layer.out, layer.alpha, layer.beta};
}

kernels::PoolShape pool_shape(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  const auto& in = graph[layer.inputs[0]].out;
  return {in.y, in.x, layer.kernel, layer.stride, layer.pad, layer.stride_x};
}

kernels::ReorgShape reorg_shape(const graph::Graph& graph, int node) {
  return {graph[graph[node].inputs[0]].out, graph[node].stride, graph[node].reverse};
}

kernels::ConvolutionShape convolution_shape(const graph::Graph& graph, int node) {
  const auto& layer = graph[node];
  const auto& in = graph[layer.inputs[0]].out;
  return {in.c, in.y, in.x, layer.out.c, layer.kernel, layer.stride, layer.pad, layer.stride_x, layer.dilation, layer.groups};
}

}  // namespace

std::vector<kernels::ConvolutionShape> convolution_shapes(const graph::Graph& graph) {
  std::vector<kernels::ConvolutionShape> shapes;
  for (int node = 0; node < graph.size(); ++node)
    if (graph[node].trainable()) shapes.push_back(convolution_shape(graph, node));
  return shapes;
}

Executor::Executor(const graph::Graph& graph, std::optional<Parameters> parameters, kernels::Backend backend, base::ThreadPool& pool,
                   bool inference)
    : graph_(graph),
      own_parameters_(!parameters),
      parameters_(std::move(parameters).value_or(Parameters{})),
      backend_(backend),
      inference_(inference),
      pool_(pool),
      convolutions_(graph.layers.size()),
      norms_(graph.layers.size()) {}

base::Status Executor::load(const graph::Graph& graph, std::shared_ptr<const program::Program> program, geometry::Index batch,
                            Mailbox& mailbox) {
  TESSERA_CHECK(!inference_ || program->mode == program::Mode::kTest, "training on an executor for inference");
  TESSERA_CHECK(graph.size() == graph_.size(), "{} nodes, {} before", graph.size(), graph_.size());
  TESSERA_TRY(finish_update(mailbox));
  TESSERA_TRY(load_convolutions(*program, graph));
  activations_.clear();
  for (int node = 0; node < graph.size(); ++node) {
    TESSERA_ASSIGN(const auto activation, kernels::activation_from_string(graph[node].activation));
    activations_.push_back(activation);
    if (!graph[node].batch_normalize) continue;
    const auto channels = at(static_cast<int>(graph[node].out.c));
    norm(node).mean.resize(channels), norm(node).variance.resize(channels), norm(node).total.resize(channels);
  }
  TESSERA_TRY(load_arena(*program));
  if (own_parameters_ && (!storage_ || !storage_->covers(program->stored_filters, program->home_filters))) {
    storage_.reset();
    storage_.emplace(graph, program->stored_filters, program->home_filters);
    parameters_ = storage_->parameters();
    weights_changed();
  }
  graph_ = graph;
  program_ = std::move(program);
  batch_ = batch;
  external_.clear();
  clear_kept();
  return {};
}

base::Status Executor::load_arena(const program::Program& program) {
  if (program.arena_bytes <= arena_bytes_ && program.arena_bytes >= arena_bytes_ / 2) return {};
  arena_.reset();  // before the new one is made, so that both are never held
  arena_bytes_ = 0;
  arena_.reset(new (std::align_val_t{program::kBufferAlignment}, std::nothrow) std::byte[program.arena_bytes + 1]);
  if (!arena_)
    return base::error(ErrorCode::kOutOfMemory,
                       "no {} MB for tensors; use more workers, a smaller batch (more subdivisions) or a smaller image",
                       program.arena_bytes >> 20);
  arena_bytes_ = program.arena_bytes;
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
  for (const Phase phase : {Phase::kForward, Phase::kBackward})
    for (const Step& step : program.steps(phase)) {
      kernels::ConvolutionWork work;
      if (step.op == Op::kConvolution)
        work.forward = step.box;
      else if (step.op == Op::kConvolutionData)
        work.backward_data = step.box, work.backward_filters = program.buffer(step.a).box.c;
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

void Executor::weights_changed() {
  for (auto& convolution : convolutions_)
    if (convolution) convolution->weights_changed();
}

void Executor::clear_kept() {
  for (const auto& b : program_->buffers)
    if (b.storage == Storage::kKept) std::memset(arena_.get() + b.offset, 0, b.bytes);
}

void Executor::abandon() {
  fresh_.clear();
  not_finite_.reset();
  if (program_) clear_kept();
  weights_changed();
}

// --- phases ------------------------------------------------------------------------------------------------------------

base::Status Executor::forward(Mailbox& mailbox, bool inputs_are_sent) {
  for (const Step& step : program_->steps(Phase::kLoad))
    if (!(inputs_are_sent && program::is_send(step))) TESSERA_TRY(transfer(step, mailbox));
  return run(Phase::kForward, mailbox);
}

base::Status Executor::send_inputs(Mailbox& mailbox, std::uint64_t ahead) {
  for (const Step& step : program_->steps(Phase::kLoad))
    if (program::is_send(step)) TESSERA_TRY(send({&step, 1}, mailbox, ahead));
  return {};
}

base::Status Executor::backward(Mailbox& mailbox, bool last) {
  not_finite_.reset();
  return run(Phase::kBackward, mailbox, last);
}

base::Status Executor::update(const OptimizerStep& step, Mailbox& mailbox) {
  TESSERA_TRY(finish_update(mailbox));
  optimizer_ = step;
  TESSERA_TRY(run(Phase::kUpdate, mailbox));
  weights_changed();
  const auto& steps = program_->steps(Phase::kShare);
  for (const Step& awaited : steps)
    if (program::is_receive(awaited)) fresh_[awaited.node].push_back(awaited);
  if (!fresh_.empty()) {
    fresh_run_ = mailbox.run();
    mailbox.hold(fresh_run_);
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (!program::is_send(steps[i])) continue;
    const auto same = same_sends(steps, i);
    TESSERA_TRY(send(same, mailbox));
    i += same.size() - 1;
  }
  return {};
}

base::Status Executor::finish_update(Mailbox& mailbox) {
  while (!fresh_.empty()) TESSERA_TRY(await_fresh(fresh_.begin()->first, mailbox));
  return {};
}

base::Status Executor::gather(Mailbox& mailbox, const Sink& sink) {
  TESSERA_TRY(finish_update(mailbox));
  sink_ = &sink;
  const auto status = run(Phase::kGather, mailbox);
  sink_ = nullptr;
  return status;
}

base::Status Executor::scatter(Mailbox& mailbox, bool momentum) {
  const auto status = run(momentum ? Phase::kScatterMomentum : Phase::kScatter, mailbox);
  weights_changed();
  return status;
}

base::Status Executor::run(Phase phase, Mailbox& mailbox, bool with_reduction) {
  const auto& steps = program_->steps(phase);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Step& step = steps[i];
    if (step.phase == Phase::kReduce && !with_reduction) continue;
    if (!fresh_.empty()) TESSERA_TRY(await_fresh(step, mailbox));
    if (program::is_send(step)) {
      const auto same = same_sends(steps, i);
      TESSERA_TRY(send(same, mailbox));
      i += same.size() - 1;
    } else if (program::is_receive(step)) {
      TESSERA_TRY(receive(step, mailbox));
    } else {
      const auto start = base::Clock::now();
      compute(step);
      usage_.busy_seconds += base::seconds_between(start, base::Clock::now());
    }
  }
  return {};
}

base::Status Executor::await_fresh(const Step& step, Mailbox& mailbox) {
  if (program::is_send(step) || program::is_receive(step)) return {};
  // A pool that normalises what it reads uses the parameters of the layer before it.
  const int node = step.op == Op::kNormalizeMaxpool ? graph_[step.node].inputs[0] : step.node;
  return fresh_.contains(node) ? await_fresh(node, mailbox) : base::Status{};
}

base::Status Executor::await_fresh(int node, Mailbox& mailbox) {
  for (const Step& step : fresh_.at(node)) TESSERA_TRY(receive(step, mailbox, fresh_run_));
  fresh_.erase(node);
  if (convolutions_[at(node)]) convolutions_[at(node)]->weights_changed();
  if (fresh_.empty()) mailbox.hold({});
  return {};
}

base::Status Executor::transfer(const Step& step, Mailbox& mailbox) {
  return program::is_send(step) ? send({&step, 1}, mailbox) : receive(step, mailbox);
}

void Executor::compute(const Step& step) {
  switch (step.op) {
    case Op::kCopy:
    case Op::kFill: {
      const Slot slot = buffer(step.a).slot;
      const Box box = as_rows(slot, step.box);
      const auto rows = [&](int number) {
        const FloatView whole = view(number);
        return FloatView{whole.data, as_rows(buffer(number).slot, whole.box)};
      };
      if (step.op == Op::kFill && program::element_bytes(slot) != sizeof(float)) {
        for_each_row(buffer(step.a).box, box, program::element_bytes(slot),
                     [&](std::size_t from, std::size_t, std::size_t bytes) { std::memset(memory(step.a) + from, 0, bytes); });
      } else if (step.op == Op::kFill) {
        kernels::fill(rows(step.a), box, 0.0f, pool_);
      } else if (step.b < 0) {  // the host's own values, gathered
        std::vector<float> values(static_cast<std::size_t>(box.elements()));
        kernels::pack(rows(step.a), box, std::as_writable_bytes(std::span(values)), pool_);
        (*sink_)(step.node, slot, step.box, values);
      } else if (step.accumulate) {
        kernels::add(rows(step.a), rows(step.b), box, 1.0f, pool_);
      } else {
        kernels::copy(rows(step.a), rows(step.b), box, pool_);
      }
      return;
    }
    case Op::kInspect:
      return inspect(step);
    case Op::kUpdate:
      return update_step(step);
    default:
      is_backward(step.op) ? backward_step(step) : forward_step(step);
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
      kernels::moments(view(step.a), step.box, part_of(statistics<kernels::ChannelMoments>(step.b), step.b), pool_);
      break;
    case Op::kMergeMoments:
      kernels::merge_moments(statistics<kernels::ChannelMoments>(step.a), statistics<kernels::ChannelMoments>(step.b));
      break;
    case Op::kFinishMoments: {
      const auto& p = parameters(step.node);
      kernels::finish_moments(statistics<kernels::ChannelMoments>(step.a), norm(step.node).mean.data(), norm(step.node).variance.data(),
                              p.rolling_mean.data(), p.rolling_variance.data());
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
      kernels::route_forward(view(step.a), graph::route_offset(graph_, step.node, step.input), view(step.b), step.box, pool_);
      break;
    case Op::kShortcut:
      kernels::shortcut_forward(shortcut_shape(graph_, step.node, step.input), view(step.a), view(step.c), view(step.b), step.box, pool_);
      if (activation != kernels::Activation::kLinear && at(step.input) + 1 == layer.inputs.size())
        kernels::bias_activate(view(step.b), nullptr, activation, step.box, pool_);
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
    case Op::kConvolutionWeights: {
      const auto gradient = view(step.c);
      convolution(step.node).backward_weights(view(step.a), view(step.b), step.box, &gradient.at(step.box.c.begin, 0, 0, 0));
      break;
    }
    case Op::kMaxpoolBackward:
      kernels::maxpool_backward(pool_shape(graph_, step.node), view(step.a), winners(step.c), view(step.b), step.box, step.accumulate,
                                pool_);
      break;
    case Op::kRouteBackward:
      kernels::route_backward(view(step.a), graph::route_offset(graph_, step.node, step.input),
                              graph::input_box(graph_, step.node, step.input, Box::whole(1, layer.out)).c, view(step.b), step.box,
                              step.accumulate, pool_);
      break;
    case Op::kShortcutBackward:
      if (step.input == 0)
        kernels::shortcut_backward_input(shortcut_shape(graph_, step.node, 1), view(step.a), view(step.b), step.box, step.accumulate,
                                         pool_);
      else
        kernels::shortcut_backward_from(shortcut_shape(graph_, step.node, step.input), view(step.a), view(step.b), step.box,
                                        step.accumulate, pool_);
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
      const auto biases = view(step.c);
      for (auto c = step.owned.c.begin; c < step.owned.c.end && step.c >= 0; ++c)
        biases.at(c, 0, 0, 0) += static_cast<float>(sums[at(static_cast<int>(c))].delta);
      break;
    }
    case Op::kNormSums: {
      std::vector<kernels::ChannelSums> unused(step.c < 0 ? at(static_cast<int>(layer.out.c)) : 0);
      const auto sums = step.c < 0 ? std::span(unused) : part_of(statistics<kernels::ChannelSums>(step.c), step.c);
      kernels::activation_delta_sums(view(step.a), view(step.b), norm_parameters(step.node), step.box, step.owned, sums, pool_);
      break;
    }
    case Op::kMergeSums:
      kernels::merge_sums(statistics<kernels::ChannelSums>(step.a), statistics<kernels::ChannelSums>(step.b));
      break;
    case Op::kFinishSums: {
      const auto total = statistics<kernels::ChannelSums>(step.a);
      norm(step.node).total.assign(total.begin(), total.end());
      if (step.b < 0) break;
      const auto home = total.subspan(at(static_cast<int>(step.box.n.begin)), at(static_cast<int>(step.box.n.size())));
      const auto momentum = [&](int number) { return &view(number).at(step.box.n.begin, 0, 0, 0); };  // the host's begins at filter 0
      kernels::NormParameters parameters = norm_parameters(step.node);
      parameters.variance += step.box.n.begin;
      kernels::add_norm_gradients(home, parameters, momentum(step.c), momentum(step.b));
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

void Executor::update_step(const Step& step) {
  const LayerParameters& p = parameters(step.node);
  const auto update = update_parameters(graph_, step.node, optimizer_);
  const auto row = static_cast<std::size_t>(step.box.elements() / step.box.n.size());
  const auto home = [&](std::span<float> array, geometry::Index first, std::size_t elements) {
    return array.subspan(static_cast<std::size_t>(step.box.n.begin - first) * elements,
                         static_cast<std::size_t>(step.box.n.size()) * elements);
  };
  kernels::update_biases(update, home(p.biases, 0, 1), home(p.bias_updates, p.home.begin, 1), {}, pool_);
  if (!p.scales.empty()) kernels::update_biases(update, home(p.scales, 0, 1), home(p.scale_updates, p.home.begin, 1), {}, pool_);
  kernels::update_weights(update, home(p.weights, p.filters.begin, row), home(p.weight_updates, p.home.begin, row), {}, pool_);
}

void Executor::inspect(const Step& step) {
  const LayerParameters& p = parameters(step.node);
  for (const auto& array : {p.weight_updates, p.bias_updates, p.scale_updates}) {
    const std::size_t row = array.size() / at(static_cast<int>(p.home.size()));
    const auto home =
        array.subspan(at(static_cast<int>(step.box.n.begin - p.home.begin)) * row, at(static_cast<int>(step.box.n.size())) * row);
    if (!not_finite_ && !kernels::all_finite(home, pool_)) not_finite_ = step.node;
  }
}

// --- transfers ---------------------------------------------------------------------------------------------------------

// From `first` on, the sends of the same arrays and box.
std::span<const Step> Executor::same_sends(const std::vector<Step>& steps, std::size_t first) const {
  std::size_t end = first + 1;
  const auto same = [&](const Step& s) {
    return program::is_send(s) && s.phase == steps[first].phase && s.a == steps[first].a && s.b == steps[first].b &&
           s.c == steps[first].c && s.box == steps[first].box;
  };
  while (end < steps.size() && same(steps[end])) ++end;
  return std::span(steps).subspan(first, end - first);
}

std::vector<Executor::Array> Executor::arrays(const Step& step) const {
  std::vector<Array> result;
  for (const int number : {step.a, step.b, step.c}) {
    if (number < 0) continue;
    const auto& b = buffer(number);
    const Box box = result.empty() ? step.box : Box{step.box.n, {0, 1}, {0, 1}, {0, 1}};
    const bool to_sink = sink_ && b.storage == Storage::kParameters && program::is_receive(step);
    const Box whole = b.storage == Storage::kParameters ? view(number).box : b.box;
    result.push_back({b.slot, to_sink ? nullptr : memory(number), as_rows(b.slot, whole), as_rows(b.slot, box)});
  }
  return result;
}

Piece Executor::piece(const Step& step) const {
  const auto element = program::element_bytes(buffer(step.a).slot);
  const auto bytes = program::message_bytes(*program_, step);
  if (program::is_half(*program_, step)) return {step.transfer, wire::ElementType::kFloat16, flat(bytes / 2)};
  const auto type = element == 1                ? wire::ElementType::kUint8
                    : element == sizeof(double) ? wire::ElementType::kFloat64
                                                : wire::ElementType::kFloat32;
  return {step.transfer, type, step.b < 0 ? step.box : flat(bytes / element)};
}

base::Status Executor::send(std::span<const Step> steps, Mailbox& mailbox, std::uint64_t ahead) {
  const Step& step = steps.front();
  const Piece piece = this->piece(step);
  Frame frame = mailbox.allocate(program::message_bytes(*program_, step));
  auto rest = frame.bytes();
  for (const Array& array : arrays(step)) {
    const auto element = program::element_bytes(array.slot);
    const auto part =
        rest.first(piece.type == wire::ElementType::kFloat16 ? rest.size() : static_cast<std::size_t>(array.box.elements()) * element);
    const FloatView floats{reinterpret_cast<float*>(array.data), array.whole};
    if (piece.type == wire::ElementType::kFloat16)
      kernels::pack_half(floats, array.box, part, pool_);
    else if (piece.type == wire::ElementType::kFloat32)
      kernels::pack(floats, array.box, part, pool_);
    else
      for_each_row(array.whole, array.box, element,
                   [&](std::size_t from, std::size_t to, std::size_t bytes) { std::memcpy(part.data() + to, array.data + from, bytes); });
    rest = rest.subspan(part.size());
  }
  auto frames = Frame::share(std::move(frame), steps.size());
  const Lane lane = program::is_urgent(*program_, step) ? Lane::kUrgent : Lane::kBulk;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    Piece one = piece;
    one.transfer = steps[i].transfer;
    TESSERA_TRY(mailbox.send(steps[i].peer, lane, one, std::move(frames[i]), ahead));
  }
  return {};
}

base::Status Executor::receive(const Step& step, Mailbox& mailbox, std::optional<std::uint64_t> run) {
  const Piece piece = this->piece(step);
  TESSERA_ASSIGN(const Frame frame, mailbox.receive(step.peer, piece, run));
  auto rest = frame.bytes();
  for (const Array& array : arrays(step)) {
    const auto element = program::element_bytes(array.slot);
    const auto part =
        rest.first(piece.type == wire::ElementType::kFloat16 ? rest.size() : static_cast<std::size_t>(array.box.elements()) * element);
    const FloatView floats{reinterpret_cast<float*>(array.data), array.whole};
    if (!array.data) {
      std::vector<float> values(static_cast<std::size_t>(array.box.elements()));
      std::memcpy(values.data(), part.data(), part.size());
      (*sink_)(step.node, array.slot, array.box, values);
    } else if (piece.type == wire::ElementType::kFloat16) {
      if (!kernels::unpack_half(part, floats, array.box, step.accumulate, pool_))
        return base::error(ErrorCode::kProtocol, "participant {} sent transfer {} with an impossible exponent", step.peer, step.transfer);
    } else if (piece.type == wire::ElementType::kFloat32) {
      step.accumulate ? kernels::unpack_add(part, floats, array.box, pool_) : kernels::unpack(part, floats, array.box, pool_);
    } else {
      for_each_row(array.whole, array.box, element,
                   [&](std::size_t to, std::size_t from, std::size_t bytes) { std::memcpy(array.data + to, part.data() + from, bytes); });
    }
    rest = rest.subspan(part.size());
  }
  return {};
}

// --- memory ------------------------------------------------------------------------------------------------------------

std::byte* Executor::memory(int number) const {
  const auto& b = buffer(number);
  switch (b.storage) {
    case Storage::kArena:
    case Storage::kKept:
      return arena_.get() + b.offset;
    case Storage::kParameters:
      return reinterpret_cast<std::byte*>(parameter_view(graph_, parameters_, b.node, b.slot).data);
    case Storage::kCaller:
      break;
  }
  const auto found = external_.find({b.node, b.slot});
  TESSERA_CHECK(found != external_.end(), "no memory bound for {} of node {}", to_string(b.slot), b.node);
  return reinterpret_cast<std::byte*>(found->second);
}

FloatView Executor::view(int number) const {
  if (number < 0) return {};
  const auto& b = buffer(number);
  if (b.storage == Storage::kParameters) return parameter_view(graph_, parameters_, b.node, b.slot);
  return {reinterpret_cast<float*>(memory(number)), b.box};
}

geometry::View<std::uint8_t> Executor::winners(int number) const {
  if (number < 0) return {};
  return {reinterpret_cast<std::uint8_t*>(memory(number)), buffer(number).box};
}

template <typename T>
std::span<T> Executor::statistics(int number) const {
  return {reinterpret_cast<T*>(memory(number)), buffer(number).bytes / sizeof(T)};
}

template <typename T>
std::span<T> Executor::part_of(std::span<T> parts, int number) const {
  const Box& box = buffer(number).box;
  const auto channels = static_cast<std::size_t>(box.c.size());
  return parts.subspan(static_cast<std::size_t>(program_->self - box.n.begin) * channels, channels);
}

const float* Executor::filters(int node, geometry::Index first) const {
  const LayerParameters& p = parameters(node);
  return p.weights.data() + (first - p.filters.begin) * graph_.input_channels(node) * graph_[node].kernel * graph_[node].kernel;
}

kernels::NormParameters Executor::norm_parameters(int node) const {
  const LayerParameters& p = parameters(node);
  const Norm& n = norms_[at(node)];
  const bool test = program_->mode == program::Mode::kTest;
  return {test ? p.rolling_mean.data() : n.mean.data(),
          test ? p.rolling_variance.data() : n.variance.data(),
          p.scales.data(),
          p.biases.data(),
          activations_[at(node)],
          graph_[node].epsilon_in_root};
}

kernels::UpdateParameters update_parameters(const graph::Graph& graph, int node, const OptimizerStep& step) {
  return {step.learning_rate * graph[node].learning_rate_scale, step.momentum, step.decay, step.batch};
}

}  // namespace tessera::exec
