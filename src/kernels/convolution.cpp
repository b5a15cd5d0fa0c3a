#include "kernels/convolution.hpp"

#include <limits>

#include "kernels/convolution_backends.hpp"

namespace tessera::kernels {
std::string_view to_string(Backend backend) {
  switch (backend) {
    case Backend::kReference:
      return "reference";
    case Backend::kBlas:
      return "blas";
    case Backend::kOnednn:
      return "onednn";
  }
  base::fail_check(__FILE__, __LINE__, "known backend", fmt::format("backend={}", static_cast<int>(backend)));
}

base::Result<Backend> backend_from_string(std::string_view name) {
  for (const Backend backend : {Backend::kReference, Backend::kBlas, Backend::kOnednn})
    if (to_string(backend) == name) return backend;
  return base::error(base::ErrorCode::kInvalidArgument, "unknown backend '{}': use auto, reference, blas or onednn", name);
}

std::vector<Backend> built_backends() {
  std::vector<Backend> built{Backend::kReference, Backend::kBlas};
  if (onednn_built()) built.push_back(Backend::kOnednn);
  return built;
}

base::Result<std::unique_ptr<Convolution>> make_convolution(Backend backend, const ConvolutionShape& shape, base::ThreadPool& pool,
                                                            Scratch& scratch, bool keep_packed) {
  const bool possible = shape.in_c > 0 && shape.in_y > 0 && shape.in_x > 0 && shape.out_c > 0 && shape.kernel > 0 && shape.stride > 0 &&
                        shape.pad >= 0 && shape.stride_x >= 0 && shape.dilation > 0 && shape.groups > 0 && shape.in_c % shape.groups == 0 &&
                        shape.out_c % shape.groups == 0 && shape.out_y() > 0 && shape.out_x() > 0;
  if (!possible)
    return base::error(base::ErrorCode::kInvalidArgument,
                       "impossible convolution: {} filters of {}x{} stride {} pad {} on an input of {}x{}x{}", shape.out_c, shape.kernel,
                       shape.kernel, shape.stride, shape.pad, shape.in_x, shape.in_y, shape.in_c);
  // BLAS takes int sizes.
  constexpr Index kMost = std::numeric_limits<int>::max();
  if (shape.weight_elements() > kMost || shape.in_c * shape.in_y * shape.in_x > kMost ||
      shape.out_c * shape.out_y() * shape.out_x() > kMost)
    return base::error(base::ErrorCode::kInvalidArgument, "convolution with more than {} values in one tensor", kMost);
  if (backend == Backend::kReference) return make_reference_convolution(shape, pool);
  if (shape.groups > 1 && (backend == Backend::kBlas || onednn_built()))
    return make_grouped_convolution(
        backend, shape, pool, [&](const ConvolutionShape& group) { return std::move(*make_convolution(backend, group, pool, scratch)); });
  switch (backend) {
    case Backend::kReference:
    case Backend::kBlas:
      return with_winograd(make_blas_convolution(backend, shape, pool, scratch), pool, scratch);
    case Backend::kOnednn:
      break;
  }
  auto convolution = make_onednn_convolution(shape, pool, scratch, keep_packed);
  if (convolution == nullptr)
    return base::error(base::ErrorCode::kInvalidArgument,
                       "backend onednn is not built into this program: use blas, or build with libdnnl-dev installed");
  return with_winograd(std::move(convolution), pool, scratch);
}

void check_forward(const ConvolutionShape& shape, const ConstFloatView& input, const FloatView& output, const Box& compute) {
  const Box whole = Box::whole(compute.n.end, {shape.out_c, shape.out_y(), shape.out_x()});
  const Box needed{compute.n, shape.read_by(compute.c), input_range(shape.rows(), compute.y, shape.in_y),
                   input_range(shape.columns(), compute.x, shape.in_x)};
  TESSERA_CHECK(whole.contains(compute) && output.box.contains(compute) && input.box.contains(needed),
                "compute={} output={} input={} needed={}", to_string(compute), to_string(output.box), to_string(input.box),
                to_string(needed));
}

void check_backward_data(const ConvolutionShape& shape, const ConstFloatView& delta_out, const FloatView& delta_in, const Box& compute) {
  const Box whole = Box::whole(compute.n.end, {shape.in_c, shape.in_y, shape.in_x});
  const Box needed{compute.n, delta_out.box.c, output_range(shape.rows(), compute.y, shape.out_y()),
                   output_range(shape.columns(), compute.x, shape.out_x())};
  const Range out_channels{0, shape.out_c};
  TESSERA_CHECK(
      whole.contains(compute) && delta_in.box.contains(compute) && delta_out.box.contains(needed) && out_channels.contains(delta_out.box.c),
      "compute={} delta_in={} delta_out={} needed={}", to_string(compute), to_string(delta_in.box), to_string(delta_out.box),
      to_string(needed));
}

void check_backward_weights(const ConvolutionShape& shape, const ConstFloatView& input, const ConstFloatView& delta_out,
                            const Box& delta_box) {
  const Box whole = Box::whole(delta_box.n.end, {shape.out_c, shape.out_y(), shape.out_x()});
  const Box needed{delta_box.n, shape.read_by(delta_box.c), input_range(shape.rows(), delta_box.y, shape.in_y),
                   input_range(shape.columns(), delta_box.x, shape.in_x)};
  TESSERA_CHECK(whole.contains(delta_box) && delta_out.box.contains(delta_box) && input.box.contains(needed),
                "delta_box={} delta_out={} input={} needed={}", to_string(delta_box), to_string(delta_out.box), to_string(input.box),
                to_string(needed));
}

}  // namespace tessera::kernels
