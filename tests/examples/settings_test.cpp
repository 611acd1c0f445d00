#include "wordnet/settings.hpp"

#include <doctest/doctest.h>

#include "wordnet/checkpoint.hpp"

namespace troupe::wordnet {

TEST_CASE("settings come back from JSON as they were") {
  JobSettings s;
  s.dataset = {"/some where/data", 7, 8, 9, SymmetricKinds::kOneWay};
  s.parameters = {17, 33, 65, 3, 0.25F, 1e-6F, 0.5F, 0.125F, 42};
  s.servers = 5;
  s.workers = 6;
  s.speeds = {{"worker-1", 0.5}, {"worker-4", 0.25}};
  s.staleness = 4;
  s.compare_staleness = 2;
  s.compare_seconds = 1.5;
  s.valid_triples = 11;
  s.checkpoint_every = 12;
  s.words = {"a", "b"};
  s.neighbours = 3;
  s.out = "out/\"quoted\"";
  const auto back = settings_from_json(to_json(s));
  REQUIRE(back);
  CHECK(to_json(*back) == to_json(s));
  CHECK(back->dataset.folder == "/some where/data");
  CHECK(back->dataset.symmetric == SymmetricKinds::kOneWay);
  CHECK(back->parameters.seed == 42);
  CHECK(back->parameters.learning_rate == 0.25F);
  CHECK(back->staleness == 4);
  CHECK(back->speeds.at("worker-4") == 0.25);
  CHECK(back->out == "out/\"quoted\"");

  CHECK_FALSE(settings_from_json(to_json(JobSettings{}))->staleness.has_value());
}

TEST_CASE("what is not settings is an error that says so") {
  for (const char* text : {"", "{}", "[]", "{\"data\": 3}", "{\"data\""}) {
    INFO(text);
    const auto read = settings_from_json(text);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == Code::kInvalidArgument);
  }
}

TEST_CASE("one mode of consistency is the run's, the other is compared with it") {
  JobSettings s;
  CHECK(describe(own_consistency(s)) == "asynchronous");
  CHECK(describe(other_consistency(s)) == "bounded, 1");
  s.staleness = 0;
  CHECK(describe(own_consistency(s)) == "bounded, 0");
  CHECK(describe(other_consistency(s)) == "asynchronous");
  CHECK(entity_table(s, own_consistency(s), "").seed != relation_table(s, own_consistency(s), "").seed);
}

TEST_CASE("the hint of how to resume is a command that a shell reads right") {
  JobSettings s;
  s.out = "out/it's here";
  CHECK(resume_hint(s, 0, "wordnet", "auto") == "There is no checkpoint yet; begin again.");
  const std::string hint = resume_hint(s, 3, "/bin/wordnet", "tcp");
  CHECK(hint.find("out/it's here/checkpoint, after epoch 3") != std::string::npos);
  CHECK(hint.ends_with("\n  /bin/wordnet train --resume 'out/it'\\''s here' --transport tcp"));
}

}  // namespace troupe::wordnet
