#pragma once

#include <array>

#include <troupe/shards/optimizer.hpp>

/// The built-in optimizers. A new one: a file beside this one, its declaration and its place in kAll.
namespace troupe::shards::optimizers {

extern const OptimizerDef kSgd;
extern const OptimizerDef kMomentum;
extern const OptimizerDef kNesterov;
extern const OptimizerDef kAdagrad;
extern const OptimizerDef kRowwiseAdagrad;
extern const OptimizerDef kAdam;
extern const OptimizerDef kAdamW;
extern const OptimizerDef kLamb;
extern const OptimizerDef kRmsprop;
extern const OptimizerDef kFtrl;

inline constexpr std::array kAll = {&kSgd,  &kMomentum, &kNesterov, &kAdagrad, &kRowwiseAdagrad,
                                    &kAdam, &kAdamW,    &kLamb,     &kRmsprop, &kFtrl};

}  // namespace troupe::shards::optimizers
