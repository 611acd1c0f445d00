#pragma once

#include <array>
#include <cmath>
#include <random>

/// A pole on a cart that is pushed left or right, and must not fall (Barto, Sutton and Anderson 1983, section
/// V and appendix; limits and length of episodes as in Gym's CartPole-v1). Each step upright is worth 1.
struct CartPole {
  using State =
      std::array<float, 4>;  ///< position and speed of the cart, angle and its speed: m, m/s, rad, rad/s
  static constexpr int kLongest = 500;   ///< steps
  static constexpr float kSolved = 475;  ///< mean of 100 episodes from which on the task counts as solved

  State state{};
  int steps = 0;

  void reset(std::mt19937_64& random) {
    std::uniform_real_distribution<float> small(-0.05F, 0.05F);
    for (float& each : state) each = small(random);
    steps = 0;
  }
  /// Pushes for 20 ms, with 10 N; false: it has fallen, or the cart is off the track.
  bool push(bool right) {
    constexpr float kGravity = 9.8F, kCart = 1.0F, kPole = 0.1F, kHalfLength = 0.5F, kForce = 10,
                    kTime = 0.02F;
    auto& [x, speed, angle, turning] = state;
    const float sine = std::sin(angle), cosine = std::cos(angle);
    const float push =
        ((right ? kForce : -kForce) + kPole * kHalfLength * turning * turning * sine) / (kCart + kPole);
    const float turn = (kGravity * sine - cosine * push) /
                       (kHalfLength * (4.0F / 3.0F - kPole * cosine * cosine / (kCart + kPole)));
    const float pull = push - kPole * kHalfLength * turn * cosine / (kCart + kPole);
    x += kTime * speed;
    speed += kTime * pull;
    angle += kTime * turning;
    turning += kTime * turn;
    ++steps;
    return std::abs(x) <= 2.4F && std::abs(angle) <= 12 * 2 * 3.14159265F / 360;
  }
  bool over() const { return steps >= kLongest; }
};
