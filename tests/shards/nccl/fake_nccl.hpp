#pragma once

#include <atomic>

/// What tests share with the library that takes NCCL's place where there is no GPU: it works on host memory,
/// among threads and processes of one machine, and does what a script says.
namespace troupe::test {

/// What its streams are.
struct FakeStream {
  void (*give)(FakeStream* stream, void (*task)(void* argument), void* argument) = nullptr;
};

/// Ranks, -1: none.
struct FakeNcclScript {
  std::atomic<int> version{22809};
  std::atomic<int> stuck_in_init{-1};
  std::atomic<int> stuck_in_call{-1};  ///< until it is aborted
  std::atomic<int> told_of_error{-1};  ///< by ncclCommGetAsyncError
  std::atomic<bool> stuck_in_abort{false};
  std::atomic<int> launches{0};  ///< what streams were given
  std::atomic<int> alive{0};     ///< communicators
  std::atomic<int> misused{0};   ///< calls with one that is not there any more, or is ended meanwhile
};

}  // namespace troupe::test

extern "C" troupe::test::FakeNcclScript* fake_nccl_script();
