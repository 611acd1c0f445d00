#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/shards/snapshot.hpp>
#include <troupe/training/zero.hpp>

#include "zero/gradients.hpp"
#include "zero/layers.hpp"
#include "zero/loss_scaler.hpp"
#include "zero/plan.hpp"
#include "zero/stepper.hpp"
#include "zero/weights.hpp"

namespace troupe::training::zero {

/// What a group of some size makes of parameters and options.
struct Parts {
  Parts(const std::vector<ZeroParameter>& parameters, const ZeroOptions& options, shards::Communicator& of)
      : group(of),
        plan(parameters, options, of.rank(), of.size()),
        weights(plan, of, options),
        gradients(plan, of, options),
        layers(plan, weights, options),
        stepper(plan, options.optimizer) {}

  shards::Communicator& group;
  Plan plan;
  Weights weights;
  Gradients gradients;
  Layers layers;
  Stepper stepper;
};

/// All members' numbers, by rank: [members, numbers].
Result<std::vector<std::uint64_t>> exchange(shards::Communicator& group,
                                            const std::vector<std::uint64_t>& mine);

class Member final : public Zero {
 public:
  Member(shards::Communicator& group, std::vector<ZeroParameter> parameters, ZeroOptions options);

  /// All have the same parameters and options, and take the first one's values.
  Result<void> begin(const Initial& initial);

  /// A collective: does this on a thread of its own; the first error of any member, at all of them. Meanwhile
  /// they hear of each other: how long a disk takes does not count against the communicator's timeout.
  Result<void> together_while(const std::function<Result<void>()>& work);

  const ZeroOptions& options() const override { return options_; }
  const std::vector<ZeroParameter>& parameters() const override { return parameters_; }
  int index_of(std::string_view name) const override;
  std::uint64_t steps() const override { return steps_; }
  std::uint64_t skipped() const override { return skipped_; }
  float loss_scale() const override { return scaler_.scale(); }
  ZeroMemory memory() const override;
  Result<void> begin_layer(int layer) override;
  Result<void> end_layer(int layer) override;
  Result<Tensor> parameter(int index) const override;
  Result<void> gradient(int index, const Tensor& gradient) override;
  Result<ZeroStep> step() override;
  Result<Tensor> weights(int index) override;
  bool whole() const override { return whole_; }
  Result<void> save(const std::filesystem::path& folder) override;
  Result<void> restore(const std::filesystem::path& folder) override;
  Result<void> drop_pass() override;
  Result<void> reform(shards::Communicator& group) override;

 private:
  /// What the members know together before a step.
  struct Verdict {
    double squares = 0;
    bool fits = true;
    bool weights_fit = true;
  };

  /// The communicator has ended, or does now: so has this.
  Error ended(Error why);
  /// All members have found the same.
  Error all_ended(Error why);
  Error not_whole() const;
  /// No memory for what is under way: this member leaves the group.
  Error no_memory();
  Result<void> usable() const;
  std::optional<Error> fault_of(int index) const;
  Result<void> ready_to_step() const;
  /// No gradient has been taken, and no layer is in use.
  Result<void> between_steps() const;
  /// Hears from all members, in a collective, what their parts of the gradients come to.
  Result<Verdict> agree(float rate);
  /// The rate of the next step. kInvalidArgument: it is no rate.
  Result<float> rate() const;
  Result<ZeroStep> step(float rate);
  Result<void> update(double factor, ZeroStep& report);
  /// LAMB's norms of whole parameters.
  Result<void> sum_norms();
  Result<void> publish_all();
  Result<Tensor> whole_weights(int index);
  Result<std::vector<std::uint64_t>> exchange(const std::vector<std::uint64_t>& mine);
  /// All members' texts, by rank.
  Result<std::vector<std::string>> exchange_texts(const std::string& mine);
  /// The first error of any member, at all of them.
  Result<void> together(const Result<void>& mine);
  Result<void> save_all(const std::filesystem::path& folder);
  Result<void> restore_all(const std::filesystem::path& folder);
  Result<void> save_into(const shards::CheckpointPlace& place);
  Result<void> go_on_in(shards::Communicator& group);

  const std::vector<ZeroParameter> parameters_;
  const ZeroOptions options_;
  std::unique_ptr<Parts> parts_;
  LossScaler scaler_;
  std::uint64_t steps_ = 0;
  std::uint64_t skipped_ = 0;
  bool whole_ = false;
  std::optional<Error> ended_;
};

}  // namespace troupe::training::zero
