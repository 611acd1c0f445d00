// Every optimizer's step on rows and tensors: the host's and the GPU's against double precision.
#include <troupe/kernels/cast.hpp>
#include <troupe/kernels/step.hpp>

#include <algorithm>
#include <map>
#include <numeric>

#include <troupe/shards/optimizer.hpp>

#include "places.hpp"
#include "shards/reference_optimizers.hpp"

using namespace troupe::kernels;
using namespace troupe::test;
using troupe::shards::Optimizer;
using troupe::shards::test::reference_step;
using troupe::shards::test::ReferenceRow;

namespace {

constexpr std::int64_t kRows = 300;

/// Of each rule its optimizer in shards/, with numbers all of which count. Epsilon is so large that a
/// gradient of which rounding leaves little is not made large again.
Optimizer optimizer_of(Rule rule) {
  static constexpr const char* kNames[] = {"sgd",  "momentum", "nesterov", "adagrad", "rowwise_adagrad",
                                           "adam", "adamw",    "lamb",     "rmsprop", "ftrl"};
  Optimizer optimizer(kNames[static_cast<int>(rule)], {{"learning_rate", 0.05F}});
  for (const auto& parameter : optimizer.def().parameters) {
    if (parameter.name == "weight_decay") optimizer.set("weight_decay", 0.1F);
    if (parameter.name == "epsilon") optimizer.set("epsilon", 0.01F);
    if (parameter.name == "l1") optimizer.set("l1", 0.3F);
    if (parameter.name == "l2") optimizer.set("l2", 0.2F);
  }
  return optimizer;
}

Step step_of(Rule rule, const Optimizer& optimizer) {
  Step step{rule, {}};
  const auto numbers = optimizer.numbers();
  std::copy_n(numbers.begin(), std::min<std::size_t>(numbers.size(), 5), step.numbers);
  return step;
}

/// A table and its like in double precision.
struct Rows {
  StateShape shape;
  std::int64_t dim, weight_stride, state_stride;
  std::vector<float> weights;         // as float32
  std::vector<std::uint16_t> halves;  // as they are stored, of 16 bits
  std::vector<float> state;
  std::vector<ReferenceRow> reference;

  Rows(Rule rule, const Optimizer& optimizer, Element element, std::int64_t row_dim, std::int64_t gap)
      : shape(state_of(rule)), dim(row_dim), weight_stride(row_dim + gap) {
    // Aligned if the gap is a multiple of four.
    state_stride = shape.vectors * dim + (shape.scalar ? (gap % 4 == 0 ? 4 : 1) : 0) + gap;
    weights = random_floats(static_cast<std::size_t>(kRows * weight_stride), 7);
    if (element != Element::kFloat32) {
      halves.resize(weights.size());
      const auto n = static_cast<std::int64_t>(weights.size());
      const bool half = element == Element::kFloat16;
      (half ? float32_to_float16 : float32_to_bfloat16)(weights.data(), n, halves.data());
      (half ? float16_to_float32 : bfloat16_to_float32)(halves.data(), n, weights.data());
    }
    state.assign(static_cast<std::size_t>(kRows * state_stride), 0.0F);
    reference.resize(kRows);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto first = weights.begin() + r * weight_stride;
      reference[static_cast<std::size_t>(r)].weights.assign(first, first + dim);
      reference[static_cast<std::size_t>(r)].begin(optimizer);
    }
  }
};

std::vector<double> doubles(std::vector<float>::const_iterator first, std::int64_t n) {
  return {first, first + n};
}

/// What is stored of a table at a place, seen as float32 again.
template <class Where>
std::vector<float> weights_at(Where& at, Element element, const void* base, std::size_t n) {
  if (element == Element::kFloat32) return at.get(static_cast<const float*>(base), n);
  const auto halves = at.get(static_cast<const std::uint16_t*>(base), n);
  std::vector<float> floats(n);
  (element == Element::kFloat16 ? float16_to_float32 : bfloat16_to_float32)(
      halves.data(), static_cast<std::int64_t>(n), floats.data());
  return floats;
}

/// Half a unit in the last place of what is stored, besides the arithmetic's own.
double tolerance_of(Element element) {
  switch (element) {
    case Element::kFloat32:
      return 1e-5;
    case Element::kFloat16:
      return 1.0 / 2048 + 1e-5;
    case Element::kBFloat16:
      break;
  }
  return 1.0 / 256 + 1e-5;
}

template <class Where>
void check_rows(Where& at, const Rows& rows, Element element, const RowTable& table,
                double state_tolerance = 1e-5) {
  const auto weights = weights_at(at, element, table.weights, rows.weights.size());
  const auto state = at.get(table.state, rows.state.size());
  for (std::int64_t r = 0; r < kRows; ++r) {
    CAPTURE(r);
    const ReferenceRow& expected = rows.reference[static_cast<std::size_t>(r)];
    const auto first = weights.begin() + r * rows.weight_stride;
    REQUIRE(all_close(std::vector<float>(first, first + rows.dim), expected.weights,
                      std::max(state_tolerance, tolerance_of(element))));
    // Between the rows nothing has changed.
    for (std::int64_t j = r * rows.weight_stride + rows.dim; j < (r + 1) * rows.weight_stride; ++j)
      REQUIRE(weights[static_cast<std::size_t>(j)] == rows.weights[static_cast<std::size_t>(j)]);
    const auto second = state.begin() + r * rows.state_stride;
    if (rows.shape.vectors > 0)
      REQUIRE(all_close(std::vector<float>(second, second + rows.dim), expected.first, state_tolerance));
    if (rows.shape.vectors > 1)
      REQUIRE(all_close(std::vector<float>(second + rows.dim, second + 2 * rows.dim), expected.second,
                        state_tolerance));
    if (rows.shape.scalar) {
      const double scalar = rows.shape.vectors > 0 ? expected.steps : expected.sum;
      REQUIRE(all_close(std::vector<float>{second[rows.shape.vectors * rows.dim]},
                        std::vector<double>{scalar}, state_tolerance));
    }
  }
}

template <class Where>
RowTable put(Where& at, const Rows& rows, Element element, std::size_t shift) {
  RowTable table{element,           nullptr, rows.weight_stride, at.put(rows.state, shift),
                 rows.state_stride, rows.dim};
  if (element == Element::kFloat32)
    table.weights = at.put(rows.weights, shift);
  else
    table.weights = at.put(rows.halves, shift);
  return table;
}

const std::vector<std::int64_t> kDims = {1, 3, 4, 8, 20, 31, 32, 64, 100, 128, 129, 132, 256, 512, 516};
const Element kElements[] = {Element::kFloat32, Element::kFloat16, Element::kBFloat16};

}  // namespace

TEST_CASE_TEMPLATE("every rule's step on rows is its formula's, and other rows stay as they are", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (int r = 0; r < kRules; ++r) {
    const auto rule = static_cast<Rule>(r);
    const Optimizer optimizer = optimizer_of(rule);
    for (const std::int64_t dim : kDims) {
      const Element element = kElements[static_cast<std::size_t>(dim + r) % 3];
      CAPTURE(std::string(optimizer.name()));
      CAPTURE(dim);
      CAPTURE(static_cast<int>(element));
      Rows rows(rule, optimizer, element, dim, dim % 8 == 0 ? 4 : 1);
      const RowTable table = put(at, rows, element, dim % 8 == 0 ? 0 : 1);
      // Of 16-bit weights one step: what rounding does to the next is nobody's fault.
      const int steps = element == Element::kFloat32 ? 3 : 1;
      std::vector<std::uint64_t> chosen(kRows);
      std::iota(chosen.begin(), chosen.end(), 0);
      std::mt19937_64 random(static_cast<std::uint64_t>(dim));
      for (int s = 0; s < steps; ++s) {
        std::shuffle(chosen.begin(), chosen.end(), random);
        const std::int64_t count = 257;
        std::vector<std::uint64_t> batch(chosen.begin(), chosen.begin() + count);
        batch[5] = kNoRow;
        const auto gradients = random_floats(static_cast<std::size_t>(count * dim), random());
        for (std::int64_t i = 0; i < count; ++i) {
          if (batch[static_cast<std::size_t>(i)] == kNoRow) continue;
          reference_step(optimizer, rows.reference[batch[static_cast<std::size_t>(i)]],
                         doubles(gradients.begin() + i * dim, dim), 1);
        }
        at.finish(update_rows(at.place(), step_of(rule, optimizer), table, at.put(batch), at.put(gradients),
                              count));
      }
      check_rows(at, rows, element, table);
    }
  }
}

TEST_CASE_TEMPLATE("rows that come more than once take one step with the sum of their gradients", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  for (int r = 0; r < kRules; ++r) {
    const auto rule = static_cast<Rule>(r);
    const Optimizer optimizer = optimizer_of(rule);
    for (const std::int64_t dim : {3, 4, 32, 128, 132, 512}) {
      // From all different to nearly all the same: chunks without ends, rows over many chunks, rows for a
      // block.
      for (const int hot : {0, 50, 100}) {
        CAPTURE(std::string(optimizer.name()));
        CAPTURE(dim);
        CAPTURE(hot);
        const std::int64_t count = hot == 100 ? 5000 : 701;
        Rows rows(rule, optimizer, Element::kFloat32, dim, 4);
        const RowTable table = put(at, rows, Element::kFloat32, 0);
        std::mt19937_64 random(static_cast<std::uint64_t>(dim + hot));
        std::vector<std::uint64_t> batch(static_cast<std::size_t>(count));
        for (auto& row : batch) row = static_cast<int>(random() % 100) < hot - 1 ? 17 : random() % kRows;
        const auto gradients = random_floats(static_cast<std::size_t>(count * dim), random(), -0.02F, 0.02F);
        std::map<std::uint64_t, std::vector<double>> sums;
        for (std::int64_t i = 0; i < count; ++i) {
          auto& sum = sums[batch[static_cast<std::size_t>(i)]];
          sum.resize(static_cast<std::size_t>(dim));
          for (std::int64_t j = 0; j < dim; ++j)
            sum[static_cast<std::size_t>(j)] += double{gradients[static_cast<std::size_t>(i * dim + j)]};
        }
        for (const auto& [row, sum] : sums) reference_step(optimizer, rows.reference[row], sum, 1);
        const Step step = step_of(rule, optimizer);
        const float* const at_gradients = at.put(gradients);
        const std::size_t bytes =
            update_rows_summed_workspace(at.place(), step, table, kRows, at_gradients, count);
        void* const workspace = at.put(std::vector<std::byte>(bytes));
        at.finish(update_rows_summed(at.place(), step, table, kRows, at.put(batch), at_gradients, count,
                                     workspace, bytes));
        // The host adds up to 5,000 gradients one after the other, in float32.
        check_rows(at, rows, Element::kFloat32, table, hot == 100 ? 2e-4 : 1e-5);
      }
    }
  }
}

TEST_CASE_TEMPLATE("every rule's step on tensors is its formula's, however many and long they are", Where,
                   OnHost, OnGpu) {
  Where at;
  if (!at.here()) return;
  const std::vector<std::int64_t> sizes = {0, 1, 3, 255, 256, 257, 2047, 2048, 2049, 10000};
  for (int r = 0; r < kRules; ++r) {
    const auto rule = static_cast<Rule>(r);
    const Optimizer optimizer = optimizer_of(rule);
    CAPTURE(std::string(optimizer.name()));
    std::vector<DenseTensor> tensors;
    std::vector<ReferenceRow> reference;
    std::vector<std::vector<float>> gradients;
    for (int i = 0; i < 150; ++i) {  // more than go into one launch
      const std::int64_t n = sizes[static_cast<std::size_t>(i) % sizes.size()] + (i == 149 ? 30000 : 0);
      const auto weights = random_floats(static_cast<std::size_t>(n), static_cast<std::uint64_t>(i));
      gradients.push_back(random_floats(static_cast<std::size_t>(n), 1000U + static_cast<std::uint64_t>(i)));
      const std::vector<float> zeros(static_cast<std::size_t>(n), 0.0F);
      const std::size_t shift = i % 3 == 0 ? 1 : 0;
      tensors.push_back(
          {at.put(weights, shift), at.put(gradients.back(), shift), {at.put(zeros), at.put(zeros)}, n});
      reference.emplace_back();
      reference.back().weights.assign(weights.begin(), weights.end());
      reference.back().begin(optimizer);
    }
    void* const workspace = at.put(std::vector<double>(2 * tensors.size()));
    for (int number = 1; number <= 2; ++number) {
      at.finish(dense_step(at.place(), step_of(rule, optimizer), tensors, number, workspace));
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].n > 0)
          reference_step(optimizer, reference[i], doubles(gradients[i].begin(), tensors[i].n), 1);
      }
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      CAPTURE(i);
      REQUIRE(all_close(at.get(tensors[i].weights, static_cast<std::size_t>(tensors[i].n)),
                        reference[i].weights, 1e-5));
    }
  }
}
