#include "caf_values.hpp"

#include <cstdint>
#include <vector>

#include <troupe/actors/caf.hpp>
#include <troupe/rpc/codec.hpp>

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

bool append_number(const rpc::ValueReader& in, caf::message_builder& out) {
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
bool append_as(const rpc::ValueReader& in, caf::message_builder& out) {
  T value{};
  if (!rpc::Codec<T>::decode(in, value)) return false;
  out.append(std::move(value));
  return true;
}

bool append_numbers(const rpc::ValueReader& in, caf::message_builder& out) {
  return append_as<std::vector<float>>(in, out) || append_as<std::vector<double>>(in, out) ||
         append_as<std::vector<std::int32_t>>(in, out) || append_as<std::vector<std::int64_t>>(in, out) ||
         append_as<std::vector<std::uint32_t>>(in, out) || append_as<std::vector<std::uint64_t>>(in, out) ||
         append_as<std::vector<std::int8_t>>(in, out) || append_as<std::vector<std::uint8_t>>(in, out) ||
         append_as<std::vector<std::int16_t>>(in, out) || append_as<std::vector<std::uint16_t>>(in, out);
}

bool append_value(const rpc::ValueReader& in, caf::message_builder& out) {
  switch (in.kind()) {
    case rpc::ValueKind::kNone:
      return true;
    case rpc::ValueKind::kBool:
      return append_as<bool>(in, out);
    case rpc::ValueKind::kInt:
    case rpc::ValueKind::kUInt:
    case rpc::ValueKind::kReal:
      return append_number(in, out);
    case rpc::ValueKind::kText:
      return append_as<std::string>(in, out);
    case rpc::ValueKind::kTensor:
      return append_as<Tensor>(in, out);
    case rpc::ValueKind::kNumbers:
      return append_numbers(in, out);
    case rpc::ValueKind::kList: {
      // A struct or pair becomes several elements of the message.
      rpc::ValueList list;
      if (!in.read(list)) return false;
      for (std::uint32_t i = 0; i < list.size(); ++i)
        if (!append_value(list[i], out)) return false;
      return true;
    }
    case rpc::ValueKind::kData:
      return false;
  }
  return false;
}

}  // namespace

Result<std::string> method_of(const caf::type_erased_tuple& message) {
  if (message.size() > 0 && holds<std::string>(message, 0)) return message.get_as<std::string>(0);
  if (message.size() > 0 && holds<caf::atom_value>(message, 0))
    return caf::to_string(message.get_as<caf::atom_value>(0));
  return Error{Code::kInvalidArgument,
               "a message to a named actor begins with the method's name, a string or an atom"};
}

Result<void> check_arguments(const caf::type_erased_tuple& message) {
  for (std::size_t i = 1; i < message.size(); ++i)
    if (!any_type([&]<class T>(T*) { return holds<T>(message, i); }))
      return Error{Code::kInvalidArgument,
                   "argument " + std::to_string(i) + " (" + message.stringify(i) +
                       ") is of a type that cannot be sent; see troupe/actors/caf.hpp"};
  return {};
}

void write_arguments(const caf::type_erased_tuple& message, rpc::OutMessage& out) {
  const auto count = static_cast<std::uint32_t>(message.size() - 1);
  out.values(count);
  for (std::uint32_t i = 0; i < count; ++i)
    any_type([&]<class T>(T*) {
      if (!holds<T>(message, i + 1)) return false;
      rpc::Codec<T>::encode(out.value(i), message.get_as<T>(i + 1));
      return true;
    });
}

Result<caf::message> read_values(const rpc::InMessage& answer) {
  caf::message_builder out;
  for (std::uint32_t i = 0; i < answer.value_count(); ++i)
    if (!append_value(answer.value(i), out))
      return Error{Code::kUnimplemented,
                   "the answer holds a type that CAF actors cannot be given; see troupe/actors/caf.hpp"};
  return out.move_to_message();
}

// ---- Errors -------------------------------------------------------------------------------------

caf::error to_caf(const Error& error) {
  return caf::error(static_cast<std::uint8_t>(error.code), kCafErrorCategory,
                    caf::make_message(error.to_string()));
}

Error from_caf(const caf::actor_system& system, const caf::error& error) {
  if (error.category() != kCafErrorCategory) return {Code::kUnknown, system.render(error)};
  std::string message;
  if (error.context().match_elements<std::string>()) message = error.context().get_as<std::string>(0);
  return {static_cast<Code>(error.code()), std::move(message)};
}

}  // namespace troupe
