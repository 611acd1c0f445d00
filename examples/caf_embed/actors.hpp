#pragma once

#include <caf/all.hpp>
#include <cstdint>
#include <string>
#include <vector>

/// The application's actors, written for CAF alone: they know no nodes, and the shard is a caf::actor to
/// them.
namespace caf_embed {

using NoteAtom = caf::atom_constant<caf::atom("note")>;
using MeanAtom = caf::atom_constant<caf::atom("mean")>;
using BatchAtom = caf::atom_constant<caf::atom("batch")>;
using StepAtom = caf::atom_constant<caf::atom("step")>;
using ShardAtom = caf::atom_constant<caf::atom("shard")>;
using DoneAtom = caf::atom_constant<caf::atom("done")>;
using LostAtom = caf::atom_constant<caf::atom("lost")>;

/// One example: which features are there, and what comes of them. A message type of the application's.
struct Example {
  std::vector<std::uint64_t> features;
  float target = 0;
};
template <class Inspector>
typename Inspector::result_type inspect(Inspector& inspector, Example& example) {
  return inspector(caf::meta::type_name("Example"), example.features, example.target);
}

/// Keeps figures by name and prints what it is told; answers with the mean of the latest losses.
using Ledger =
    caf::typed_actor<caf::reacts_to<NoteAtom, std::string, double>, caf::replies_to<MeanAtom>::with<double>>;
Ledger::behavior_type ledger(Ledger::stateful_pointer<std::vector<double>> self);

/// Gives the example of a number: (BatchAtom, number) -> Example.
caf::behavior source(caf::event_based_actor* self);

struct TrainerState {
  caf::actor shard;
  std::uint64_t step = 0;  // done
  std::uint64_t last = 0;
};
/// Trains step by step, up to the step that it is told, then says (DoneAtom, step) to its boss. While its
/// shard is gone it waits for another: it says (LostAtom, step), and goes on with (ShardAtom, shard).
caf::behavior trainer(caf::stateful_actor<TrainerState>* self, const caf::actor& source, const Ledger& ledger,
                      const caf::actor& boss);

}  // namespace caf_embed
