// The part of gpu_bench about layers of models: products, attention, and vectors made smaller.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "gpu_machine.hpp"
#include "troupe/kernels/attention.hpp"
#include "troupe/kernels/compress.hpp"
#include "troupe/kernels/product.hpp"
#include "troupe/kernels/vector.hpp"

namespace troupe::bench {

using namespace troupe::kernels;

namespace {

void report_tflops(const Bench& bench, const std::string& name, double operations,
                   const std::function<void()>& work) {
  print_json(name, operations / bench.machine.seconds_of(work) / 1e12, "TFLOP/s");
}

void products(const Bench& bench) {
  if (!bench.wants("gpu_product")) return;
  Machine& machine = bench.machine;
  const Products all(machine.place());
  void* const workspace = machine.make<std::byte>(static_cast<std::int64_t>(Products::kWorkspaceBytes));
  const auto run = [&](const std::string& name, Product product) {
    const std::int64_t most = std::max({product.m * product.k, product.k * product.n, product.m * product.n});
    const float* const a = machine.floats(most);
    const float* const b = machine.floats(most);
    float* const c = machine.make<float>(most);
    const Launch first = all.multiply(machine.place(), product, a, b, c, workspace);
    if (!first.ok()) {
      std::fprintf(stderr, "%s: left out: error %d\n", name.c_str(), first.error);
      return;
    }
    report_tflops(bench, name,
                  2.0 * static_cast<double>(product.m) * static_cast<double>(product.n) *
                      static_cast<double>(product.k),
                  [&] { machine.give(all.multiply(machine.place(), product, a, b, c, workspace)); });
  };
  Product product;
  product.element = product.out_element = Element::kBFloat16;
  product.m = product.n = product.k = 8192;
  run("gpu_product_bf16_8192", product);
  product.transpose_b = true;
  product.m = 32 * 1024;
  product.n = 3 * 768;
  product.k = 768;
  run("gpu_product_bf16_32768x2304x768", product);
  product.bias = machine.floats(product.n);
  run("gpu_product_bf16_32768x2304x768_bias", product);
  product = {};
  product.m = product.n = product.k = 4096;
  run("gpu_product_fp32_4096", product);
  product.round_factors = true;
  run("gpu_product_tf32_4096", product);
  machine.clear();
}

void attentions(const Bench& bench) {
  if (!bench.wants("gpu_attention")) return;
  Machine& machine = bench.machine;
  for (const std::int64_t width : {64, 128}) {
    for (const std::int64_t length : {1024, 4096}) {
      Attention shape;
      shape.element = Element::kBFloat16;
      shape.sequences = 32 * 1024 / length;
      shape.heads = 768 / width;
      shape.length = length;
      shape.width = width;
      shape.stride = 3 * shape.heads * width;
      shape.out_stride = shape.heads * width;
      shape.scale = 1 / std::sqrt(static_cast<float>(width));
      const std::int64_t n = shape.sequences * length * shape.stride;
      const auto halves = [&] {
        const float* const floats = machine.floats(n);
        auto* const made = machine.make<std::uint16_t>(n);
        machine.give(cast(machine.place(), Element::kFloat32, floats, Element::kBFloat16, made, n));
        return made;
      };
      std::uint16_t* const parts = halves();
      std::uint16_t* const gradients = halves();
      std::uint16_t* const out = halves();
      std::uint16_t* const given = halves();
      auto* const log_sums = machine.make<float>(shape.sequences * shape.heads * length);
      void* const workspace = machine.make<std::byte>(static_cast<std::int64_t>(attention_workspace(shape)));
      const std::int64_t part = shape.heads * width;
      const auto forward = [&] {
        machine.give(attention(machine.place(), shape, parts, parts + part, parts + 2 * part, out, log_sums));
      };
      // Half of what all positions have with all others: two products there, five back.
      const double product = static_cast<double>(shape.sequences * shape.heads) *
                             static_cast<double>(length) * static_cast<double>(length) *
                             static_cast<double>(width);
      const std::string name = std::to_string(width) + "_" + std::to_string(length);
      report_tflops(bench, "gpu_attention_" + name, 2 * product, forward);
      report_tflops(bench, "gpu_attention_back_" + name, 5 * product, [&] {
        machine.give(attention_backward(machine.place(), shape, parts, parts + part, parts + 2 * part, out,
                                        given, log_sums, gradients, gradients + part, gradients + 2 * part,
                                        workspace));
      });
      machine.clear();
    }
  }
}

void smaller(const Bench& bench) {
  if (!bench.wants("gpu_smaller")) return;
  Machine& machine = bench.machine;
  constexpr std::int64_t kN = 64 * kMi;
  constexpr std::int64_t kSelected = kN / 128;
  const float* const x = machine.floats(kN);
  float* const error = machine.floats(kN);
  auto* const values = machine.make<std::int8_t>(kN);
  auto* const scales = machine.make<float>(kN / 256);
  auto* const chosen = machine.make<float>(kSelected);
  auto* const positions = machine.make<std::uint32_t>(kSelected);
  void* const workspace =
      machine.make<std::byte>(static_cast<std::int64_t>(largest_workspace(machine.place(), kN)));
  const auto rate = [&](const std::string& name, double bytes, const std::function<void()>& work) {
    print_json(name, bytes * static_cast<double>(kN) / machine.seconds_of(work) / 1e9, "GB/s",
               "device copy, read and written", bench.copy_gb_per_s);
  };
  rate("gpu_smaller_eight_bits_256", 13,
       [&] { machine.give(quantize(machine.place(), x, error, kN, 256, values, scales)); });
  rate("gpu_smaller_eight_bits_back_256", 5,
       [&] { machine.give(dequantize(machine.place(), values, scales, kN, 256, false, error)); });
  print_json("gpu_smaller_largest_128th_of_64Mi", 1e6 * machine.seconds_of([&] {
    machine.give(select_largest(machine.place(), x, error, kN, kSelected, chosen, positions, workspace));
  }),
             "us", "copy of the bytes: read seven times, written once",
             12 * 4.0 * kN / bench.copy_gb_per_s / 1e3);
  machine.clear();
}

}  // namespace

void bench_models(const Bench& bench) {
  products(bench);
  attentions(bench);
  smaller(bench);
}

}  // namespace troupe::bench
