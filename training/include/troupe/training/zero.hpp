#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <troupe/runtime/result.hpp>
#include <troupe/runtime/tensor.hpp>
#include <troupe/shards/communicator.hpp>
#include <troupe/shards/optimizer.hpp>

/// Data-parallel training of dense models whose optimizer state, gradients and parameters are cut over the
/// members of a group (Rajbhandari et al. 2020, ZeRO). There is no model class: a model names its parameters,
/// takes them as tensors, and hands over their gradients.
namespace troupe::training {

/// What is cut over the members, each with what the stage before it cuts.
enum class ZeroStage : std::uint8_t { kNothing = 0, kOptimizer = 1, kGradients = 2, kParameters = 3 };

/// Parameters in the order in which the model uses them first.
struct ZeroParameter {
  std::string name;  ///< "layer.0.weight": unique, in errors and checkpoints
  Shape shape;
  int layer = 0;  ///< which layer of the model uses it, from 0 on: what stage 3 gathers at once
};

/// Loss scaling for float16: losses are multiplied by it, so that small gradients are not 0.
struct LossScaling {
  float fixed = 0;      ///< above 0: always this one
  float first = 65536;  ///< a power of two
  int window = 1000;    ///< steps without an overflow after which it doubles
  int hysteresis = 2;   ///< overflows until it is halved
  bool refill = false;  ///< each good step sets the overflows back that are still let pass
  float least = 1;      ///< an overflow at this one is an error
};

struct ZeroOptions {
  ZeroStage stage = ZeroStage::kNothing;
  /// Of parameters and gradients: kFloat32, kBFloat16 or kFloat16. With 16 bits each member keeps the float32
  /// weights of what it steps.
  DType dtype = DType::kFloat32;
  shards::Optimizer optimizer = shards::Adam{};
  /// The rate of the step that comes after `step` others; empty: the optimizer's.
  std::function<float(std::uint64_t step)> learning_rate = {};
  int accumulation = 1;  ///< passes whose gradients make a step
  float max_norm = 0;    ///< of the gradients of all parameters; 0: any
  LossScaling loss_scaling = {};
  /// Elements that are reduced, or gathered, at once.
  std::int64_t bucket = 1 << 22;
  /// Whether reductions go on while gradient() is called with others: two buckets are then under way.
  bool overlap = true;
  // Of stage 3, in elements:
  std::int64_t keep_below = 0;      ///< parameters with fewer are whole at each member
  std::int64_t prefetch = 1 << 22;  ///< of layers that are gathered before they are needed
  std::int64_t max_live = 1 << 30;  ///< of layers that are whole, past which nothing is prefetched or kept
  std::int64_t reuse_distance = 0;  ///< a layer is kept if it is needed again within so many of others

  /// kInvalidArgument naming the field, its value and what would do; kUnimplemented: rowwise_adagrad, or a
  /// program's own optimizer.
  Result<void> validate() const;
};

/// What a step did; the same at each member.
struct ZeroStep {
  std::uint64_t step = 0;  ///< steps taken so far, this one included if it was taken
  bool skipped = false;    ///< float16: a gradient was too large; the loss scale may be smaller now
  double norm = 0;         ///< of the mean gradients, before they are held to max_norm
  bool clipped = false;
  float learning_rate = 0;
  float loss_scale = 1;  ///< that of the gradients of this step
};

/// Bytes at this member.
struct ZeroMemory {
  std::size_t parameters = 0;  ///< kept between steps: whole ones, and this member's parts
  std::size_t gradients = 0;
  std::size_t optimizer = 0;      ///< the optimizer's state, and float32 weights beside parameters of 16 bits
  std::size_t gathered = 0;       ///< layers that are whole for now
  std::size_t most_gathered = 0;  ///< the most there were
  std::size_t buckets = 0;        ///< gradients on their way
  std::size_t most_buckets = 0;
};

/// One member's part. A pass is: for each layer begin_layer(), its forward, end_layer(); then back, for each
/// layer begin_layer(), its backward, gradient() of its parameters, end_layer(). After options.accumulation
/// passes step(). All members do the same in the same order.
///
/// For one thread at a time. Others may use its communicator between two calls, all members in the same
/// order.
///
/// Errors of a member's own calls (a gradient out of order, a wrong shape) change nothing. An error of the
/// communicator ends this: the same error from then on, from all functions that need the others. Until the
/// members have agreed on a step, parameters and state stay as they were before it; what fails after that
/// leaves parameters partly of one step and partly of the next, and they are refused (whole()).
class Zero {
 public:
  /// The first values of a parameter, float32, asked for at the member of rank 0 alone.
  using Initial = std::function<Tensor(int parameter)>;

  /// A collective. kInvalidArgument, at each member, if they gave different parameters or options,
  /// or one has given some that cannot be. `group` must outlive this; it ends if a member has no first
  /// values, or no memory (kResourceExhausted).
  static Result<std::unique_ptr<Zero>> create(shards::Communicator& group,
                                              std::vector<ZeroParameter> parameters, ZeroOptions options,
                                              const Initial& initial);
  virtual ~Zero() = default;

  virtual const ZeroOptions& options() const = 0;
  virtual const std::vector<ZeroParameter>& parameters() const = 0;
  /// -1 if there is none of that name.
  virtual int index_of(std::string_view name) const = 0;
  virtual std::uint64_t steps() const = 0;
  virtual std::uint64_t skipped() const = 0;
  /// What losses are to be multiplied with before the way back; 1 but for float16.
  virtual float loss_scale() const = 0;
  virtual ZeroMemory memory() const = 0;

  /// The hooks. In stage 3 a layer's parameters are whole from begin_layer() on, which may wait for them, to
  /// the last end_layer() of as many; the order of the first pass is remembered, and in later ones what
  /// comes next is gathered meanwhile. In other stages these do nothing.
  virtual Result<void> begin_layer(int layer) = 0;
  virtual Result<void> end_layer(int layer) = 0;

  /// To be read: of options.dtype, in memory that stays in its place while the layer is whole.
  /// kFailedPrecondition: its layer is not whole.
  virtual Result<Tensor> parameter(int index) const = 0;

  /// Takes a gradient of the mean loss of this member's samples, times loss_scale(), of options.dtype or
  /// float32; its memory is free afterwards. Each parameter once a pass, the last first, zeros for what was
  /// not used. kFailedPrecondition: another one is to come, or a step.
  virtual Result<void> gradient(int index, const Tensor& gradient) = 0;

  /// A collective: the optimizer's step with the mean of all gradients since the last one.
  /// kFailedPrecondition if gradients are missing, naming the next one; nothing has been done then.
  /// kOutOfRange, at each member, if gradients are not finite, or float16 ones too large for any scale: they
  /// are dropped, parameters stay, and training can go on; and if the last step has made parameters that are
  /// too large for 16 bits: then only from a checkpoint.
  virtual Result<ZeroStep> step() = 0;

  /// A collective: forgets the gradients since the last step, and the layers that are in use. For a pass that
  /// cannot be ended, at each member after the same calls: losses that make no sense, a sample that is
  /// broken.
  virtual Result<void> drop_pass() = 0;

  /// A collective: a parameter whole, float32 and without rounding, at each member.
  virtual Result<Tensor> weights(int index) = 0;

  /// Whether parameters are all of one step.
  virtual bool whole() const = 0;

  /// A collective, between steps: a checkpoint for any number of members and any stage, in the place of the
  /// older one at `folder`, which all members see. The same outcome at each member.
  virtual Result<void> save(const std::filesystem::path& folder) = 0;
  /// A collective, before the first gradient of a pass. kNotFound or kDataLoss naming the file;
  /// kFailedPrecondition: of other parameters or another optimizer. After an error parameters are refused.
  virtual Result<void> restore(const std::filesystem::path& folder) = 0;

  /// A collective of the new group: goes on in it after the old one has ended, with what its members hold, if
  /// nothing is cut (stage 0): those who are behind get the others' state. Gradients of the step under way
  /// are dropped. kFailedPrecondition in other stages: go on from a checkpoint.
  virtual Result<void> reform(shards::Communicator& group) = 0;
};

}  // namespace troupe::training
