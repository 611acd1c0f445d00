#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <unordered_map>

#include "codec_support.hpp"

namespace troupe::rpc::testing {
enum class Colour : std::uint8_t { kRed = 1, kBlue = 200 };
struct Point {
  double x = 0, y = 0;
  std::string name;
  friend bool operator==(const Point&, const Point&) = default;
};
struct Path {
  std::vector<Point> points;
  std::optional<Point> end;
  std::map<std::string, std::vector<std::int64_t>> tags;
  friend bool operator==(const Path&, const Path&) = default;
};
}  // namespace troupe::rpc::testing

template <>
struct troupe::rpc::Fields<troupe::rpc::testing::Point> {
  static constexpr std::string_view name = "Point";
  static constexpr auto fields = std::tuple(&testing::Point::x, &testing::Point::y, &testing::Point::name);
};
template <>
struct troupe::rpc::Fields<troupe::rpc::testing::Path> {
  static constexpr std::string_view name = "Path";
  static constexpr auto fields =
      std::tuple(&testing::Path::points, &testing::Path::end, &testing::Path::tags);
};

namespace troupe::rpc {
using testing::Colour;
using testing::Path;
using testing::Point;
using testing::reads_as;
using testing::round_trip;

namespace {
template <class T>
Tensor tensor_of(std::initializer_list<std::int64_t> extents, DType dtype, T start) {
  Tensor tensor = Tensor::empty(dtype, Shape(extents));
  for (std::int64_t i = 0; i < tensor.elements(); ++i) {
    const T value = static_cast<T>(start + static_cast<T>(i));
    std::memcpy(tensor.data() + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
  }
  return tensor;
}
bool same(const Tensor& a, const Tensor& b) {
  const Tensor left = a.contiguous(), right = b.contiguous();
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (left.bytes() == 0 || std::memcmp(left.data(), right.data(), left.bytes()) == 0);
}
}  // namespace

TEST_CASE_TEMPLATE("codec: numbers come back at their limits", T, std::int8_t, std::int16_t, std::int32_t,
                   std::int64_t, std::uint8_t, std::uint16_t, std::uint32_t, std::uint64_t, long long,
                   unsigned long, char, float, double) {
  using Limits = std::numeric_limits<T>;
  for (const T value : {T{0}, T{1}, Limits::min(), Limits::max(), Limits::lowest()})
    CHECK(round_trip(value) == value);
  const std::vector<T> several{Limits::lowest(), T{0}, T{7}, Limits::max()};
  CHECK(round_trip(several) == several);
  CHECK(round_trip(std::vector<T>{}).empty());
}

TEST_CASE("codec: unusual floats come back") {
  CHECK(std::isnan(round_trip(std::nan(""))));
  CHECK(round_trip(-std::numeric_limits<double>::infinity()) == -std::numeric_limits<double>::infinity());
  CHECK(std::signbit(round_trip(-0.0f)));
  CHECK(round_trip(std::numeric_limits<double>::denorm_min()) == std::numeric_limits<double>::denorm_min());
}

TEST_CASE("codec: bools, enums, text and bytes come back") {
  CHECK(round_trip(true));
  CHECK_FALSE(round_trip(false));
  CHECK(round_trip(Colour::kBlue) == Colour::kBlue);
  for (const std::string& text : {std::string(), std::string("x"), std::string("a\0b\0", 4),
                                  std::string("\xff\xfe"), std::string(100'000, 'y')})
    CHECK(round_trip(text) == text);
  const std::vector<std::byte> bytes{std::byte{0}, std::byte{255}, std::byte{1}};
  CHECK(round_trip(bytes) == bytes);
  CHECK(round_trip(std::vector<std::byte>{}).empty());
}

TEST_CASE("codec: containers come back") {
  CHECK(round_trip(std::vector<std::string>{"a", "", "c"}) == std::vector<std::string>{"a", "", "c"});
  CHECK(round_trip(std::vector<bool>{true, false, true}) == std::vector<bool>{true, false, true});
  CHECK(round_trip(std::optional<int>()) == std::nullopt);
  CHECK(round_trip(std::optional<int>(5)) == 5);
  const auto pair = std::pair(std::string("k"), 3.5);
  CHECK(round_trip(pair) == pair);
  const auto tuple = std::tuple(1, std::string("two"), std::vector<float>{3.f}, false);
  CHECK(round_trip(tuple) == tuple);
  CHECK(round_trip(std::tuple<>()) == std::tuple<>());
  const std::map<std::string, int> map{{"a", 1}, {"b", 2}};
  CHECK(round_trip(map) == map);
  const std::unordered_map<std::uint64_t, std::string> hashed{{1, "x"}, {UINT64_MAX, "y"}};
  CHECK(round_trip(hashed) == hashed);
}

TEST_CASE("codec: structs by Fields come back, nested") {
  const Point point{1.5, -2, "p"};
  CHECK(round_trip(point) == point);
  const Path path{{point, {}, {3, 4, "q"}}, point, {{"t", {1, 2, 3}}, {"u", {}}}};
  CHECK(round_trip(path) == path);
  CHECK(round_trip(Path{}) == Path{});
  const std::vector<std::vector<std::vector<std::string>>> deep{{{"a"}, {}}, {}, {{"b", "c"}}};
  CHECK(round_trip(deep) == deep);
}

TEST_CASE("codec: tensors come back") {
  const Tensor matrix = tensor_of<float>({3, 4}, DType::kFloat32, 1.f);
  CHECK(same(round_trip(matrix), matrix));
  CHECK(same(round_trip(matrix.rows(1, 3)), matrix.rows(1, 3)));
  const Tensor scalar = tensor_of<double>({}, DType::kFloat64, 2.5);
  CHECK(same(round_trip(scalar), scalar));
  for (const auto& shape : {Shape({0}), Shape({3, 0, 2}), Shape({0, 0})}) {
    const Tensor none = Tensor::empty(DType::kInt64, shape);
    CHECK(same(round_trip(none), none));
  }
  const Tensor wide = tensor_of<std::int32_t>({4, 6}, DType::kInt32, 0);
  const Tensor strided(DType::kInt32, Shape({6, 4}), Shape({1, 6}), wide.buffer(), 0);  // transposed
  CHECK(same(round_trip(strided), strided));
  const Tensor large = tensor_of<std::uint8_t>({1 << 20}, DType::kUInt8, 3);
  CHECK(same(round_trip(large), large));
}

TEST_CASE("codec: vectors and maps of any number of tensors come back") {
  for (const std::size_t count : {0, 1, 30, 40, 70, 100, 1000}) {
    CAPTURE(count);
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < count; ++i) switch (i % 4) {
        case 0:
          tensors.push_back(tensor_of<std::uint8_t>({static_cast<std::int64_t>(i % 7)}, DType::kUInt8, 9));
          break;
        case 1:
          tensors.push_back(tensor_of<double>({2, static_cast<std::int64_t>(i % 5)}, DType::kFloat64, 1.0));
          break;
        case 2:
          tensors.push_back(tensor_of<std::int16_t>({1, 1, 1, 3}, DType::kInt16, 5));
          break;
        default:
          tensors.push_back(tensor_of<float>({}, DType::kFloat32, 4.f));
      }
    const auto back = round_trip(tensors);
    REQUIRE(back.size() == count);
    for (std::size_t i = 0; i < count; ++i) {
      CAPTURE(i);
      CHECK(same(back[i], tensors[i]));
      CHECK(reinterpret_cast<std::uintptr_t>(back[i].data()) % size_of(back[i].dtype()) == 0);
    }
  }
  std::map<std::string, std::pair<Tensor, std::string>> named;
  named["w"] = {tensor_of<float>({8}, DType::kFloat32, 1.f), std::string(5000, 'w')};
  named["b"] = {tensor_of<float>({2}, DType::kFloat32, 2.f), "b"};
  const auto back = round_trip(named);
  CHECK(same(back.at("w").first, named["w"].first));
  CHECK(back.at("w").second == named["w"].second);
  CHECK(same(back.at("b").first, named["b"].first));
}

TEST_CASE("codec: numbers are read as other numbers if they fit") {
  CHECK(reads_as<std::uint8_t>(std::int64_t{255}));
  CHECK_FALSE(reads_as<std::uint8_t>(std::int64_t{256}));
  CHECK_FALSE(reads_as<std::uint64_t>(-1));
  CHECK_FALSE(reads_as<std::int64_t>(UINT64_MAX));
  CHECK(reads_as<std::int64_t>(std::uint64_t{INT64_MAX}));
  CHECK(reads_as<double>(7));
  CHECK_FALSE(reads_as<int>(7.0));
}

TEST_CASE("codec: what is of another type is refused") {
  CHECK_FALSE(reads_as<int>(std::string("7")));
  CHECK_FALSE(reads_as<std::string>(7));
  CHECK_FALSE(reads_as<bool>(1));
  CHECK_FALSE(reads_as<Tensor>(std::vector<float>{1}));
  CHECK_FALSE(reads_as<std::vector<float>>(std::vector<double>{1}));
  CHECK_FALSE(reads_as<std::vector<std::byte>>(std::string("x")));
  CHECK_FALSE(reads_as<std::pair<int, int>>(std::tuple(1, 2, 3)));
  CHECK_FALSE(reads_as<std::pair<int, int>>(std::pair(1, std::string("2"))));
  CHECK_FALSE(reads_as<Point>(std::pair(1.0, 2.0)));
  CHECK_FALSE(reads_as<std::map<std::string, int>>(std::vector<std::string>{"a"}));
  CHECK_FALSE(reads_as<std::vector<int>>(Colour::kRed));
}

TEST_CASE("codec: fingerprints tell signatures apart") {
  constexpr auto add = signature_fingerprint<Tensor, Tensor, Tensor>();
  static_assert(add != signature_fingerprint<Tensor, Tensor>());
  static_assert(add != signature_fingerprint<void, Tensor, Tensor>());
  static_assert(signature_fingerprint<int, float>() != signature_fingerprint<float, int>());
  static_assert(signature_fingerprint<int, std::vector<int>>() != signature_fingerprint<int, int>());
  static_assert(signature_fingerprint<void, std::string>() ==
                signature_fingerprint<void, std::string_view>());
  static_assert(std::is_same_v<WireType<const char*>, std::string>);
  CHECK(signature_text<Tensor, Tensor, std::int64_t>() == "(tensor, int64) -> tensor");
  CHECK(signature_text<void, Path, std::vector<std::map<std::string, Colour>>>() ==
        "(Path, vector<map<string, enum>>) -> void");
}

}  // namespace troupe::rpc
