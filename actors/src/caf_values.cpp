#include "caf_values.hpp"

#include <cstdint>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>
#include <vector>

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

bool append_number(const rpc::ValueReader& in, MessageElements& out) {
  return any_type([&]<class T>(T*) {
    if constexpr (rpc::Number<T>) {
      T value{};
      if (in.width() != rpc::Codec<T>::kWidth || !rpc::Codec<T>::decode(in, value)) return false;
      out.append(value);
      return true;
    } else {
      return false;
    }
  });
}

template <class T>
bool append_as(const rpc::ValueReader& in, MessageElements& out) {
  T value{};
  if (!rpc::Codec<T>::decode(in, value)) return false;
  out.append(std::move(value));
  return true;
}

bool append_numbers(const rpc::ValueReader& in, MessageElements& out) {
  return append_as<std::vector<float>>(in, out) || append_as<std::vector<double>>(in, out) ||
         append_as<std::vector<std::int32_t>>(in, out) || append_as<std::vector<std::int64_t>>(in, out) ||
         append_as<std::vector<std::uint32_t>>(in, out) || append_as<std::vector<std::uint64_t>>(in, out) ||
         append_as<std::vector<std::int8_t>>(in, out) || append_as<std::vector<std::uint8_t>>(in, out) ||
         append_as<std::vector<std::int16_t>>(in, out) || append_as<std::vector<std::uint16_t>>(in, out);
}

bool is_native(const caf::message& message, std::size_t position) {
  return any_type([&]<class T>(T*) { return holds<T>(message, position); });
}

void write_foreign(caf::actor_system& system, const caf::message& message, std::size_t position,
                   rpc::ValueWriter out) {
  Bytes bytes;
  TensorSerializer sink(system, bytes);
  if (auto error = save_element(message, position, sink)) throw std::runtime_error(error_text(system, error));
  const auto& tensors = sink.tensors();
  out.list(3 + tensors.size());
  out.item(0).text(kForeign);
  out.item(1).text(announced_name(system, message, position));
  out.item(2).data(std::as_bytes(std::span(bytes)));
  for (std::uint32_t i = 0; i < tensors.size(); ++i) out.item(3 + i).tensor(tensors[i]);
}

void write_element(caf::actor_system& system, const caf::message& message, std::size_t position,
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

Error unannounced(std::string_view name) {
  return {Code::kUnimplemented, "a value of type '" + std::string(name) +
                                    "' came, which this application has not announced: "
                                    "config.add_message_type<T>(\"" +
                                    std::string(name) + "\")"};
}

Result<void> append_foreign(caf::actor_system& system, const rpc::ValueList& list, MessageElements& out) {
  std::string_view name;
  std::span<const std::byte> bytes;
  std::vector<Tensor> tensors(list.size() - 3);
  bool well_formed = list[1].read(name) && list[2].read(bytes);
  for (std::uint32_t i = 3; i < list.size(); ++i) well_formed = well_formed && list[i].read(tensors[i - 3]);
  if (!well_formed) return Error{Code::kDataLoss, "a malformed element of a CAF message"};
  Bytes saved(bytes.size());
  if (!bytes.empty()) std::memcpy(saved.data(), bytes.data(), bytes.size());
  TensorDeserializer source(system, saved, std::move(tensors));
  const auto unread = [&](const std::string& why) {
    return Error{Code::kDataLoss, "reading a '" + std::string(name) + "': " + why};
  };
  try {
    const caf::error error = out.append_saved(system, std::string(name), source);
    if (error == caf::sec::unknown_type) return unannounced(name);
    if (error) return unread(error_text(system, error));
  } catch (const std::exception& exception) {
    return unread(exception.what());
  }
  return {};
}

Error unreadable() {
  return {Code::kUnimplemented, "there is a type that CAF actors cannot be given; see troupe/actors/caf.hpp"};
}

Result<void> append_value(caf::actor_system& system, const rpc::ValueReader& in, MessageElements& out) {
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

CafCall call_of(const caf::message& message) {
  if (message.size() > 0) {
    if (holds<std::string>(message, 0)) return {message.get_as<std::string>(0), 1};
    if (auto atom = atom_at(message, 0)) return {std::move(*atom), 1};
  }
  return {std::string(kWholeMessage), 0};
}

Result<void> check_elements(const caf::actor_system& system, const caf::message& message, std::size_t first) {
  for (std::size_t i = first; i < message.size(); ++i)
    if (!is_native(message, i) && announced_name(system, message, i).empty())
      return Error{Code::kInvalidArgument, "argument " + std::to_string(i) + " (" + element_text(message, i) +
                                               ") is of a type that has not been announced: "
                                               "config.add_message_type<T>(\"name\")"};
  return {};
}

void write_elements(caf::actor_system& system, const caf::message& message, std::size_t first,
                    rpc::OutMessage& out) {
  const auto count = static_cast<std::uint32_t>(message.size() - first);
  out.values(count);
  for (std::uint32_t i = 0; i < count; ++i) write_element(system, message, first + i, out.value(i));
}

void write_answer(caf::actor_system& system, const caf::message& message, rpc::OutMessage& out) {
  out.values(1);
  if (message.size() == 1) return write_element(system, message, 0, out.value(0));
  rpc::ValueWriter list = out.value(0);
  list.list(message.size());
  for (std::uint32_t i = 0; i < message.size(); ++i) write_element(system, message, i, list.item(i));
}

Result<void> read_values(caf::actor_system& system, const rpc::InMessage& message, MessageElements& out) {
  for (std::uint32_t i = 0; i < message.value_count(); ++i)
    if (auto read = append_value(system, message.value(i), out); !read) return read;
  return {};
}

// ---- Errors -------------------------------------------------------------------------------------

caf::error to_caf(const Error& error) {
  return make_caf_error(error.code, error.to_string());
}

Error from_caf(const caf::actor_system& system, const caf::error& error) {
  if (error == caf::sec::request_receiver_down) return {Code::kUnavailable, "the actor has ended"};
  if (error == caf::sec::unexpected_message)
    return {Code::kUnimplemented, "the actor does not handle such a message"};
  if (error == caf::sec::request_timeout) return {Code::kDeadlineExceeded, error_text(system, error)};
  if (error.category() != kCafErrorCategory) return {Code::kUnknown, error_text(system, error)};
  std::string message;
  if (error.context().match_elements<std::string>()) message = error.context().get_as<std::string>(0);
  return {static_cast<Code>(error.code()), std::move(message)};
}

}  // namespace troupe
