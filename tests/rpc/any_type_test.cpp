// Types that are known at run time only are the same as those of C++: names, fingerprints, values.
#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <troupe/rpc/any_type.hpp>
#include <troupe/rpc/codec.hpp>

using namespace troupe;
using namespace troupe::rpc;

namespace {
struct Point {
  double x = 0, y = 0;
};
enum class Colour : std::uint8_t { kRed };

template <class T>
void same(const std::string& text) {
  const auto type = AnyType::parse(text);
  REQUIRE_MESSAGE(type.ok(), text);
  CHECK_MESSAGE(type->fingerprint() == Codec<T>::fingerprint(), text);
  CHECK(type->to_string() == text);
}
}  // namespace

template <>
struct troupe::rpc::Fields<Point> {
  static constexpr std::string_view name = "Point";
  static constexpr auto fields = std::tuple(&Point::x, &Point::y);
};

TEST_CASE("any type: has the fingerprint of the C++ type of the same name") {
  same<bool>("bool");
  same<std::int8_t>("int8");
  same<std::uint64_t>("uint64");
  same<float>("float32");
  same<double>("float64");
  same<std::string>("string");
  same<std::vector<std::byte>>("bytes");
  same<Colour>("enum");
  same<Tensor>("tensor");
  same<TensorOf<float>>("tensor<float32>");
  same<TensorOf<std::int64_t, 2>>("tensor<int64, 2>");
  same<std::vector<double>>("vector<float64>");
  same<std::vector<std::string>>("vector<string>");
  same<std::vector<bool>>("vector<bool>");
  same<std::vector<std::vector<float>>>("vector<vector<float32>>");
  same<std::optional<std::string>>("optional<string>");
  same<std::pair<std::string, int>>("pair<string, int32>");
  same<std::tuple<bool, Tensor, double>>("tuple<bool, tensor, float64>");
  same<std::map<std::string, std::vector<Tensor>>>("map<string, vector<tensor>>");
  const auto point = AnyType::parse("Point{float64, float64}");
  REQUIRE(point.ok());
  CHECK(point->fingerprint() == Codec<Point>::fingerprint());
  CHECK(AnyType::parse(Codec<Tensor>::name())->kind == AnyType::Kind::kTensor);
}

TEST_CASE("any type: signatures are those of C++ functions") {
  const auto one = AnySignature::parse("(tensor, int64)->tensor");
  REQUIRE(one.ok());
  CHECK(one->fingerprint() == signature_fingerprint<Tensor, Tensor, std::int64_t>());
  CHECK(one->to_string() == signature_text<Tensor, Tensor, std::int64_t>());
  const auto nothing = AnySignature::parse("() -> void");
  REQUIRE(nothing.ok());
  CHECK(nothing->fingerprint() == signature_fingerprint<void>());
  CHECK(nothing->to_string() == signature_text<void>());
}

TEST_CASE("any type: what is no type is refused, with the place") {
  for (const char* text : {"", "int", "vector", "vector<>", "vector<int64", "pair<int64>", "map<string>",
                           "tensor<text>", "tensor<float32, 9>", "tensor<float32, x>", "float16", "int64 x",
                           "optional<void>", "Point", "Point{}", "vector<int64>>",
                           "vector<vector<vector<vector<vector<vector<vector<vector<vector<bool>>>>>>>>>"}) {
    const auto type = AnyType::parse(text);
    CHECK_MESSAGE(!type.ok(), text);
    if (!type) CHECK(type.error().code == Code::kInvalidArgument);
  }
  for (const char* text :
       {"", "int64", "(int64)", "(int64) ->", "(void) -> void", "(int64 -> void", "() -> void 1"})
    CHECK_MESSAGE(!AnySignature::parse(text).ok(), text);
  CHECK(AnyType::parse("pair<int64, text>").error().message ==
        "'pair<int64, text>': a type is to stand at place 12");
}
