// c_test_peer ADDRESS: a node of the cluster at that address, with an actor "cpp" that is written in C++,
// until the first node has gone.
#include <cstdint>
#include <numeric>
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
};

using Vector = TensorOf<float, 1>;

struct Cpp {
  explicit Cpp(Node& n) : node(n) {}
  static Vector scale(Cpp&, const Vector& values, double factor) {
    Vector scaled = values.clone();
    for (float& each : scaled.writable()) each *= static_cast<float>(factor);
    return scaled;
  }
  static void methods(rpc::Methods<Cpp>& methods) {
    methods.add("scale", &Cpp::scale)
        .add(
            "sum",
            [](Cpp&, const std::vector<double>& all) { return std::accumulate(all.begin(), all.end(), 0.0); })
        .add("turn",
             [](Cpp&, const Point& point) {
               return Point{point.y, -point.x};
             })
        .add("throw", [](Cpp&) { throw std::out_of_range("on purpose"); })
        .add("add_two_at",
             [](Cpp& self, const std::string& actor, std::int64_t number) {
               return self.node.rpc_async<std::int64_t>(actor, "add", number, 2);
             })
        .add("call_wrongly", [](Cpp& self, const std::string& actor) {
          return self.node.rpc_async<std::string>(actor, "add", 1.5, 2);
        });
  }
  Node& node;
};

}  // namespace

template <>
struct troupe::rpc::Fields<Point> {
  static constexpr std::string_view name = "Point";
  static constexpr auto fields = std::tuple(&Point::x, &Point::y);
};

int main(int count, char** arguments) {
  if (count != 2) return 2;
  auto node = Node::start({.name = "peer", .registry = arguments[1]});
  if (!node || !(*node)->spawn<Cpp>("cpp", **node)) return 1;
  (void)(*node)->run();
  return 0;
}
