#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <caf/actor_proxy.hpp>
#include <caf/all.hpp>
#include <caf/resumable.hpp>

#include <troupe/actors/caf_compat.hpp>

#if TROUPE_CAF < 18
#include <caf/execution_unit.hpp>
#include <caf/stream_deserializer.hpp>
#include <caf/stream_serializer.hpp>
#include <caf/streambuf.hpp>
#endif

/// What differs between CAF's versions where applications do not meet it: names with which the rest of
/// actors/ is written for all of them. See troupe/actors/caf_compat.hpp.
namespace troupe {

/// A thread that has made an actor system, or spawned an actor in it, keeps its logger until it does so in
/// another one, or ends; and the system's destructor waits for all who keep that. Whoever does it for a
/// system of our own calls this, so that another thread may end that.
inline void forget_system_of_thread() {
#if TROUPE_CAF < 100
  caf::logger::set_current_actor_system(nullptr);
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

inline caf::error make_caf_error(Code code, std::string text) {
#if TROUPE_CAF < 18
  return caf::error(static_cast<std::uint8_t>(code), kCafErrorCategory, caf::make_message(std::move(text)));
#else
  return caf::error(code, std::move(text));
#endif
}
std::string error_text(const caf::actor_system& system, const caf::error& error);

#if TROUPE_CAF < 18
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
