// Training in a group, by ZeRO: each member has a part of a step's texts.
#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include <troupe/kernels/blas.hpp>
#include <troupe/runtime/tensor.hpp>
#include <troupe/training/zero.hpp>

#include "gpt/learner.hpp"
#include "gpt/machine.hpp"

namespace troupe::gpt {
namespace {

training::ZeroOptions zero_options(const Settings& settings) {
  training::ZeroOptions options;
  options.stage = static_cast<training::ZeroStage>(settings.zero);
  options.optimizer =
      shards::Optimizer("adamw", {{"learning_rate", static_cast<float>(settings.rate)},
                                  {"beta1", static_cast<float>(settings.beta1)},
                                  {"beta2", static_cast<float>(settings.beta2)},
                                  {"epsilon", 1e-8F},
                                  {"weight_decay", static_cast<float>(settings.weight_decay)}});
  options.learning_rate = [settings](std::uint64_t step) { return settings.rate_at(step); };
  options.max_norm = static_cast<float>(settings.max_norm);
  return options;
}

/// Parameters as ZeRO has them, and gradients that it is given one by one.
class ZeroWeights final : public Weights {
 public:
  ZeroWeights(training::Zero& zero, const Parameters& parameters) : zero_(zero) {
    for (const Parameter& each : parameters.all())
      gradients_.push_back(Tensor::zeros(DType::kFloat32, each.shape));
  }

  Result<void> begin_layer(int layer) override { return zero_.begin_layer(layer); }
  Result<void> end_layer(int layer) override { return zero_.end_layer(layer); }
  const float* floats(int parameter) const override {
    const auto whole = zero_.parameter(parameter);
    return whole ? reinterpret_cast<const float*>(whole->data()) : nullptr;
  }
  const void* elements(int parameter) const override { return floats(parameter); }
  float* gradient(int parameter) override {
    return reinterpret_cast<float*>(gradients_[static_cast<std::size_t>(parameter)].data());
  }
  Result<void> gradient_done(int parameter) override {
    return zero_.gradient(parameter, gradients_[static_cast<std::size_t>(parameter)]);
  }

 private:
  training::Zero& zero_;
  std::vector<Tensor> gradients_;
};

class ZeroLearner final : public Learner {
 public:
  ZeroLearner(const Settings& settings, const Corpus& corpus, shards::Communicator& group)
      : settings_(settings),
        corpus_(corpus),
        group_(group),
        parameters_(settings.shape),
        mine_(settings.batch / group.size()) {}

  Result<void> open(const std::vector<float>& first_values);

  const Parameters& parameters() const override { return parameters_; }
  std::uint64_t steps() const override { return zero_->steps(); }
  Result<void> step() override;
  Result<double> loss() override;
  Result<double> norm() override { return norm_; }
  Result<double> validate() override;
  Result<std::vector<float>> weights() override;
  Result<void> save(const std::filesystem::path& folder) override { return zero_->save(folder / "zero"); }
  Result<void> restore(const std::filesystem::path& folder) override {
    return zero_->restore(folder / "zero");
  }

 private:
  Result<double> mean_of_all(double mine);

  const Settings settings_;
  const Corpus& corpus_;
  shards::Communicator& group_;
  const Parameters parameters_;
  const std::int64_t mine_;  // of a step's texts
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Pass> pass_;
  std::unique_ptr<training::Zero> zero_;
  std::unique_ptr<ZeroWeights> weights_;
  double norm_ = 0;
};

Result<void> ZeroLearner::open(const std::vector<float>& first_values) {
  kernels::set_blas_threads(1);
  auto machine = Machine::open("cpu");
  if (!machine) return machine.error();
  machine_ = *std::move(machine);
  auto pass = Pass::create(*machine_, settings_.shape, {.sequences = mine_});
  if (!pass) return pass.error();
  pass_ = *std::move(pass);
  std::vector<training::ZeroParameter> named;
  named.reserve(parameters_.all().size());
  for (const Parameter& each : parameters_.all()) named.push_back({each.name, each.shape, each.layer});
  auto zero = training::Zero::create(group_, std::move(named), zero_options(settings_), [&](int parameter) {
    const Parameter& each = parameters_[parameter];
    const std::span values(first_values.data() + each.offset, static_cast<std::size_t>(each.n));
    return Tensor::of<float>(values).reshape(each.shape);
  });
  if (!zero) return zero.error();
  zero_ = *std::move(zero);
  weights_ = std::make_unique<ZeroWeights>(*zero_, parameters_);
  return {};
}

Result<void> ZeroLearner::step() {
  const std::uint64_t number = zero_->steps();
  if (auto loaded = pass_->load(corpus_.training_batch(settings_.seed, number, group_.rank() * mine_, mine_));
      !loaded)
    return loaded;
  const kernels::Dropout dropout{static_cast<float>(settings_.dropout),
                                 settings_.dropout_seed(number, group_.rank())};
  if (auto done = pass_->forward(*weights_, dropout); !done) return done;
  const float scale = 1.0F / static_cast<float>(mine_ * settings_.shape.block);
  if (auto done = pass_->backward(*weights_, scale, dropout); !done) return done;
  const auto stepped = zero_->step();
  if (!stepped) return stepped.error();
  norm_ = stepped->norm;
  return {};
}

Result<double> ZeroLearner::mean_of_all(double mine) {
  const Tensor mean = Tensor::of<double>({mine});
  if (auto done = group_.all_reduce(mean, shards::ReduceOp::kMean).wait(); !done) return done.error();
  return mean.as<const double>()[0];
}

Result<double> ZeroLearner::loss() {
  auto mine = pass_->loss();
  return mine ? mean_of_all(*mine) : mine;
}

Result<double> ZeroLearner::validate() {
  const std::int64_t mine = settings_.evaluation_texts / group_.size();
  const std::int64_t begin = group_.rank() * mine;
  double sum = 0;
  for (std::int64_t done = 0; done < mine; done += mine_) {
    const std::int64_t some = std::min(mine_, mine - done);
    if (auto loaded = pass_->load(corpus_.validation_batch(begin + done, some, settings_.evaluation_texts));
        !loaded)
      return loaded.error();
    if (auto went = pass_->forward(*weights_); !went) return went.error();
    if (auto went = pass_->losses(*weights_); !went) return went.error();
    auto loss = pass_->loss();
    if (!loss) return loss;
    sum += *loss * static_cast<double>(some);
  }
  return mean_of_all(sum / static_cast<double>(mine));
}

Result<std::vector<float>> ZeroLearner::weights() {
  std::vector<float> all(static_cast<std::size_t>(parameters_.elements()));
  for (int i = 0; i < parameters_.count(); ++i) {
    const auto whole = zero_->weights(i);
    if (!whole) return whole.error();
    const auto values = whole->as<const float>();
    std::copy(values.begin(), values.end(), all.begin() + parameters_[i].offset);
  }
  return all;
}

/// Members of one process tell each other where they are.
class MeetingPoint {
 public:
  explicit MeetingPoint(int members) : all_(static_cast<std::size_t>(members)) {}
  shards::AddressExchange of(int rank) {
    return [this, rank](std::string mine, Duration timeout) -> Result<std::vector<std::string>> {
      std::unique_lock lock(mutex_);
      all_[static_cast<std::size_t>(rank)] = std::move(mine);
      ++there_;
      changed_.notify_all();
      if (changed_.wait_for(lock, timeout, [&] { return there_ == all_.size(); })) return all_;
      return Error{Code::kDeadlineExceeded, "not all members of the group came"};
    };
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> all_;
  std::size_t there_ = 0;
};

Result<void> run_member(int rank, int members, MeetingPoint& meeting,
                        const std::function<Result<void>(shards::Communicator& group)>& body) {
  shards::CommunicatorOptions options;
  options.name = "gpt";
  options.rank = rank;
  options.size = members;
  options.timeout = std::chrono::seconds(120);
  auto group = shards::make_gloo_communicator(options, meeting.of(rank));
  if (!group) return group.error();
  try {
    auto ended = body(**group);
    // Those who wait for this member are told at once.
    if (!ended) (*group)->abort(ended.error());
    return ended;
  } catch (const std::exception& thrown) {
    (*group)->abort(Error{Code::kInternal, thrown.what()});
    return Error{Code::kInternal, thrown.what()};
  }
}

}  // namespace

Result<std::unique_ptr<Learner>> make_zero_learner(const Settings& settings, const Corpus& corpus,
                                                   const std::vector<float>& first_values,
                                                   shards::Communicator& group) {
  auto learner = std::make_unique<ZeroLearner>(settings, corpus, group);
  if (auto opened = learner->open(first_values); !opened) return opened.error();
  return std::unique_ptr<Learner>(std::move(learner));
}

Result<void> with_group(int members, const std::function<Result<void>(shards::Communicator& group)>& body) {
  MeetingPoint meeting(members);
  std::vector<Result<void>> ended(static_cast<std::size_t>(members));
  {
    std::vector<std::jthread> threads;
    threads.reserve(ended.size());
    for (int rank = 0; rank < members; ++rank)
      threads.emplace_back(
          [&, rank] { ended[static_cast<std::size_t>(rank)] = run_member(rank, members, meeting, body); });
  }
  // Of several the one that began it: the others say that a member has left.
  Result<void>* first = nullptr;
  for (Result<void>& each : ended)
    if (!each && (!first || first->error().code == Code::kUnavailable)) first = &each;
  return first ? std::move(*first) : Result<void>();
}

}  // namespace troupe::gpt
