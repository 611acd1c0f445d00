#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <caf/all.hpp>
#include <caf/config.hpp>

#include <troupe/runtime/error.hpp>
#include <troupe/runtime/tensor.hpp>

/// What differs between CAF 0.17, Debian 12's and the one that Troupe is developed with, and later versions,
/// as far as an application meets it. What only Troupe meets stands in src/caf_internals.hpp; no other file
/// of actors/ knows of versions. Built and tested against 0.17.6 and 1.0.2; what is said here of 0.18 comes
/// from CAF's change log.
///
/// 17, 18, 19, 100 for 1.0. CAF_VERSION cannot be asked: 1.0.2 takes itself for 0002.
#define TROUPE_CAF (CAF_MAJOR_VERSION * 100 + CAF_MINOR_VERSION)

#if TROUPE_CAF < 18
#include <caf/deserializer.hpp>
#include <caf/serializer.hpp>
#else
#include <caf/binary_deserializer.hpp>
#include <caf/binary_serializer.hpp>
#include <caf/init_global_meta_objects.hpp>
#endif

namespace troupe {

class CallBox;  // a call in a mailbox: see worker_actor.hpp

// ---- Inspection ---------------------------------------------------------------------------------
// Until 0.17 an inspector is called with the fields and returns its result_type, a caf::error when it reads
// or writes. Since 0.18 it makes objects of named fields and returns bool; errors stay with the inspector.

/// A member of a message type, with its name.
template <class T>
struct Field {
  const char* name;
  T& value;
};
template <class T>
Field<T> field(const char* name, T& value) {
  return {name, value};
}

/// An inspection that every version of CAF takes, for message types that are to be built with several:
///
///     template <class Inspector>
///     auto inspect(Inspector& f, Step& step) {
///       return troupe::inspect_fields(f, "Step", step, troupe::field("number", step.number));
///     }
template <class Inspector, class T, class... Fields>
auto inspect_fields(Inspector& inspector, const char* type, [[maybe_unused]] T& object,
                    Field<Fields>... fields) {
#if TROUPE_CAF < 18
  return inspector(caf::meta::type_name(type), fields.value...);
#else
  return inspector.object(object).pretty_name(type).fields(inspector.field(fields.name, fields.value)...);
#endif
}

/// A tensor as any serializer but ours sees it.
struct TensorParts {
  std::uint8_t dtype = 0;
  std::vector<std::int64_t> extents;
  std::string bytes;
};
/// Precondition: host memory.
TensorParts parts_of(const Tensor& tensor);
/// False: these are the parts of no tensor.
bool make_tensor(const TensorParts& parts, Tensor& tensor);

#if TROUPE_CAF < 18
using AnySerializer = caf::serializer;
using AnyDeserializer = caf::deserializer;
using Bytes = std::vector<char>;
#else
// Since 0.18 CAF's binary formats are classes of their own, next to the abstract serializer.
using AnySerializer = caf::binary_serializer;
using AnyDeserializer = caf::binary_deserializer;
using Bytes = caf::byte_buffer;
#endif

/// Puts a tensor aside, uncopied, if this is a serializer of ours.
bool put_aside(AnySerializer& sink, const Tensor& tensor);
/// Gives it back; nothing: the deserializer is not ours; false: no tensor is left.
std::optional<bool> take_back(AnyDeserializer& source, Tensor& tensor);

/// CAF's inspection of a tensor. Where Troupe carries the message its elements stay where they are; any other
/// serializer, as that of CAF's I/O module, gets a copy of them. Precondition: host memory.
/// caf::sec::invalid_argument: what is read is no tensor.
#if TROUPE_CAF < 18
caf::error inspect(caf::serializer& sink, Tensor& tensor);
caf::error inspect(caf::deserializer& source, Tensor& tensor);
#else
template <class Inspector>
bool inspect(Inspector& f, Tensor& tensor) {
  if constexpr (std::is_same_v<Inspector, caf::binary_serializer>) {
    if (put_aside(f, tensor)) return true;
  } else if constexpr (std::is_same_v<Inspector, caf::binary_deserializer>) {
    if (const auto taken = take_back(f, tensor)) {
      if (!*taken) f.emplace_error(caf::sec::end_of_stream);
      return *taken;
    }
  }
  TensorParts parts;
  if constexpr (!Inspector::is_loading) parts = parts_of(tensor);
  if (!f.object(parts)
           .pretty_name("troupe::Tensor")
           .fields(f.field("dtype", parts.dtype), f.field("shape", parts.extents),
                   f.field("bytes", parts.bytes)))
    return false;
  if constexpr (Inspector::is_loading) {
    if (make_tensor(parts, tensor)) return true;
    f.emplace_error(caf::sec::invalid_argument);
    return false;
  }
  return true;
}
#endif

// ---- Errors -------------------------------------------------------------------------------------
// Until 0.17 an error's category is an atom; since 0.18 it is the type id of an enumeration, which has to be
// declared as one of error codes.

#if TROUPE_CAF >= 18
/// False: there is no code of that number.
bool make_code(std::uint8_t number, Code& code);
template <class Inspector>
bool inspect(Inspector& f, Code& code) {
  const auto get = [&code] { return static_cast<std::uint8_t>(code); };
  const auto set = [&code](std::uint8_t number) { return make_code(number, code); };
  return f.apply(get, set);
}
#endif

}  // namespace troupe

// ---- Types of messages --------------------------------------------------------------------------
// Until 0.17 any type can be sent, and those that leave the process are announced by name in the
// configuration. Since 0.18 each has a number, given at compile time, and a table that is filled before the
// first actor system is made: register_caf_types(). An application has the numbers below ours for its own.

#if TROUPE_CAF >= 18
CAF_BEGIN_TYPE_ID_BLOCK(troupe, first_custom_type_id + 1000)
CAF_ADD_TYPE_ID(troupe, (troupe::Code))
CAF_ADD_TYPE_ID(troupe, (troupe::Tensor))
CAF_ADD_TYPE_ID(troupe, (troupe::CallBox))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::int8_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::uint8_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::int16_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::uint16_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::int32_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::uint32_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::int64_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<std::uint64_t>))
CAF_ADD_TYPE_ID(troupe, (std::vector<float>))
CAF_ADD_TYPE_ID(troupe, (std::vector<double>))
CAF_END_TYPE_ID_BLOCK(troupe)
CAF_ERROR_CODE_ENUM(troupe::Code)
#endif

namespace troupe {

#if TROUPE_CAF < 18
/// CAF's category of Troupe's errors.
inline constexpr caf::atom_value kCafErrorCategory = caf::atom("troupe");
#else
inline constexpr caf::type_id_t kCafErrorCategory = caf::type_id_v<Code>;
#endif

/// Has CAF's waiting scheduler, not the one that polls, with so many threads. Until 0.17 its name is an atom,
/// since 0.18 a text, and the options stand in the group "caf".
inline void use_waiting_scheduler(caf::actor_system_config& config, std::size_t threads) {
#if TROUPE_CAF < 18
  config.set("scheduler.policy", caf::atom("sharing"));
  config.set("scheduler.max-threads", threads);
#else
  config.set("caf.scheduler.policy", "sharing");
  config.set("caf.scheduler.max-threads", threads);
#endif
}

}  // namespace troupe
