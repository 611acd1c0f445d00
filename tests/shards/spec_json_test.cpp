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
        if (random() % 2 == 0 && !in_rounds(spec.consistency))
          spec.step_scaling = StepScaling::kInverseStaleness;
        const std::array<Decay, 6> decays = {
            ConstantRate{},         StepDecay{random() | 1U, 1.0F / 3},
            ExponentialDecay{0.9F}, CosineDecay{random() | 1U, 0.1F},
            InverseSquareRoot{7},   PolynomialDecay{random() | 1U, 2.5F, 0.2F}};
        if (random() % 4 != 0) spec.schedule = {random() % 3, 0.7F, decays[random() % decays.size()]};
        if (random() % 2 == 0) spec.clipping = {.value = 0.3F, .row_norm = 1.0F / 7, .push_norm = 2};
        if (random() % 2 == 0 && !in_rounds(spec.consistency))
          spec.delay_compensation = {.lambda = 0.04F, .history = 1 + random() % 1000};
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

TEST_CASE("what came later is missing from older specs, and is whole where it is there") {
  const TableSpec plain = embedding_spec(8);
  for (const char* name : {"schedule", "clipping", "delay_compensation"})
    CHECK_FALSE(Json::parse(plain.to_json()).contains(name));
  TableSpec spec = plain;
  spec.clipping.value = 1;
  spec.delay_compensation.lambda = 1;
  for (const Decay& decay : {Decay(ConstantRate{}), Decay(StepDecay{}), Decay(ExponentialDecay{0.5F}),
                             Decay(CosineDecay{}), Decay(InverseSquareRoot{}), Decay(PolynomialDecay{})}) {
    spec.schedule = {.warm_up = 1, .warm_up_from = 0, .decay = decay};
    const Json good = Json::parse(spec.to_json());
    for (const char* name : {"schedule", "clipping", "delay_compensation"}) {
      for (const auto& [member, value] : good[name].items()) {
        Json bad = good;
        bad[name].erase(member);
        check_refused(bad, "'" + member + "' is missing");
        bad[name][member] = Json::array();
        check_refused(bad, "'" + member + "' is []");
      }
      Json bad = good;
      bad[name]["colour"] = 1;
      check_refused(bad, "'colour' is not known");
      bad[name] = nullptr;
      check_refused(bad, "expected a JSON object");
    }
  }
  Json bad = Json::parse(spec.to_json());
  bad["schedule"]["kind"] = "cyclic";
  check_refused(bad,
                "expected one of 'constant', 'step', 'exponential', 'cosine', 'inverse_sqrt', 'polynomial'");
  bad = Json::parse(spec.to_json());
  bad["clipping"]["value"] = -1;
  check_refused(bad, "clipping's value is -1");
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
