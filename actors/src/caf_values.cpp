#include "caf_values.hpp"

#include <cstdint>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>
#include <vector>

#include <caf/detail/dynamic_message_data.hpp>

#include <troupe/actors/caf.hpp>
#include <troupe/rpc/codec.hpp>

#include "tensor_streams.hpp"

namespace troupe {

namespace {

/// Calls visit(static_cast<T*>(nullptr)) for each type that can be sent, until it returns true.
template <class Visit>
bool any_type(Visit&& visit) {
  const auto types = [&]<class... T>(T*... tags) { return (visit(tags) || ...); };
  return types(
      static_cast<bool*>(nullptr), static_cast<std::int8_t*>(nullptr), static_cast<std::int16_t*>(nullptr),
      static_cast<std::int32_t*>(nullptr), static_cast<std::int64_t*>(nullptr),
      static_cast<std::uint8_t*>(nullptr), static_cast<std::uint16_t*>(nullptr),
      static_cast<std::uint32_t*>(nullptr), static_cast<std::uint64_t*>(nullptr),
      static_cast<float*>(nullptr), static_cast<double*>(nullptr), static_cast<std::string*>(nullptr),
      static_cast<Tensor*>(nullptr), static_cast<std::vector<std::int8_t>*>(nullptr),
      static_cast<std::vector<std::int16_t>*>(nullptr), static_cast<std::vector<std::uint8_t>*>(nullptr),
      static_cast<std::vector<std::uint16_t>*>(nullptr), static_cast<std::vector<float>*>(nullptr),
      static_cast<std::vector<double>*>(nullptr), static_cast<std::vector<std::int32_t>*>(nullptr),
      static_cast<std::vector<std::int64_t>*>(nullptr), static_cast<std::vector<std::uint32_t>*>(nullptr),
      static_cast<std::vector<std::uint64_t>*>(nullptr));
}

template <class T>
bool holds(const caf::type_erased_tuple& message, std::size_t position) {
  constexpr auto number = caf::type_nr<T>::value;
  return message.matches(position, number, number == 0 ? &typeid(T) : nullptr);
}

bool append_number(const rpc::ValueReader& in, CafElements& out) {
  return any_type([&]<class T>(T*) {
    if constexpr (rpc::Number<T>) {
      T value{};
      if (in.width() != rpc::Codec<T>::kWidth || !rpc::Codec<T>::decode(in, value)) return false;
      append_element(out, value);
      return true;
    } else {
      return false;
    }
  });
}

template <class T>
bool append_as(const rpc::ValueReader& in, CafElements& out) {
  T value{};
  if (!rpc::Codec<T>::decode(in, value)) return false;
  append_element(out, std::move(value));
  return true;
}

bool append_numbers(const rpc::ValueReader& in, CafElements& out) {
  return append_as<std::vector<float>>(in, out) || append_as<std::vector<double>>(in, out) ||
         append_as<std::vector<std::int32_t>>(in, out) || append_as<std::vector<std::int64_t>>(in, out) ||
         append_as<std::vector<std::uint32_t>>(in, out) || append_as<std::vector<std::uint64_t>>(in, out) ||
         append_as<std::vector<std::int8_t>>(in, out) || append_as<std::vector<std::uint8_t>>(in, out) ||
         append_as<std::vector<std::int16_t>>(in, out) || append_as<std::vector<std::uint16_t>>(in, out);
}

/// The announced name of element `position`'s type; empty if it has none.
const std::string& announced_name(const caf::actor_system& system, const caf::type_erased_tuple& message,
                                  std::size_t position) {
  static const std::string kNone;
  const auto& types = system.types();
  const std::string& name = types.portable_name(message.type(position));
  return name == types.default_type_name() ? kNone : name;
}

bool is_native(const caf::type_erased_tuple& message, std::size_t position) {
  return any_type([&]<class T>(T*) { return holds<T>(message, position); });
}

void write_foreign(caf::actor_system& system, const caf::type_erased_tuple& message, std::size_t position,
                   rpc::ValueWriter out) {
  std::vector<char> bytes;
  TensorSerializer sink(system, bytes);
  if (auto error = message.save(position, sink)) throw std::runtime_error(system.render(error));
  const auto& tensors = sink.tensors();
  out.list(3 + tensors.size());
  out.item(0).text(kForeign);
  out.item(1).text(announced_name(system, message, position));
  out.item(2).data(std::as_bytes(std::span(bytes)));
  for (std::uint32_t i = 0; i < tensors.size(); ++i) out.item(3 + i).tensor(tensors[i]);
}

void write_element(caf::actor_system& system, const caf::type_erased_tuple& message, std::size_t position,
                   rpc::ValueWriter out) {
  const bool native = any_type([&]<class T>(T*) {
    if (!holds<T>(message, position)) return false;
    rpc::Codec<T>::encode(out, message.get_as<T>(position));
    return true;
  });
  if (!native) write_foreign(system, message, position, out);
}

bool is_foreign(const rpc::ValueList& list) {
  std::string_view mark;
  return list.size() >= 3 && list[0].read(mark) && mark == kForeign;
}

Result<void> append_foreign(caf::actor_system& system, const rpc::ValueList& list, CafElements& out) {
  std::string_view name;
  std::span<const std::byte> bytes;
  std::vector<Tensor> tensors(list.size() - 3);
  bool well_formed = list[1].read(name) && list[2].read(bytes);
  for (std::uint32_t i = 3; i < list.size(); ++i) well_formed = well_formed && list[i].read(tensors[i - 3]);
  if (!well_formed) return Error{Code::kDataLoss, "a malformed element of a CAF message"};
  caf::type_erased_value_ptr value = system.types().make_value(std::string(name));
  if (!value)
    return Error{Code::kUnimplemented, "a value of type '" + std::string(name) +
                                           "' came, which this application has not announced: "
                                           "config.add_message_type<T>(\"" +
                                           std::string(name) + "\")"};
  std::vector<char> text(bytes.size());
  if (!bytes.empty()) std::memcpy(text.data(), bytes.data(), bytes.size());
  TensorDeserializer source(system, text, std::move(tensors));
  try {
    if (auto error = value->load(source))
      return Error{Code::kDataLoss, "reading a '" + std::string(name) + "': " + system.render(error)};
  } catch (const std::exception& exception) {
    return Error{Code::kDataLoss, "reading a '" + std::string(name) + "': " + exception.what()};
  }
  out.push_back(std::move(value));
  return {};
}

Error unreadable() {
  return {Code::kUnimplemented, "there is a type that CAF actors cannot be given; see troupe/actors/caf.hpp"};
}

Result<void> append_value(caf::actor_system& system, const rpc::ValueReader& in, CafElements& out) {
  const auto done = [](bool read) { return read ? Result<void>() : unreadable(); };
  switch (in.kind()) {
    case rpc::ValueKind::kNone:
      return {};
    case rpc::ValueKind::kBool:
      return done(append_as<bool>(in, out));
    case rpc::ValueKind::kInt:
    case rpc::ValueKind::kUInt:
    case rpc::ValueKind::kReal:
      return done(append_number(in, out));
    case rpc::ValueKind::kText:
      return done(append_as<std::string>(in, out));
    case rpc::ValueKind::kTensor:
      return done(append_as<Tensor>(in, out));
    case rpc::ValueKind::kNumbers:
      return done(append_numbers(in, out));
    case rpc::ValueKind::kList: {
      // A struct or pair becomes several elements of the message.
      rpc::ValueList list;
      if (!in.read(list)) return unreadable();
      if (is_foreign(list)) return append_foreign(system, list, out);
      for (std::uint32_t i = 0; i < list.size(); ++i)
        if (auto read = append_value(system, list[i], out); !read) return read;
      return {};
    }
    case rpc::ValueKind::kData:
      return unreadable();
  }
  return unreadable();
}

}  // namespace

caf::message to_message(CafElements elements) {
  if (elements.empty()) return {};
  return caf::message(
      caf::message::data_ptr(caf::make_counted<caf::detail::dynamic_message_data>(std::move(elements))));
}

CafCall call_of(const caf::type_erased_tuple& message) {
  if (message.size() > 0 && holds<std::string>(message, 0)) return {message.get_as<std::string>(0), 1};
  if (message.size() > 0 && holds<caf::atom_value>(message, 0))
    return {caf::to_string(message.get_as<caf::atom_value>(0)), 1};
  return {std::string(kWholeMessage), 0};
}

Result<void> check_elements(const caf::actor_system& system, const caf::type_erased_tuple& message,
                            std::size_t first) {
  for (std::size_t i = first; i < message.size(); ++i)
    if (!is_native(message, i) && announced_name(system, message, i).empty())
      return Error{Code::kInvalidArgument, "argument " + std::to_string(i) + " (" + message.stringify(i) +
                                               ") is of a type that has not been announced: "
                                               "config.add_message_type<T>(\"name\")"};
  return {};
}

void write_elements(caf::actor_system& system, const caf::type_erased_tuple& message, std::size_t first,
                    rpc::OutMessage& out) {
  const auto count = static_cast<std::uint32_t>(message.size() - first);
  out.values(count);
  for (std::uint32_t i = 0; i < count; ++i) write_element(system, message, first + i, out.value(i));
}

void write_answer(caf::actor_system& system, const caf::type_erased_tuple& message, rpc::OutMessage& out) {
  out.values(1);
  if (message.size() == 1) return write_element(system, message, 0, out.value(0));
  rpc::ValueWriter list = out.value(0);
  list.list(message.size());
  for (std::uint32_t i = 0; i < message.size(); ++i) write_element(system, message, i, list.item(i));
}

Result<void> read_values(caf::actor_system& system, const rpc::InMessage& message, CafElements& out) {
  for (std::uint32_t i = 0; i < message.value_count(); ++i)
    if (auto read = append_value(system, message.value(i), out); !read) return read;
  return {};
}

// ---- Errors -------------------------------------------------------------------------------------

caf::error to_caf(const Error& error) {
  return caf::error(static_cast<std::uint8_t>(error.code), kCafErrorCategory,
                    caf::make_message(error.to_string()));
}

Error from_caf(const caf::actor_system& system, const caf::error& error) {
  if (error == caf::sec::request_receiver_down) return {Code::kUnavailable, "the actor has ended"};
  if (error == caf::sec::unexpected_message)
    return {Code::kUnimplemented, "the actor does not handle such a message"};
  if (error == caf::sec::request_timeout) return {Code::kDeadlineExceeded, system.render(error)};
  if (error.category() != kCafErrorCategory) return {Code::kUnknown, system.render(error)};
  std::string message;
  if (error.context().match_elements<std::string>()) message = error.context().get_as<std::string>(0);
  return {static_cast<Code>(error.code()), std::move(message)};
}

}  // namespace troupe
