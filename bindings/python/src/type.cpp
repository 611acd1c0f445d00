#include "type.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

namespace troupe::python {
namespace {

using Kind = Type::Kind;

constexpr std::pair<const char*, Kind> kKinds[] = {
    {"void", Kind::kVoid},         {"bool", Kind::kBool},          {"integer", Kind::kInteger},
    {"real", Kind::kReal},         {"string", Kind::kText},        {"bytes", Kind::kBytes},
    {"tensor", Kind::kTensor},     {"tensor_of", Kind::kTensorOf}, {"list", Kind::kList},
    {"optional", Kind::kOptional}, {"tuple", Kind::kTuple},        {"map", Kind::kMap},
    {"struct", Kind::kStruct},     {"enum", Kind::kEnum},          {"natural", Kind::kNatural},
    {"python", Kind::kPython}};

Kind kind_named(const std::string& name) {
  for (const auto& [text, kind] : kKinds)
    if (name == text) return kind;
  throw nb::value_error(("there is no kind of type named '" + name + "'").c_str());
}

DType dtype_named(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i)
    if (to_string(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  throw nb::value_error(("there is no dtype named '" + name + "'").c_str());
}

std::string texts(const std::vector<TypePtr>& types) {
  std::string all;
  for (const TypePtr& each : types) (all += all.empty() ? "" : ", ") += each->text();
  return all;
}

bool is_checked_type(const TypePtr& type) {
  return type->is_checked();
}

TypePtr make_type(const std::string& kind, const std::string& width, int rank, std::string name,
                  std::vector<TypePtr> parts, std::vector<std::string> fields, nb::handle make) {
  auto type = std::make_shared<Type>();
  type->kind = kind_named(kind);
  if (!width.empty()) type->width = dtype_named(width);
  if (rank >= 0) type->rank = static_cast<std::size_t>(rank);
  type->name = std::move(name);
  type->parts = std::move(parts);
  type->fields = std::move(fields);
  if (!make.is_none()) type->make = hold(make);
  return type;
}

}  // namespace

bool Type::is_numbers() const {
  return kind == Kind::kList && (parts[0]->kind == Kind::kInteger || parts[0]->kind == Kind::kReal);
}

bool Type::is_checked() const {
  return kind != Kind::kNatural && std::all_of(parts.begin(), parts.end(), is_checked_type);
}

std::uint64_t Type::fingerprint() const {
  using rpc::fnv1a;
  using rpc::detail::mix;
  const auto all_parts = [&](std::uint64_t seed) {
    for (const TypePtr& each : parts) seed = mix(seed, each->fingerprint());
    return seed;
  };
  switch (kind) {
    case Kind::kVoid:
      return fnv1a("void");
    case Kind::kBool:
      return fnv1a("bool");
    case Kind::kInteger:
      return fnv1a("integer");
    case Kind::kReal:
      return fnv1a("float");
    case Kind::kText:
      return fnv1a("string");
    case Kind::kBytes:
      return fnv1a("bytes");
    case Kind::kTensor:
      return fnv1a("tensor");
    case Kind::kTensorOf:
      return mix(mix(fnv1a("tensor of"), static_cast<std::uint64_t>(width)), rank);
    case Kind::kList:
      if (is_numbers()) return mix(fnv1a("numbers"), static_cast<std::uint64_t>(parts[0]->width));
      return all_parts(fnv1a("vector"));
    case Kind::kOptional:
      return all_parts(fnv1a("optional"));
    case Kind::kTuple:
      return all_parts(fnv1a("tuple"));
    case Kind::kMap:
      return all_parts(fnv1a("map"));
    case Kind::kStruct:
      return all_parts(fnv1a(name));
    case Kind::kEnum:
      return fnv1a("enum");
    case Kind::kPython:
    case Kind::kNatural:
      break;
  }
  return fnv1a("python object");
}

std::string Type::text() const {
  const std::string element(to_string(width));
  switch (kind) {
    case Kind::kVoid:
      return "void";
    case Kind::kBool:
      return "bool";
    case Kind::kInteger:
    case Kind::kReal:
      return element;
    case Kind::kText:
      return "string";
    case Kind::kBytes:
      return "bytes";
    case Kind::kTensor:
      return "tensor";
    case Kind::kTensorOf:
      return "tensor<" + element + (rank == kAnyRank ? "" : ", " + std::to_string(rank)) + ">";
    case Kind::kList:
      return "vector<" + texts(parts) + ">";
    case Kind::kOptional:
      return "optional<" + texts(parts) + ">";
    case Kind::kTuple:
      return (parts.size() == 2 ? "pair<" : "tuple<") + texts(parts) + ">";
    case Kind::kMap:
      return "map<" + texts(parts) + ">";
    case Kind::kStruct:
      return name;
    case Kind::kEnum:
      return "enum";
    case Kind::kPython:
      return "python object";
    case Kind::kNatural:
      break;
  }
  return "any";
}

Signature::Signature(std::string method_name, std::vector<TypePtr> parameter_types, TypePtr result_type)
    : name(std::move(method_name)),
      parameters(std::move(parameter_types)),
      result(std::move(result_type)),
      text("(" + texts(parameters) + ") -> " + result->text()) {
  if (!result->is_checked() || !std::all_of(parameters.begin(), parameters.end(), is_checked_type)) {
    fingerprint = 0;
    return;
  }
  fingerprint = result->fingerprint();
  for (const TypePtr& each : parameters) fingerprint = rpc::detail::mix(fingerprint, each->fingerprint());
  if (fingerprint == 0) fingerprint = 1;
}

const TypePtr& natural_type() {
  static const TypePtr type = std::make_shared<Type>();
  return type;
}

void bind_types(nb::module_& module) {
  nb::class_<Type>(module, "Type", "How a value of an annotated type travels.")
      .def_prop_ro("text", &Type::text)
      .def_prop_ro("fingerprint", &Type::fingerprint)
      .def("__repr__", [](const Type& type) { return "<troupe type " + type.text() + ">"; });
  module.def("make_type", &make_type, nb::arg("kind"), nb::arg("width") = "", nb::arg("rank") = -1,
             nb::arg("name") = "", nb::arg("parts") = std::vector<TypePtr>(),
             nb::arg("fields") = std::vector<std::string>(), nb::arg("make") = nb::none());
  nb::class_<Signature>(module, "Signature", "A method's name and types.")
      .def(nb::init<std::string, std::vector<TypePtr>, TypePtr>())
      .def_ro("name", &Signature::name)
      .def_ro("fingerprint", &Signature::fingerprint)
      .def_ro("text", &Signature::text)
      .def("__repr__", [](const Signature& one) { return "<troupe method " + one.name + one.text + ">"; });
}

}  // namespace troupe::python
