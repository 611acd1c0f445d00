// Actors whose methods are Python's.
#include <memory>
#include <string>
#include <utility>

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <troupe/rpc/method_entries.hpp>
#include <troupe/rpc/methods.hpp>

#include "hooks.hpp"
#include "node.hpp"
#include "value.hpp"
#include "waits.hpp"

namespace troupe::python {
namespace {

/// Where a method runs.
enum class Where : std::uint8_t {
  kLoop,    ///< with the turn
  kPool,    ///< on a thread of the node's pool, nothing else of its actor meanwhile
  kBeside,  ///< the same, but others of its actor may run meanwhile
  kLater,   ///< with the turn; it is given an Answer before its arguments, and answers when it likes
};

struct Method {
  Held function;
  std::shared_ptr<Signature> signature;
  Where where;
  std::weak_ptr<Node> node;
};

/// What came of a method.
using Outcome = Result<std::vector<Value>>;

/// What is being raised, as an error for the caller.
Error raised_error(nb::python_error& raised) {
  if (raised.matches(PyExc_KeyboardInterrupt)) {
    interrupt_wait();
    return {Code::kCancelled, "the handler was interrupted"};
  }
  try {
    const nb::object told = nb::handle(hooks().describe)(raised.value());
    return {static_cast<Code>(nb::cast<int>(told[0])),
            nb::cast<std::string>(told[1]),
            nb::cast<std::string>(told[4]),
            nb::cast<std::string>(told[3]),
            0,
            nb::cast<std::string>(told[2])};
  } catch (...) {
    PyErr_Clear();
    return {Code::kInternal, "the handler raised an exception that cannot be shown"};
  }
}

/// Runs what touches Python, and makes an error of whatever it throws.
template <class F>
auto caught(F&& f) -> Result<std::invoke_result_t<F&>> {
  try {
    return f();
  } catch (nb::python_error& raised) {
    return raised_error(raised);
  } catch (const nb::builtin_exception& wrong) {  // ours: a value of another type
    return Error{Code::kInvalidArgument, wrong.what()};
  } catch (...) {
    return rpc::detail::current_exception_error("the handler");
  }
}

Result<nb::object> arguments_of(const Method& method, const rpc::InMessage& message, bool with_answer) {
  const std::vector<TypePtr>& types = method.signature->parameters;
  if (message.value_count() != types.size())
    return Error{Code::kInvalidArgument, "takes " + std::to_string(types.size()) + " arguments, not " +
                                             std::to_string(message.value_count())};
  const std::uint32_t first = with_answer ? 1 : 0;
  nb::object tuple = nb::steal(PyTuple_New(message.value_count() + first));
  for (std::uint32_t i = 0; i < message.value_count(); ++i) {
    Result<nb::object> value = caught([&] { return give(*types[i], message.value(i)); });
    if (!value) {
      Error error = with_context(std::move(value).error(), "argument " + std::to_string(i + 1));
      error.exception.clear();
      if (error.code == Code::kInternal) error.code = Code::kInvalidArgument;
      return error;
    }
    PyTuple_SetItem(tuple.ptr(), i + first, value->release().ptr());
  }
  return tuple;
}

/// What goes into the answer of a method whose result this is.
std::vector<Value> answer_of(const Method& method, nb::handle result) {
  std::vector<Value> values;
  if (method.signature->result->kind != Type::Kind::kVoid) {
    const auto of_result = [](Error error) {
      return BadResult(with_context(std::move(error), "the result"));
    };
    try {
      values.push_back(take(*method.signature->result, result));
    } catch (nb::python_error& raised) {
      throw of_result(raised_error(raised));
    } catch (const nb::builtin_exception& wrong) {
      throw of_result({Code::kInternal, wrong.what(), {}, {}, 0, "TypeError"});
    }
  }
  return values;
}

/// Takes the GIL; `within` is called with it held and makes the call, of these arguments.
template <class Within>
Outcome run_method(const Method& method, const rpc::InMessage& message, Within within) {
  const Gil gil;
  Outcome outcome = [&]() -> Outcome {
    Result<nb::object> arguments = arguments_of(method, message, false);
    if (!arguments) return arguments.error();
    return caught([&] {
      PyObject* const result =
          within([&] { return PyObject_CallObject(method.function.get(), arguments->ptr()); });
      if (!result) throw nb::python_error();
      return answer_of(method, nb::object(nb::steal(result)));
    });
  }();
  give_back_dropped();
  return outcome;
}

void answer(rpc::InboundCall& call, const Outcome& outcome) {
  if (!outcome) return call.reply_error(outcome.error());
  call.reply_with([&](rpc::OutMessage& out) { write_values(out, *outcome); });
}

// ---- On a thread of the pool ----------------------------------------------------------------------

class PoolCall final : public rpc::PoolJob {
 public:
  PoolCall(std::shared_ptr<const Method> method, rpc::InboundCallPtr call, std::shared_ptr<void> state)
      : loop_(*call->loop()), method_(std::move(method)), call_(std::move(call)), state_(std::move(state)) {
    const rpc::CallContext own(*call_);
    context_ = own;  // a copy refers to the call no more, only to its scope
  }
  void work() override {
    if (context_.cancelled()) {
      outcome_ = Error{Code::kCancelled, "nobody waited for it any more when a thread was free"};
      return;
    }
    const Loop::OnBehalf own(loop_, context_.active());
    outcome_ = run_method(*method_, call_->message(), [](auto&& make_call) { return make_call(); });
  }
  void finish() override { answer(*call_, outcome_); }
  void refuse(Error why) override { call_->refuse(std::move(why)); }

 private:
  Loop& loop_;
  std::shared_ptr<const Method> method_;
  rpc::InboundCallPtr call_;
  std::shared_ptr<void> state_;
  rpc::CallContext context_;
  Outcome outcome_ = Error{Code::kInternal, "it has not run"};
};

// ---- Later ----------------------------------------------------------------------------------------

/// A call that Python answers when it likes, on any thread. The call itself is touched with the turn only.
class Answer {
 public:
  Answer(std::shared_ptr<const Method> method, rpc::InboundCallPtr call)
      : method_(std::move(method)), open_(std::make_shared<Open>(std::move(call))) {}
  ~Answer() {
    if (open_) give_up();
  }
  Answer(Answer&&) noexcept = default;
  Answer& operator=(Answer&&) = delete;

  void set_result(nb::handle result) {
    send(caught([&] { return answer_of(*method_, result); }));
  }
  void set_exception(const nb::object& exception) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
    nb::python_error raised;
    send(raised_error(raised));
  }

 private:
  struct Open {
    explicit Open(rpc::InboundCallPtr one) : call(std::move(one)) {}
    rpc::InboundCallPtr call;
  };
  void send(Outcome outcome) {
    if (!open_) raise({Code::kFailedPrecondition, "the call has been answered already"});
    on_loop([outcome = std::move(outcome)](rpc::InboundCall& call) { answer(call, outcome); });
  }
  void give_up() {
    on_loop([](rpc::InboundCall& call) {
      call.reply_error({Code::kInternal, "the handler dropped the call without an answer"});
    });
  }
  template <class F>
  void on_loop(F f) {
    std::shared_ptr<Open> open = std::exchange(open_, nullptr);
    // Where the node has gone its calls have been answered, and know it.
    if (const std::shared_ptr<Node> node = method_->node.lock())
      node->loop().post([open = std::move(open), f = std::move(f)] { f(*open->call); });
  }

  std::shared_ptr<const Method> method_;
  std::shared_ptr<Open> open_;
};

Outcome begin_later(const std::shared_ptr<const Method>& method, rpc::InboundCallPtr& call) {
  const Gil gil;
  Result<nb::object> arguments = arguments_of(*method, call->message(), true);
  if (!arguments) return arguments.error();
  const nb::object answer = nb::cast(Answer(method, std::move(call)));
  PyTuple_SetItem(arguments->ptr(), 0, nb::object(answer).release().ptr());
  Result<bool> begun = caught([&] {
    PyObject* const result = PyObject_CallObject(method->function.get(), arguments->ptr());
    if (!result) throw nb::python_error();
    Py_DECREF(result);
    return true;
  });
  give_back_dropped();
  return begun ? Outcome(std::vector<Value>()) : Outcome(begun.error());
}

// ---- Entries of the table -------------------------------------------------------------------------

void invoke(const std::shared_ptr<const Method>& method, const rpc::MethodTable::Target& target,
            rpc::InboundCallPtr call) {
  const bool on_pool = target.pool && (method->where == Where::kPool || method->where == Where::kBeside);
  if (on_pool)
    return target.pool->begin(std::make_unique<PoolCall>(method, std::move(call), target.state),
                              method->where == Where::kPool);
  if (method->where == Where::kLater) {
    const Outcome begun = begin_later(method, call);
    if (!begun && call) call->reply_error(begun.error());
    return;
  }
  const rpc::CallContext context(*call);
  const Outcome outcome = run_method(*method, call->message(), [&](auto&& make_call) {
    const Loop::Context within(*call->loop(), context.active());
    return make_call();
  });
  answer(*call, outcome);
}

Where where_named(const std::string& name) {
  if (name == "loop") return Where::kLoop;
  if (name == "pool") return Where::kPool;
  if (name == "beside") return Where::kBeside;
  if (name == "later") return Where::kLater;
  throw nb::value_error("a method runs on 'loop', 'pool' or 'beside'");
}

}  // namespace

void spawn(NodeHandle& self, const std::string& name, nb::handle object, const nb::list& methods) {
  const std::shared_ptr<Node> node = self.node();
  const auto table = std::make_shared<rpc::MethodTable>();
  for (nb::handle each : methods) {
    const auto signature = nb::cast<std::shared_ptr<Signature>>(each[0]);
    const nb::object function = each[1];
    auto method = std::make_shared<const Method>(
        Method{hold(function), signature, where_named(nb::cast<std::string>(each[2])), node});
    const bool checked = signature->fingerprint != 0;
    table->add({signature->name, signature->text,
                checked ? signature->fingerprint : rpc::MethodTable::kAnySignature, nullptr,
                [method](const rpc::MethodTable::Target& target, rpc::InboundCallPtr call) {
                  invoke(method, target, std::move(call));
                }});
  }
  const Held state = hold(object);
  const Result<void> spawned = [&] {
    const NoGil free;
    return node->spawn_state(name, state, table);
  }();
  value_or_raise(spawned);
}

void bind_actors(nb::module_& module) {
  nb::class_<Answer>(module, "Answer", "A call that is answered later.")
      .def("set_result", &Answer::set_result, nb::arg("result").none())
      .def("set_exception", &Answer::set_exception, nb::arg("exception"));
}

}  // namespace troupe::python
