#include "communicators/gloo_mesh.hpp"

#include <gloo/transport/address.h>
#include <gloo/transport/context.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <cassert>
#include <ctime>
#include <stdexcept>
#include <utility>

namespace troupe::shards {
namespace {

/// Who waits is woken by abort(); a wait that runs out would end all of the group's connections.
constexpr auto kForever = std::chrono::milliseconds(std::chrono::hours(24 * 365));
constexpr const char* kEnded = "the group has ended";

}  // namespace
NoSigpipe::NoSigpipe() {
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &pipe, &before_);
}

NoSigpipe::~NoSigpipe() {
  if (sigismember(&before_, SIGPIPE) == 0) {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    const timespec none{};
    while (::sigtimedwait(&pipe, nullptr, &none) == SIGPIPE) {
    }
  }
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

GlooMesh::GlooMesh(int own_rank, int members, const std::string& address, std::chrono::milliseconds timeout)
    : gloo::Context(own_rank, members) {
  setTimeout(timeout);
  device_ = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(address.c_str()));
  transportContext_ = device_->createContext(rank, size);
  transportContext_->setTimeout(timeout);
  for (int i = 0; i < size; ++i)
    if (i != rank) transportContext_->createPair(i);
}

std::string GlooMesh::addresses() {
  std::string all;
  for (int i = 0; i < size; ++i) {
    if (i == rank) continue;
    const std::vector<char> one = transportContext_->getPair(i)->address().bytes();
    all.append(one.begin(), one.end());
  }
  return all;
}

void GlooMesh::connect(const std::vector<std::string>& all) {
  assert(all.size() == static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) {
    if (i == rank) continue;
    const auto others = static_cast<std::size_t>(size - 1);
    const std::string& theirs = all[static_cast<std::size_t>(i)];
    const std::size_t bytes = transportContext_->getPair(i)->address().bytes().size();
    if (theirs.size() != others * bytes)
      throw std::runtime_error("member " + std::to_string(i) + " is of another build: its address has " +
                               std::to_string(theirs.size()) + " bytes, expected " +
                               std::to_string(others * bytes));
    // A member has no address for itself, so that ours is one earlier in its list if its rank is lower.
    const auto at = static_cast<std::size_t>(rank > i ? rank - 1 : rank) * bytes;
    transportContext_->getPair(i)->connect(
        std::vector<char>(theirs.begin() + static_cast<std::ptrdiff_t>(at),
                          theirs.begin() + static_cast<std::ptrdiff_t>(at + bytes)));
  }
  if (size == 1) return;
  {
    const std::lock_guard lock(mutex_);  // somebody may give up meanwhile
    any_member_ = createUnboundBuffer(&nothing_, sizeof nothing_);
  }
  each_member_.resize(static_cast<std::size_t>(size));
  for (int i = 0; i < size; ++i) {
    if (i == rank) continue;
    any_member_->recv(i, own_slot(0, 1));
    auto& one = each_member_[static_cast<std::size_t>(i)];
    one = createUnboundBuffer(&nothing_, sizeof nothing_);
    one->recv(i, own_slot(0, 2));
  }
}

GlooMesh::Exchange::Exchange(GlooMesh& mesh, std::span<std::byte> from, std::span<std::byte> to)
    : mesh_(mesh),
      to_(to),
      source_(mesh.createUnboundBuffer(from.data(), from.size())),
      targets_(static_cast<std::size_t>(mesh.size)) {
  watched(source_);
}

GlooMesh::Exchange::~Exchange() {
  const std::lock_guard lock(mesh_.mutex_);
  std::erase(mesh_.waiting_, source_.get());
  for (const Target& target : targets_)
    if (target.block != nullptr) std::erase(mesh_.waiting_, target.block.get());
}

GlooMesh::Block& GlooMesh::Exchange::watched(std::unique_ptr<Block>& block) {
  const std::lock_guard lock(mesh_.mutex_);
  if (mesh_.aborted_) throw std::runtime_error(kEnded);
  mesh_.waiting_.push_back(block.get());
  return *block;
}

void GlooMesh::Exchange::send(std::uint64_t slot, const Part& part) {
  if (part.bytes == 0) return;
  source_->send(part.member, slot, part.at, part.bytes);
  ++sent_;
}

void GlooMesh::Exchange::receive(std::uint64_t slot, const Part& part) {
  if (part.bytes == 0) return;
  Target& target = targets_[static_cast<std::size_t>(part.member)];
  if (target.block == nullptr) {
    target.block = mesh_.createUnboundBuffer(to_.data(), to_.size());
    watched(target.block);
  }
  target.block->recv(part.member, slot, part.at, part.bytes);
  ++target.awaited;
}

void GlooMesh::Exchange::wait_received(int member) {
  Target& target = targets_[static_cast<std::size_t>(member)];
  assert(target.awaited > 0);
  if (!target.block->waitRecv(nullptr, kForever)) throw std::runtime_error(kEnded);
  --target.awaited;
}

void GlooMesh::Exchange::finish() {
  for (int i = 0; i < mesh_.size; ++i)
    while (targets_[static_cast<std::size_t>(i)].awaited > 0) wait_received(i);
  for (; sent_ > 0; --sent_)
    if (!source_->waitSend(kForever)) throw std::runtime_error(kEnded);
}

void GlooMesh::exchange(std::uint64_t slot, std::span<std::byte> from, std::span<const Part> sends,
                        std::span<std::byte> to, std::span<const Part> takes,
                        const std::function<void(int member)>& heard) {
  Exchange exchange(*this, from, to);
  for (const Part& part : takes) exchange.receive(slot, part);
  for (const Part& part : sends) exchange.send(slot, part);
  if (heard) {
    for (const Part& part : takes) {
      if (part.bytes != 0) exchange.wait_received(part.member);
      heard(part.member);
    }
  }
  exchange.finish();
}

int GlooMesh::wait_for_loss() {
  try {
    while (any_member_ != nullptr && any_member_->waitRecv(nullptr, kForever)) {
    }
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): what it waits for
  }
  // Waiting for one that is well runs out, which ends the others too, in other words.
  for (std::size_t i = 0; i < each_member_.size(); ++i) {
    try {
      if (each_member_[i] != nullptr) each_member_[i]->waitRecv(std::chrono::milliseconds(1));
    } catch (const std::exception& error) {
      const std::string why = error.what();
      if (why.find("imeout") == std::string::npos && why.find("Timed out") == std::string::npos)
        return static_cast<int>(i);
    }
  }
  return -1;
}

// When a connection is closed Gloo ends what waits for it, but for a send that its own thread had just begun
// to write. Therefore whatever waits in an Exchange is woken here.
void GlooMesh::abort() noexcept {
  const NoSigpipe quiet;
  // A wait that runs out ends all pairs of the context, with whatever waits for them: of the ways that Gloo
  // has to do that, the one that may be used from outside.
  for (int i = 0; i < size; ++i) {
    if (i == rank) continue;
    try {
      char none = 0;
      const auto buffer = createUnboundBuffer(&none, sizeof none);
      buffer->recv(i, own_slot(0, 0));
      buffer->waitRecv(std::chrono::milliseconds(0));
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): it is to fail
    }
    try {
      transportContext_->getPair(i)->close();  // also one that is being connected
    } catch (const std::exception&) {          // NOLINT(bugprone-empty-catch): it is closed, then
    }
  }
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  if (any_member_ != nullptr) any_member_->abortWaitRecv();
  for (Block* block : waiting_) {
    block->abortWaitRecv();
    block->abortWaitSend();
  }
}

}  // namespace troupe::shards
