#include "wordnet/settings.hpp"

#include <troupe/runtime/json.hpp>

namespace troupe::wordnet {

namespace {
/// Names of entities come in whatever encoding their file has.
Json words_as_json(const std::vector<std::string>& words) {
  Json list = Json::array();
  for (const std::string& word : words) list.push_back(json_of_bytes(word));
  return list;
}
}  // namespace

std::string to_json(const JobSettings& s) {
  return Json{
      {"data", json_of_bytes(s.dataset.folder.string())},
      {"valid_count", s.dataset.valid_count},
      {"test_count", s.dataset.test_count},
      {"split_seed", s.dataset.split_seed},
      {"symmetric_one_way", s.dataset.symmetric == SymmetricKinds::kOneWay},
      {"dimension", s.parameters.dimension},
      {"batch_size", s.parameters.batch_size},
      {"negatives", s.parameters.negatives},
      {"epochs", s.parameters.epochs},
      {"learning_rate", s.parameters.learning_rate},
      {"epsilon", s.parameters.epsilon},
      {"initial_scale", s.parameters.initial_scale},
      {"n3", s.parameters.n3},
      {"seed", s.parameters.seed},
      {"servers", s.servers},
      {"workers", s.workers},
      {"speeds", s.speeds},
      {"staleness", s.staleness ? Json(*s.staleness) : Json()},
      {"compare_staleness", s.compare_staleness},
      {"compare_seconds", s.compare_seconds},
      {"valid_triples", s.valid_triples},
      {"checkpoint_every", s.checkpoint_every},
      {"words", words_as_json(s.words)},
      {"neighbours", s.neighbours},
      {"out", json_of_bytes(s.out.string())},
  }
      .dump();
}

Result<JobSettings> settings_from_json(std::string_view text) {
  try {
    const Json json = Json::parse(text);
    JobSettings s;
    s.dataset.folder = bytes_of_json(json.at("data"));
    json.at("valid_count").get_to(s.dataset.valid_count);
    json.at("test_count").get_to(s.dataset.test_count);
    json.at("split_seed").get_to(s.dataset.split_seed);
    s.dataset.symmetric =
        json.at("symmetric_one_way").get<bool>() ? SymmetricKinds::kOneWay : SymmetricKinds::kBothWays;
    json.at("dimension").get_to(s.parameters.dimension);
    json.at("batch_size").get_to(s.parameters.batch_size);
    json.at("negatives").get_to(s.parameters.negatives);
    json.at("epochs").get_to(s.parameters.epochs);
    json.at("learning_rate").get_to(s.parameters.learning_rate);
    json.at("epsilon").get_to(s.parameters.epsilon);
    json.at("initial_scale").get_to(s.parameters.initial_scale);
    json.at("n3").get_to(s.parameters.n3);
    json.at("seed").get_to(s.parameters.seed);
    json.at("servers").get_to(s.servers);
    json.at("workers").get_to(s.workers);
    json.at("speeds").get_to(s.speeds);
    if (const Json& bound = json.at("staleness"); !bound.is_null()) s.staleness = bound.get<std::uint64_t>();
    json.at("compare_staleness").get_to(s.compare_staleness);
    json.at("compare_seconds").get_to(s.compare_seconds);
    json.at("valid_triples").get_to(s.valid_triples);
    json.at("checkpoint_every").get_to(s.checkpoint_every);
    s.words.clear();
    for (const Json& word : json.at("words")) s.words.push_back(bytes_of_json(word));
    json.at("neighbours").get_to(s.neighbours);
    s.out = bytes_of_json(json.at("out"));
    return s;
  } catch (const Json::exception& exception) {
    return Error{Code::kInvalidArgument,
                 std::string("settings of the job are not valid: ") + exception.what()};
  }
}

namespace {
shards::TableSpec table(const JobSettings& settings, const char* name, std::uint64_t seed_offset,
                        const shards::Consistency& consistency, const std::string& suffix) {
  shards::TableSpec spec;
  spec.name = name + suffix;
  spec.kind = shards::TableKind::kEmbedding;
  spec.dim = settings.parameters.row_width();
  spec.slots = 1024;
  spec.optimizer = shards::Adagrad{settings.parameters.learning_rate, settings.parameters.epsilon, 0};
  spec.initializer = shards::Normal{0, settings.parameters.initial_scale};
  spec.seed = settings.parameters.seed + seed_offset;
  spec.consistency = consistency;
  return spec;
}
}  // namespace

shards::TableSpec entity_table(const JobSettings& settings, const shards::Consistency& consistency,
                               const std::string& suffix) {
  return table(settings, "entity", 0, consistency, suffix);
}

shards::TableSpec relation_table(const JobSettings& settings, const shards::Consistency& consistency,
                                 const std::string& suffix) {
  return table(settings, "relation", 0x9e3779b97f4a7c15ULL, consistency, suffix);
}

shards::Consistency own_consistency(const JobSettings& settings) {
  if (settings.staleness) return shards::BoundedStaleness{*settings.staleness};
  return shards::Asynchronous{};
}

shards::Consistency other_consistency(const JobSettings& settings) {
  if (settings.staleness) return shards::Asynchronous{};
  return shards::BoundedStaleness{settings.compare_staleness};
}

std::string describe(const shards::Consistency& consistency) {
  if (const auto* bounded = std::get_if<shards::BoundedStaleness>(&consistency))
    return "bounded, " + std::to_string(bounded->bound);
  return "asynchronous";
}

}  // namespace troupe::wordnet
