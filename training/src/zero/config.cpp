// DeepSpeed's configuration.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <string>
#include <utility>

#include <troupe/runtime/files.hpp>
#include <troupe/runtime/json.hpp>
#include <troupe/training/zero_config.hpp>

#include "zero/config_section.hpp"
#include "zero/loss_scaler.hpp"
#include "zero/rates.hpp"

namespace troupe::training {
namespace {

using zero::Findings;
using zero::LossScaler;
using zero::Section;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char each) { return static_cast<char>(std::tolower(each)); });
  return text;
}

void read_batches(Section& all, int members, Findings& findings, ZeroConfig& config) {
  const std::int64_t train = all.whole("train_batch_size", 0, 1);
  const std::int64_t micro = all.whole("train_micro_batch_size_per_gpu", 0, 1);
  const std::int64_t passes = all.whole("gradient_accumulation_steps", 0, 1);
  if (findings.fault) return;
  if (train == 0 && micro == 0) return all.fault("train_batch_size", "it, or train_micro_batch_size_per_gpu");
  config.micro_batch = micro > 0 ? micro : train / members / std::max<std::int64_t>(passes, 1);
  std::int64_t accumulation = passes;
  if (accumulation == 0) accumulation = micro > 0 && train > 0 ? train / micro / members : 1;
  std::int64_t product = 0;
  if (__builtin_mul_overflow(config.micro_batch, accumulation, &product) ||
      __builtin_mul_overflow(product, members, &product))
    return all.fault("train_micro_batch_size_per_gpu", "less: the batch of a step is too large");
  config.train_batch = train > 0 ? train : product;
  constexpr std::int64_t kMostPasses = 1 << 30;
  if (product != config.train_batch || product == 0 || accumulation > kMostPasses) {
    findings.add(Code::kInvalidArgument,
                 "train_batch_size " + std::to_string(config.train_batch) +
                     " is not train_micro_batch_size_per_gpu " + std::to_string(config.micro_batch) +
                     " * gradient_accumulation_steps " + std::to_string(accumulation) + " * " +
                     std::to_string(members) + " members");
    return;
  }
  config.options.accumulation = static_cast<int>(accumulation);
}

void read_types(Section& all, Findings& findings, ZeroOptions& options) {
  Section fp16 = all.section("fp16");
  const bool half = fp16.flag("enabled", false);
  LossScaling& scaling = options.loss_scaling;
  scaling.fixed = static_cast<float>(fp16.number("loss_scale", 0));
  const std::int64_t power = fp16.whole("initial_scale_power", 16);
  if (power > 100) fp16.fault("initial_scale_power", "at most 100");
  scaling.first = std::ldexp(1.0F, static_cast<int>(std::min<std::int64_t>(power, 100)));
  scaling.window =
      static_cast<int>(std::min<std::int64_t>(fp16.whole("loss_scale_window", 1000, 1), 1 << 30));
  scaling.hysteresis = static_cast<int>(std::min<std::int64_t>(fp16.whole("hysteresis", 2, 1), 1 << 30));
  scaling.refill = fp16.flag("consecutive_hysteresis", false);
  // DeepSpeed lets it go down to 0.
  scaling.least = std::max(static_cast<float>(fp16.number("min_loss_scale", 1)), LossScaler::kSmallest);
  if (half && scaling.least > scaling.first)
    fp16.fault("min_loss_scale", "at most 2 to the power of initial_scale_power");
  fp16.refuse({"auto_cast", "fp16_master_weights_and_grads"});
  fp16.finish();

  const char* const name = all.has("bfloat16") ? "bfloat16" : "bf16";
  Section bf16 = all.section(name);
  const bool brain = bf16.flag("enabled", false);
  bf16.refuse({"bf16_master_weights_and_grads", "bf16_optimizer_states"});
  bf16.ignore({"immediate_grad_update", "check_grad_overflow"});
  bf16.finish();
  if (half && brain) findings.add(Code::kInvalidArgument, "fp16 and bf16 are both enabled: choose one");
  options.dtype = half ? DType::kFloat16 : brain ? DType::kBFloat16 : DType::kFloat32;

  const char* const word = half ? "fp16" : brain ? "bf16" : "fp32";
  all.refuse_unless("communication_data_type", word);
  Section types = all.section("data_types");
  types.refuse_unless("grad_accum_dtype", word);
  types.finish();
}

void read_offload(Section& zero, const char* name) {
  Section offload = zero.section(name);
  if (lower(offload.text("device", "none")) == "nvme")
    offload.unimplemented("device", "all tensors are in host memory");
  offload.ignore({"nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pin_memory", "pipeline",
                  "pipeline_read", "pipeline_write", "fast_init", "ratio", "super_offload",
                  "cpuadam_cores_perc"});
  offload.finish();
}

void read_zero(Section& all, ZeroOptions& options) {
  Section zero = all.section("zero_optimization");
  const std::int64_t stage = zero.whole("stage", 0);
  if (stage > 3) zero.fault("stage", "0 to 3");
  options.stage = static_cast<ZeroStage>(std::min<std::int64_t>(stage, 3));
  constexpr std::int64_t kBucket = 500'000'000;
  options.bucket = zero.whole("reduce_bucket_size", kBucket, 1);
  options.overlap = zero.flag("overlap_comm", stage == 3);
  options.prefetch = zero.whole("stage3_prefetch_bucket_size", kBucket / 10);
  options.keep_below = zero.whole("stage3_param_persistence_threshold", 100'000) + 1;  // it keeps those, too
  options.max_live = zero.whole("stage3_max_live_parameters", 2 * kBucket);
  options.reuse_distance = zero.whole("stage3_max_reuse_distance", 2 * kBucket);
  read_offload(zero, "offload_param");
  read_offload(zero, "offload_optimizer");
  zero.refuse({"zero_quantized_weights", "zero_quantized_nontrainable_weights", "zero_quantized_gradients",
               "zeropp_loco_param"});
  if (zero.whole("zero_hpz_partition_size", 1) > 1)
    zero.unimplemented("zero_hpz_partition_size", "all members are one group");
  if (zero.whole("mics_shard_size", -1, -1) > 0)
    zero.unimplemented("mics_shard_size", "all members are one group");
  zero.ignore({"contiguous_gradients",
               "reduce_scatter",
               "allgather_partitions",
               "allgather_bucket_size",
               "use_multi_rank_bucket_allreduce",
               "load_from_fp32_weights",
               "elastic_checkpoint",
               "sub_group_size",
               "cpu_offload",
               "cpu_offload_param",
               "cpu_offload_use_pin_memory",
               "stage3_model_persistence_threshold",
               "stage3_gather_16bit_weights_on_model_save",
               "stage3_gather_fp16_weights_on_model_save",
               "stage3_module_granularity_threshold",
               "stage3_use_all_reduce_for_fetch_params",
               "ignore_unused_parameters",
               "legacy_stage1",
               "round_robin_gradients",
               "mics_hierarchical_params_gather",
               "memory_efficient_linear",
               "override_module_apply",
               "pipeline_loading_checkpoint",
               "log_trace_cache_warnings"});
  zero.finish();
}

shards::Optimizer adam_of(Section& params, bool decoupled_unless_said, Findings& findings) {
  const std::vector<double> betas = params.numbers("betas", {0.9, 0.999});
  const double epsilon = params.number("eps", 1e-8);
  const bool torch = params.flag("torch_adam", false);
  const bool decoupled = params.flag("adam_w_mode", true) || decoupled_unless_said;
  const double decay = params.number("weight_decay", torch && decoupled ? 0.01 : 0);  // torch's AdamW
  params.refuse({"amsgrad"});
  params.refuse_unless("bias_correction", true);
  params.ignore({"fused", "foreach", "set_grad_none"});
  if (decay > 0 && !decoupled)
    findings.add(Code::kUnimplemented, "weight decay of Adam without adam_w_mode is not there");
  shards::Optimizer optimizer(decay > 0 ? "adamw" : "adam", {});
  optimizer.set("beta1", static_cast<float>(betas[0]));
  optimizer.set("beta2", static_cast<float>(betas[1]));
  optimizer.set("epsilon", static_cast<float>(epsilon));
  if (decay > 0) optimizer.set("weight_decay", static_cast<float>(decay));
  return optimizer;
}

shards::Optimizer sgd_of(Section& params) {
  const double momentum = params.number("momentum", 0);
  const bool nesterov = params.flag("nesterov", false);
  if (nesterov && momentum <= 0) params.fault("nesterov", "false, or a momentum");
  params.refuse({"dampening", "maximize"});
  shards::Optimizer optimizer(momentum <= 0 ? "sgd" : nesterov ? "nesterov" : "momentum", {});
  if (momentum > 0) optimizer.set("momentum", static_cast<float>(momentum));
  optimizer.set("weight_decay", static_cast<float>(params.number("weight_decay", 0)));
  return optimizer;
}

shards::Optimizer adagrad_of(Section& params) {
  shards::Optimizer optimizer("adagrad", {});
  optimizer.set("epsilon", static_cast<float>(params.number("eps", 1e-10)));
  optimizer.set("initial_accumulator", static_cast<float>(params.number("initial_accumulator_value", 0)));
  params.refuse({"lr_decay", "weight_decay"});
  return optimizer;
}

shards::Optimizer rmsprop_of(Section& params) {
  shards::Optimizer optimizer("rmsprop", {});
  optimizer.set("alpha", static_cast<float>(params.number("alpha", 0.99)));
  optimizer.set("epsilon", static_cast<float>(params.number("eps", 1e-8)));
  optimizer.set("weight_decay", static_cast<float>(params.number("weight_decay", 0)));
  params.refuse({"momentum", "centered"});
  return optimizer;
}

void read_optimizer(Section& all, Findings& findings, ZeroConfig& config) {
  Section section = all.section("optimizer");
  if (!section.there()) return;
  const std::string type = lower(section.text("type", ""));
  section.ignore({"legacy_fusion"});
  Section params = section.section("params");
  const bool torch_default = type == "adagrad" || type == "rmsprop";
  const double rate = params.number("lr", torch_default ? 0.01 : 0.001);
  shards::Optimizer& optimizer = config.options.optimizer;
  if (type == "adam" || type == "adamw") {
    optimizer = adam_of(params, type == "adamw", findings);
  } else if (type == "sgd") {
    optimizer = sgd_of(params);
  } else if (type == "adagrad") {
    optimizer = adagrad_of(params);
  } else if (type == "rmsprop") {
    optimizer = rmsprop_of(params);
  } else {
    section.unimplemented("type", "there are Adam, AdamW, SGD, Adagrad and RMSprop");
    return;
  }
  optimizer.set("learning_rate", static_cast<float>(rate));
  config.has_optimizer = true;
  params.finish();
  section.finish();
}

void read_scheduler(Section& all, ZeroOptions& options) {
  Section section = all.section("scheduler");
  if (!section.there()) return;
  const std::string type = section.text("type", "");
  Section params = section.section("params");
  if (type != "WarmupLR" && type != "WarmupDecayLR") {
    section.unimplemented("type", "there are WarmupLR and WarmupDecayLR");
    return;
  }
  zero::WarmUpRate rate;
  rate.least = static_cast<float>(params.number("warmup_min_lr", 0));
  rate.most = static_cast<float>(params.number("warmup_max_lr", 0.001));
  rate.steps = static_cast<std::uint64_t>(std::max<std::int64_t>(2, params.whole("warmup_num_steps", 1000)));
  const std::string kind = params.text("warmup_type", "log");
  if (kind != "log" && kind != "linear") params.fault("warmup_type", "log or linear");
  rate.logarithm = kind == "log";
  if (type == "WarmupDecayLR") {
    rate.total = static_cast<std::uint64_t>(params.whole("total_num_steps", 0, 1));
    if (rate.total == 0) params.fault("total_num_steps", "a whole number from 1 on");
  }
  params.refuse_unless("last_batch_iteration", -1);
  options.learning_rate = rate;
  params.finish();
  section.finish();
}

void read_rest(Section& all) {
  all.ignore({"zero_allow_untested_optimizer",
              "zero_force_ds_cpu_optimizer",
              "steps_per_print",
              "wall_clock_breakdown",
              "memory_breakdown",
              "dump_state",
              "tensorboard",
              "wandb",
              "comet",
              "csv_monitor",
              "monitor_config",
              "flops_profiler",
              "comms_logger",
              "autotuning",
              "aio",
              "checkpoint",
              "activation_checkpointing",
              "dataloader_drop_last",
              "prescale_gradients",
              "gradient_predivide_factor",
              "disable_allgather",
              "fp32_allreduce",
              "seq_parallel_communication_data_type",
              "graph_harvesting",
              "use_data_before_expert_parallelism",
              "compile"});
  all.refuse({"amp", "torch_autocast", "sparse_gradients", "sparse_attention", "data_efficiency",
              "curriculum_learning", "progressive_layer_drop", "compression_training", "quantize_training",
              "elasticity", "eigenvalue", "pipeline", "hybrid_engine", "tensor_parallel", "nebula"});
}

}  // namespace

Result<ZeroConfig> parse_zero_config(std::string_view json, std::string_view what, int members) {
  if (members < 1) return Error{Code::kInvalidArgument, "a group of " + std::to_string(members)};
  const Result<Json> parsed = parse_json(json, what);
  if (!parsed) return parsed.error();
  ZeroConfig config;
  Findings findings;
  const std::string where(what);
  if (!parsed->is_object()) return Error{Code::kInvalidArgument, where + ": expected a JSON object"};
  Section all(&*parsed, "", findings);
  read_batches(all, members, findings, config);
  read_types(all, findings, config.options);
  config.options.max_norm = static_cast<float>(all.number("gradient_clipping", 0));
  read_zero(all, config.options);
  read_optimizer(all, findings, config);
  read_scheduler(all, config.options);
  read_rest(all);
  all.finish();
  if (!findings.unknown.empty()) {
    std::string names;
    for (const std::string& each : findings.unknown) names += (names.empty() ? "'" : ", '") + each + "'";
    return Error{Code::kInvalidArgument, where + ": keys that are not known: " + names};
  }
  if (findings.fault) return with_context(*findings.fault, where);
  if (Result<void> valid = config.options.validate(); !valid) return with_context(valid.error(), where);
  config.ignored = std::move(findings.ignored);
  return config;
}

Result<ZeroConfig> read_zero_config(const std::string& path, int members) {
  const Result<std::string> text = read_file(path);
  if (!text) return text.error();
  return parse_zero_config(*text, path, members);
}

}  // namespace troupe::training
