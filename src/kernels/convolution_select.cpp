// The fastest backend for a layer, found by trying.
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <random>
#include <tuple>

#include "base/clock.hpp"
#include "kernels/convolution.hpp"

namespace tessera::kernels {
namespace {

using Extents = std::array<Index, 12>;
using Key = std::tuple<std::array<Index, 7>, Extents, int>;

Extents extents(const ConvolutionWork& work) {
  const auto& [f, d, w] = work;
  return {f.n.size(), f.c.size(), f.y.size(), f.x.size(), d.n.size(), d.c.size(),
          d.y.size(), d.x.size(), w.n.size(), w.c.size(), w.y.size(), w.x.size()};
}

std::vector<float> random_values(Index count) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> values(-1, 1);
  std::vector<float> result(static_cast<std::size_t>(count));
  for (float& value : result) value = values(random);
  return result;
}

// One sample of the box, or nothing.
Box first_sample(Box box) {
  if (box.empty()) return {};
  box.n.end = box.n.begin + 1;
  return box;
}

// Data for one sample of the work, reused for every backend.
struct Trial {
  Trial(const ConvolutionShape& shape, const ConvolutionWork& whole)
      : work{first_sample(whole.forward), first_sample(whole.backward_data), first_sample(whole.backward_weights)} {
    Box in{{0, 0}, {0, shape.in_c}, {0, 0}, {0, 0}}, out{{0, 0}, {0, shape.out_c}, {0, 0}, {0, 0}};
    const auto add = [](Box& held, const Box& box, Range y, Range x) {
      if (box.empty()) return;
      held.n = hull(held.n, box.n);
      held.y = hull(held.y, y);
      held.x = hull(held.x, x);
    };
    for (const Box& box : {work.forward, work.backward_weights}) {
      add(in, box, input_window(shape, box.y, shape.in_y), input_window(shape, box.x, shape.in_x));
      add(out, box, box.y, box.x);
    }
    const Box& data = work.backward_data;
    add(in, data, data.y, data.x);
    add(out, data, output_window(shape, data.y, shape.out_y()), output_window(shape, data.x, shape.out_x()));
    input = random_values(in.elements());
    output = random_values(out.elements());
    weights = random_values(shape.weight_elements());
    // Results go elsewhere: values that grow or vanish from call to call would change the timing.
    input_result.resize(input.size());
    output_result.resize(output.size());
    gradient.resize(weights.size());
    in_box = in;
    out_box = out;
  }

  void run(Convolution& convolution) {
    const ConstFloatView in{input.data(), in_box}, out{output.data(), out_box};
    if (!work.forward.empty()) convolution.forward(in, weights.data(), {output_result.data(), out_box}, work.forward);
    if (!work.backward_data.empty())
      convolution.backward_data(out, weights.data(), {input_result.data(), in_box}, work.backward_data, false);
    if (!work.backward_weights.empty()) convolution.backward_weights(in, out, work.backward_weights, gradient.data());
  }

  ConvolutionWork work;
  Box in_box, out_box;
  std::vector<float> input, output, weights, input_result, output_result, gradient;
};

Backend measure(const ConvolutionShape& shape, const ConvolutionWork& work, base::ThreadPool& pool, double budget_seconds) {
  std::vector<Backend> candidates = built_backends();
  std::erase(candidates, Backend::kReference);
  if (candidates.size() == 1) return candidates.front();
  Trial trial(shape, work);
  const double share = budget_seconds / static_cast<double>(candidates.size());
  Backend best = candidates.front();
  double best_seconds = std::numeric_limits<double>::infinity();
  for (const Backend backend : candidates) {
    Scratch scratch;
    const auto convolution = make_convolution(backend, shape, pool, scratch);
    if (!convolution) continue;
    const auto start = base::Clock::now();
    trial.run(**convolution);  // sets up primitives and packed weights
    double shortest = std::numeric_limits<double>::infinity();
    do {
      const auto begin = base::Clock::now();
      trial.run(**convolution);
      shortest = std::min(shortest, base::seconds_between(begin, base::Clock::now()));
    } while (base::seconds_between(start, base::Clock::now()) < share);
    if (shortest < best_seconds) {
      best_seconds = shortest;
      best = backend;
    }
  }
  return best;
}

}  // namespace

Backend fastest_backend(const ConvolutionShape& shape, const ConvolutionWork& work, base::ThreadPool& pool,
                        double budget_seconds) {
  static std::mutex mutex;
  static std::map<Key, Backend> known;
  const Key key{{shape.in_c, shape.in_y, shape.in_x, shape.out_c, shape.kernel, shape.stride, shape.pad}, extents(work),
                pool.size()};
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(key); found != known.end()) return found->second;
  const Backend best = measure(shape, work, pool, budget_seconds);
  known.emplace(key, best);
  return best;
}

}  // namespace tessera::kernels
