#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <troupe/actors/node.hpp>
#include <troupe/rpc/client.hpp>
#include <troupe/rpc/methods.hpp>

namespace troupe {

namespace detail {

/// Where objects live that other nodes have made: what constructors call. With the turn.
class ObjectHost {
 public:
  virtual ~ObjectHost() = default;
  /// Whether the caller may make an object of this number.
  virtual Result<void> may_make(const rpc::CallContext& context, std::uint64_t number) = 0;
  /// Precondition: it may, asked just now.
  virtual void make(const rpc::CallContext& context, std::uint64_t number, std::shared_ptr<void> state,
                    std::shared_ptr<const rpc::MethodTable> methods) = 0;
};

/// An object that this node has made at another one: its creation, its calls, and in the end its release.
class RemoteObject;

/// The functions of RemoteRef that need no type. With the turn, but for the first.
rpc::Endpoint& endpoint_of(const RemoteObject& object);
const std::string& name_of(const RemoteObject& object);
std::uint64_t call_object(const std::shared_ptr<RemoteObject>& object, rpc::MethodId method,
                          const rpc::CallOptions& options, const rpc::BodyWriter& body, rpc::ReplySink& sink);
rpc::Future<void> creation_of(RemoteObject& object);

inline std::string constructor_name(std::string_view type) {
  return "new " + std::string(type);
}

}  // namespace detail

/// A reference to an object that this node has made at another one, with Node::remote(). Calls may be made at
/// once, before the object is there: they follow its creation; if that fails they end with its error. Calls
/// end as those to a named actor do.
///
/// Copies share the object. It ends when the last of them has gone, and the calls made through them have
/// ended, or when this node dies or leaves; never before, whatever messages are lost. Any thread. A
/// reference that outlives its node may only be dropped.
template <class T>
class RemoteRef {
 public:
  explicit RemoteRef(std::shared_ptr<detail::RemoteObject> object) : object_(std::move(object)) {}

  template <class R, class... Args>
  Result<R> rpc_sync(std::string_view method, const Args&... args) const {
    return rpc_sync_with<R>(rpc::kPlainCall, method, args...);
  }
  template <class R, class... Args>
  Result<R> rpc_sync_with(const rpc::CallOptions& options, std::string_view method,
                          const Args&... args) const {
    rpc::Endpoint& endpoint = detail::endpoint_of(*object_);
    return rpc::call_sync_with<R>(
        endpoint, options, method, what(method),
        [&](rpc::MethodId id, const rpc::BodyWriter& body, rpc::ReplySink& sink) {
          return detail::call_object(object_, id, options, body, sink);
        },
        args...);
  }
  template <class R, class... Args>
  rpc::Future<R> rpc_async(std::string_view method, const Args&... args) const {
    return rpc_async_with<R>(rpc::kPlainCall, method, args...);
  }
  template <class R, class... Args>
  rpc::Future<R> rpc_async_with(const rpc::CallOptions& options, std::string_view method,
                                const Args&... args) const {
    rpc::Endpoint& endpoint = detail::endpoint_of(*object_);
    return rpc::call_async_with<R>(
        endpoint, options, method, what(method),
        [object = object_, options](rpc::MethodId id, const rpc::BodyWriter& body, rpc::ReplySink& sink,
                                    const std::string&) {
          return detail::call_object(object, id, options, body, sink);
        },
        args...);
  }
  /// Ready when the object is there, or with the reason why it never will be. Nobody needs to wait for it.
  /// kNotFound: no node of that name. kUnimplemented: it has no such type. kInvalidArgument: the type has
  /// another constructor. The constructor's own error. kUnavailable, kDeadlineExceeded: the node did not
  /// answer.
  rpc::Future<void> created() const {
    const Loop::Turn turn(detail::endpoint_of(*object_).loop());
    return detail::creation_of(*object_);
  }

 private:
  std::string what(std::string_view method) const {
    return detail::name_of(*object_) + "." + std::string(method);
  }
  std::shared_ptr<detail::RemoteObject> object_;
};

template <class T, class... Args>
void Node::constructible() {
  rpc::Methods<T> methods;
  T::methods(methods);
  rpc::Methods<detail::ObjectHost> constructors;
  constructors.add(
      detail::constructor_name(T::type_name),
      [this, table = methods.table()](detail::ObjectHost& host, const rpc::CallContext& context,
                                      std::uint64_t number, const Args&... args) -> Result<void> {
        if (auto may = host.may_make(context, number); !may) return may;
        if constexpr (std::is_constructible_v<T, Node&, const Args&...>)
          host.make(context, number, std::make_shared<T>(*this, args...), table);
        else
          host.make(context, number, std::make_shared<T>(args...), table);
        return {};
      });
  add_constructor(detail::constructor_name(T::type_name), *constructors.table());
}

template <class T, class... Args>
RemoteRef<T> Node::remote(std::string_view where, const Args&... args) {
  const std::string method = detail::constructor_name(T::type_name);
  const rpc::MethodId id{rpc::fnv1a(method),
                         rpc::signature_fingerprint<void, std::uint64_t, rpc::WireType<Args>...>()};
  return RemoteRef<T>(make_remote(where, T::type_name, id, [&](std::uint64_t number, rpc::OutMessage& out) {
    rpc::detail::arguments_writer(number, args...)(out);
  }));
}

}  // namespace troupe
