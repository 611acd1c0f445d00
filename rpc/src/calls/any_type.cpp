#include <troupe/rpc/any_type.hpp>

#include <cctype>
#include <utility>

#include <troupe/rpc/codec.hpp>

namespace troupe::rpc {

namespace {

using Kind = AnyType::Kind;
using detail::mix;

struct Word {
  std::string_view text;
  Kind kind;
};
constexpr Word kWords[] = {{"void", Kind::kVoid},     {"bool", Kind::kBool},
                           {"string", Kind::kString}, {"bytes", Kind::kBytes},
                           {"enum", Kind::kEnum},     {"tensor", Kind::kTensor},
                           {"vector", Kind::kVector}, {"optional", Kind::kOptional},
                           {"pair", Kind::kTuple},    {"tuple", Kind::kTuple},
                           {"map", Kind::kMap}};

std::optional<DType> dtype_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i)
    if (to_string(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  return std::nullopt;
}

bool is_integer(DType dtype) {
  return dtype >= DType::kInt8 && dtype <= DType::kUInt64;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<AnyType> type_alone() {
    auto type = this->type(0);
    if (type && !at_end()) return wrong("the end");
    return type;
  }
  Result<AnySignature> signature() {
    AnySignature signature;
    if (!take("(")) return wrong("'('");
    if (!take(")")) {
      auto parameters = list(")", 0);
      if (!parameters) return parameters.error();
      signature.parameters = std::move(*parameters);
      for (const AnyType& each : signature.parameters)
        if (each.kind == Kind::kVoid) return wrong("a type other than void");
    }
    if (!take("->")) return wrong("'->'");
    auto result = type(0);
    if (!result) return result.error();
    if (!at_end()) return wrong("the end");
    signature.result = std::move(*result);
    return signature;
  }

 private:
  void skip() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  bool at_end() {
    skip();
    return at_ == text_.size();
  }
  bool take(std::string_view what) {
    skip();
    if (text_.substr(at_, what.size()) != what) return false;
    at_ += what.size();
    return true;
  }
  std::string_view word() {
    skip();
    const std::size_t begin = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) || text_[at_] == '_' || text_[at_] == ':'))
      ++at_;
    return text_.substr(begin, at_ - begin);
  }
  Error wrong(std::string_view wanted) const {
    return {Code::kInvalidArgument, "'" + std::string(text_) + "': " + std::string(wanted) +
                                        " is to stand at place " + std::to_string(at_ + 1)};
  }
  /// Types, until `end`.
  Result<std::vector<AnyType>> list(std::string_view end, std::size_t depth) {
    std::vector<AnyType> types;
    do {
      auto each = type(depth);
      if (!each) return each.error();
      types.push_back(std::move(*each));
    } while (take(","));
    if (!take(end)) return wrong("',' or '" + std::string(end) + "'");
    return types;
  }
  Result<AnyType> tensor(AnyType type) {
    if (!take("<")) return type;
    type.dtype = dtype_named(word());
    if (!type.dtype) return wrong("the type of a tensor's elements");
    if (take(",")) {
      const std::string_view digits = word();
      if (digits.size() != 1 || digits[0] < '0' || digits[0] > '8') return wrong("a number of axes, 0 to 8");
      type.rank = static_cast<std::size_t>(digits[0] - '0');
    }
    if (!take(">")) return wrong("'>'");
    return type;
  }
  Result<AnyType> type(std::size_t depth) {
    if (depth > AnyType::kMaxDepth) return wrong("a type that is not nested so deep");
    const std::size_t begin = at_;
    const std::string_view name = word();
    AnyType type;
    if (const auto number = dtype_named(name); number && *number != DType::kBool) {
      if (!is_integer(*number) && *number != DType::kFloat32 && *number != DType::kFloat64) {
        at_ = begin;
        return wrong("a type of single numbers (float16 and bfloat16 are of tensors only)");
      }
      type.kind = is_integer(*number) ? Kind::kInteger : Kind::kFloat;
      type.dtype = number;
      return type;
    }
    for (const Word& each : kWords)
      if (each.text == name) return made_of(each, depth);
    if (!name.empty() && take("{")) {
      type.kind = Kind::kStruct;
      type.name = std::string(name);
      return with_items(std::move(type), "}", depth);
    }
    at_ = begin;
    return wrong("a type");
  }
  Result<AnyType> with_items(AnyType type, std::string_view end, std::size_t depth) {
    auto items = list(end, depth + 1);
    if (!items) return items.error();
    for (const AnyType& each : *items)
      if (each.kind == Kind::kVoid) return wrong("a type other than void");
    type.items = std::move(*items);
    return type;
  }
  Result<AnyType> made_of(const Word& word, std::size_t depth) {
    AnyType type;
    type.kind = word.kind;
    if (word.kind == Kind::kTensor) return tensor(std::move(type));
    if (word.kind < Kind::kVector) return type;
    if (word.text == "tuple" && take("<>")) return type;
    if (!take("<")) return wrong("'<'");
    auto whole = with_items(std::move(type), ">", depth);
    if (!whole) return whole;
    const std::size_t count = whole->items.size();
    const bool two = word.text == "pair" || word.kind == Kind::kMap;
    if (word.text != "tuple" && count != (two ? 2 : 1))
      return wrong(std::string(word.text) + " of " + (two ? "two types" : "one type"));
    if (word.kind == Kind::kVector &&
        (whole->items[0].kind == Kind::kInteger || whole->items[0].kind == Kind::kFloat)) {
      whole->kind = Kind::kNumbers;
      whole->dtype = whole->items[0].dtype;
      whole->items.clear();
    }
    return whole;
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

std::string names_of(const std::vector<AnyType>& types) {
  std::string text;
  for (const AnyType& each : types) text += (text.empty() ? "" : ", ") + each.to_string();
  return text;
}

}  // namespace

Result<AnyType> AnyType::parse(std::string_view text) {
  return Parser(text).type_alone();
}

Result<AnySignature> AnySignature::parse(std::string_view text) {
  return Parser(text).signature();
}

std::uint64_t AnyType::fingerprint() const {
  const auto mixed = [&](std::uint64_t seed) {
    for (const AnyType& each : items) seed = mix(seed, each.fingerprint());
    return seed;
  };
  switch (kind) {
    case Kind::kVoid:
      return fnv1a("void");
    case Kind::kBool:
      return Codec<bool>::fingerprint();
    case Kind::kInteger:
      return Codec<int>::fingerprint();
    case Kind::kFloat:
      return Codec<double>::fingerprint();
    case Kind::kString:
      return Codec<std::string>::fingerprint();
    case Kind::kBytes:
      return Codec<std::vector<std::byte>>::fingerprint();
    case Kind::kEnum:
      return fnv1a("enum");
    case Kind::kTensor:
      if (!dtype) return Codec<Tensor>::fingerprint();
      return mix(mix(fnv1a("tensor of"), static_cast<std::uint64_t>(*dtype)), rank.value_or(kAnyRank));
    case Kind::kNumbers:
      return mix(fnv1a("numbers"), static_cast<std::uint64_t>(*dtype));
    case Kind::kVector:
      return mixed(fnv1a("vector"));
    case Kind::kOptional:
      return mixed(fnv1a("optional"));
    case Kind::kTuple:
      return mixed(fnv1a("tuple"));
    case Kind::kStruct:
      return mixed(fnv1a(name));
    case Kind::kMap:
      return mixed(fnv1a("map"));
  }
  return 0;
}

std::string AnyType::to_string() const {
  switch (kind) {
    case Kind::kVoid:
      return "void";
    case Kind::kBool:
      return "bool";
    case Kind::kInteger:
    case Kind::kFloat:
      return std::string(troupe::to_string(*dtype));
    case Kind::kString:
      return "string";
    case Kind::kBytes:
      return "bytes";
    case Kind::kEnum:
      return "enum";
    case Kind::kTensor:
      return "tensor" + (dtype ? "<" + std::string(troupe::to_string(*dtype)) +
                                     (rank ? ", " + std::to_string(*rank) : "") + ">"
                               : "");
    case Kind::kNumbers:
      return "vector<" + std::string(troupe::to_string(*dtype)) + ">";
    case Kind::kVector:
      return "vector<" + names_of(items) + ">";
    case Kind::kOptional:
      return "optional<" + names_of(items) + ">";
    case Kind::kTuple:
      return (items.size() == 2 ? "pair<" : "tuple<") + names_of(items) + ">";
    case Kind::kStruct:
      return name + "{" + names_of(items) + "}";
    case Kind::kMap:
      return "map<" + names_of(items) + ">";
  }
  return {};
}

std::uint64_t AnySignature::fingerprint() const {
  std::uint64_t seed = result.fingerprint();
  for (const AnyType& each : parameters) seed = mix(seed, each.fingerprint());
  return seed == 0 ? 1 : seed;
}

std::string AnySignature::to_string() const {
  return "(" + names_of(parameters) + ") -> " + result.to_string();
}

}  // namespace troupe::rpc
