#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <caf/actor_proxy.hpp>
#include <caf/all.hpp>
#include <caf/config.hpp>
#include <caf/resumable.hpp>

#include <troupe/runtime/error.hpp>
#include <troupe/runtime/tensor.hpp>

/// What differs between CAF 0.17, Debian 12's and the one that Troupe is developed with, and later versions:
/// here and in caf_compat.cpp, and nowhere else in actors/. Built and tested against 0.17.6 and 1.0.2; what
/// is said here of 0.18 comes from CAF's change log.
///
/// 17, 18, 19, 100 for 1.0. CAF_VERSION cannot be asked: 1.0.2 takes itself for 0002.
#define TROUPE_CAF (CAF_MAJOR_VERSION * 100 + CAF_MINOR_VERSION)

#if TROUPE_CAF < 18
#include <caf/execution_unit.hpp>
#include <caf/stream_deserializer.hpp>
#include <caf/stream_serializer.hpp>
#include <caf/streambuf.hpp>
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
#else
// Since 0.18 CAF's binary formats are classes of their own, next to the abstract serializer.
using AnySerializer = caf::binary_serializer;
using AnyDeserializer = caf::binary_deserializer;
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
inline caf::error make_caf_error(Code code, std::string text) {
#if TROUPE_CAF < 18
  return caf::error(static_cast<std::uint8_t>(code), kCafErrorCategory, caf::make_message(std::move(text)));
#else
  return caf::error(code, std::move(text));
#endif
}

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

// ---- Actors and mailboxes -----------------------------------------------------------------------

#if TROUPE_CAF < 100
using SchedulingContext = caf::execution_unit;
using Enqueued = void;
/// Who runs actors: exec_later() takes them.
class ActorRunner : public caf::execution_unit {
 public:
  explicit ActorRunner(caf::actor_system& system) : caf::execution_unit(&system) {}
};
using ProxyBase = caf::actor_proxy;
#else
// Since 1.0 the scheduler stands in the execution unit's place, and an actor says whether it took a message.
using SchedulingContext = caf::scheduler;
using Enqueued = bool;
class ActorRunner : public caf::scheduler {
 public:
  explicit ActorRunner(caf::actor_system&) {}
  virtual void exec_later(caf::resumable* job) = 0;
  void schedule(caf::resumable* job) final { exec_later(job); }
  void delay(caf::resumable* job) final { exec_later(job); }
  void start() final {}
  void stop() final {}
};
/// An actor that is a handle of something else: it has to have a name, and no mailbox to close.
class ProxyBase : public caf::actor_proxy {
 public:
  using caf::actor_proxy::actor_proxy;
  const char* name() const override { return "troupe.proxy"; }

 private:
  void force_close_mailbox() final {}
};
#endif
/// What an actor's enqueue() returns when it has taken a message.
inline Enqueued taken() {
  return Enqueued(true);
}

/// A message on its way to a mailbox. Until 0.18 there are stages through which a response goes.
template <class... Content>
caf::mailbox_element_ptr make_mail(caf::strong_actor_ptr sender, caf::message_id id, Content&&... content) {
#if TROUPE_CAF < 100
  return caf::make_mailbox_element(std::move(sender), id, caf::no_stages, std::forward<Content>(content)...);
#else
  return caf::make_mailbox_element(std::move(sender), id, std::forward<Content>(content)...);
#endif
}
inline caf::message take_content(caf::mailbox_element& element) {
#if TROUPE_CAF < 18
  return element.move_content_to_message();
#else
  return std::move(element.payload);
#endif
}

// ---- Elements of messages -----------------------------------------------------------------------
// Until 0.17 elements are type-erased values, known by RTTI or number; since 0.18 they lie side by side in
// one piece of memory, known by their types' numbers and CAF's table of these.

/// A message being made, also of elements of types that are known only at run time.
class MessageElements {
 public:
  template <class T>
  void append(T value) {
#if TROUPE_CAF < 18
    elements_.push_back(caf::make_type_erased_value<T>(std::move(value)));
#else
    elements_.append(std::move(value));
#endif
  }
  /// The element that `source` holds, of the type announced as `name`. caf::sec::unknown_type: there is none.
  caf::error append_saved(caf::actor_system& system, const std::string& name, AnyDeserializer& source);
  /// What begins a message that calls a method: the atom of that name, else the name as a string. Until 0.17
  /// every short name is an atom; since 0.18 atoms are types, named "add_atom" for "add", which the
  /// application has in its block of type ids, or CAF in its own.
  void append_method(const std::string& name);
  caf::message to_message();

 private:
#if TROUPE_CAF < 18
  std::vector<caf::type_erased_value_ptr> elements_;
#else
  caf::message_builder elements_;
#endif
};

template <class T>
bool holds(const caf::message& message, std::size_t position) {
#if TROUPE_CAF < 18
  constexpr auto number = caf::type_nr<T>::value;
  return message.matches(position, number, number == 0 ? &typeid(T) : nullptr);
#else
  return message.match_element<T>(position);
#endif
}
/// The name of the atom at a position, as append_method() takes it; nothing: it is no atom.
std::optional<std::string> atom_at(const caf::message& message, std::size_t position);
/// The name as which an element's type has been announced; empty: it has none, and cannot be sent.
std::string announced_name(const caf::actor_system& system, const caf::message& message,
                           std::size_t position);
caf::error save_element(const caf::message& message, std::size_t position, AnySerializer& sink);
std::string element_text(const caf::message& message, std::size_t position);
std::string error_text(const caf::actor_system& system, const caf::error& error);

#if TROUPE_CAF < 18
using Bytes = std::vector<char>;
/// CAF's binary format, as a base: `as<Derived>` tells whether a serializer is a Derived.
class BinarySink : public caf::stream_serializer<caf::vectorbuf> {
 public:
  BinarySink(caf::actor_system& system, Bytes& out) : caf::stream_serializer<caf::vectorbuf>(system, out) {}
  template <class Derived>
  static Derived* as(AnySerializer& sink) {
    return dynamic_cast<Derived*>(&sink);
  }
};
class BinarySource : public caf::stream_deserializer<caf::charbuf> {
 public:
  BinarySource(caf::actor_system& system, Bytes& in)
      : caf::stream_deserializer<caf::charbuf>(system, in.data(), in.size()) {}
  template <class Derived>
  static Derived* as(AnyDeserializer& source) {
    return dynamic_cast<Derived*>(&source);
  }
};
#else
using Bytes = caf::byte_buffer;
// These have no virtual functions: which of them are ours is known by their addresses. At a time one thread
// has one at most, in a function of ours that serializes one element.
class BinarySink : public caf::binary_serializer {
 public:
  BinarySink(caf::actor_system& system, Bytes& out) : caf::binary_serializer(system, out) { current_ = this; }
  ~BinarySink() { current_ = nullptr; }
  template <class Derived>
  static Derived* as(AnySerializer& sink) {
    return &sink == current_ ? static_cast<Derived*>(current_) : nullptr;
  }

 private:
  static inline thread_local BinarySink* current_ = nullptr;
};
class BinarySource : public caf::binary_deserializer {
 public:
  BinarySource(caf::actor_system& system, Bytes& in) : caf::binary_deserializer(system, in) {
    current_ = this;
  }
  ~BinarySource() { current_ = nullptr; }
  template <class Derived>
  static Derived* as(AnyDeserializer& source) {
    return &source == current_ ? static_cast<Derived*>(current_) : nullptr;
  }

 private:
  static inline thread_local BinarySource* current_ = nullptr;
};
#endif

}  // namespace troupe
