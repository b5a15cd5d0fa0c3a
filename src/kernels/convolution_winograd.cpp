// Convolution by Winograd's minimal filtering F(2x2, 3x3) (Lavin, Gray: arXiv:1509.09308): a tile of 2 x 2 results takes 16
// products for each pair of channels instead of 36. For each of the 16 places (a, b) of a 4 x 4 tile
//
//   transformed weights  U[rows][depth] = (G g Gᵀ)(a, b)
//   transformed source   V[depth][tiles] = (Bᵀ d B)(a, b)
//   products             M = U · V (winograd_product.hpp)
//   results              Aᵀ M A, 2 x 2 for each tile
//
// Forward: source is the input, rows are filters, depth are input channels. Backward data: source is the delta, rows are
// input channels, depth are filters, and the taps are taken in reverse order. Tiles are counted from the first cell of the box, so
// results depend on the layer, the box and the number of threads only. What does not pay, and the gradient of the weights, is left
// to the backend inside.
#include <algorithm>
#include <numeric>

#include "kernels/convolution_backends.hpp"
#include "kernels/vectors.hpp"
#include "kernels/winograd_product.hpp"

namespace tessera::kernels {
namespace {

constexpr Index kPlaces = 16;
// V of as many tiles as are transformed at once, together: 16 MB.
constexpr Index kSourceFloats = 4 * 1024 * 1024;
// A block of products: rows and about as many tiles. Few enough for the second-level cache, enough to read both seldom.
constexpr Index kBlockRows = 64, kBlockTiles = 256;
// Matrices of the places begin in different sets of a cache.
constexpr Index kSkew = 16;
// Fewest tiles that pay for transforming the weights.
constexpr Index kLeastTiles = 96;

Index divide_up(Index a, Index b) { return (a + b - 1) / b; }
Index round_up(Index a, Index b) { return divide_up(a, b) * b; }
Index aligned(Index floats) { return round_up(floats, static_cast<Index>(kAlignment / sizeof(float))); }

// The places of a matrix for each of them: matrix i begins at data + i * next.
struct Places {
  float* data;
  Index stride, next;

  static Index floats(Index rows, Index stride) { return kPlaces * (aligned(rows * stride) + kSkew); }
  static Places at(float* data, Index rows, Index stride) { return {data, stride, aligned(rows * stride) + kSkew}; }
};

// values[i] = the vector at place i of a row of tiles.
using Tile = std::array<Floats, kPlaces>;

Tile transform_source(const Tile& d) {
  Tile t, v;
  for (int b = 0; b < 4; ++b) {
    t[b] = d[b] - d[8 + b];
    t[4 + b] = d[4 + b] + d[8 + b];
    t[8 + b] = d[8 + b] - d[4 + b];
    t[12 + b] = d[4 + b] - d[12 + b];
  }
  for (int a = 0; a < 16; a += 4) {
    v[a] = t[a] - t[a + 2];
    v[a + 1] = t[a + 1] + t[a + 2];
    v[a + 2] = t[a + 2] - t[a + 1];
    v[a + 3] = t[a + 1] - t[a + 3];
  }
  return v;
}

Tile transform_taps(const std::array<Floats, 9>& g) {
  std::array<Floats, 12> t;
  Tile u;
  for (int x = 0; x < 3; ++x) {
    const Floats sum = .5f * (g[x] + g[6 + x]), middle = .5f * g[3 + x];
    t[x] = g[x];
    t[3 + x] = sum + middle;
    t[6 + x] = sum - middle;
    t[9 + x] = g[6 + x];
  }
  for (int a = 0; a < 4; ++a) {
    const Floats sum = .5f * (t[3 * a] + t[3 * a + 2]), middle = .5f * t[3 * a + 1];
    u[4 * a] = t[3 * a];
    u[4 * a + 1] = sum + middle;
    u[4 * a + 2] = sum - middle;
    u[4 * a + 3] = t[3 * a + 2];
  }
  return u;
}

// The four cells (y, x) of each tile, y * 2 + x.
std::array<Floats, 4> transform_products(const Tile& m) {
  std::array<Floats, 8> s;
  for (int b = 0; b < 4; ++b) {
    s[b] = m[b] + m[4 + b] + m[8 + b];
    s[4 + b] = m[4 + b] - m[8 + b] - m[12 + b];
  }
  return {s[0] + s[1] + s[2], s[1] - s[2] - s[3], s[4] + s[5] + s[6], s[5] - s[6] - s[7]};
}

// target[compute] (+)= the sum over `depth` of source and weights.
struct Job {
  ConstFloatView source;
  Range depth, y, x;  // channels, and the cells that are not zero
  Index shift;        // a tile's first cell lies so far before its results
  FloatView target;
  Box compute;
  bool accumulate;
  const float* weights;  // of the first filter
  bool backward;
};

// Rows of tiles, sample after sample, are numbered from 0; as many as fit are transformed at once.
struct Cut {
  Cut(const Box& box, Range depth, Index threads)
      : rows(box.c.size()),
        depth_size(depth.size()),
        tiles_x(divide_up(box.x.size(), 2)),
        tiles_y(divide_up(box.y.size(), 2)),
        total(box.n.size() * tiles_y) {
    const Index most = std::clamp<Index>(kSourceFloats / (kPlaces * depth_size * tiles_x), 1, total);
    at_once = divide_up(total, divide_up(total, most));
    row_blocks = divide_up(rows, kBlockRows);
    block_rows = round_up(divide_up(rows, row_blocks), kStrip);
    parts = std::min(at_once, threads / std::gcd(row_blocks, threads));
    block_tile_rows = std::clamp<Index>(kBlockTiles / tiles_x, 1, total);  // whatever the depth
  }

  // Vectors reach beyond the last tile, when they are written and when they are multiplied.
  Index source_stride() const { return aligned(at_once * tiles_x + kVector) + aligned(kProductVector); }
  Index product_stride() const { return aligned(block_tile_rows * tiles_x + kVector); }
  Index line() const { return round_up(tiles_x, kVector) + kVector; }  // tiles of a row, and what vectors reach beyond
  Index source_floats() const { return Places::floats(depth_size, source_stride()); }
  Index weight_floats() const { return Places::floats(block_rows, depth_size); }
  Index thread_floats() const {
    return aligned(weight_floats()) + aligned(Places::floats(block_rows, product_stride())) + aligned(10 * line());
  }

  Index rows, depth_size, tiles_x, tiles_y, total;
  Index at_once, row_blocks, block_rows, parts, block_tile_rows;
};

class WinogradConvolution final : public Convolution {
 public:
  WinogradConvolution(std::unique_ptr<Convolution> inner, base::ThreadPool& pool, Scratch& scratch)
      : Convolution(inner->shape()), inner_(std::move(inner)), pool_(pool), scratch_(scratch) {}

  void forward(ConstFloatView input, const float* weights, FloatView output, const Box& compute) override {
    if (!winograd_pays(compute, shape_.in_c)) return inner_->forward(input, weights, output, compute);
    check_forward(shape_, input, output, compute);
    run({input,
         {0, shape_.in_c},
         input_range(shape_.rows(), compute.y, shape_.in_y),
         input_range(shape_.columns(), compute.x, shape_.in_x),
         shape_.pad,
         output,
         compute,
         false,
         weights,
         false});
  }

  void backward_data(ConstFloatView delta_out, const float* weights, FloatView delta_in, const Box& compute, bool accumulate) override {
    const Range filters = delta_out.box.c;
    if (!winograd_pays(compute, filters.size())) return inner_->backward_data(delta_out, weights, delta_in, compute, accumulate);
    check_backward_data(shape_, delta_out, delta_in, compute);
    run({delta_out, filters, output_range(shape_.rows(), compute.y, shape_.out_y()),
         output_range(shape_.columns(), compute.x, shape_.out_x()), 2 - shape_.pad, delta_in, compute, accumulate, weights, true});
  }

  void backward_weights(ConstFloatView input, ConstFloatView delta_out, const Box& delta_box, float* gradient) override {
    inner_->backward_weights(input, delta_out, delta_box, gradient);
  }

  void weights_changed() override { inner_->weights_changed(); }
  std::size_t resident_bytes() const override { return inner_->resident_bytes(); }
  std::uint64_t conversion_bytes() const override { return inner_->conversion_bytes(); }
  Backend backend() const override { return inner_->backend(); }

  std::size_t scratch_bytes(const ConvolutionWork& work) override {
    ConvolutionWork others = work;
    std::size_t bytes = 0;
    if (winograd_pays(work.forward, shape_.in_c)) {
      others.forward = {};
      bytes = bytes_of(work.forward, shape_.in_c);
    }
    // Deltas of some filters only may be left to the backend inside, and need less here.
    if (winograd_pays(work.backward_data, shape_.out_c)) bytes = std::max(bytes, bytes_of(work.backward_data, shape_.out_c));
    return std::max(bytes, inner_->scratch_bytes(others));
  }

 private:
  std::size_t bytes_of(const Box& box, Index depth) const {
    const Cut cut(box, {0, depth}, pool_.size());
    // Fewer filters' deltas are transformed in larger parts: at most kSourceFloats, or all tiles.
    const Index most = std::max(cut.source_floats(), kSourceFloats + kPlaces * (depth * (2 * kVector + 48) + kSkew + 16));
    return static_cast<std::size_t>(
               std::min(most, Places::floats(depth, aligned(cut.total * cut.tiles_x + kVector) + aligned(kProductVector))) +
               pool_.size() * (cut.thread_floats() + 64)) *
           sizeof(float);
  }

  void run(const Job& job) {
    const Cut cut(job.compute, job.depth, pool_.size());
    const Index own = aligned(cut.thread_floats());
    auto* shared = reinterpret_cast<float*>(
        scratch_.take(static_cast<std::size_t>(aligned(cut.source_floats()) + pool_.size() * own) * sizeof(float)));
    float* memory = shared + aligned(cut.source_floats());
    const Places source = Places::at(shared, cut.depth_size, cut.source_stride());
    for (Index begin = 0; begin < cut.total; begin += cut.at_once) {
      const Range tile_rows{begin, std::min(begin + cut.at_once, cut.total)};
      pool_.parallel_for(cut.depth_size, [&](std::ptrdiff_t channel, int thread) {
        source_channel(job, cut, tile_rows, channel, source, memory + thread * own);
      });
      pool_.parallel_for(cut.row_blocks * cut.parts, [&](std::ptrdiff_t task, int thread) {
        const Index block = task / cut.parts, part = task % cut.parts, first = block * cut.block_rows;
        const Range rows{first, std::min(first + cut.block_rows, cut.rows)};
        const Range some{begin + tile_rows.size() * part / cut.parts, begin + tile_rows.size() * (part + 1) / cut.parts};
        if (!rows.empty() && !some.empty()) product_block(job, cut, begin, some, rows, source, memory + thread * own);
      });
    }
  }

  // One channel of V for the tiles of `tile_rows`. Vectors reach beyond the tiles of a row: the next row overwrites that.
  static void source_channel(const Job& job, const Cut& cut, Range tile_rows, Index channel, const Places& to, float* memory) {
    const Index line = cut.line();
    float* target = to.data + channel * to.stride;
    for (Index row = tile_rows.begin; row < tile_rows.end; ++row, target += cut.tiles_x) {
      const Index n = job.compute.n.begin + row / cut.tiles_y, i = row % cut.tiles_y;
      const Index y = job.compute.y.begin + 2 * i - job.shift;
      // Two of the four rows are those of the row of tiles before.
      const bool known = i > 0 && row > tile_rows.begin;
      for (Index r = known ? 2 : 0; r < 4; ++r)
        split_row(job, n, job.depth.begin + channel, y + r, line, memory + (2 * i + r) % 4 * 2 * line, memory + 8 * line);
      for (Index j = 0; j < cut.tiles_x; j += kVector) {
        Tile cells;
        for (Index r = 0; r < 4; ++r) {
          const float* even_cells = memory + (2 * i + r) % 4 * 2 * line + j;
          cells[4 * r] = load(even_cells);
          cells[4 * r + 1] = load(even_cells + line);
          cells[4 * r + 2] = load(even_cells + 1);
          cells[4 * r + 3] = load(even_cells + line + 1);
        }
        const Tile result = transform_source(cells);
        for (Index place = 0; place < kPlaces; ++place) store(result[place], target + place * to.next + j);
      }
    }
  }

  // The cells of a row under the tiles: even ones to `to`, odd ones behind them; zero where there are none.
  static void split_row(const Job& job, Index n, Index channel, Index y, Index line, float* to, float* copy) {
    const Index first = job.compute.x.begin - job.shift;
    const Range x = intersect(job.x, Range{first, first + 2 * line});
    if (y < job.y.begin || y >= job.y.end || x.empty()) {
      std::fill(to, to + 2 * line, 0.f);
      return;
    }
    std::fill(copy, copy + (x.begin - first), 0.f);
    std::memcpy(copy + (x.begin - first), &job.source.at(n, channel, y, x.begin), static_cast<std::size_t>(x.size()) * sizeof(float));
    std::fill(copy + (x.end - first), copy + 2 * line, 0.f);
    for (Index j = 0; j < line; j += kVector) {
      const Floats low = load(copy + 2 * j), high = load(copy + 2 * j + kVector);
      store(even(low, high), to + j);
      store(odd(low, high), to + line + j);
    }
  }

  // U of some rows, kVector of them at once: weights[rows / 8][depth][8] for each place, zero beyond the last row.
  void transform_weights(const Job& job, Range rows, Index depth, const Places& to) const {
    const Index filter = shape_.in_c * 9, row_step = job.backward ? 9 : filter, depth_step = job.backward ? filter : 9;
    const float* first = job.weights + (job.backward ? (job.compute.c.begin + rows.begin) * 9 : rows.begin * filter);
    for (Index row = 0; row < rows.size(); row += kVector)
      for (Index d = 0; d < depth; ++d) {
        const float* from = first + row * row_step + d * depth_step;
        const Index count = std::min<Index>(kVector, rows.size() - row);
        float by_tap[9][kVector] = {};
        for (Index lane = 0; lane < count; ++lane)
          for (int tap = 0; tap < 9; ++tap) by_tap[tap][lane] = from[lane * row_step + tap];
        std::array<Floats, 9> taps;
        for (int tap = 0; tap < 9; ++tap) taps[tap] = load(by_tap[job.backward ? 8 - tap : tap]);
        const Tile result = transform_taps(taps);
        for (Index place = 0; place < kPlaces; ++place)
          store(result[place], to.data + place * to.next + (row / kStrip * depth + d) * kStrip + row % kStrip);
      }
  }

  // Results of some rows (channels of the target, counted from compute.c.begin) and rows of tiles; V begins with tile row `first`.
  void product_block(const Job& job, const Cut& cut, Index first, Range tile_rows, Range rows, const Places& source, float* memory) const {
    const Places weights = Places::at(memory, round_up(rows.size(), kStrip), cut.depth_size);
    memory += aligned(cut.weight_floats());
    const Places products = Places::at(memory, round_up(rows.size(), kStrip), cut.product_stride());
    float* lines = memory + aligned(Places::floats(cut.block_rows, cut.product_stride()));
    transform_weights(job, rows, cut.depth_size, weights);
    for (Index row = tile_rows.begin; row < tile_rows.end; row += cut.block_tile_rows) {
      const Range some{row, std::min(row + cut.block_tile_rows, tile_rows.end)};
      for (Index place = 0; place < kPlaces; ++place)
        multiply_strips(weights.data + place * weights.next, rows.size(), cut.depth_size,
                        source.data + place * source.next + (row - first) * cut.tiles_x, source.stride,
                        round_up(some.size() * cut.tiles_x, kProductVector), products.data + place * products.next, products.stride);
      for (Index k = rows.begin; k < rows.end; ++k) {
        const float* from = products.data + (k - rows.begin) * products.stride;
        for (Index r = some.begin; r < some.end; ++r, from += cut.tiles_x)
          result_rows(job, cut, job.compute.n.begin + r / cut.tiles_y, job.compute.c.begin + k, r % cut.tiles_y, from, products.next,
                      lines);
      }
    }
  }

  // The (at most) two rows of results of a row of tiles.
  static void result_rows(const Job& job, const Cut& cut, Index n, Index c, Index i, const float* from, Index next, float* lines) {
    const Index line = 2 * cut.line();
    for (Index j = 0; j < cut.tiles_x; j += kVector) {
      Tile products;
      for (Index place = 0; place < kPlaces; ++place) products[place] = load(from + place * next + j);
      const auto cells = transform_products(products);
      for (int r = 0; r < 2; ++r) {
        store(interleave_low(cells[2 * r], cells[2 * r + 1]), lines + r * line + 2 * j);
        store(interleave_high(cells[2 * r], cells[2 * r + 1]), lines + r * line + 2 * j + kVector);
      }
    }
    const Index width = job.compute.x.size(), y = job.compute.y.begin + 2 * i;
    for (Index r = 0; r < std::min<Index>(2, job.compute.y.end - y); ++r) {
      float* __restrict to = &job.target.at(n, c, y + r, job.compute.x.begin);
      const float* __restrict result = lines + r * line;
      if (job.accumulate)
        for (Index x = 0; x < width; ++x) to[x] += result[x];
      else
        std::memcpy(to, result, static_cast<std::size_t>(width) * sizeof(float));
    }
  }

  std::unique_ptr<Convolution> inner_;
  base::ThreadPool& pool_;
  Scratch& scratch_;
};

}  // namespace

std::string winograd_version() { return product_is_fast() ? "winograd F(2x2,3x3)" : "no winograd"; }

bool winograd_pays(const Box& compute, Index depth) {
  if (compute.empty()) return false;
  const Index tiles = compute.n.size() * divide_up(compute.y.size(), 2) * divide_up(compute.x.size(), 2);
  // Products in and beyond the box against those of the definition, with a third for the transforms.
  const bool saves = tiles * kPlaces * 4 <= compute.n.size() * compute.y.size() * compute.x.size() * 9 * 3;
  return saves && tiles >= kLeastTiles && std::min(depth, compute.c.size()) >= kWinogradLeastChannels;
}

std::unique_ptr<Convolution> with_winograd(std::unique_ptr<Convolution> inner, base::ThreadPool& pool, Scratch& scratch) {
  const ConvolutionShape& shape = inner->shape();
  if (!product_is_fast() || shape.kernel != 3 || shape.stride != 1 || !shape.is_dense() ||
      std::min(shape.in_c, shape.out_c) < kWinogradLeastChannels)
    return inner;
  return std::make_unique<WinogradConvolution>(std::move(inner), pool, scratch);
}

}  // namespace tessera::kernels
