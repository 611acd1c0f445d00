#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace troupe {

template <class Signature>
class UniqueFunction;

/// A callable that can be moved but not copied, so it may own what it captures. Captures up to
/// kInlineBytes need no heap.
template <class R, class... Args>
class UniqueFunction<R(Args...)> {
 public:
  static constexpr std::size_t kInlineBytes = 48;

  UniqueFunction() = default;
  UniqueFunction(std::nullptr_t) {}
  template <class F>
  requires(!std::is_same_v<std::decay_t<F>, UniqueFunction> &&
           std::is_invocable_r_v<R, std::decay_t<F>&, Args...>) UniqueFunction(F&& function) {
    using Stored = std::decay_t<F>;
    if constexpr (sizeof(Stored) <= kInlineBytes && alignof(Stored) <= alignof(std::max_align_t) &&
                  std::is_nothrow_move_constructible_v<Stored>) {
      new (storage_) Stored(std::forward<F>(function));
      operations_ = &kInline<Stored>;
    } else {
      new (storage_) Stored*(new Stored(std::forward<F>(function)));
      operations_ = &kHeap<Stored>;
    }
  }
  UniqueFunction(UniqueFunction&& other) noexcept { take(other); }
  UniqueFunction& operator=(UniqueFunction&& other) noexcept {
    if (this != &other) {
      reset();
      take(other);
    }
    return *this;
  }
  ~UniqueFunction() { reset(); }

  explicit operator bool() const { return operations_ != nullptr; }
  R operator()(Args... args) { return operations_->call(storage_, std::forward<Args>(args)...); }

 private:
  struct Operations {
    R (*call)(void* self, Args&&... args);
    void (*move)(void* from, void* to);  // leaves `from` destroyed
    void (*destroy)(void* self);
  };
  template <class F>
  static constexpr Operations kInline{
      [](void* self, Args&&... args) -> R { return (*static_cast<F*>(self))(std::forward<Args>(args)...); },
      [](void* from, void* to) {
        new (to) F(std::move(*static_cast<F*>(from)));
        static_cast<F*>(from)->~F();
      },
      [](void* self) { static_cast<F*>(self)->~F(); }};
  template <class F>
  static constexpr Operations kHeap{
      [](void* self, Args&&... args) -> R { return (**static_cast<F**>(self))(std::forward<Args>(args)...); },
      [](void* from, void* to) { new (to) F*(*static_cast<F**>(from)); },
      [](void* self) { delete *static_cast<F**>(self); }};

  void reset() {
    if (operations_) std::exchange(operations_, nullptr)->destroy(storage_);
  }
  void take(UniqueFunction& other) {
    operations_ = std::exchange(other.operations_, nullptr);
    if (operations_) operations_->move(other.storage_, storage_);
  }

  const Operations* operations_ = nullptr;
  alignas(std::max_align_t) std::byte storage_[kInlineBytes];
};

/// A piece of work for a Loop.
using Task = UniqueFunction<void()>;

}  // namespace troupe
