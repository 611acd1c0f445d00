// DeepSpeed's configuration: what is read, what is refused, and how it is said.
#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include <troupe/training/zero_config.hpp>

#include "support/temporary_folder.hpp"

namespace troupe::training {
namespace {

/// With a batch size, if it has none.
Result<ZeroConfig> read(std::string json, int members = 4) {
  if (json.find("batch") == std::string::npos)
    json = R"({"train_batch_size": 32)" + (json == "{}" ? std::string() : ", ") + json.substr(1);
  return parse_zero_config(json, "job.json", members);
}

std::string message(const Result<ZeroConfig>& result) {
  return result ? "read" : result.error().to_string();
}

bool says(const Result<ZeroConfig>& result, Code code, const std::string& text) {
  INFO(message(result));
  const bool right =
      !result && result.error().code == code && result.error().message.find(text) != std::string::npos;
  CHECK(right);
  return right;
}

}  // namespace

TEST_CASE("a usual configuration of stage 3 is read, all of it") {
  const auto config = read(R"({
    "train_batch_size": 64, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4,
    "gradient_clipping": 1.0, "steps_per_print": 2000, "wall_clock_breakdown": false,
    "fp16": {"enabled": true, "loss_scale": 0, "initial_scale_power": 12, "loss_scale_window": 500,
             "hysteresis": 3, "min_loss_scale": 2, "consecutive_hysteresis": true},
    "bf16": {"enabled": false},
    "zero_optimization": {
      "stage": 3, "overlap_comm": false, "contiguous_gradients": true, "reduce_bucket_size": 5e5,
      "stage3_prefetch_bucket_size": 1000, "stage3_param_persistence_threshold": 1e4,
      "stage3_max_live_parameters": 2e6, "stage3_max_reuse_distance": 3e6, "sub_group_size": 1e9,
      "offload_param": {"device": "cpu", "pin_memory": true},
      "stage3_gather_16bit_weights_on_model_save": true},
    "optimizer": {"type": "AdamW",
                  "params": {"lr": 3e-4, "betas": [0.8, 0.95], "eps": 1e-7, "weight_decay": 0.1}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.5, "warmup_num_steps": 10}}
  })");
  REQUIRE_MESSAGE(config.ok(), message(config));
  CHECK(config->train_batch == 64);
  CHECK(config->micro_batch == 4);
  const ZeroOptions& options = config->options;
  CHECK(options.accumulation == 4);
  CHECK(options.stage == ZeroStage::kParameters);
  CHECK(options.dtype == DType::kFloat16);
  CHECK(options.max_norm == 1);
  CHECK(options.loss_scaling.first == 4096);
  CHECK(options.loss_scaling.window == 500);
  CHECK(options.loss_scaling.hysteresis == 3);
  CHECK(options.loss_scaling.least == 2);
  CHECK(options.loss_scaling.refill);
  CHECK(options.loss_scaling.fixed == 0);
  CHECK_FALSE(options.overlap);
  CHECK(options.bucket == 500'000);
  CHECK(options.prefetch == 1000);
  CHECK(options.keep_below == 10'001);  // the threshold itself is kept, too
  CHECK(options.max_live == 2'000'000);
  CHECK(options.reuse_distance == 3'000'000);
  CHECK(config->has_optimizer);
  CHECK(options.optimizer == shards::Optimizer("adamw", {{"learning_rate", 3e-4F},
                                                         {"beta1", 0.8F},
                                                         {"beta2", 0.95F},
                                                         {"epsilon", 1e-7F},
                                                         {"weight_decay", 0.1F}}));
  CHECK(options.learning_rate(11) == 0.5F);
  const std::vector<std::string> ignored = {"zero_optimization.offload_param.pin_memory",
                                            "zero_optimization.contiguous_gradients",
                                            "zero_optimization.sub_group_size",
                                            "zero_optimization.stage3_gather_16bit_weights_on_model_save",
                                            "steps_per_print",
                                            "wall_clock_breakdown"};
  CHECK(config->ignored == ignored);
}

TEST_CASE("what is not said has DeepSpeed's value") {
  const auto config = read("{}");
  REQUIRE_MESSAGE(config.ok(), message(config));
  const ZeroOptions& options = config->options;
  CHECK(options.stage == ZeroStage::kNothing);
  CHECK(options.dtype == DType::kFloat32);
  CHECK_FALSE(options.overlap);
  CHECK(options.bucket == 500'000'000);
  CHECK(options.keep_below == 100'001);
  CHECK(options.loss_scaling.first == 65536);
  CHECK(options.max_norm == 0);
  CHECK_FALSE(config->has_optimizer);
  CHECK(!options.learning_rate);
  CHECK(read(R"({"zero_optimization": {"stage": 3}})")->options.overlap);
}

TEST_CASE("batch sizes are worked out from each other, and checked") {
  const auto batches = [](const std::string& json) {
    const auto config = read(json);
    if (!config) return message(config);
    return std::to_string(config->train_batch) + " = 4 * " + std::to_string(config->options.accumulation) +
           " * " + std::to_string(config->micro_batch);
  };
  CHECK(batches(R"({"train_batch_size": 32})") == "32 = 4 * 1 * 8");
  CHECK(batches(R"({"train_batch_size": 32, "gradient_accumulation_steps": 2})") == "32 = 4 * 2 * 4");
  CHECK(batches(R"({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 2})") == "32 = 4 * 4 * 2");
  CHECK(batches(R"({"train_micro_batch_size_per_gpu": 2})") == "8 = 4 * 1 * 2");
  CHECK(batches(R"({"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3})") ==
        "24 = 4 * 3 * 2");
  for (const char* wrong :
       {R"({"train_batch_size": 30})", R"({"train_batch_size": 2})",
        R"({"train_batch_size": 32, "gradient_accumulation_steps": 3})",
        R"({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 3})",
        R"({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4})",
        R"({"train_batch_size": 9e18, "train_micro_batch_size_per_gpu": 1})",
        R"({"train_micro_batch_size_per_gpu": 4611686018427387904, "gradient_accumulation_steps": 3})"}) {
    CAPTURE(wrong);
    CHECK_FALSE(read(wrong).ok());
  }
  says(
      read(
          R"({"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 4})"),
      Code::kInvalidArgument,
      "train_batch_size 32 is not train_micro_batch_size_per_gpu 4 * gradient_accumulation_steps 4 * 4 "
      "members");
  says(read(R"({"gradient_accumulation_steps": 1, "x_batch": 1})"), Code::kInvalidArgument, "x_batch");
  says(parse_zero_config("{}", "job.json", 4), Code::kInvalidArgument, "'train_batch_size' is missing");
}

TEST_CASE("keys that are not known are all named") {
  says(read(R"({"zero": {}, "fp16": {"enable": true}, "zero_optimization": {"stages": 3},
                "optimizer": {"type": "SGD", "params": {"learning_rate": 1}}})"),
       Code::kInvalidArgument,
       "job.json: keys that are not known: 'fp16.enable', 'zero_optimization.stages', "
       "'optimizer.params.learning_rate', 'zero'");
}

TEST_CASE("values that cannot be are named with their key") {
  const Code wrong = Code::kInvalidArgument;
  says(read("[1]"), wrong, "job.json");
  says(read("{"), wrong, "job.json:1:");
  says(read(R"({"zero_optimization": true})"), wrong, "'zero_optimization' is true, expected an object");
  says(read(R"({"zero_optimization": {"stage": 4}})"), wrong, "'zero_optimization.stage' is 4");
  says(read(R"({"zero_optimization": {"reduce_bucket_size": "auto"}})"), wrong, "'auto' is a word");
  says(read(R"({"zero_optimization": {"reduce_bucket_size": 0.5}})"), wrong, "reduce_bucket_size");
  says(read(R"({"gradient_clipping": -1})"), wrong, "gradient_clipping");
  says(read(R"({"fp16": {"enabled": "yes"}})"), wrong, "'fp16.enabled' is \"yes\", expected true or false");
  says(read(R"({"fp16": {"enabled": true}, "bf16": {"enabled": true}})"), wrong, "both");
  says(read(R"({"fp16": {"hysteresis": 0}})"), wrong, "fp16.hysteresis");
  says(read(R"({"optimizer": {"type": "Adam", "params": {"betas": [0.9]}}})"), wrong, "a list of 2 numbers");
  says(read(R"({"optimizer": {"type": "Adam", "params": {"lr": -1}}})"), wrong, "params.lr");
  says(read(R"({"optimizer": {"type": "Adam", "params": {"weight_decay": -0.1}}})"), wrong, "weight_decay");
  says(read(R"({"optimizer": {"type": "SGD", "params": {"momentum": -0.9}}})"), wrong, "momentum");
  says(read(R"({"optimizer": {"type": "SGD", "params": {"nesterov": true}}})"), wrong, "nesterov");
  says(read(R"({"scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": -1}}})"), wrong, "min_lr");
  says(read(R"({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 1e39}}})"), wrong, "max_lr");
  says(read(R"({"fp16": {"enabled": true, "initial_scale_power": 4, "min_loss_scale": 32}})"), wrong,
       "'fp16.min_loss_scale' is 32");
  CHECK(read(R"({"fp16": {"enabled": true, "min_loss_scale": 0}})").ok());
  CHECK(read(R"({"fp16": {"initial_scale_power": 4, "min_loss_scale": 32}})").ok());  // it is off
  says(read(R"({"scheduler": {"type": "WarmupDecayLR", "params": {}}})"), wrong, "total_num_steps");
  says(read(R"({"scheduler": {"type": "WarmupLR", "params": {"warmup_type": "square"}}})"), wrong, "log or");
}

TEST_CASE("what would change results or memory, and is not there, is refused unless it is off") {
  const Code missing = Code::kUnimplemented;
  for (const char* json :
       {R"({"amp": {"enabled": true}})", R"({"sparse_gradients": true})",
        R"({"optimizer": {"type": "Lamb"}})", R"({"optimizer": {"type": "OneBitAdam", "params": {}}})",
        R"({"optimizer": {"type": "Adam", "params": {"amsgrad": true}}})",
        R"({"optimizer": {"type": "Adam", "params": {"weight_decay": 0.1, "adam_w_mode": false}}})",
        R"({"optimizer": {"type": "SGD", "params": {"dampening": 0.5}}})",
        R"({"scheduler": {"type": "OneCycle", "params": {}}})",
        R"({"zero_optimization": {"zero_quantized_weights": true}})",
        R"({"zero_optimization": {"zero_hpz_partition_size": 8}})",
        R"({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}})",
        R"({"bf16": {"enabled": true}, "data_types": {"grad_accum_dtype": "fp32"}})",
        R"({"communication_data_type": "fp16"})", R"({"elasticity": {"enabled": true}})"}) {
    CAPTURE(json);
    says(read(json), missing, "job.json: ");
  }
  for (const char* json :
       {R"({"amp": {"enabled": false}})", R"({"sparse_gradients": false})",
        R"({"optimizer": {"type": "Adam", "params": {"amsgrad": false, "bias_correction": true}}})",
        R"({"zero_optimization": {"zero_quantized_weights": false, "zero_hpz_partition_size": 1}})",
        R"({"zero_optimization": {"offload_optimizer": null}})", R"({"communication_data_type": "fp32"})",
        R"({"data_types": {"grad_accum_dtype": null}})", R"({"elasticity": {"enabled": false}})"}) {
    CAPTURE(json);
    const auto config = read(json);
    CHECK_MESSAGE(config.ok(), message(config));
  }
}

TEST_CASE("optimizers are DeepSpeed's, with its usual numbers") {
  const auto optimizer = [](const std::string& json) {
    const auto config = read(R"({"optimizer": )" + json + "}");
    REQUIRE_MESSAGE(config.ok(), message(config));
    return config->options.optimizer;
  };
  CHECK(optimizer(R"({"type": "Adam"})") == shards::Optimizer("adam", {}));
  // Its Adam decays weights as AdamW does.
  CHECK(optimizer(R"({"type": "Adam", "params": {"weight_decay": 0.5}})") ==
        shards::Optimizer("adamw", {{"epsilon", 1e-8F}, {"weight_decay", 0.5F}}));
  // Its Adam is torch's AdamW if torch's is asked for, whose weights decay unless something else is said.
  CHECK(optimizer(R"({"type": "Adam", "params": {"torch_adam": true}})") ==
        shards::Optimizer("adamw", {{"epsilon", 1e-8F}, {"weight_decay", 0.01F}}));
  CHECK(optimizer(R"({"type": "Adam", "params": {"torch_adam": true, "adam_w_mode": false}})") ==
        shards::Optimizer("adam", {}));
  CHECK(optimizer(R"({"type": "adamw"})") == shards::Optimizer("adam", {}));
  CHECK(optimizer(R"({"type": "SGD", "params": {"lr": 0.1}})") ==
        shards::Optimizer("sgd", {{"learning_rate", 0.1F}, {"weight_decay", 0.0F}}));
  CHECK(optimizer(R"({"type": "SGD", "params": {"lr": 0.1, "momentum": 0.8}})") ==
        shards::Optimizer("momentum", {{"learning_rate", 0.1F}, {"momentum", 0.8F}}));
  CHECK(optimizer(R"({"type": "SGD", "params": {"lr": 0.1, "momentum": 0.8, "nesterov": true}})") ==
        shards::Optimizer("nesterov", {{"learning_rate", 0.1F}, {"momentum", 0.8F}}));
  CHECK(optimizer(R"({"type": "Adagrad", "params": {"initial_accumulator_value": 0.5}})") ==
        shards::Optimizer("adagrad", {{"learning_rate", 0.01F}, {"initial_accumulator", 0.5F}}));
  CHECK(optimizer(R"({"type": "RMSprop"})") == shards::Optimizer("rmsprop", {}));
}

TEST_CASE("a warm-up is along a logarithm or a line, and goes down to the last step if it is to") {
  const auto rate = [](const std::string& type, const std::string& params) {
    const auto config = read(R"({"scheduler": {"type": ")" + type + R"(", "params": )" + params + "}}");
    REQUIRE_MESSAGE(config.ok(), message(config));
    return config->options.learning_rate;
  };
  const auto logarithm =
      rate("WarmupLR", R"({"warmup_min_lr": 1, "warmup_max_lr": 3, "warmup_num_steps": 8})");
  CHECK(logarithm(0) == 1);  // made with the least, and so is the next
  CHECK(logarithm(1) == 1);
  CHECK(logarithm(2) == doctest::Approx(1 + 2 * std::log(2.0) / std::log(8.0)));
  CHECK(logarithm(8) == doctest::Approx(3));
  CHECK(logarithm(9) == 3);
  CHECK(logarithm(1000) == 3);
  const auto line = rate("WarmupDecayLR", R"({"warmup_max_lr": 4, "warmup_num_steps": 4,
                                              "warmup_type": "linear", "total_num_steps": 12})");
  CHECK(line(0) == 0);
  CHECK(line(3) == 2);
  CHECK(line(5) == 4);
  CHECK(line(9) == 2);
  CHECK(line(13) == 0);
  CHECK(line(50) == 0);
}

TEST_CASE("a file is read, and named in errors") {
  const troupe::test::TemporaryFolder folder;
  folder.write("ds.json", R"({"train_batch_size": 2, "zero_optimization": {"stage": 2}})");
  CHECK(read_zero_config(folder / "ds.json", 2)->options.stage == ZeroStage::kGradients);
  folder.write("ds.json", R"({"train_batch_size": 2, "zeros": 1})");
  const auto config = read_zero_config(folder / "ds.json", 2);
  REQUIRE_FALSE(config.ok());
  CHECK(config.error().message.find("ds.json: keys that are not known: 'zeros'") != std::string::npos);
  CHECK(read_zero_config(folder / "none.json", 2).error().code == Code::kNotFound);
}

}  // namespace troupe::training
