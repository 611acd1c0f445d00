// Matrix products by cuBLASLt. It knows matrices by columns: a row-major c = a b is to it the transpose,
// c^T = b^T a^T, of matrices that lie the same way in memory.
#include "gpu_product.hpp"

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "cuda/on_device.hpp"
#include "gpu_dense.hpp"

namespace troupe::kernels::gpu {
namespace {

constexpr const char* kName = "multiply";
constexpr std::size_t kMostPlans = 4096;

/// cuBLASLt's functions, found when it is loaded.
struct Library {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulDescCreate) make_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) drop_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) make_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) drop_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) make_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) drop_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;

  /// What is missing; empty: nothing. The library stays loaded.
  std::string load(const char* name) {
    void* const opened = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!opened) {
      const char* const why = ::dlerror();
      return why ? why : name;
    }
    std::string lacks;
    const auto find = [&](const char* symbol, auto& function) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(::dlsym(opened, symbol));
      if (!function) lacks = std::string(name) + " has no " + symbol;
    };
    find("cublasLtCreate", create);
    find("cublasLtDestroy", destroy);
    find("cublasLtMatmul", matmul);
    find("cublasLtMatmulAlgoGetHeuristic", heuristic);
    find("cublasLtMatmulDescCreate", make_operation);
    find("cublasLtMatmulDescDestroy", drop_operation);
    find("cublasLtMatmulDescSetAttribute", set_operation);
    find("cublasLtMatrixLayoutCreate", make_layout);
    find("cublasLtMatrixLayoutDestroy", drop_layout);
    find("cublasLtMatmulPreferenceCreate", make_preference);
    find("cublasLtMatmulPreferenceDestroy", drop_preference);
    find("cublasLtMatmulPreferenceSetAttribute", set_preference);
    return lacks;
  }
};

cudaDataType_t type_of(Element element) {
  return element == Element::kFloat32 ? CUDA_R_32F : element == Element::kFloat16 ? CUDA_R_16F : CUDA_R_16BF;
}

Launch failed(cublasStatus_t status) {
  const bool refused = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
  return {kName, status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation
                 : refused                            ? cudaErrorInvalidValue
                                                      : cudaErrorUnknown};
}

/// The largest power of two up to 256 at whose multiples all begin.
std::uint32_t alignment_of(const void* a, const void* b, const void* c) {
  const auto all = reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b) |
                   reinterpret_cast<std::uintptr_t>(c) | 256U;
  return static_cast<std::uint32_t>(all & (~all + 1));
}

/// How a product is done: what cuBLASLt calls its operation, its layouts and its algorithm.
struct Plan {
  const Library& library;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t left = nullptr;
  cublasLtMatrixLayout_t right = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};
  std::size_t workspace_bytes = 0;
  bool adds_bias = false;  // as part of the product

  explicit Plan(const Library& of) : library(of) {}
  ~Plan() {
    if (operation) library.drop_operation(operation);
    for (cublasLtMatrixLayout_t each : {left, right, out})
      if (each) library.drop_layout(each);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  template <class T>
  cublasStatus_t set(cublasLtMatmulDescAttributes_t attribute, const T& value) const {
    return library.set_operation(operation, attribute, &value, sizeof(value));
  }

  /// Finds how. `with_bias`: the bias is part of it.
  cublasStatus_t find(cublasLtHandle_t handle, const Product& product, bool with_bias,
                      std::uint32_t alignment) {
    const auto compute = product.element == Element::kFloat32 && product.round_factors
                             ? CUBLAS_COMPUTE_32F_FAST_TF32
                             : CUBLAS_COMPUTE_32F;
    const auto [m, n, k] =
        std::tuple(static_cast<std::uint64_t>(product.m), static_cast<std::uint64_t>(product.n),
                   static_cast<std::uint64_t>(product.k));
    const cudaDataType_t type = type_of(product.element);
    const auto layout = [&](cublasLtMatrixLayout_t& made, cudaDataType_t of, std::uint64_t rows,
                            std::uint64_t columns) {
      return library.make_layout(&made, of, rows, columns, static_cast<std::int64_t>(rows));
    };
    const cublasOperation_t left_as = product.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t right_as = product.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    adds_bias = with_bias;
    for (const cublasStatus_t status :
         {library.make_operation(&operation, compute, CUDA_R_32F),
          product.transpose_b ? layout(left, type, k, n) : layout(left, type, n, k),
          product.transpose_a ? layout(right, type, m, k) : layout(right, type, k, m),
          layout(out, type_of(product.out_element), n, m)})
      if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasStatus_t status = set(CUBLASLT_MATMUL_DESC_TRANSA, left_as);
    if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_DESC_TRANSB, right_as);
    if (with_bias && status == CUBLAS_STATUS_SUCCESS) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      const cudaDataType_t floats = CUDA_R_32F;
      status = set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, floats);
      if (status == CUBLAS_STATUS_SUCCESS) status = set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
    }
    return status == CUBLAS_STATUS_SUCCESS ? choose(handle, alignment) : status;
  }

 private:
  cublasStatus_t choose(cublasLtHandle_t handle, std::uint32_t alignment) {
    cublasLtMatmulPreference_t preference = nullptr;
    cublasStatus_t status = library.make_preference(&preference);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    const auto set_preference = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      if (status == CUBLAS_STATUS_SUCCESS)
        status = library.set_preference(preference, attribute, &value, sizeof(value));
    };
    set_preference(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{Products::kWorkspaceBytes});
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set_preference(attribute, alignment);
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    if (status == CUBLAS_STATUS_SUCCESS)
      status = library.heuristic(handle, operation, left, right, out, out, preference, 1, &found, &count);
    library.drop_preference(preference);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    algorithm = found.algo;
    workspace_bytes = found.workspaceSize;
    return CUBLAS_STATUS_SUCCESS;
  }
};

class LtMultiplier final : public Multiplier {
 public:
  LtMultiplier(int device, const char* library) : device_(device), missing_(library_.load(library)) {}
  ~LtMultiplier() override {
    plans_.clear();
    if (handle_) library_.destroy(handle_);
  }
  LtMultiplier(const LtMultiplier&) = delete;
  LtMultiplier& operator=(const LtMultiplier&) = delete;

  Launch multiply(Place place, const Product& product, const void* a, const void* b, void* c,
                  void* workspace) override {
    if (!missing_.empty()) return {kName, Products::kNoLibrary};
    if (place.device() != device_) return {kName, cudaErrorInvalidDevice};
    const OnDevice here(device_);
    return give(place, product, a, b, c, workspace);
  }
  std::string missing() const override { return missing_; }

 private:
  // All that an algorithm may depend on.
  using Key = std::tuple<Element, Element, bool, bool, bool, bool, bool, std::int64_t, std::int64_t,
                         std::int64_t, std::uint32_t>;

  Launch give(Place place, const Product& product, const void* a, const void* b, void* c, void* workspace) {
    const std::lock_guard lock(mutex_);
    if (!handle_)
      if (const cublasStatus_t status = library_.create(&handle_); status != CUBLAS_STATUS_SUCCESS)
        return failed(status);
    const auto found = plan_of(product, alignment_of(a, b, c));
    if (const auto* status = std::get_if<cublasStatus_t>(&found)) return failed(*status);
    const Plan& plan = *std::get<const Plan*>(found);
    if (plan.adds_bias)
      if (const cublasStatus_t status = plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
          status != CUBLAS_STATUS_SUCCESS)
        return failed(status);
    const cublasStatus_t status =
        library_.matmul(handle_, plan.operation, &product.alpha, b, plan.left, a, plan.right, &product.beta,
                        c, plan.out, c, plan.out, &plan.algorithm, workspace, plan.workspace_bytes,
                        static_cast<cudaStream_t>(place.stream()));
    if (status != CUBLAS_STATUS_SUCCESS) return failed(status);
    if (!product.bias || plan.adds_bias) return {kName, 0};
    return gpu::add_bias(place, product.out_element, c, product.bias, product.m, product.n, c);
  }

  std::variant<const Plan*, cublasStatus_t> plan_of(const Product& product, std::uint32_t alignment) {
    const Key key{product.element,
                  product.out_element,
                  product.transpose_a,
                  product.transpose_b,
                  product.bias != nullptr,
                  product.beta != 0,
                  product.round_factors,
                  product.m,
                  product.n,
                  product.k,
                  alignment};
    if (const auto known = plans_.find(key); known != plans_.end()) return known->second.get();
    auto plan = std::make_unique<Plan>(library_);
    cublasStatus_t status = plan->find(handle_, product, product.bias != nullptr, alignment);
    if (status != CUBLAS_STATUS_SUCCESS && product.bias) {
      // Not every pair of types has products with a bias of float32: it is added afterwards.
      plan = std::make_unique<Plan>(library_);
      status = plan->find(handle_, product, false, alignment);
    }
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (plans_.size() >= kMostPlans) plans_.clear();
    return plans_.emplace(key, std::move(plan)).first->second.get();
  }

  Library library_;
  const int device_;
  const std::string missing_;
  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

std::unique_ptr<Multiplier> make_multiplier(int device, const char* library) {
  return std::make_unique<LtMultiplier>(device, library);
}

}  // namespace troupe::kernels::gpu
