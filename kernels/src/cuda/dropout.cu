// Dropout, and what is added to a residual after it, element by element.
#include "cuda/device.cuh"
#include "dropped.hpp"
#include "gpu_dropout.hpp"

namespace troupe::kernels::gpu {
namespace {

/// out = residual + dropped(x + bias), without those that are null.
template <int width, bool drops>
__global__ void __launch_bounds__(kBlock)
    drop_kernel(Element element, const void* residual, const void* x, const float* __restrict__ bias,
                std::int64_t columns, std::int64_t n, Dropper dropper, void* out) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kBlock + threadIdx.x) * width;
  if (at >= n) return;
  auto values = load<width>(element, x, at);
  const auto plus = bias ? load_floats<width>(bias, at % columns) : Floats<width>{};
  const auto base = residual ? load<width>(element, residual, at) : Floats<width>{};
#pragma unroll
  for (int k = 0; k < width; ++k) {
    values.v[k] += plus.v[k];
    if constexpr (drops) values.v[k] *= dropper.of(static_cast<std::uint64_t>(at + k));
    values.v[k] += base.v[k];
  }
  store<width>(element, out, at, values);
}

template <int width>
void launch(Place place, Element element, const void* residual, const void* x, const float* bias,
            std::int64_t columns, std::int64_t n, const Dropper& dropper, void* out) {
  const auto blocks = static_cast<unsigned>(ceil_div(ceil_div(n, width), kBlock));
  const auto kernel = dropper.any() ? drop_kernel<width, true> : drop_kernel<width, false>;
  kernel<<<blocks, kBlock, 0, stream_of(place)>>>(element, residual, x, bias, columns, n, dropper, out);
}

Launch run(const char* name, Place place, Element element, const void* residual, const void* x,
           const float* bias, std::int64_t rows, std::int64_t columns, const Dropout& dropout, void* out) {
  const std::int64_t n = rows * columns;
  if (n == 0) return {};
  const OnDevice here(place);
  const std::size_t bytes = 4 * size_of(element);
  const bool fours = columns % 4 == 0 && aligned(residual, bytes) && aligned(x, bytes) &&
                     aligned(out, bytes) && aligned(bias, 16);
  const Dropper dropper(dropout);
  if (fours)
    launch<4>(place, element, residual, x, bias, columns, n, dropper, out);
  else
    launch<1>(place, element, residual, x, bias, columns, n, dropper, out);
  return launched(name);
}

}  // namespace

Launch drop(Place place, Element element, const void* x, std::int64_t n, Dropout dropout, void* out) {
  return run("drop", place, element, nullptr, x, nullptr, 1, n, dropout, out);
}

Launch add_residual(Place place, Element element, const void* residual, const void* x, const float* bias,
                    std::int64_t rows, std::int64_t columns, Dropout dropout, void* out) {
  return run("add_residual", place, element, residual, x, bias, rows, columns, dropout, out);
}

}  // namespace troupe::kernels::gpu
