// The longer halves of caf_compat.hpp and caf_internals.hpp.
#include <mutex>
#include <string>
#include <string_view>

#include <troupe/actors/caf.hpp>

#include "caf_internals.hpp"
#include "worker_actor.hpp"

#if TROUPE_CAF < 18
#include <algorithm>

#include <caf/detail/dynamic_message_data.hpp>
#else
#include <caf/detail/meta_object.hpp>
#include <caf/detail/type_id_list_builder.hpp>
#endif

namespace troupe {

#if TROUPE_CAF < 18

void register_caf_types() {}
bool caf_types_registered() {
  return true;
}

caf::error inspect(caf::serializer& sink, Tensor& tensor) {
  if (put_aside(sink, tensor)) return caf::none;
  TensorParts parts = parts_of(tensor);
  return sink(parts.dtype, parts.extents, parts.bytes);
}

caf::error inspect(caf::deserializer& source, Tensor& tensor) {
  if (const auto taken = take_back(source, tensor))
    return *taken ? caf::error(caf::none) : caf::error(caf::sec::end_of_stream);
  TensorParts parts;
  if (auto error = source(parts.dtype, parts.extents, parts.bytes)) return error;
  return make_tensor(parts, tensor) ? caf::error(caf::none) : caf::error(caf::sec::invalid_argument);
}

caf::error MessageElements::append_saved(caf::actor_system& system, const std::string& name,
                                         AnyDeserializer& source) {
  caf::type_erased_value_ptr value = system.types().make_value(name);
  if (!value) return caf::sec::unknown_type;
  if (auto error = value->load(source)) return error;
  elements_.push_back(std::move(value));
  return caf::none;
}

void MessageElements::append_method(const std::string& name) {
  // CAF packs a short name of letters, digits and '_' into an atom; that is how its actors match names.
  const bool can_be_atom =
      !name.empty() && name.size() <= 10 && std::all_of(name.begin(), name.end(), [](char letter) {
        return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') ||
               (letter >= 'A' && letter <= 'Z') || letter == '_';
      });
  if (can_be_atom)
    append(caf::atom_from_string(name));
  else
    append(name);
}

caf::message MessageElements::to_message() {
  if (elements_.empty()) return {};
  return caf::message(
      caf::message::data_ptr(caf::make_counted<caf::detail::dynamic_message_data>(std::move(elements_))));
}

std::optional<std::string> atom_at(const caf::message& message, std::size_t position) {
  if (!holds<caf::atom_value>(message, position)) return std::nullopt;
  return caf::to_string(message.get_as<caf::atom_value>(position));
}

std::string announced_name(const caf::actor_system& system, const caf::message& message,
                           std::size_t position) {
  const auto& types = system.types();
  const std::string& name = types.portable_name(message.type(position));
  return name == types.default_type_name() ? std::string() : name;
}

caf::error save_element(const caf::message& message, std::size_t position, AnySerializer& sink) {
  return message.save(position, sink);
}

std::string element_text(const caf::message& message, std::size_t position) {
  return message.stringify(position);
}

std::string error_text(const caf::actor_system& system, const caf::error& error) {
  return system.render(error);
}

#else

namespace {

using caf::detail::meta_object;

constexpr std::string_view kAtomEnding = "_atom";

/// "add" for "application::add_atom"; empty: the type is no atom.
std::string_view atom_name(const meta_object& type) {
  std::string_view name = type.type_name;
  if (type.simple_size != 1 || !name.ends_with(kAtomEnding)) return {};
  name.remove_suffix(kAtomEnding.size());
  return name.substr(name.rfind(':') + 1);
}

/// One element of a type that is known at run time only, made without arguments.
caf::message make_element(caf::type_id_t type) {
  caf::detail::type_id_list_builder types;
  types.push_back(type);
  auto data = caf::detail::message_data::make_uninitialized(types.move_to_list());
  caf::detail::global_meta_object(type).default_construct(data->storage());
  data->inc_constructed_elements();
  return caf::message(caf::message::data_ptr(data.release(), false));
}

caf::error error_of(bool done, const caf::error& error) {
  if (done) return caf::none;
  return error ? error : caf::error(caf::sec::runtime_error);
}

}  // namespace

void register_caf_types() {
  static std::once_flag once;
  std::call_once(once, [] {
    caf::core::init_global_meta_objects();
    caf::init_global_meta_objects<caf::id_block::troupe>();
  });
}

bool caf_types_registered() {
  return caf::detail::global_meta_object_or_null(caf::type_id_v<Tensor>) != nullptr;
}

bool make_code(std::uint8_t number, Code& code) {
  if (number > static_cast<std::uint8_t>(Code::kUnauthenticated)) return false;
  code = static_cast<Code>(number);
  return true;
}

caf::error MessageElements::append_saved(caf::actor_system&, const std::string& name,
                                         AnyDeserializer& source) {
  const caf::type_id_t type = caf::query_type_id(name);
  if (type == caf::invalid_type_id) return caf::sec::unknown_type;
  caf::message element = make_element(type);
  const bool loaded = caf::detail::global_meta_object(type).load_binary(source, element.data().storage());
  if (!loaded) return error_of(false, source.get_error());
  elements_.append_from(element, 0);
  return caf::none;
}

void MessageElements::append_method(const std::string& name) {
  const auto types = caf::detail::global_meta_objects();
  // The application's before CAF's own.
  for (std::size_t type = types.size(); type-- > 0;)
    if (atom_name(types[type]) == name) {
      elements_.append_from(make_element(static_cast<caf::type_id_t>(type)), 0);
      return;
    }
  append(name);
}

caf::message MessageElements::to_message() {
  return elements_.empty() ? caf::message() : elements_.move_to_message();
}

std::optional<std::string> atom_at(const caf::message& message, std::size_t position) {
  const std::string_view name = atom_name(caf::detail::global_meta_object(message.type_at(position)));
  return name.empty() ? std::nullopt : std::optional<std::string>(name);
}

std::string announced_name(const caf::actor_system& system, const caf::message& message,
                           std::size_t position) {
  // Types that CAF was told not to serialize have a number, too. They say so when they are tried.
  const caf::type_id_t type = message.type_at(position);
  const auto& meta = caf::detail::global_meta_object(type);
  Bytes ignored;
  caf::binary_serializer sink(const_cast<caf::actor_system&>(system), ignored);
  if (!meta.save_binary(sink, make_element(type).cdata().storage()) &&
      sink.get_error() == caf::sec::unsafe_type)
    return {};
  return std::string(meta.type_name);
}

caf::error save_element(const caf::message& message, std::size_t position, AnySerializer& sink) {
  const auto& meta = caf::detail::global_meta_object(message.type_at(position));
  return error_of(meta.save_binary(sink, message.cdata().at(position)), sink.get_error());
}

std::string element_text(const caf::message& message, std::size_t position) {
  std::string text;
  caf::detail::global_meta_object(message.type_at(position)).stringify(text, message.cdata().at(position));
  return text;
}

std::string error_text(const caf::actor_system&, const caf::error& error) {
  return to_string(error);
}

#endif

}  // namespace troupe
