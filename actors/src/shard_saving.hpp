#pragma once

#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <troupe/actors/node.hpp>
#include <troupe/actors/shard_server.hpp>
#include <troupe/shards/snapshot.hpp>

#include "disk_thread.hpp"

namespace troupe {

template <class Body, class Then>
void ShardServer::on_disk(Body work, Then then) {
  disk_->post([&loop = node_.loop(), alive = std::weak_ptr<int>(alive_), work = std::move(work),
               then = std::move(then)]() mutable {
    using Answer = decltype(work());
    auto answer = [&]() -> Answer {
      try {
        return work();
      } catch (const std::bad_alloc&) {
        return Error{Code::kResourceExhausted, "no memory for a table"};
      } catch (const std::exception& exception) {  // of an optimizer of the program's, for instance
        return Error{Code::kInternal, std::string("work on the disk: ") + exception.what()};
      }
    }();
    loop.post([alive = std::move(alive), answer = std::move(answer), then = std::move(then)]() mutable {
      if (!alive.expired()) then(std::move(answer));
    });
  });
}

/// A checkpoint on its way to the disk: cuts of all its tables, taken at one moment; pages of them copied on
/// the loop, one a task, and written on the other thread, a few at a time. Loop only.
class ShardServer::Saving {
 public:
  Saving(ShardServer& server, std::string folder, rpc::Promise<std::vector<std::string>> promise)
      : server_(server),
        folder_(std::move(folder)),
        promise_(std::move(promise)),
        whole_(promise_.future()) {}
  Saving(const Saving&) = delete;
  Saving& operator=(const Saving&) = delete;
  ~Saving();

  /// Takes the cuts and begins. Ends by itself, which destroys this.
  void begin(const std::vector<std::string>& tables);

 private:
  struct Part {
    std::string name;
    Table* table = nullptr;
    std::unique_ptr<shards::ShardFileWriter> writer;
    shards::ExtractPage page;
  };
  void settled();
  Result<void> open(const std::string& name);
  void go_on();
  void copy_page(Part& part);
  void wrote(const Result<void>& result);
  void finish_file(Part& part);
  void finished(Result<shards::FileEntry> entry);
  void fail(const Error& error);
  void end();

  ShardServer& server_;
  std::string folder_;
  rpc::Promise<std::vector<std::string>> promise_;
  const rpc::Future<std::vector<std::string>> whole_;
  std::vector<std::string> names_;
  std::vector<Table*> held_;   // until none of them is in the middle of something
  std::size_t unsettled_ = 0;  // of them
  std::vector<Part> parts_;
  std::size_t at_ = 0;      // the part that is written
  int on_their_way_ = 0;    // what the other thread has been given
  bool scheduled_ = false;  // go_on() will run
  std::vector<std::string> entries_;
  std::optional<Error> error_;
};

}  // namespace troupe
