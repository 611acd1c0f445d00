#include "wordnet/evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

#include <troupe/kernels/blas.hpp>
#include <troupe/kernels/elementwise.hpp>

namespace troupe::wordnet {
namespace {

// A block of scores, 256 questions by 2,048 entities, is 2 MB: it stays in the cache between the product
// that writes it and the counting that reads it.
constexpr std::size_t kQuestionsPerBlock = 256;
constexpr std::size_t kEntitiesPerBlock = 2048;

struct Question {
  std::uint32_t head;
  std::uint32_t relation;
  std::uint32_t answer;
};

// How many other entities score more than the answer, or the same.
struct Standing {
  std::int64_t better = 0;
  std::int64_t equal = 0;
};

// A NaN is better than anything, so that a model that diverged ranks last.
Standing count(const float* scores, std::size_t size, float answer_score) {
  std::int32_t not_worse = 0;
  std::int32_t equal = 0;
  for (std::size_t i = 0; i < size; ++i) {
    not_worse += scores[i] < answer_score ? 0 : 1;
    equal += scores[i] == answer_score ? 1 : 0;
  }
  return {not_worse - equal, equal};
}

// Ranks up to kQuestionsPerBlock questions at a time.
class Ranker {
 public:
  Ranker(const ModelView& model, const KnownAnswers& known)
      : model_(model),
        known_(known),
        width_(2 * model.dimension),
        queries_(kQuestionsPerBlock * width_),
        answers_(kQuestionsPerBlock * width_),
        scores_(kQuestionsPerBlock * kEntitiesPerBlock),
        answer_scores_(kQuestionsPerBlock) {}

  RankingSums rank(std::span<const Question> questions) {
    prepare(questions);
    std::vector<Standing> standings(questions.size());
    for (std::size_t first = 0; first < model_.entity_count; first += kEntitiesPerBlock) {
      const std::size_t entities = std::min(kEntitiesPerBlock, model_.entity_count - first);
      product(questions.size(), model_.entities + first * width_, entities);
      for (std::size_t i = 0; i < questions.size(); ++i) {
        add_block(questions[i], answer_scores_[i], scores_.data() + i * entities, first, entities,
                  standings[i]);
      }
    }
    RankingSums sums;
    for (const Standing& standing : standings) {
      sums.add_rank(1.0 + static_cast<double>(standing.better) + static_cast<double>(standing.equal) / 2);
    }
    return sums;
  }

 private:
  // Queries, and the answers' scores. These come from the same product as all others, not from a loop of
  // our own: another order of summation would break ties between equal rows.
  void prepare(std::span<const Question> questions) {
    for (std::size_t i = 0; i < questions.size(); ++i) {
      const float* head = model_.entities + questions[i].head * width_;
      const float* answer = model_.entities + questions[i].answer * width_;
      kernels::complex_multiply(head, model_.relations + questions[i].relation * width_, 1,
                                static_cast<std::int64_t>(model_.dimension), queries_.data() + i * width_);
      std::copy_n(answer, width_, answers_.data() + i * width_);
    }
    product(questions.size(), answers_.data(), questions.size());
    for (std::size_t i = 0; i < questions.size(); ++i) answer_scores_[i] = scores_[i * questions.size() + i];
  }

  // scores_[questions, rows] = queries_ * rows^T
  void product(std::size_t questions, const float* rows, std::size_t row_count) {
    const auto width = static_cast<std::int64_t>(width_);
    const auto columns = static_cast<std::int64_t>(row_count);
    kernels::gemm(false, true, static_cast<std::int64_t>(questions), columns, width, 1.0F, queries_.data(),
                  width, rows, width, 0.0F, scores_.data(), columns);
  }

  // Adds the standing among entities [first, first + size), without the right answers among them.
  void add_block(const Question& question, float answer_score, const float* scores, std::size_t first,
                 std::size_t size, Standing& standing) {
    const Standing all = count(scores, size, answer_score);
    standing.better += all.better;
    standing.equal += all.equal;
    const auto leave_out = [&](std::uint32_t entity) {
      if (entity < first || entity >= first + size) return;
      const Standing one = count(scores + (entity - first), 1, answer_score);
      standing.better -= one.better;
      standing.equal -= one.equal;
    };
    bool answer_known = false;
    for (const std::uint32_t entity : known_.tails(question.head, question.relation)) {
      leave_out(entity);
      answer_known |= entity == question.answer;
    }
    if (!answer_known) leave_out(question.answer);
  }

  const ModelView& model_;
  const KnownAnswers& known_;
  std::size_t width_;
  std::vector<float> queries_;
  std::vector<float> answers_;
  std::vector<float> scores_;
  std::vector<float> answer_scores_;
};

}  // namespace

RankingSums& RankingSums::operator+=(const RankingSums& other) {
  questions += other.questions;
  reciprocal_ranks += other.reciprocal_ranks;
  hits_at_1 += other.hits_at_1;
  hits_at_3 += other.hits_at_3;
  hits_at_10 += other.hits_at_10;
  return *this;
}

RankingSums& RankingSums::add_rank(double rank) {
  questions += 1;
  reciprocal_ranks += 1 / rank;
  hits_at_1 += rank <= 1 ? 1 : 0;
  hits_at_3 += rank <= 3 ? 1 : 0;
  hits_at_10 += rank <= 10 ? 1 : 0;
  return *this;
}

RankingMetrics metrics(const RankingSums& sums) {
  if (sums.questions == 0) return {};
  return {sums.reciprocal_ranks / sums.questions, sums.hits_at_1 / sums.questions,
          sums.hits_at_3 / sums.questions, sums.hits_at_10 / sums.questions};
}

KnownAnswers::KnownAnswers(const KnowledgeGraph& graph) {
  const auto relations = static_cast<std::uint32_t>(graph.relation_count());
  std::vector<Triple> all;
  all.reserve(2 * (graph.train.size() + graph.valid.size() + graph.test.size()));
  for (const std::vector<Triple>* part : {&graph.train, &graph.valid, &graph.test}) {
    for (const Triple& triple : *part) {
      all.push_back(triple);
      all.push_back({triple.tail, triple.relation + relations, triple.head});
    }
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  answers_.reserve(all.size());
  for (const Triple& triple : all) {
    if (questions_.empty() || questions_.back().head != triple.head ||
        questions_.back().relation != triple.relation) {
      questions_.push_back({triple.head, triple.relation, static_cast<std::uint32_t>(answers_.size())});
    }
    answers_.push_back(triple.tail);
  }
}

std::span<const std::uint32_t> KnownAnswers::tails(std::uint32_t head, std::uint32_t relation) const {
  const auto found = std::lower_bound(questions_.begin(), questions_.end(), std::tie(head, relation),
                                      [](const Question& question, const auto& key) {
                                        return std::tie(question.head, question.relation) < key;
                                      });
  if (found == questions_.end() || found->head != head || found->relation != relation) return {};
  const std::size_t end = found + 1 == questions_.end() ? answers_.size() : (found + 1)->first;
  return std::span(answers_).subspan(found->first, end - found->first);
}

RankingSums evaluate(const ModelView& model, const KnownAnswers& known, std::span<const Triple> triples) {
  RankingSums sums;
  Ranker ranker(model, known);
  std::vector<Question> questions;
  const auto relations = static_cast<std::uint32_t>(model.relation_count);
  for (std::size_t first = 0; first < triples.size(); first += kQuestionsPerBlock / 2) {
    questions.clear();
    for (const Triple& triple :
         triples.subspan(first, std::min(kQuestionsPerBlock / 2, triples.size() - first))) {
      questions.push_back({triple.head, triple.relation, triple.tail});
      questions.push_back({triple.tail, triple.relation + relations, triple.head});
    }
    sums += ranker.rank(questions);
  }
  return sums;
}

std::vector<Neighbour> nearest_neighbours(const ModelView& model, std::uint32_t entity, std::size_t count) {
  const auto width = static_cast<std::int64_t>(2 * model.dimension);
  const auto entities = static_cast<std::int64_t>(model.entity_count);
  std::vector<float> products(model.entity_count);
  const float* own = model.entities + entity * width;
  kernels::gemv(false, entities, width, 1.0F, model.entities, width, own, 0.0F, products.data());
  const double own_norm = std::sqrt(kernels::dot(width, own, own));
  std::vector<Neighbour> all;
  all.reserve(model.entity_count);
  for (std::int64_t i = 0; i < entities; ++i) {
    if (i == entity) continue;
    const float* row = model.entities + i * width;
    const double norm = std::sqrt(kernels::dot(width, row, row));
    const double scale = own_norm * norm;
    all.push_back({static_cast<std::uint32_t>(i), scale > 0 ? products[i] / scale : 0.0});
  }
  const std::size_t kept = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept), all.end(),
                    [](const Neighbour& a, const Neighbour& b) { return a.similarity > b.similarity; });
  all.resize(kept);
  return all;
}

}  // namespace troupe::wordnet
