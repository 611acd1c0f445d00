#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/shards/communicator.hpp>

#include "gpt/corpus.hpp"
#include "gpt/machine.hpp"
#include "gpt/settings.hpp"

namespace troupe::gpt {

/// A model that learns: alone, or as one member of a group, who all call the same functions in the same
/// order.
class Learner {
 public:
  virtual ~Learner() = default;
  virtual const Parameters& parameters() const = 0;
  /// Steps taken so far.
  virtual std::uint64_t steps() const = 0;
  /// One step. What was given to a GPU may still be under way.
  virtual Result<void> step() = 0;
  /// The mean loss of the last step's tokens, of all members. Waits.
  virtual Result<double> loss() = 0;
  /// The norm of the last step's gradients, before they were held to the largest. Waits.
  virtual Result<double> norm() = 0;
  /// The mean loss over the texts for validation, without dropout.
  virtual Result<double> validate() = 0;
  /// All parameters as float32, as Parameters lays them out.
  virtual Result<std::vector<float>> weights() = 0;
  /// State from which restore() goes on as if nothing had been between, in the place of an older one.
  virtual Result<void> save(const std::filesystem::path& folder) = 0;
  virtual Result<void> restore(const std::filesystem::path& folder) = 0;
  /// From now on notes how long each kernel takes: Machine::profile(). Of a learner alone.
  virtual void profile() {}
  virtual std::map<std::string, Machine::Spent> profiled() const { return {}; }
  /// Memory of a GPU, at most, or 0.
  virtual std::size_t peak_bytes() const { return 0; }
};

/// One process: on the host with several threads, each with its own texts, or on a GPU.
Result<std::unique_ptr<Learner>> make_local_learner(const Settings& settings, const Corpus& corpus,
                                                    const std::vector<float>& first_values);

/// A member of a group, by ZeRO. `group` and `corpus` must outlive it.
Result<std::unique_ptr<Learner>> make_zero_learner(const Settings& settings, const Corpus& corpus,
                                                   const std::vector<float>& first_values,
                                                   shards::Communicator& group);

/// Runs `body` for each member of a group that is made of threads of this process, and returns the first
/// error.
Result<void> with_group(int members, const std::function<Result<void>(shards::Communicator& group)>& body);

}  // namespace troupe::gpt
