#include <array>
#include <limits>

#include <troupe/runtime/json.hpp>

#include "support.hpp"

namespace troupe::shards {
namespace {

using test::dense_spec;
using test::embedding_spec;

TEST_CASE("a spec comes back from its JSON as it was") {
  const std::uint64_t seed = troupe::test::test_seed();
  std::mt19937_64 random(seed);
  for (const Optimizer& optimizer : test::every_optimizer()) {
    for (const Initializer& initializer :
         {Initializer(Zeros{}), Initializer(Uniform{-0.1F, 1.0F / 3}), Initializer(Normal{1e-30F, 3e38F})}) {
      for (TableSpec spec : {embedding_spec(200, optimizer), dense_spec(1U << 30, 7, optimizer)}) {
        spec.initializer = initializer;
        spec.seed = random() | (std::uint64_t{1} << 63);
        spec.slots = 1U << (random() % 20);
        const std::array<Consistency, 5> modes = {Asynchronous{}, BoundedStaleness{random()}, Synchronous{},
                                                  KOfN{random() | 1U, LatePushes::kDrop},
                                                  KOfN{3, LatePushes::kScale}};
        spec.consistency = modes[random() % modes.size()];
        if (random() % 2 == 0) spec.step_scaling = StepScaling::kInverseStaleness;
        const std::string text = spec.to_json();
        CHECK(text.find('\n') == std::string::npos);
        const Result<TableSpec> back = TableSpec::from_json(text);
        REQUIRE_MESSAGE(back.ok(), text);
        CHECK(*back == spec);
      }
    }
  }
}

void check_refused(const Json& json, const std::string& part) {
  const Result<TableSpec> spec = TableSpec::from_json(json.dump());
  REQUIRE_FALSE(spec.ok());
  CHECK(spec.error().code == Code::kInvalidArgument);
  INFO(spec.error().message);
  CHECK(spec.error().message.find(part) != std::string::npos);
}

TEST_CASE("every missing key of a spec is named, and every unknown one") {
  const Json good = Json::parse(embedding_spec(8, Adam{}).to_json());
  for (const auto& [name, value] : good.items()) {
    Json bad = good;
    bad.erase(name);
    check_refused(bad, "'" + name + "' is missing");
    bad[name] = nullptr;
    check_refused(bad, "'" + name + "'");
  }
  for (const auto& [name, value] : good["optimizer"].items()) {
    Json bad = good;
    bad["optimizer"].erase(name);
    check_refused(bad, "'" + name + "' is missing");
  }
  Json bad = good;
  bad["colour"] = 1;
  check_refused(bad, "'colour' is not known");
  bad = good;
  bad["optimizer"]["momentum"] = 0.9;
  check_refused(bad, "'momentum' is not known");
}

TEST_CASE("values of a spec that cannot be are refused") {
  const Json good = Json::parse(embedding_spec(8).to_json());
  const auto with = [&](const char* name, const Json& value) {
    Json bad = good;
    bad[name] = value;
    return bad;
  };
  check_refused(with("dim", -1), "'dim' is -1");
  check_refused(with("dim", 1.5), "'dim' is 1.5");
  check_refused(with("dim", "8"), "'dim' is \"8\"");
  check_refused(with("slots", std::uint64_t{1} << 32), "'slots'");
  check_refused(with("slots", 7), "slots is 7");
  check_refused(with("kind", "sparse"), "expected one of 'dense', 'embedding'");
  check_refused(with("optimizer", {{"kind", "lion"}}), "expected one of 'sgd'");
  check_refused(with("initializer", {{"kind", "uniform"}, {"low", 1e300}, {"high", 2}}), "low");
  check_refused(with("consistency", {{"kind", "bounded_staleness"}}), "'bound' is missing");
  check_refused(with("consistency", 3), "expected a JSON object");
  check_refused(Json(3), "expected a JSON object");
  CHECK(TableSpec::from_json("{\"name\":").error().code == Code::kInvalidArgument);
}

}  // namespace
}  // namespace troupe::shards
