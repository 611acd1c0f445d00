#include "spec_json.hpp"

#include <array>

#include "json_object.hpp"

namespace troupe::shards {
namespace {

constexpr std::array<const char*, 2> kKinds = {"dense", "embedding"};
constexpr std::array<const char*, 3> kInitializers = {"zeros", "uniform", "normal"};
constexpr std::array<const char*, 2> kConsistencies = {"asynchronous", "bounded_staleness"};
constexpr std::array<const char*, 2> kScalings = {"none", "inverse_staleness"};
constexpr std::array<const char*, 3> kOptimizers = {"sgd", "adagrad", "adam"};

/// The index of the member's text in `names`; a fault and 0 if it is none of them.
template <std::size_t N>
std::size_t choice(JsonObject& object, const char* name, const std::array<const char*, N>& names) {
  const std::string text = object.text(name);
  std::string list;
  for (std::size_t i = 0; i < N; ++i) {
    if (text == names[i]) return i;
    list += std::string(i == 0 ? "" : ", ") + "'" + names[i] + "'";
  }
  object.fault("'" + std::string(name) + "' is '" + text + "', expected one of " + list);
  return 0;
}

Json optimizer_to_json(const Optimizer& optimizer) {
  Json json = {{"kind", name_of(optimizer)}};
  if (const auto* sgd = std::get_if<Sgd>(&optimizer)) {
    json["learning_rate"] = sgd->learning_rate;
    json["weight_decay"] = sgd->weight_decay;
  } else if (const auto* adagrad = std::get_if<Adagrad>(&optimizer)) {
    json["learning_rate"] = adagrad->learning_rate;
    json["epsilon"] = adagrad->epsilon;
    json["initial_accumulator"] = adagrad->initial_accumulator;
  } else {
    const Adam& adam = std::get<Adam>(optimizer);
    json["learning_rate"] = adam.learning_rate;
    json["beta1"] = adam.beta1;
    json["beta2"] = adam.beta2;
    json["epsilon"] = adam.epsilon;
  }
  return json;
}

Optimizer optimizer_from_json(JsonObject& object) {
  switch (choice(object, "kind", kOptimizers)) {
    case 0:
      return Sgd{.learning_rate = object.number("learning_rate"),
                 .weight_decay = object.number("weight_decay")};
    case 1:
      return Adagrad{.learning_rate = object.number("learning_rate"),
                     .epsilon = object.number("epsilon"),
                     .initial_accumulator = object.number("initial_accumulator")};
    default:
      return Adam{.learning_rate = object.number("learning_rate"),
                  .beta1 = object.number("beta1"),
                  .beta2 = object.number("beta2"),
                  .epsilon = object.number("epsilon")};
  }
}

Json initializer_to_json(const Initializer& initializer) {
  Json json = {{"kind", kInitializers[initializer.index()]}};
  if (const auto* uniform = std::get_if<Uniform>(&initializer)) {
    json["low"] = uniform->low;
    json["high"] = uniform->high;
  } else if (const auto* normal = std::get_if<Normal>(&initializer)) {
    json["mean"] = normal->mean;
    json["stddev"] = normal->stddev;
  }
  return json;
}

Initializer initializer_from_json(JsonObject& object) {
  switch (choice(object, "kind", kInitializers)) {
    case 0:
      return Zeros{};
    case 1:
      return Uniform{.low = object.number("low"), .high = object.number("high")};
    default:
      return Normal{.mean = object.number("mean"), .stddev = object.number("stddev")};
  }
}

Json consistency_to_json(const Consistency& consistency) {
  Json json = {{"kind", kConsistencies[consistency.index()]}};
  if (const auto* bounded = std::get_if<BoundedStaleness>(&consistency)) json["bound"] = bounded->bound;
  return json;
}

Consistency consistency_from_json(JsonObject& object) {
  if (choice(object, "kind", kConsistencies) == 0) return Asynchronous{};
  return BoundedStaleness{.bound = object.integer("bound")};
}

/// Reads a member that is an object with `read`, and passes its fault on.
template <class Read>
auto part(JsonObject& parent, const char* name, Read read) {
  JsonObject object(parent.member(name), "'" + std::string(name) + "'");
  auto value = read(object);
  if (Result<void> done = object.finish(); !done) parent.fault(done.error().message);
  return value;
}

}  // namespace

Json spec_to_json(const TableSpec& spec) {
  return {{"name", spec.name},
          {"kind", kKinds[static_cast<std::size_t>(spec.kind)]},
          {"dim", spec.dim},
          {"rows", spec.rows},
          {"slots", spec.slots},
          {"optimizer", optimizer_to_json(spec.optimizer)},
          {"initializer", initializer_to_json(spec.initializer)},
          {"seed", spec.seed},
          {"consistency", consistency_to_json(spec.consistency)},
          {"step_scaling", kScalings[static_cast<std::size_t>(spec.step_scaling)]}};
}

Result<TableSpec> spec_from_json(const Json& json, const std::string& what) {
  JsonObject object(json, what);
  TableSpec spec;
  spec.name = object.text("name");
  spec.kind = static_cast<TableKind>(choice(object, "kind", kKinds));
  spec.dim = object.integer("dim");
  spec.rows = object.integer("rows");
  spec.slots = static_cast<std::uint32_t>(object.integer("slots", UINT32_MAX));
  spec.optimizer = part(object, "optimizer", optimizer_from_json);
  spec.initializer = part(object, "initializer", initializer_from_json);
  spec.seed = object.integer("seed");
  spec.consistency = part(object, "consistency", consistency_from_json);
  spec.step_scaling = static_cast<StepScaling>(choice(object, "step_scaling", kScalings));
  if (Result<void> read = object.finish(); !read) return read.error();
  if (Result<void> valid = spec.validate(); !valid) return valid.error();
  return spec;
}

std::string TableSpec::to_json() const {
  return to_line(spec_to_json(*this));
}

Result<TableSpec> TableSpec::from_json(std::string_view text) {
  const Result<Json> json = parse_json(text, "table spec");
  if (!json) return json.error();
  return spec_from_json(*json, "table spec");
}

}  // namespace troupe::shards
