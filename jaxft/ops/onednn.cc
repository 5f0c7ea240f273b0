// The 2-d convolution of oneDNN and its two gradients, as one custom call for XLA on a CPU (foreign function interface).
//
// Activations keep their layout (NHWC); kernels (HWIO) are reordered inside the call to the layout that oneDNN prefers.
// A call loops over trials: the first axis of each argument has the size of the result, or 1 if all trials share it.
//
// `jaxft/ops/onednn.py` compiles and loads this file; the functions that Python calls are at its end.

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

extern "C" void omp_set_num_threads(int);  // of the OpenMP that oneDNN itself was linked with

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Geometry = std::vector<int64_t>;

constexpr size_t kMaxPrimitives = 1024;            // kept by their geometry, the least recently used dropped first
constexpr size_t kMaxKeptScratchBytes = 64 << 20;  // a thread keeps at most so much when its next call needs less
constexpr size_t kAlignment = 64, kPage = 4096;

// What a call computes. The fields are in the order of the numbers in the attribute of the call.
enum Operation : int64_t { kOutput = 0, kImages = 1, kKernel = 2 };
enum Field {
  kOperation, kBfloat16, kBatch, kHeight, kWidth, kChannels, kOutHeight, kOutWidth, kFeatures, kKernelHeight,
  kKernelWidth, kGroups, kStrideY, kStrideX, kTop, kBottom, kLeft, kRight, kDilationY, kDilationX, kNumFields
};

dnnl::engine& Engine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// The primitive of one geometry, and the reorders of its kernels. It has no state, so calls may share it.
class Convolution {
 public:
  explicit Convolution(const Geometry& g) : operation_(g[kOperation]) {
    const auto type = g[kBfloat16] ? memory::data_type::bf16 : memory::data_type::f32;
    const int64_t groups = g[kGroups], inputs = g[kChannels] / groups, features = g[kFeatures];
    const memory::dims strides = {g[kStrideY], g[kStrideX]}, before = {g[kTop], g[kLeft]},
                       after = {g[kBottom], g[kRight]}, dilations = {g[kDilationY] - 1, g[kDilationX] - 1};
    images_ = memory::desc({g[kBatch], g[kChannels], g[kHeight], g[kWidth]}, type, memory::format_tag::nhwc);
    output_ = memory::desc({g[kBatch], features, g[kOutHeight], g[kOutWidth]}, type, memory::format_tag::nhwc);
    memory::dims shape = {features, inputs, g[kKernelHeight], g[kKernelWidth]};
    memory::dims steps = {1, features, g[kKernelWidth] * inputs * features, inputs * features};
    if (groups > 1) {
      shape[0] = features / groups;
      shape.insert(shape.begin(), groups);
      steps.insert(steps.begin(), features / groups);
    }
    kernel_ = memory::desc(shape, type, steps);
    const memory::desc any(shape, type, memory::format_tag::any);
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    attr.set_fpmath_mode(dnnl::fpmath_mode::strict);
    const auto direct = dnnl::algorithm::convolution_direct;
    const dnnl::convolution_forward::primitive_desc forward(Engine(), dnnl::prop_kind::forward_training, direct, images_,
                                                            any, output_, strides, dilations, before, after, attr);
    if (operation_ == kOutput) {
      Keep(forward, forward.weights_desc());
    } else if (operation_ == kImages) {
      const dnnl::convolution_backward_data::primitive_desc backward(Engine(), direct, images_, any, output_, strides,
                                                                     dilations, before, after, forward, attr);
      Keep(backward, backward.weights_desc());
    } else {
      const dnnl::convolution_backward_weights::primitive_desc backward(Engine(), direct, images_, any, output_, strides,
                                                                        dilations, before, after, forward, attr);
      Keep(backward, backward.diff_weights_desc());
    }
  }

  size_t scratch_bytes() const {
    return Aligned(scratch_.get_size()) + Aligned(reorder_scratch_.get_size()) + kernel_bytes_;
  }

  // Computes one trial; `scratch` has `scratch_bytes()` bytes.
  void Run(char* images, char* kernel, char* output, char* scratch, const dnnl::stream& stream) const {
    const auto of = [](const memory::desc& desc, char* data) { return memory(desc, Engine(), data); };
    char* reorder_scratch = scratch + Aligned(scratch_.get_size());
    char* laid_out = kernel_bytes_ ? reorder_scratch + Aligned(reorder_scratch_.get_size()) : kernel;
    const auto reorder = [&](char* from, const memory::desc& from_desc, char* to, const memory::desc& to_desc) {
      if (kernel_bytes_) {
        reorder_.execute(stream, {{DNNL_ARG_FROM, of(from_desc, from)},
                                  {DNNL_ARG_TO, of(to_desc, to)},
                                  {DNNL_ARG_SCRATCHPAD, of(reorder_scratch_, reorder_scratch)}});
      }
    };
    const memory pad = of(scratch_, scratch);
    if (operation_ == kKernel) {
      primitive_.execute(stream, {{DNNL_ARG_SRC, of(images_, images)},
                                  {DNNL_ARG_DIFF_DST, of(output_, output)},
                                  {DNNL_ARG_DIFF_WEIGHTS, of(wanted_, laid_out)},
                                  {DNNL_ARG_SCRATCHPAD, pad}});
      reorder(laid_out, wanted_, kernel, kernel_);
    } else {
      reorder(kernel, kernel_, laid_out, wanted_);
      const bool forward = operation_ == kOutput;
      primitive_.execute(stream, {{forward ? DNNL_ARG_SRC : DNNL_ARG_DIFF_SRC, of(images_, images)},
                                  {DNNL_ARG_WEIGHTS, of(wanted_, laid_out)},
                                  {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, of(output_, output)},
                                  {DNNL_ARG_SCRATCHPAD, pad}});
    }
  }

 private:
  template <typename Desc>
  void Keep(const Desc& desc, memory::desc wanted) {
    // The reference implementation of oneDNN is slower than XLA.
    if (std::string(desc.impl_info_str()).rfind("ref", 0) == 0) throw std::runtime_error("no fast implementation");
    primitive_ = dnnl::primitive(desc.get());
    scratch_ = desc.scratchpad_desc();
    wanted_ = wanted;
    if (wanted_ == kernel_) return;
    const bool back = operation_ == kKernel;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::reorder::primitive_desc reorder(Engine(), back ? wanted_ : kernel_, Engine(), back ? kernel_ : wanted_, attr);
    reorder_ = dnnl::reorder(reorder);
    reorder_scratch_ = reorder.scratchpad_desc();
    kernel_bytes_ = Aligned(wanted_.get_size());
  }

  int64_t operation_;
  memory::desc images_, kernel_, output_, wanted_, scratch_, reorder_scratch_;
  dnnl::primitive primitive_, reorder_;
  size_t kernel_bytes_ = 0;
};

// The primitives, by geometry.
class Primitives {
 public:
  std::shared_ptr<const Convolution> Get(const Geometry& geometry) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = by_geometry_.find(geometry);
    if (found != by_geometry_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
    } else {
      recent_.emplace_front(geometry, std::make_shared<const Convolution>(geometry));
      by_geometry_[geometry] = recent_.begin();
      if (recent_.size() > kMaxPrimitives) {
        by_geometry_.erase(recent_.back().first);
        recent_.pop_back();
      }
    }
    return recent_.front().second;
  }

  size_t size() {
    std::lock_guard<std::mutex> lock(mutex_);
    return recent_.size();
  }

 private:
  using Entry = std::pair<Geometry, std::shared_ptr<const Convolution>>;
  std::mutex mutex_;
  std::list<Entry> recent_;
  std::map<Geometry, std::list<Entry>::iterator> by_geometry_;
};

// Runs the calls. With several threads, all calls run on one thread with one OpenMP team, however many threads XLA calls
// from. With one thread per call, the caller runs the call directly.
class Team {
 public:
  explicit Team(int num_threads) : num_threads_(num_threads) {
    if (num_threads_ > 1) std::thread([this] { Serve(); }).detach();
  }

  // Runs `work`, waits for it, and rethrows its exception.
  void Run(const std::function<void()>& work) {
    if (num_threads_ == 1) {
      thread_local const bool alone = (omp_set_num_threads(1), true);
      return alone ? work() : void();
    }
    Job job{work, nullptr, false};
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.push_back(&job);
    added_.notify_one();
    finished_.wait(lock, [&] { return job.done; });
    lock.unlock();
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  struct Job {
    const std::function<void()>& work;
    std::exception_ptr error;
    bool done;
  };

  void Serve() {
    omp_set_num_threads(num_threads_);
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      added_.wait(lock, [&] { return !jobs_.empty(); });
      Job* job = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      try {
        job->work();
      } catch (...) {
        job->error = std::current_exception();
      }
      lock.lock();
      job->done = true;
      finished_.notify_all();
    }
  }

  const int num_threads_;
  std::mutex mutex_;
  std::condition_variable added_, finished_;
  std::deque<Job*> jobs_;
};

// Both are never destroyed, because the thread of the team outlives `main`.
Team* team = nullptr;
Primitives* primitives = new Primitives();

// Returns the scratch memory of this thread, which keeps it between calls up to a bound.
char* Scratch(size_t bytes) {
  thread_local std::unique_ptr<char, decltype(&std::free)> kept(nullptr, &std::free);
  thread_local size_t kept_bytes = 0;
  if (bytes > kept_bytes || kept_bytes > kMaxKeptScratchBytes) {
    kept.reset();
    kept_bytes = 0;
    kept.reset(static_cast<char*>(std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage)));
    if (kept == nullptr) throw std::bad_alloc();
    kept_bytes = bytes;
  }
  return kept.get();
}

ffi::Error Convolve(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> result,
                    ffi::Span<const int64_t> attribute) {
  try {
    const Geometry geometry(attribute.begin(), attribute.end());
    const int64_t trials = result->dimensions()[0], a_trials = a.dimensions()[0], b_trials = b.dimensions()[0];
    team->Run([&] {
      const auto convolution = primitives->Get(geometry);
      const int64_t operation = geometry[kOperation];
      thread_local dnnl::stream stream(Engine());
      char* scratch = Scratch(convolution->scratch_bytes());
      const size_t a_step = a.size_bytes() / a_trials, b_step = b.size_bytes() / b_trials,
                   result_step = result->size_bytes() / trials;
      for (int64_t trial = 0; trial < trials; ++trial) {
        char* x = static_cast<char*>(a.untyped_data()) + (a_trials == 1 ? 0 : trial * a_step);
        char* y = static_cast<char*>(b.untyped_data()) + (b_trials == 1 ? 0 : trial * b_step);
        char* z = static_cast<char*>(result->untyped_data()) + trial * result_step;
        if (operation == kOutput) convolution->Run(x, y, z, scratch, stream);
        if (operation == kImages) convolution->Run(z, y, x, scratch, stream);
        if (operation == kKernel) convolution->Run(x, z, y, scratch, stream);
      }
      stream.wait();
    });
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN: ") + error.what());
  }
}

// The functions below never throw.
int Fails(const std::function<void()>& work) {
  try {
    work();
    return 0;
  } catch (...) {
    return 1;
  }
}

}  // namespace

extern "C" {

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxft_convolve, Convolve,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<ffi::Span<const int64_t>>("geometry"));

// Starts oneDNN with a number of threads; returns 0, or 1 if it fails.
int jaxft_begin(int num_threads) {
  return Fails([&] {
    dnnl::set_primitive_cache_capacity(0);  // oneDNN's own, beside ours
    team = new Team(num_threads);
  });
}

const char* jaxft_version() {
  const dnnl_version_t& v = *dnnl_version();
  static const std::string text =
      std::to_string(v.major) + "." + std::to_string(v.minor) + "." + std::to_string(v.patch);
  return text.c_str();
}

const char* jaxft_isa() {
  using isa = dnnl::cpu_isa;
  static const std::map<isa, const char*> names = {
      {isa::sse41, "sse41"}, {isa::avx, "avx"}, {isa::avx2, "avx2"}, {isa::avx2_vnni, "avx2_vnni"},
      {isa::avx2_vnni_2, "avx2_vnni_2"}, {isa::avx512_core, "avx512_core"}, {isa::avx512_core_vnni, "avx512_core_vnni"},
      {isa::avx512_core_bf16, "avx512_core_bf16"}, {isa::avx512_core_fp16, "avx512_core_fp16"},
      {isa::avx512_core_amx, "avx512_core_amx"}, {isa::avx512_core_amx_fp16, "avx512_core_amx_fp16"}};
  const auto found = names.find(dnnl::get_effective_cpu_isa());
  return found == names.end() ? "unknown" : found->second;
}

// Creates the primitive of a geometry; returns 0, or 1 if oneDNN has no fast implementation.
int jaxft_prepare(const int64_t* geometry, int64_t count) {
  return Fails([&] {
    const Geometry wanted(geometry, geometry + count);
    if (count != kNumFields) throw std::invalid_argument("wrong number of fields");
    team->Run([&] { primitives->Get(wanted); });
  });
}

// Returns the number of cached primitives.
int64_t jaxft_num_kept() { return static_cast<int64_t>(primitives->size()); }
}
