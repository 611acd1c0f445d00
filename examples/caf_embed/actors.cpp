#include "caf_embed/actors.hpp"

#include <cstdio>
#include <random>

#include <troupe/actors/caf.hpp>

namespace caf_embed {

using namespace std::chrono_literals;
using troupe::Tensor;

namespace {

constexpr std::size_t kFeatures = 16;
constexpr std::size_t kLatest = 50;  // losses of which the ledger gives the mean
constexpr auto kPatience = 5s;

}  // namespace

Ledger::behavior_type ledger(Ledger::stateful_pointer<std::vector<double>> self) {
  return {[=](note_atom, const std::string& what, double figure) {
            if (what == "loss")
              state_of(self).push_back(figure);
            else
              std::printf("ledger: %s: %g\n", what.c_str(), figure);
          },
          [=](mean_atom) {
            const auto& losses = state_of(self);
            const std::size_t from = losses.size() > kLatest ? losses.size() - kLatest : 0;
            double sum = 0;
            for (std::size_t i = from; i < losses.size(); ++i) sum += losses[i];
            return losses.empty() ? 0 : sum / static_cast<double>(losses.size() - from);
          }};
}

caf::behavior source(caf::event_based_actor*) {
  return {[](batch_atom, std::uint64_t number) {
    std::mt19937_64 random(number);
    Example example;
    while (example.features.size() < 3) {
      const std::uint64_t feature = random() % kFeatures;
      example.features.push_back(feature);
      example.target += static_cast<float>(feature);  // what the model is to find: each weighs its number
    }
    return example;
  }};
}

namespace {

using Trainer = caf::stateful_actor<TrainerState>;

void next_step(Trainer* self, const caf::actor& source, const Ledger& ledger, const caf::actor& boss);

/// The shard applies the step once, however often it is tried: the step's number is the push's sequence.
void push(Trainer* self, const Tensor& keys, float gradient, const std::function<void()>& then) {
  Tensor gradients = Tensor::zeros(troupe::DType::kFloat32, {keys.elements(), 1});
  for (float& each : gradients.as<float>()) each = gradient;
  // table, keys, gradients, worker, sequence
  self->request(state_of(self).shard, kPatience, "push_rows", std::string("weights"), keys, gradients,
                std::uint64_t{1}, state_of(self).step)
      .then([=](bool) { then(); }, [](const caf::error&) { /* the shard is gone: the down handler tells */ });
}

void train(Trainer* self, const Example& example, const Ledger& ledger, const std::function<void()>& then) {
  const Tensor keys = Tensor::of<std::uint64_t>(std::span<const std::uint64_t>(example.features));
  self->request(state_of(self).shard, kPatience, "peek_rows", std::string("weights"), keys)
      .then(
          [=](const Tensor& rows) {
            float sum = 0;
            for (const float weight : rows.as<const float>()) sum += weight;
            const float error = sum - example.target;
            self->send(ledger, note_atom_v, std::string("loss"), static_cast<double>(error) * error);
            push(self, keys, error, then);
          },
          [](const caf::error&) {});
}

void next_step(Trainer* self, const caf::actor& source, const Ledger& ledger, const caf::actor& boss) {
  if (state_of(self).step == state_of(self).last) return self->send(boss, done_atom_v, state_of(self).step);
  self->request(source, kPatience, batch_atom_v, state_of(self).step).then([=](const Example& example) {
    train(self, example, ledger, [=] {
      ++state_of(self).step;
      next_step(self, source, ledger, boss);
    });
  });
}

}  // namespace

caf::behavior trainer(Trainer* self, const caf::actor& source, const Ledger& ledger, const caf::actor& boss) {
  self->set_down_handler([=](const caf::down_msg&) { self->send(boss, lost_atom_v, state_of(self).step); });
  return {[=](step_atom, std::uint64_t last) { state_of(self).last = last; },
          [=](shard_atom, const caf::actor& shard) {
            state_of(self).shard = shard;
            self->monitor(shard);
            next_step(self, source, ledger, boss);
          }};
}

}  // namespace caf_embed
