// cpp_peer REGISTRY: a process in C++ whose actor Python calls, and which calls an actor in Python.
#include <cstdio>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/runtime/tensor_of.hpp>

using namespace troupe;

namespace {

struct Point {
  double x = 0, y = 0;
  std::optional<std::string> name;
};

}  // namespace

template <>
struct troupe::rpc::Fields<Point> {
  static constexpr std::string_view name = "Point";
  static constexpr auto fields = std::tuple(&Point::x, &Point::y, &Point::name);
};

namespace {

struct Calculator {
  double sum(const std::vector<double>& values) const {
    double all = 0;
    for (const double each : values) all += each;
    return all;
  }
  Tensor scale(const TensorOf<float, 1>& vector, double by) const {
    TensorOf<float, 1> scaled = vector.clone();
    for (float& each : scaled.writable()) each *= static_cast<float>(by);
    return scaled;
  }
  std::string describe(const std::map<std::string, std::int64_t>& counts) const {
    std::string text;
    for (const auto& [name, count] : counts) text += name + "=" + std::to_string(count) + ";";
    return text;
  }
  Point moved(Point point, float by) const {
    point.x += by;
    return point;
  }
  std::tuple<bool, std::string, std::vector<std::byte>> both(bool flag, const std::string& text,
                                                             const std::vector<std::byte>& bytes) const {
    return {!flag, text + "!", bytes};
  }
  std::uint8_t small(std::uint8_t value) const { return value; }
  void fail() const { throw std::out_of_range("past the end"); }
  /// Calls an actor in Python with C++'s types.
  Result<double> ask(const rpc::CallContext& context, const std::string& actor) const {
    Node& node = Node::of(context);
    const auto doubled = node.rpc_sync<std::int64_t>(actor, "double", std::int64_t{21});
    if (!doubled) return doubled.error();
    const auto point = node.rpc_sync<Point>(actor, "moved", Point{1, 2, "p"}, 0.5);
    if (!point) return point.error();
    const auto tensor = node.rpc_sync<Tensor>(actor, "halve", Tensor::of<float>({2, 4}));
    if (!tensor) return tensor.error();
    return static_cast<double>(*doubled) + point->x + static_cast<double>(tensor->as<const float>()[1]);
  }
  /// As it is: what an actor in Python ends a call with.
  Result<std::string> error_of(const rpc::CallContext& context, const std::string& actor) const {
    const auto failed = Node::of(context).rpc_sync<void>(actor, "fail");
    if (failed) return std::string("no error");
    return failed.error().exception + ": " + failed.error().message;
  }

  static void methods(rpc::Methods<Calculator>& methods) {
    methods.add("sum", &Calculator::sum)
        .add("scale", &Calculator::scale)
        .add("describe", &Calculator::describe)
        .add("moved", &Calculator::moved)
        .add("both", &Calculator::both)
        .add("small", &Calculator::small)
        .add("fail", &Calculator::fail)
        .add("ask", &Calculator::ask)
        .add("error_of", &Calculator::error_of);
  }
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  auto node = Node::start({.name = "cpp", .registry = arguments[1]});
  if (!node) return std::fprintf(stderr, "%s\n", node.error().to_string().c_str()), 1;
  if (auto spawned = (*node)->spawn<Calculator>("calculator"); !spawned)
    return std::fprintf(stderr, "%s\n", spawned.error().to_string().c_str()), 1;
  (void)(*node)->run();  // until the first node has gone
}
