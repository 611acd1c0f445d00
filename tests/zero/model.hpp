#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <troupe/training/zero.hpp>

#include "shards/communicator_contract.hpp"

/// A model of the tests' own: layers of weights, biases and tanh, the last one without it; half the mean
/// squared error. One step of it alone, by plain loops, is what groups are held against.
namespace troupe::training::test {

using Floats = std::vector<float>;

struct Model {
  std::vector<std::int64_t> widths = {7, 13, 5, 3};

  int layers() const { return static_cast<int>(widths.size()) - 1; }
  std::int64_t in(int layer) const { return widths[static_cast<std::size_t>(layer)]; }
  std::int64_t out(int layer) const { return widths[static_cast<std::size_t>(layer) + 1]; }
  /// Of each layer weights [out, in], then biases [out].
  std::vector<ZeroParameter> parameters() const;
  /// Each parameter's first values, which follow from its number.
  static Floats first_values(int parameter, std::int64_t n);
};

/// Samples that follow from their numbers.
struct Batch {
  std::int64_t rows = 0;
  Floats x;
  Floats y;
};
Batch batch_of(const Model& model, std::uint64_t step, std::int64_t first, std::int64_t rows);

/// One layer: y = tanh(x W' + b), or without tanh.
Floats forward(const Model& model, int layer, const Floats& weights, const Floats& biases, const Floats& x,
               std::int64_t rows);
struct LayerGradients {
  Floats weights;
  Floats biases;
  Floats x;
};
/// From the gradients of the layer's `y`.
LayerGradients backward(const Model& model, int layer, const Floats& weights, const Floats& x,
                        const Floats& y, Floats y_gradients, std::int64_t rows);
/// The mean of half the squares, and in `gradients` its gradients times `scale`.
double loss_of(const Floats& out, const Batch& batch, float scale, Floats& gradients);

/// The model alone, in one process, with Adam as its paper writes it.
class Alone {
 public:
  explicit Alone(const Model& model);
  /// The batch's loss before its step. max_norm 0: none.
  double step(const Batch& batch, float max_norm = 0);
  const std::vector<Floats>& values() const { return values_; }
  double norm() const { return norm_; }

 private:
  Model model_;
  std::vector<Floats> values_;
  std::vector<Floats> first_;
  std::vector<Floats> second_;
  int steps_ = 0;
  double norm_ = 0;
};

Floats floats_of(const Tensor& tensor);
Tensor tensor_of(const Floats& values, const Shape& shape);

/// A pass over the batch by a member; its mean loss. BadResult is thrown for what goes wrong.
double pass(const Model& model, Zero& zero, const Batch& batch);
/// Forward alone.
double look(const Model& model, Zero& zero, const Batch& batch);

/// A member of a group that trains the model.
std::unique_ptr<Zero> member_of(const Model& model, shards::Communicator& group, ZeroOptions options);

/// Steps with one batch of `rows` for all members and passes, each of which takes its share; the mean losses.
std::vector<double> train(const Model& model, Zero& zero, shards::Communicator& group, std::uint64_t first,
                          int steps, std::int64_t rows);
/// The mean of the members' numbers.
double mean_of_members(shards::Communicator& group, double mine);

/// The members of a group over Gloo, each in a thread; what each finds wrong.
std::vector<std::string> members_do(int members,
                                    const std::function<std::string(shards::Communicator&)>& body,
                                    Duration timeout = std::chrono::seconds(60));
/// The same, and checks that nothing is.
void in_group(int members, const std::function<std::string(shards::Communicator&)>& body,
              Duration timeout = std::chrono::seconds(60));

/// Empty, or where and by how much they differ by more than `relative`.
std::string difference(const std::vector<double>& a, const std::vector<double>& b, double relative);

}  // namespace troupe::training::test
