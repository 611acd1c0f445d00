#include "spec_json.hpp"

#include <array>
#include <string>
#include <vector>

#include "json_object.hpp"

namespace troupe::shards {
namespace {

constexpr std::array<const char*, 2> kKinds = {"dense", "embedding"};
constexpr std::array<const char*, 3> kInitializers = {"zeros", "uniform", "normal"};
constexpr std::array<const char*, 4> kConsistencies = {"asynchronous", "bounded_staleness", "synchronous",
                                                       "k_of_n"};
constexpr std::array<const char*, 2> kLatePushes = {"drop", "scale"};
constexpr std::array<const char*, 2> kScalings = {"none", "inverse_staleness"};
constexpr std::array<const char*, 6> kDecays = {"constant", "step",         "exponential",
                                                "cosine",   "inverse_sqrt", "polynomial"};
constexpr std::array<const char*, 3> kWeights = {"float32", "float16", "bfloat16"};
constexpr std::array<DType, 3> kWeightTypes = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};

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
  Json json = {{"kind", optimizer.name()}};
  for (std::size_t i = 0; i < optimizer.numbers().size(); ++i)
    json[std::string(optimizer.def().parameters[i].name)] = optimizer.numbers()[i];
  return json;
}

Optimizer optimizer_from_json(JsonObject& object, const OptimizerList& known) {
  const std::string kind = object.text("kind");
  const OptimizerDef* def = known.find(kind);
  if (def == nullptr) {
    std::string list;
    for (const OptimizerDef* each : known.all())
      list += std::string(list.empty() ? "" : ", ") + "'" + std::string(each->name) + "'";
    object.fault("'kind' is '" + kind + "', expected one of " + list);
    return Sgd{};
  }
  Optimizer optimizer(*def);
  for (const OptimizerParameter& parameter : def->parameters)
    optimizer.set(parameter.name, object.number(std::string(parameter.name).c_str()));
  return optimizer;
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
  if (const auto* bounded = std::get_if<BoundedStaleness>(&consistency)) {
    json["bound"] = bounded->bound;
  } else if (const auto* some = std::get_if<KOfN>(&consistency)) {
    json["k"] = some->k;
    json["late"] = kLatePushes[static_cast<std::size_t>(some->late)];
  }
  return json;
}

Consistency consistency_from_json(JsonObject& object) {
  switch (choice(object, "kind", kConsistencies)) {
    case 0:
      return Asynchronous{};
    case 1:
      return BoundedStaleness{.bound = object.integer("bound")};
    case 2:
      return Synchronous{};
    default:
      return KOfN{.k = object.integer("k"),
                  .late = static_cast<LatePushes>(choice(object, "late", kLatePushes))};
  }
}

Json schedule_to_json(const Schedule& schedule) {
  Json json = {{"kind", kDecays[schedule.decay.index()]},
               {"warm_up", schedule.warm_up},
               {"warm_up_from", schedule.warm_up_from}};
  if (const auto* step = std::get_if<StepDecay>(&schedule.decay)) {
    json["every"] = step->every;
    json["factor"] = step->factor;
  } else if (const auto* exponential = std::get_if<ExponentialDecay>(&schedule.decay)) {
    json["factor"] = exponential->factor;
  } else if (const auto* cosine = std::get_if<CosineDecay>(&schedule.decay)) {
    json["steps"] = cosine->steps;
    json["least"] = cosine->least;
  } else if (const auto* root = std::get_if<InverseSquareRoot>(&schedule.decay)) {
    json["steps"] = root->steps;
  } else if (const auto* polynomial = std::get_if<PolynomialDecay>(&schedule.decay)) {
    json["steps"] = polynomial->steps;
    json["power"] = polynomial->power;
    json["least"] = polynomial->least;
  }
  return json;
}

Decay decay_from_json(JsonObject& object) {
  switch (choice(object, "kind", kDecays)) {
    case 0:
      return ConstantRate{};
    case 1:
      return StepDecay{.every = object.integer("every"), .factor = object.number("factor")};
    case 2:
      return ExponentialDecay{.factor = object.number("factor")};
    case 3:
      return CosineDecay{.steps = object.integer("steps"), .least = object.number("least")};
    case 4:
      return InverseSquareRoot{.steps = object.integer("steps")};
    default:
      return PolynomialDecay{
          .steps = object.integer("steps"), .power = object.number("power"), .least = object.number("least")};
  }
}

Schedule schedule_from_json(JsonObject& object) {
  return {.warm_up = object.integer("warm_up"),
          .warm_up_from = object.number("warm_up_from"),
          .decay = decay_from_json(object)};
}

Json clipping_to_json(const Clipping& clipping) {
  return {{"value", clipping.value}, {"row_norm", clipping.row_norm}, {"push_norm", clipping.push_norm}};
}

Clipping clipping_from_json(JsonObject& object) {
  return {.value = object.number("value"),
          .row_norm = object.number("row_norm"),
          .push_norm = object.number("push_norm")};
}

Json compensation_to_json(const DelayCompensation& compensation) {
  return {{"lambda", compensation.lambda}, {"history", compensation.history}};
}

DelayCompensation compensation_from_json(JsonObject& object) {
  return {.lambda = object.number("lambda"), .history = object.integer("history")};
}

/// Specs of tables whose tensor is [rows, dim] have none.
std::vector<std::uint64_t> shape_from_json(JsonObject& object) {
  const Json* shape = object.optional_member("shape");
  if (shape == nullptr) return {};
  std::vector<std::uint64_t> extents;
  bool good = shape->is_array() && !shape->empty() && shape->size() <= TableSpec::kMaxAxes;
  for (auto extent = shape->begin(); good && extent != shape->end(); ++extent) {
    good = extent->is_number_unsigned();
    if (good) extents.push_back(extent->get<std::uint64_t>());
  }
  if (!good)
    object.fault("'shape' is to be a list of 1 to " + std::to_string(TableSpec::kMaxAxes) +
                 " numbers, the extents of a tensor's axes");
  return extents;
}

/// Reads a member that is an object with `read`, and passes its fault on.
template <class Read>
auto part(JsonObject& parent, const char* name, Read read) {
  JsonObject object(parent.member(name), "'" + std::string(name) + "'");
  auto value = read(object);
  if (Result<void> done = object.finish(); !done) parent.fault(done.error().message);
  return value;
}

/// The same for one that may be missing.
template <class Value, class Read>
void optional_part(JsonObject& parent, const char* name, Value& value, Read read) {
  if (parent.optional_member(name) != nullptr) value = part(parent, name, read);
}

}  // namespace

// What came later stands in the JSON only where it says something: older specs, and those of checkpoints,
// are read as they were written.
Json spec_to_json(const TableSpec& spec) {
  Json json = {{"name", spec.name},
               {"kind", kKinds[static_cast<std::size_t>(spec.kind)]},
               {"dim", spec.dim},
               {"rows", spec.rows},
               {"weights", to_string(spec.weights)},
               {"slots", spec.slots},
               {"optimizer", optimizer_to_json(spec.optimizer)},
               {"initializer", initializer_to_json(spec.initializer)},
               {"seed", spec.seed},
               {"consistency", consistency_to_json(spec.consistency)},
               {"step_scaling", kScalings[static_cast<std::size_t>(spec.step_scaling)]}};
  if (spec.schedule != Schedule{}) json["schedule"] = schedule_to_json(spec.schedule);
  if (spec.clipping != Clipping{}) json["clipping"] = clipping_to_json(spec.clipping);
  if (spec.delay_compensation != DelayCompensation{})
    json["delay_compensation"] = compensation_to_json(spec.delay_compensation);
  if (!spec.shape.empty()) json["shape"] = spec.shape;
  return json;
}

Result<TableSpec> spec_from_json(const Json& json, const std::string& what, const OptimizerList& known) {
  JsonObject object(json, what);
  TableSpec spec;
  spec.name = object.text("name");
  spec.kind = static_cast<TableKind>(choice(object, "kind", kKinds));
  spec.dim = object.integer("dim");
  spec.rows = object.integer("rows");
  spec.shape = shape_from_json(object);
  spec.weights = kWeightTypes[choice(object, "weights", kWeights)];
  spec.slots = static_cast<std::uint32_t>(object.integer("slots", UINT32_MAX));
  spec.optimizer =
      part(object, "optimizer", [&](JsonObject& own) { return optimizer_from_json(own, known); });
  spec.initializer = part(object, "initializer", initializer_from_json);
  spec.seed = object.integer("seed");
  spec.consistency = part(object, "consistency", consistency_from_json);
  spec.step_scaling = static_cast<StepScaling>(choice(object, "step_scaling", kScalings));
  optional_part(object, "schedule", spec.schedule, schedule_from_json);
  optional_part(object, "clipping", spec.clipping, clipping_from_json);
  optional_part(object, "delay_compensation", spec.delay_compensation, compensation_from_json);
  if (Result<void> read = object.finish(); !read) return read.error();
  if (Result<void> valid = spec.validate(); !valid) return valid.error();
  return spec;
}

std::string TableSpec::to_json() const {
  return to_line(spec_to_json(*this));
}

Result<TableSpec> TableSpec::from_json(std::string_view text, const OptimizerList& known) {
  const Result<Json> json = parse_json(text, "table spec");
  if (!json) return json.error();
  return spec_from_json(*json, "table spec", known);
}

}  // namespace troupe::shards
