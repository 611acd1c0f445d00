#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <capnp/message.h>
#include <capnp/schema.h>
#include <capnp/serialize.h>

#include <troupe/rpc/codec.hpp>

/// For programs that have Cap'n Proto schemas of their own: their structs as arguments and results. No other
/// header of Troupe shows that library.
namespace troupe::rpc {

/// A struct of the schema type S, not changed any more. Copies share it.
///
///     node->rpc_sync<rpc::Capnp<Reply>>("planner", "plan", rpc::Capnp<Request>::build([](auto request) {
///       request.setBudget(3);
///     }));
template <class S>
class Capnp {
 public:
  /// The type's default value.
  Capnp() : Capnp(build([](auto) {})) {}
  /// A copy of what `reader` reads. Throws kj::Exception if that is not to be read.
  explicit Capnp(typename S::Reader reader) {
    capnp::MallocMessageBuilder builder;
    builder.setRoot(reader);
    message_ = std::make_shared<Message>(capnp::messageToFlatArray(builder));
  }
  /// What `write(S::Builder)` writes.
  template <class F>
  static Capnp build(F&& write) {
    capnp::MallocMessageBuilder builder;
    write(builder.initRoot<S>());
    return Capnp(capnp::messageToFlatArray(builder));
  }

  /// Valid while this or a copy of it lives. Reading what a peer sent may throw kj::Exception, in a handler
  /// too: that is then its answer. One thread at a time for all copies.
  typename S::Reader reader() const { return message_->reader.template getRoot<S>(); }
  /// The encoded message.
  std::span<const std::byte> bytes() const {
    const auto bytes = message_->words.asBytes();
    return {reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()};
  }
  /// The message in `bytes`. kDataLoss: they begin no message.
  static Result<Capnp> parse(std::span<const std::byte> bytes) {
    if (bytes.empty() || bytes.size() % sizeof(capnp::word) != 0)
      return Error{Code::kDataLoss, "not a whole number of words"};
    auto words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
    std::memcpy(words.begin(), bytes.data(), bytes.size());
    try {
      return Capnp(std::move(words));
    } catch (const kj::Exception& exception) {
      return Error{Code::kDataLoss, exception.getDescription().cStr()};
    }
  }

 private:
  struct Message {
    explicit Message(kj::Array<capnp::word> all)
        : words(std::move(all)), reader(words, options(words.size())) {}
    /// A message may be read many times, but one made to seem endless ends.
    static capnp::ReaderOptions options(std::size_t count) {
      capnp::ReaderOptions options;
      options.traversalLimitInWords = std::max<std::uint64_t>(options.traversalLimitInWords, 64 * count);
      return options;
    }
    kj::Array<capnp::word> words;
    mutable capnp::FlatArrayMessageReader reader;
  };
  explicit Capnp(kj::Array<capnp::word> words) : message_(std::make_shared<Message>(std::move(words))) {}

  std::shared_ptr<const Message> message_;
};

/// Both sides mean the same if their schemas have the same type id, whatever fields one of them may lack.
template <class S>
struct Codec<Capnp<S>> {
  static std::string name() { return capnp::Schema::from<S>().getShortDisplayName().cStr(); }
  static constexpr std::uint64_t fingerprint() { return detail::mix(fnv1a("capnp"), capnp::typeId<S>()); }
  static void encode(ValueWriter out, const Capnp<S>& value) { out.data(value.bytes()); }
  static bool decode(const ValueReader& in, Capnp<S>& value) {
    std::span<const std::byte> bytes;
    if (!in.read(bytes)) return false;
    auto parsed = Capnp<S>::parse(bytes);
    if (parsed) value = std::move(*parsed);
    return parsed.ok();
  }
};

}  // namespace troupe::rpc
