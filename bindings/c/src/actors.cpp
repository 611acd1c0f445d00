#include <atomic>
#include <string>
#include <vector>

#include <troupe/rpc/method_entries.hpp>
#include <troupe/rpc/method_table.hpp>

#include "calls.hpp"

using namespace troupe;
using namespace troupe::c;

namespace {

/// A method as it was declared; shared by the actors that have it and their calls.
struct CMethod {
  std::string name;
  rpc::AnySignature signature;
  std::uint64_t fingerprint = 0;
  troupe_handler handler = nullptr;
};

}  // namespace

struct troupe_methods {
  std::vector<std::shared_ptr<const CMethod>> methods;
};

/// A method of an actor.
struct BoundMethod {
  CMethod method;
  std::shared_ptr<Gate> gate;
};

/// A call that came in, until it is answered and its handler has returned.
struct troupe_incoming {
  static constexpr std::size_t kFew = 6;

  rpc::InboundCallPtr call;
  const BoundMethod* bound = nullptr;
  // What it refers to, from when its handler has returned without an answer.
  std::shared_ptr<const BoundMethod> kept_method;
  std::shared_ptr<void> kept_state;
  ValueTree tree;
  troupe_value few[kFew];          // its arguments, if they are
  std::vector<troupe_value> many;  // or else
  std::string text;                // what was asked for last
  // With the turn:
  bool running = false;   // its handler has not returned
  bool answered = false;  // while it was running: who runs it ends it
  // Of those that a Gate keeps:
  troupe_incoming* next = nullptr;
};

void Gate::end(troupe_incoming* call) {
  // The state may own what keeps the node, which then ends here: not under the lock, and not with the node.
  const std::shared_ptr<void> state = std::move(call->kept_state);
  {
    const std::lock_guard lock(mutex_);
    if (stage_ != Stage::kGone) {
      call->next = std::exchange(ended_, call);
      return;
    }
  }
  delete call;
}

void Gate::finish_end() {
  enter(Stage::kGone);
  while (ended_) delete std::exchange(ended_, ended_->next);  // nobody adds to them any more
}

namespace {

Result<void> read_arguments(troupe_incoming& incoming) {
  const rpc::InMessage& message = incoming.call->message();
  const std::vector<rpc::AnyType>& types = incoming.bound->method.signature.parameters;
  if (message.value_count() != types.size())
    return Error{Code::kInvalidArgument, "takes " + std::to_string(types.size()) + " arguments, not " +
                                             std::to_string(message.value_count())};
  if (types.size() > troupe_incoming::kFew) incoming.many.resize(types.size());
  troupe_value* const arguments = incoming.many.empty() ? incoming.few : incoming.many.data();
  for (std::uint32_t i = 0; i < message.value_count(); ++i) {
    arguments[i] = incoming.tree.read(message.value(i));
    if (!fits(types[i], arguments[i])) return rpc::detail::wrong_argument(message, i, types[i].to_string());
  }
  return {};
}

/// Who answers later needs them until then; only with the turn does he look at them.
void keep(troupe_incoming& incoming, const rpc::MethodTable::Target& target,
          const std::shared_ptr<const BoundMethod>& method) {
  incoming.kept_method = method;
  incoming.kept_state = target.state;
}

/// Runs the handler on a call of `method`.
void run(const rpc::MethodTable::Target& target, const std::shared_ptr<const BoundMethod>& method,
         rpc::InboundCallPtr call) {
  std::unique_ptr<troupe_incoming> incoming;
  try {
    incoming.reset(new troupe_incoming);  // its few values stay as they are
    incoming->bound = method.get();
    incoming->call = std::move(call);
    if (auto good = read_arguments(*incoming); !good) return incoming->call->reply_error(good.error());
  } catch (...) {
    const auto& open = incoming && incoming->call ? incoming->call : call;
    return open->reply_error(rpc::detail::current_exception_error("the handler"));
  }
  troupe_incoming* const given = incoming.release();  // the handler's
  given->running = true;
  {
    const rpc::CallContext context(*given->call);
    const HandlerMark mark;
    const Loop::Context within(*given->call->loop(), context.active());
    method->method.handler(target.state.get(), given, given->many.empty() ? given->few : given->many.data(),
                           method->method.signature.parameters.size());
  }
  given->running = false;
  if (given->answered)
    delete given;
  else
    keep(*given, target, method);
}

/// Ends the call with the turn.
void end(troupe_incoming* incoming) {
  incoming->answered = true;
  if (!incoming->running) delete incoming;
}

void reply(troupe_incoming* incoming, const troupe_value* value) {
  if (!value)
    incoming->call->reply_void();
  else
    incoming->call->reply_with([&](rpc::OutMessage& out) {
      out.values(1);
      write(out.value(0), &incoming->bound->method.signature.result, *value);
    });
  end(incoming);
}

void reply_error(troupe_incoming* incoming, Error error) {
  incoming->call->reply_error(std::move(error));
  end(incoming);
}

/// kInvalidArgument: why this cannot be the method's answer.
Result<void> check_result(const CMethod& method, const troupe_value* value) {
  const rpc::AnyType& type = method.signature.result;
  const bool is_void = type.kind == rpc::AnyType::Kind::kVoid;
  if (!value) {
    if (is_void) return {};
    return Error{Code::kInvalidArgument,
                 "the answer of '" + method.name + "' is to be " + type.to_string() + ", and is NULL"};
  }
  if (auto good = check_value(*value); !good)
    return with_context(good.error(), "the answer of '" + method.name + "'");
  if (is_void || !fits(type, *value))
    return Error{Code::kInvalidArgument, "the answer of '" + method.name + "' is to be " + type.to_string() +
                                             ", not " + describe(*value)};
  return {};
}

/// Runs `reply` with the turn, soon; it ends the call. After the end of the node nobody waits for it.
template <class Reply>
void with_turn(troupe_incoming* incoming, Reply&& reply) {
  struct Task {
    std::unique_ptr<troupe_incoming> incoming;
    std::decay_t<Reply> reply;
    void operator()() { reply(incoming.release()); }
  };
  const std::shared_ptr<Gate> gate = incoming->bound->gate;
  const bool posted = gate->post([&] {
    return Task{std::unique_ptr<troupe_incoming>(incoming), std::forward<Reply>(reply)};
  });
  if (!posted) gate->end(incoming);
}

void fail_call(troupe_incoming* call, Error error) {
  if (call->bound->gate->in_turn()) return reply_error(call, std::move(error));
  with_turn(call, [error = std::move(error)](troupe_incoming* later) { reply_error(later, error); });
}

}  // namespace

troupe_status troupe_methods_new(troupe_methods** methods) {
  if (methods) *methods = nullptr;
  return guard([&]() -> Result<void> {
    if (!methods) return null_argument("methods");
    *methods = new troupe_methods;
    return {};
  });
}

void troupe_methods_free(troupe_methods* methods) {
  delete methods;
}

troupe_status troupe_methods_add(troupe_methods* methods, const char* name, const char* signature,
                                 troupe_handler handler) {
  return guard([&]() -> Result<void> {
    if (!methods) return null_argument("methods");
    if (!name) return null_argument("name");
    if (!signature) return null_argument("signature");
    if (!handler) return null_argument("handler");
    auto types = rpc::AnySignature::parse(signature);
    if (!types) return types.error();
    for (const auto& each : methods->methods)
      if (rpc::fnv1a(each->name) == rpc::fnv1a(name))
        return Error{Code::kAlreadyExists, "there is a method '" + each->name + "' already"};
    const std::uint64_t fingerprint = types->fingerprint();
    methods->methods.push_back(
        std::make_shared<const CMethod>(CMethod{name, std::move(*types), fingerprint, handler}));
    return {};
  });
}

troupe_status troupe_node_spawn(troupe_node* node, const char* name, const troupe_methods* methods,
                                void* state, void (*destroy)(void* state)) {
  return guard([&]() -> Result<void> {
    std::shared_ptr<void> owned;
    if (destroy)
      owned = std::shared_ptr<void>(state, destroy);
    else
      owned = std::shared_ptr<void>(std::shared_ptr<void>(), state);
    if (!node) return null_argument("node");
    if (!name) return null_argument("name");
    if (!methods) return null_argument("methods");
    auto table = std::make_shared<rpc::MethodTable>();
    for (const auto& method : methods->methods) {
      auto bound = std::make_shared<const BoundMethod>(BoundMethod{*method, node->box->gate});
      table->add(
          {method->name, method->signature.to_string(), method->fingerprint, nullptr,
           [bound = std::move(bound)](const rpc::MethodTable::Target& target, rpc::InboundCallPtr call) {
             run(target, bound, std::move(call));
           }});
    }
    return (**node).spawn_state(name, std::move(owned), std::move(table));
  });
}

troupe_status troupe_node_kill(troupe_node* node, const char* name) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    if (!name) return null_argument("name");
    return (**node).kill(name);
  });
}

// ---- Answering ------------------------------------------------------------------------------------

troupe_status troupe_incoming_answer(troupe_incoming* call, const troupe_value* value) {
  return guard([&]() -> Result<void> {
    if (!call) return null_argument("call");
    try {
      if (auto good = check_result(call->bound->method, value); !good) {
        fail_call(call, {Code::kInternal, good.error().message});
        return good;
      }
      if (call->bound->gate->in_turn()) {
        reply(call, value);
      } else if (!value) {
        with_turn(call, [](troupe_incoming* later) { reply(later, nullptr); });
      } else {
        auto kept = std::make_unique<OwnedValues>(value, 1);
        with_turn(call, [kept = std::move(kept)](troupe_incoming* later) { reply(later, kept->data()); });
      }
    } catch (...) {
      // There is no memory; whoever waits hears of it when the call is dropped.
      return rpc::detail::current_exception_error("the answer");
    }
    return {};
  });
}

troupe_status troupe_incoming_fail(troupe_incoming* call, troupe_status status, const char* message) {
  return guard([&]() -> Result<void> {
    if (!call) return null_argument("call");
    const bool known = status > TROUPE_OK && status <= TROUPE_UNAUTHENTICATED;
    fail_call(call, {known ? static_cast<Code>(status) : Code::kUnknown, text_of(message)});
    return {};
  });
}

int troupe_incoming_cancelled(const troupe_incoming* call) {
  return guard_value(0, [&] { return call && rpc::CallContext(*call->call).cancelled() ? 1 : 0; });
}

int64_t troupe_incoming_time_left(const troupe_incoming* call) {
  return guard_value(std::int64_t{0}, [&] {
    return call ? static_cast<std::int64_t>(rpc::CallContext(*call->call).time_left().count()) : 0;
  });
}

const char* troupe_incoming_metadata(const troupe_incoming* call, const char* key) {
  return guard_value(static_cast<const char*>(nullptr), [&]() -> const char* {
    if (!call || !key) return nullptr;
    const std::string* const value = call->call->header().metadata.find(key);
    return value ? value->c_str() : nullptr;
  });
}

namespace {

const char* caller_text(const troupe_incoming* call, std::string Caller::*which) {
  return guard_value("", [&]() -> const char* {
    if (!call) return "";
    const rpc::CallContext context(*call->call);
    auto& text = const_cast<troupe_incoming*>(call)->text;
    text = Node::of(context).caller_of(context).*which;
    return text.c_str();
  });
}

}  // namespace

const char* troupe_incoming_caller(const troupe_incoming* call) {
  return caller_text(call, &Caller::name);
}

const char* troupe_incoming_identity(const troupe_incoming* call) {
  return caller_text(call, &Caller::identity);
}
