#include "calls.hpp"

#include <array>
#include <limits>
#include <string>
#include <vector>

using namespace troupe;
using namespace troupe::c;

namespace troupe::c {

Result<const KnownSignature*> signature_of(std::string_view text) {
  struct Place {
    std::string text;
    KnownSignature known;
  };
  // One signature goes with call after call.
  thread_local std::array<Place, 16> places;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(i < text.size() ? text[i] : 0); };
  Place& place = places[(text.size() * 7 + byte(1) + 3U * byte(text.size() / 2) + byte(text.size() - 1)) %
                        places.size()];
  if (place.known.signature && place.text == text) return &place.known;
  auto parsed = rpc::AnySignature::parse(text);
  if (!parsed) return parsed.error();
  place.known.signature.reset();
  place.text = text;
  place.known.fingerprint = parsed->fingerprint();
  place.known.signature = std::make_shared<const rpc::AnySignature>(std::move(*parsed));
  return &place.known;
}

namespace {

Result<rpc::Metadata> metadata_of(const troupe_metadata* pairs, std::size_t count) {
  if (!pairs) return null_argument("troupe_call_options.metadata");
  std::vector<rpc::MetadataPair> all;
  for (std::size_t i = 0; i < count; ++i) {
    if (!pairs[i].key || !pairs[i].value) return null_argument("a key or value of the metadata");
    all.push_back({pairs[i].key, pairs[i].value, pairs[i].pass_on != 0});
  }
  return rpc::Metadata(std::move(all));
}

Result<void> read_options(const troupe_call_options* options, CallOrder& order) {
  troupe_call_options copy;
  if (auto read = read_struct(options, copy); !read) return read;
  const troupe_call_options* const given = &copy;
  if ((given->flags & ~TROUPE_CALL_DETACHED) != 0)
    return Error{Code::kInvalidArgument, "troupe_call_options.flags has an unknown one"};
  rpc::CallOptions& to = order.options;
  if (given->timeout != 0) to.timeout = Duration(given->timeout);
  to.token = given->token;
  to.detached = (given->flags & TROUPE_CALL_DETACHED) != 0;
  if (given->max_attempts > 1) {
    to.retry.max_attempts = given->max_attempts;
    if (given->first_backoff < 0 || given->attempt_timeout < 0)
      return Error{Code::kInvalidArgument,
                   "troupe_call_options: a pause or timeout of an attempt below zero"};
    if (given->first_backoff > 0) to.retry.first_backoff = Duration(given->first_backoff);
    to.retry.attempt_timeout = Duration(given->attempt_timeout);
  }
  if (given->metadata_count > 0) {
    auto metadata = metadata_of(given->metadata, given->metadata_count);
    if (!metadata) return metadata.error();
    to.metadata = std::move(*metadata);
  }
  if (given->traceparent) {
    auto trace = parse_traceparent(given->traceparent);
    if (!trace) return trace.error();
    to.trace = *trace;
  }
  if (given->into) to.into = rpc::into(given->into->tensor);
  if (given->signature) {
    auto known = signature_of(given->signature);
    if (!known) return known.error();
    order.method.signature = (*known)->signature;
    order.method.fingerprint = (*known)->fingerprint;
  }
  return {};
}

/// For CompletionQueue::start().
struct Begin {
  DynamicCalls calls;
  const DynamicCalls::Method& method;
  DynamicCalls::Body body;

  template <class R>
  rpc::Future<R> rpc_async_with(const rpc::CallOptions& options) {
    return calls.call_async(options, method, std::move(body));
  }
};

Result<void> begin(rpc::CompletionQueue& queue, Node& node, const troupe_request& request) {
  CallOrder order;
  if (auto read = read_order(order, request.actor, request.method, request.options, request.arguments,
                             request.argument_count);
      !read)
    return read;
  auto values = std::make_unique<OwnedValues>(request.arguments, request.argument_count);
  Begin start{DynamicCalls(node), order.method,
              [signature = order.method.signature, values = std::move(values)](rpc::OutMessage& out) {
                write_arguments(out, signature.get(), values->data(), values->size());
              }};
  return queue.start<DynamicCalls::Answer>(start, request.tag, std::move(order.options));
}

const troupe_value* value_of(const troupe_answer* answer) {
  return answer && answer->has_value ? &answer->value : nullptr;
}

template <class Take>
troupe_status take_value(const troupe_answer* answer, const void* to, const char* wanted, Take&& take) {
  return guard([&]() -> Result<void> {
    if (!answer) return null_argument("answer");
    if (!to) return null_argument("the place for the result");
    const troupe_value* const value = value_of(answer);
    if (value && take(*value)) return {};
    return Error{
        Code::kInvalidArgument,
        std::string("the result is ") + (value ? describe(*value) : std::string("void")) + ", not " + wanted};
  });
}

}  // namespace

Result<void> read_order(CallOrder& order, const char* actor, const char* method,
                        const troupe_call_options* options, const troupe_value* arguments,
                        std::size_t count) {
  if (!actor) return null_argument("actor");
  if (!method) return null_argument("method");
  order.method.actor = actor;
  order.method.name = method;
  if (options)
    if (auto read = read_options(options, order); !read) return read.error();
  if (auto good = check_arguments(order.method.signature.get(), arguments, count); !good)
    return with_context(good.error(), std::string(actor) + "." + method);
  return {};
}

Result<void> fill(troupe_answer& answer, DynamicCalls::Answer message) {
  if (message->value_count() > 1) return Error{Code::kDataLoss, "an answer of more than one value"};
  if (message->value_count() == 1) {
    answer.value = answer.values.read(message->value(0));
    answer.has_value = true;
  }
  answer.message = std::move(message);
  return {};
}

}  // namespace troupe::c

troupe_status troupe_call(troupe_node* node, const char* actor, const char* method,
                          const troupe_call_options* options, const troupe_value* arguments,
                          size_t argument_count, troupe_answer** answer) {
  if (answer) *answer = nullptr;
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    CallOrder order;
    if (auto read = read_order(order, actor, method, options, arguments, argument_count); !read) return read;
    const auto body = [&](rpc::OutMessage& out) {
      write_arguments(out, order.method.signature.get(), arguments, argument_count);
    };
    auto message = DynamicCalls(**node).call(order.options, order.method, body);
    if (!message) return message.error();
    if (!answer) return {};
    auto opened = std::make_unique<troupe_answer>();
    if (auto filled = fill(*opened, std::move(*message)); !filled) return filled;
    *answer = opened.release();
    return {};
  });
}

troupe_status troupe_send(troupe_node* node, const char* actor, const char* method,
                          const troupe_call_options* options, const troupe_value* arguments,
                          size_t argument_count) {
  return guard([&]() -> Result<void> {
    if (!node) return null_argument("node");
    CallOrder order;
    if (auto read = read_order(order, actor, method, options, arguments, argument_count); !read) return read;
    return DynamicCalls(**node).send(order.options, order.method, [&](rpc::OutMessage& out) {
      write_arguments(out, order.method.signature.get(), arguments, argument_count);
    });
  });
}

// ---- Answers --------------------------------------------------------------------------------------

const troupe_value* troupe_answer_value(const troupe_answer* answer) {
  return value_of(answer);
}

const char* troupe_answer_error(const troupe_answer* answer) {
  return answer ? answer->error.c_str() : "";
}

void troupe_answer_free(troupe_answer* answer) {
  delete answer;
}

troupe_status troupe_answer_int(const troupe_answer* answer, int64_t* value) {
  if (value) *value = 0;
  return take_value(answer, value, "an integer of 64 bits", [&](const troupe_value& from) {
    if (from.kind == TROUPE_UINT && from.as.natural <= static_cast<std::uint64_t>(INT64_MAX))
      *value = static_cast<std::int64_t>(from.as.natural);
    else if (from.kind == TROUPE_INT)
      *value = from.as.integer;
    else
      return false;
    return true;
  });
}

troupe_status troupe_answer_real(const troupe_answer* answer, double* value) {
  if (value) *value = 0;
  return take_value(answer, value, "a number", [&](const troupe_value& from) {
    if (from.kind == TROUPE_REAL)
      *value = from.as.real;
    else if (from.kind == TROUPE_INT)
      *value = static_cast<double>(from.as.integer);
    else if (from.kind == TROUPE_UINT)
      *value = static_cast<double>(from.as.natural);
    else
      return false;
    return true;
  });
}

troupe_status troupe_answer_bytes(const troupe_answer* answer, const void** data, size_t* size) {
  if (data) *data = nullptr;
  if (size) *size = 0;
  return take_value(
      answer, data && size ? data : nullptr, "a string, bytes or numbers", [&](const troupe_value& from) {
        if (from.kind != TROUPE_STRING && from.kind != TROUPE_BYTES && from.kind != TROUPE_NUMBERS)
          return false;
        *data = from.as.bytes.data;
        *size = from.as.bytes.size;
        return true;
      });
}

troupe_status troupe_answer_tensor(const troupe_answer* answer, troupe_tensor** tensor) {
  if (tensor) *tensor = nullptr;
  return take_value(answer, tensor, "a tensor", [&](const troupe_value& from) {
    if (from.kind != TROUPE_TENSOR) return false;
    *tensor = new troupe_tensor{from.as.tensor->tensor};
    return true;
  });
}

// ---- Queues ---------------------------------------------------------------------------------------

troupe_status troupe_queue_open(size_t max_calls, troupe_queue** queue) {
  if (queue) *queue = nullptr;
  return guard([&]() -> Result<void> {
    if (!queue) return null_argument("queue");
    auto handle = std::make_unique<troupe_queue>();
    auto opened = rpc::CompletionQueue::open(max_calls ? max_calls : rpc::CompletionQueue::kMaxCalls);
    if (!opened) return opened.error();
    handle->queue = std::move(*opened);
    *queue = handle.release();
    return {};
  });
}

void troupe_queue_free(troupe_queue* queue) {
  guard([&]() -> Result<void> {
    delete queue;
    return {};
  });
}

int troupe_queue_descriptor(const troupe_queue* queue) {
  return queue ? queue->queue->descriptor() : -1;
}

troupe_status troupe_queue_call(troupe_queue* queue, troupe_node* node, uint64_t tag, const char* actor,
                                const char* method, const troupe_call_options* options,
                                const troupe_value* arguments, size_t argument_count) {
  return guard([&]() -> Result<void> {
    if (!queue) return null_argument("queue");
    if (!node) return null_argument("node");
    return begin(*queue->queue, **node, {tag, actor, method, options, arguments, argument_count});
  });
}

troupe_status troupe_queue_call_many(troupe_queue* queue, troupe_node* node, const troupe_request* requests,
                                     size_t count, size_t* begun) {
  if (begun) *begun = 0;
  return guard([&]() -> Result<void> {
    if (!queue) return null_argument("queue");
    if (!node) return null_argument("node");
    if (!begun) return null_argument("begun");
    if (!requests && count > 0) return null_argument("requests");
    for (; *begun < count; ++*begun)
      if (auto good = begin(*queue->queue, **node, requests[*begun]); !good) return good;
    return {};
  });
}

void troupe_queue_cancel(troupe_queue* queue, uint64_t tag) {
  guard([&]() -> Result<void> {
    if (queue) queue->queue->cancel(tag);
    return {};
  });
}

namespace {

troupe_completion opened(rpc::Completion done) noexcept {
  troupe_completion completion{done.tag(), nullptr, TROUPE_RESOURCE_EXHAUSTED};
  try {
    auto answer = std::make_unique<troupe_answer>();
    Result<void> good;
    if (const Error* error = done.error()) {
      good = *error;
    } else if (auto message = done.take<DynamicCalls::Answer>()) {
      good = fill(*answer, std::move(*message));
    } else if (auto pulled = done.take<PulledVersions>()) {
      answer->versions = std::move(*pulled);
    } else if (auto pushed = done.take<PushSummary>()) {
      answer->pushed = *pushed;
    }
    completion.status = TROUPE_OK;
    if (!good) {
      completion.status = static_cast<troupe_status>(good.error().code);
      answer->error = good.error().to_string();
    }
    completion.answer = answer.release();
  } catch (...) {
    completion.status = fail_with_exception();
  }
  return completion;
}

}  // namespace

size_t troupe_queue_next(troupe_queue* queue, troupe_completion* completions, size_t max, int64_t timeout) {
  if (!queue || !completions) return 0;
  return guard_value(std::size_t{0}, [&] {
    // The thread of a handler has the turn, without which nothing ends.
    const bool may_wait = timeout > 0 && !HandlerMark::here();
    std::size_t count = 0;
    while (count < max) {
      auto done = count == 0 && may_wait ? queue->queue->wait(Duration(timeout)) : queue->queue->pop();
      if (!done) break;
      completions[count++] = opened(std::move(*done));
    }
    if (count == 0 && max > 0 && timeout > 0 && !may_wait)
      fail({Code::kFailedPrecondition, "a handler cannot wait for a queue: nothing of its node would end"});
    return count;
  });
}
