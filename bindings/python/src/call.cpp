#include "call.hpp"

#include <utility>

#include <nanobind/stl/shared_ptr.h>

#include <troupe/rpc/completion_queue.hpp>
#include <troupe/rpc/method_entries.hpp>

namespace troupe::python {
namespace {
/// Beyond a call's own timeout, which the loop sees to: for a loop that is busy elsewhere.
constexpr Duration kPatience{std::chrono::seconds(1)};

Duration with_patience(Duration timeout) {
  return timeout > Duration::max() / 2 ? timeout : timeout + kPatience;
}
}  // namespace

// ---- Calls ----------------------------------------------------------------------------------------

Call::Call(Node& node, Request request)
    : FutureState(&node.loop(), TimePoint::never()),
      node_(node),
      request_(std::move(request)),
      timeout_(node.endpoint().timeout_of(request_.options)) {}

void Call::begin(const std::shared_ptr<Call>& call) {
  if (call->ready()) return;
  call->self_ = call;
  const Request& request = call->request_;
  try {
    call->call_id_ = call->node_.call(
        request.actor, {rpc::fnv1a(request.method), request.signature, request.method}, request.options,
        [&](rpc::OutMessage& out) { write_values(out, request.arguments); }, *call);
  } catch (...) {
    call->self_.reset();
    call->complete(rpc::detail::current_exception_error("sending"));
  }
  call->request_.arguments.clear();
}

void Call::begin_soon(const std::shared_ptr<Call>& call, bool help) {
  Loop& loop = call->node_.loop();
  if (loop.is_forked()) {
    const Loop::Turn turn(loop);
    return call->complete(with_context(HomeProcess::error(), call->what()));
  }
  const auto now = [&] { begin(call); };
  if (help && loop.run_if_free(std::ref(now))) return;
  /// If the loop ends first, the call does.
  struct Posted {
    std::shared_ptr<Call> call;
    explicit Posted(std::shared_ptr<Call> one) : call(std::move(one)) {}
    Posted(Posted&&) noexcept = default;
    Posted& operator=(Posted&&) = delete;
    ~Posted() {
      if (call) call->complete(Error{Code::kCancelled, "the node has shut down"});
    }
  };
  loop.post([posted = Posted(call)]() mutable { begin(std::exchange(posted.call, nullptr)); });
}

void Call::cancel() {
  if (self_)
    node_.endpoint().cancel(call_id_);
  else
    FutureState::cancel();  // not begun
}

void Call::on_reply(Result<Reply> reply) {
  const auto self = std::move(self_);
  if (!reply)
    complete(with_context(std::move(reply).error(), what()));
  else if ((*reply)->is_error())
    complete(with_context(explained((*reply)->error()), what()));
  else
    complete(std::move(reply));
}

Error Call::explained(Error error) const {
  if (error.cause != rpc::detail::kTypesDiffer)
    return rpc::detail::explain(std::move(error), request_.method, nullptr);
  error.message += ", namely as " + request_.types;
  return error;
}

nb::object call_and_wait(const std::shared_ptr<Node>& node, Request request, const Type& result) {
  Loop& loop = node->loop();
  const auto call = std::make_shared<Call>(*node, std::move(request));
  if (loop.is_forked()) raise(HomeProcess::error());
  const auto done = [&] { return call->ready(); };
  const std::function<void()> begin = [&] { Call::begin(call); };
  try {
    if (!wait_for(loop, std::ref(done), with_patience(call->timeout()), &begin)) {
      loop.post([call] { call->cancel(); });
      raise({Code::kDeadlineExceeded, "the loop was busy until the deadline"});
    }
  } catch (nb::python_error&) {
    loop.post([call] { call->cancel(); });
    throw;
  }
  const Reply message = value_or_raise(call->take());
  nb::object value = give_answer(result, *message);
  give_back_dropped();
  return value;
}

// ---- As Python has them ---------------------------------------------------------------------------

namespace {

nb::object result_of(PendingCall& self, nb::handle timeout) {
  Loop& loop = self.node->loop();
  if (!self.call->ready()) {
    const Duration patience = timeout_of(timeout, with_patience(self.call->timeout()));
    const std::shared_ptr<Call> call = self.call;
    if (!wait_for(
            loop, [&] { return call->ready(); }, patience)) {
      if (loop.is_forked()) raise(HomeProcess::error());
      raise({Code::kDeadlineExceeded, "no answer in time"});
    }
  }
  const Reply message = value_or_raise(self.call->take());
  return give_answer(*self.result, *message);
}

bool wait(PendingCall& self, nb::handle timeout) {
  const std::shared_ptr<Call> call = self.call;
  return call->ready() ||
         wait_for(
             self.node->loop(), [&] { return call->ready(); }, timeout_of(timeout, rpc::kNoDeadline));
}

void cancel_call(PendingCall& self) {
  Loop& loop = self.node->loop();
  if (!self.call->ready() && !loop.is_forked()) loop.post([call = self.call] { call->cancel(); });
}

/// A call that exists already, where a CompletionQueue would begin one.
struct Begun {
  std::shared_ptr<Call> call;
  template <class R>
  rpc::Future<R> rpc_async_with(const rpc::CallOptions&) const {
    return rpc::Future<R>(call);
  }
};

/// Completions for one event loop of asyncio's, which polls the descriptor: so no thread of ours runs what is
/// to be done with an answer.
class Queue {
 public:
  Queue() : queue_(value_or_raise(rpc::CompletionQueue::open())) {}

  int fileno() const { return queue_->descriptor(); }
  /// The answer of `pending` comes under `tag`.
  void watch(const PendingCall& pending, std::uint64_t tag) {
    Begun begun{pending.call};
    value_or_raise(queue_->start<Reply>(begun, tag, {}));
  }
  /// (tag, value, error) of what has come first; None: nothing has. `types` has the result's type by tag.
  nb::object pop(const nb::dict& types) {
    std::optional<rpc::Completion> done = queue_->pop();
    if (!done) return nb::none();
    const nb::int_ tag(done->tag());
    const TypePtr type = nb::cast<TypePtr>(types[tag]);
    try {
      const Reply message = value_or_raise(done->take<Reply>());
      return nb::make_tuple(tag, give_answer(*type, *message), nb::none());
    } catch (nb::python_error& error) {
      return nb::make_tuple(tag, nb::none(), nb::borrow(error.value()));
    } catch (const std::exception& wrong) {  // an answer of another type: whoever waits is to hear of it
      try {
        raise({Code::kInvalidArgument, std::string("the answer: ") + wrong.what()});
      } catch (nb::python_error& error) {
        return nb::make_tuple(tag, nb::none(), nb::borrow(error.value()));
      }
    }
  }
  std::size_t size() const { return queue_->size(); }

 private:
  std::unique_ptr<rpc::CompletionQueue> queue_;
};

}  // namespace

void bind_calls(nb::module_& module) {
  nb::class_<PendingCall>(module, "PendingCall", "A call that has begun.")
      .def("done", [](const PendingCall& self) { return self.call->ready(); })
      .def("result", &result_of, nb::arg("timeout") = nb::none())
      .def("wait", &wait, nb::arg("timeout") = nb::none(),
           "Whether it is done in time; its answer is not taken.")
      .def("cancel", &cancel_call)
      .def(
          "__await__",
          [](nb::handle self) {
            return nb::module_::import_("troupe._aio").attr("wait")(self).attr("__await__")();
          },
          nb::sig("def __await__(self) -> collections.abc.Generator[object, None, object]"))
      .def_ro("_type", &PendingCall::result);
  nb::class_<Queue>(module, "Queue", "Answers for an event loop that polls a descriptor.")
      .def(nb::init<>())
      .def("fileno", &Queue::fileno)
      .def("watch", &Queue::watch, nb::arg("call"), nb::arg("tag"))
      .def("pop", &Queue::pop, nb::arg("types"))
      .def("__len__", &Queue::size);
}

}  // namespace troupe::python
