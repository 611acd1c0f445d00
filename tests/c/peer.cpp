// c_test_peer ADDRESS [NODE ACTOR]: a node of the cluster at that address, with an actor (usually "cpp") that
// is written in C++, until the first node has gone.
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
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
  Cpp(Node& n, std::string own) : node(n), name(std::move(own)) {}
  static Vector scale(Cpp&, const Vector& values, double factor) {
    Vector scaled = values.clone();
    for (float& each : scaled.writable()) each *= static_cast<float>(factor);
    return scaled;
  }
  static void methods(rpc::Methods<Cpp>& methods) {
    methods.add("scale", &Cpp::scale)
        .add("echo", [](Cpp&, std::string_view text) { return text; })
        .add("number", [](Cpp&, std::int64_t number) { return number; })
        .add("name", [](Cpp& self) { return self.name; })
        .add("wait", &Cpp::wait)
        .add("waiting", [](Cpp& self) { return static_cast<std::int64_t>(self.waiting.size()); })
        .add("cancelled", [](Cpp& self) { return self.cancelled; })
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
  /// Never answers.
  static rpc::Future<void> wait(Cpp& self, const rpc::CallContext& context) {
    rpc::Promise<void> promise(self.node.loop());
    rpc::Future<void> future = promise.future();
    context.on_cancel([&self] { ++self.cancelled; });
    self.waiting.push_back(std::move(promise));
    return future;
  }

  Node& node;
  std::string name;
  std::vector<rpc::Promise<void>> waiting;
  std::int64_t cancelled = 0;
};

}  // namespace

template <>
struct troupe::rpc::Fields<Point> {
  static constexpr std::string_view name = "Point";
  static constexpr auto fields = std::tuple(&Point::x, &Point::y);
};

int main(int count, char** arguments) {
  if (count != 2 && count != 4) return 2;
  const std::string name = count == 4 ? arguments[2] : "peer", actor = count == 4 ? arguments[3] : "cpp";
  auto node = Node::start({.name = name, .registry = arguments[1]});
  if (!node || !(*node)->spawn<Cpp>(actor, **node, actor)) return 1;
  (void)(*node)->run();
  return 0;
}
