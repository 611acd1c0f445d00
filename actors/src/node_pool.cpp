#include "node_pool.hpp"

#include <utility>

namespace troupe {

NodePool::NodePool(Loop& loop, ThreadPool::Limits limits)
    : loop_(loop), way_(std::make_shared<Way>()), threads_(limits) {
  way_->loop = &loop;
}

void NodePool::run(std::unique_ptr<rpc::PoolJob> job, UniqueFunction<void()> done) {
  // Whoever has the item last destroys it: that must be the loop, or nobody.
  auto item = std::make_unique<Item>(Item{std::move(job), std::move(done)});
  Item* const kept = item.get();
  struct Work {
    std::unique_ptr<Item> item;
    std::shared_ptr<Way> way;
    void operator()() {
      item->job->work();
      go_back(*way, std::move(item));
    }
  };
  Task task = Work{std::move(item), way_};
  auto begun = threads_.run(task);
  if (begun) return;
  kept->job->refuse(std::move(begun).error());
  kept->done();
}

void NodePool::go_back(Way& way, std::unique_ptr<Item> item) {
  const std::lock_guard lock(way.mutex);
  if (!way.loop) {
    if (!way.node_gone) way.too_late.push_back(std::move(item));
    return;
  }
  way.loop->post([item = std::move(item)] {
    item->job->finish();
    item->done();
  });
}

NodePool::~NodePool() {
  std::vector<std::unique_ptr<Item>> too_late;
  const std::lock_guard lock(way_->mutex);
  way_->loop = nullptr;
  way_->node_gone = true;
  too_late.swap(way_->too_late);
}

std::size_t NodePool::close(Duration patience) {
  ThreadPool::Left left = threads_.close(patience);
  {
    const std::lock_guard lock(way_->mutex);
    way_->loop = nullptr;
  }
  const Loop::Turn turn(loop_);
  left.tasks.clear();  // calls that are dropped answer themselves
  return left.threads;
}

}  // namespace troupe
