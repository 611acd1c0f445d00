#pragma once

#include <caf/all.hpp>
#include <cstdint>
#include <string>
#include <vector>

/// The application's actors, written for CAF alone: they know no nodes, and the shard is a caf::actor to
/// them.
namespace caf_embed {

/// One example: which features are there, and what comes of them. A message type of the application's.
struct Example {
  std::vector<std::uint64_t> features;
  float target = 0;
};
template <class Inspector>
auto inspect(Inspector& inspector, Example& example) {
#if CAF_MAJOR_VERSION == 0 && CAF_MINOR_VERSION < 18
  return inspector(caf::meta::type_name("Example"), example.features, example.target);
#else
  return inspector.object(example).fields(inspector.field("features", example.features),
                                          inspector.field("target", example.target));
#endif
}

}  // namespace caf_embed

CAF_BEGIN_TYPE_ID_BLOCK(caf_embed, first_custom_type_id)
CAF_ADD_TYPE_ID(caf_embed, (caf_embed::Example))
CAF_ADD_ATOM(caf_embed, caf_embed, note_atom, "note")
CAF_ADD_ATOM(caf_embed, caf_embed, mean_atom, "mean")
CAF_ADD_ATOM(caf_embed, caf_embed, batch_atom, "batch")
CAF_ADD_ATOM(caf_embed, caf_embed, step_atom, "step")
CAF_ADD_ATOM(caf_embed, caf_embed, shard_atom, "shard")
CAF_ADD_ATOM(caf_embed, caf_embed, done_atom, "done")
CAF_ADD_ATOM(caf_embed, caf_embed, lost_atom, "lost")
CAF_END_TYPE_ID_BLOCK(caf_embed)

namespace caf_embed {

/// Keeps figures by name and prints what it is told; answers with the mean of the latest losses.
#if CAF_MAJOR_VERSION == 0 && CAF_MINOR_VERSION < 18
using Ledger = caf::typed_actor<caf::reacts_to<note_atom, std::string, double>,
                                caf::replies_to<mean_atom>::with<double>>;
#else
using Ledger =
    caf::typed_actor<caf::result<void>(note_atom, std::string, double), caf::result<double>(mean_atom)>;
#endif
Ledger::behavior_type ledger(Ledger::stateful_pointer<std::vector<double>> self);

/// An actor's state: a member until 0.19, a function since 1.0.
template <class Actor>
auto& state_of(Actor* self) {
#if CAF_MAJOR_VERSION == 0
  return self->state;
#else
  return self->state();
#endif
}

/// Gives the example of a number: (batch_atom, number) -> Example.
caf::behavior source(caf::event_based_actor* self);

struct TrainerState {
  caf::actor shard;
  std::uint64_t step = 0;  // done
  std::uint64_t last = 0;
};
/// Trains step by step, up to the step that it is told, then says (done_atom, step) to its boss. While its
/// shard is gone it waits for another: it says (lost_atom, step), and goes on with (shard_atom, shard).
caf::behavior trainer(caf::stateful_actor<TrainerState>* self, const caf::actor& source, const Ledger& ledger,
                      const caf::actor& boss);

}  // namespace caf_embed
