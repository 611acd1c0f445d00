// The types of messages that the tests of CAF have as an application: atoms, and structs that CAF inspects.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <troupe/actors/caf.hpp>

namespace troupe::test {

/// A message type of the application's, known to CAF by its inspection only.
struct Step {
  std::int64_t number = 0;
  Tensor gradient;
  std::vector<std::string> notes;
};
template <class Inspector>
auto inspect(Inspector& f, Step& step) {
  return inspect_fields(f, "Step", step, field("number", step.number), field("gradient", step.gradient),
                        field("notes", step.notes));
}
/// One that only one side has announced, where that can be.
struct Secret {
  std::int64_t number = 0;
};
template <class Inspector>
auto inspect(Inspector& f, Secret& secret) {
  return inspect_fields(f, "Secret", secret, field("number", secret.number));
}
/// One that CAF cannot inspect.
struct Unannounced {};

}  // namespace troupe::test

CAF_BEGIN_TYPE_ID_BLOCK(troupe_test, first_custom_type_id)
CAF_ADD_TYPE_ID(troupe_test, (troupe::test::Step))
CAF_ADD_TYPE_ID(troupe_test, (troupe::test::Secret))
CAF_ADD_TYPE_ID(troupe_test, (troupe::test::Unannounced))
CAF_ADD_ATOM(troupe_test, troupe::test, plus_atom, "plus")
CAF_ADD_ATOM(troupe_test, troupe::test, count_atom, "count")
CAF_ADD_ATOM(troupe_test, troupe::test, refuse_atom, "refuse")
CAF_ADD_ATOM(troupe_test, troupe::test, mean_atom, "mean")
CAF_ADD_ATOM(troupe_test, troupe::test, fail_atom, "fail")
CAF_ADD_ATOM(troupe_test, troupe::test, hold_atom, "hold")
CAF_ADD_ATOM(troupe_test, troupe::test, note_atom, "note")
CAF_ADD_ATOM(troupe_test, troupe::test, kind_atom, "kind")
CAF_ADD_ATOM(troupe_test, troupe::test, both_atom, "both")
CAF_ADD_ATOM(troupe_test, troupe::test, analyst_atom, "analyst")
CAF_END_TYPE_ID_BLOCK(troupe_test)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::test::Unannounced)

namespace troupe::test {

/// Before the first actor system; with CAF 0.17 a system's configuration does this.
inline void register_test_types() {
  register_caf_types();
#if TROUPE_CAF >= 18
  caf::init_global_meta_objects<caf::id_block::troupe_test>();
#endif
}
inline void announce_test_types([[maybe_unused]] caf::actor_system_config& config,
                                [[maybe_unused]] bool knows_secret) {
#if TROUPE_CAF < 18
  config.add_message_type<Step>("Step");
  if (knows_secret) config.add_message_type<Secret>("Secret");
#endif
}
/// Whether a serializer, or a deserializer, takes a value.
template <class Inspector, class T>
bool passes(Inspector& inspector, T& value) {
#if TROUPE_CAF < 18
  return !inspector(value);
#else
  return inspector.apply(value);
#endif
}
/// As what an atom comes: until 0.17 all have one type.
#if TROUPE_CAF < 18
template <class>
using AtomValue = caf::atom_value;
#else
template <class Atom>
using AtomValue = Atom;
#endif
/// The first base of fixtures whose members have actor systems.
struct TestTypes {
  TestTypes() { register_test_types(); }
};

}  // namespace troupe::test
