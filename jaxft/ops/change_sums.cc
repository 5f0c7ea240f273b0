// Sums and maxima over pairs of values (w0, w) of many arrays, for each run and filter, in one pass over memory.
//
// An array is [outer, filters, inner] of float32. The filters are the last axis (inner = 1), the first (outer = 1), or
// between. Each block of rows is read for all runs before the next one, so a w0 that runs share is read from memory
// once. At most kRows + 1 rows are added in float32, and the rest in double.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

// A function is compiled for several instruction sets, and the best one is chosen when it is loaded.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_ALL_PROCESSORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_ALL_PROCESSORS
#endif

namespace {

constexpr int64_t kTerms = 6;     // (w - w0)^2, w0^2, w^2, w w0, changed signs, and the maximum of |w - w0|
constexpr int64_t kWidth = 1024;  // filters that are summed together
constexpr int64_t kNarrow = 32;   // sums that are kept of a filter whose values are adjacent
constexpr int64_t kRows = 64;     // rows of a block
constexpr int64_t kItem = 1 << 20;  // values of a piece of work, of filters whose values are adjacent

struct Leaf {
  const float* const* before;  // of each run
  const float* const* after;   // of each run
  int64_t outer, filters, inner;
  int64_t column;  // of the first filter in the result

  bool has_adjacent_values() const { return inner > 1 || filters == 1; }  // of a filter
};

struct Item {
  const Leaf* leaf;
  int64_t first, count;  // filters
};

struct Sums {
  float terms[kTerms][kWidth];
};

FOR_ALL_PROCESSORS void add_rows(const float* __restrict before, const float* __restrict after, int64_t rows,
                                 int64_t stride, int64_t width, Sums* __restrict sums) {
  float* __restrict changes = sums->terms[0];
  float* __restrict befores = sums->terms[1];
  float* __restrict afters = sums->terms[2];
  float* __restrict products = sums->terms[3];
  float* __restrict flips = sums->terms[4];
  float* __restrict peaks = sums->terms[5];
  constexpr int64_t kTogether = 8;  // rows whose values are added before the sums are stored
  int64_t row = 0;
  for (; row + kTogether <= rows; row += kTogether) {
    const float* b = before + row * stride;
    const float* a = after + row * stride;
    for (int64_t i = 0; i < width; ++i) {
      float change = 0, of_before = 0, of_after = 0, product = 0, flip = 0, peak = peaks[i];
      for (int64_t j = 0; j < kTogether; ++j) {
        const float x = b[j * stride + i], y = a[j * stride + i], d = y - x, size = std::fabs(d);
        const float low = x < y ? x : y, high = x < y ? y : x;
        change += d * d;
        of_before += x * x;
        of_after += y * y;
        product += x * y;
        flip += (low < 0) & (high > 0) ? 1.0f : 0.0f;
        peak = size > peak ? size : peak;
      }
      changes[i] += change;
      befores[i] += of_before;
      afters[i] += of_after;
      products[i] += product;
      flips[i] += flip;
      peaks[i] = peak;
    }
  }
  for (; row < rows; ++row) {
    const float* b = before + row * stride;
    const float* a = after + row * stride;
    for (int64_t i = 0; i < width; ++i) {
      const float x = b[i], y = a[i], d = y - x, size = std::fabs(d);
      const float low = x < y ? x : y, high = x < y ? y : x;
      changes[i] += d * d;
      befores[i] += x * x;
      afters[i] += y * y;
      products[i] += x * y;
      flips[i] += (low < 0) & (high > 0) ? 1.0f : 0.0f;
      peaks[i] = size > peaks[i] ? size : peaks[i];
    }
  }
}

// Adds the sums of a block to `totals`: [kTerms, width]. A comparison with nan is false, so the maximum does not have
// the nan that the sum of squares has.
void add_block(const Sums& sums, int64_t width, double* totals) {
  for (int64_t term = 0; term < kTerms - 1; ++term) {
    for (int64_t i = 0; i < width; ++i) totals[term * width + i] += sums.terms[term][i];
  }
  double* peaks = totals + (kTerms - 1) * width;
  for (int64_t i = 0; i < width; ++i) {
    if (std::isnan(sums.terms[0][i])) {
      peaks[i] = NAN;
    } else if (sums.terms[kTerms - 1][i] > peaks[i]) {  // stays nan
      peaks[i] = sums.terms[kTerms - 1][i];
    }
  }
}

struct Work {
  int64_t num_runs, num_columns;
  double* out;  // [kTerms, runs, columns], zeros at first
  std::vector<Item> items;
  std::atomic<int64_t> next{0};

  // Adds the rows at `offset`, each of `width` values, and a last row of `tail` values, to the sums of `filters`.
  // Value i of a row belongs to filter i modulo `filters`.
  void add(const Leaf& leaf, int64_t offset, int64_t rows, int64_t stride, int64_t width, int64_t tail,
           int64_t filters, int64_t column, double* totals) const {
    std::fill_n(totals, num_runs * kTerms * width, 0.0);
    for (int64_t row = 0, is_last = 0; !is_last; row += kRows) {
      const int64_t whole = std::min(kRows, rows - row);
      is_last = row + kRows >= rows;
      for (int64_t run = 0; run < num_runs; ++run) {
        const float* before = leaf.before[run] + offset;
        const float* after = leaf.after[run] + offset;
        double* total = totals + run * kTerms * width;
        Sums sums;
        for (auto& term : sums.terms) std::fill_n(term, width, 0.0f);
        add_rows(before + row * stride, after + row * stride, whole, stride, width, &sums);
        if (is_last && tail > 0) add_rows(before + rows * stride, after + rows * stride, 1, stride, tail, &sums);
        add_block(sums, width, total);
        if (is_last) store(total, width, filters, out + run * num_columns + column);
      }
    }
  }

  // Adds `totals`, [kTerms, width], to the filters of one run in the result.
  void store(const double* totals, int64_t width, int64_t filters, double* result) const {
    for (int64_t term = 0; term < kTerms; ++term) {
      double* values = result + term * num_runs * num_columns;
      for (int64_t i = 0; i < width; ++i) {
        const double value = totals[term * width + i];
        double& target = values[i % filters];
        if (term < kTerms - 1) {
          target += value;
        } else if (std::isnan(value) || value > target) {
          target = value;
        }
      }
    }
  }

  // Does one piece of work after another. `totals` is memory for [runs, kTerms, kWidth].
  void run(double* totals) {
    for (;;) {
      const int64_t number = next++;
      if (number >= static_cast<int64_t>(items.size())) return;
      const Item& item = items[number];
      const Leaf& leaf = *item.leaf;
      const int64_t column = leaf.column + item.first;
      if (leaf.has_adjacent_values()) {
        for (int64_t outer = 0; outer < leaf.outer; ++outer) {
          for (int64_t i = 0; i < item.count; ++i) {
            const int64_t offset = (outer * leaf.filters + item.first + i) * leaf.inner;
            const int64_t rows = leaf.inner / kNarrow, tail = leaf.inner % kNarrow;
            add(leaf, offset, rows, kNarrow, kNarrow, tail, 1, column + i, totals);
          }
        }
      } else if (leaf.filters < kWidth) {
        const int64_t width = leaf.filters * (kWidth / leaf.filters), size = leaf.outer * leaf.filters;
        add(leaf, 0, size / width, width, width, size % width, leaf.filters, column, totals);
      } else {
        add(leaf, item.first, leaf.outer, leaf.filters, item.count, 0, item.count, column, totals);
      }
    }
  }
};

}  // namespace

extern "C" {

// Writes [kTerms, runs, columns] to `out`, which contains zeros. `arrays` is [num_leaves, 2, runs], with each w0 and w.
// `shapes` is [num_leaves, 4], with the last fields of `Leaf`. Returns 0, or 1 if there is not enough memory.
int jaxft_change_sums(const float* const* arrays, const int64_t* shapes, int64_t num_leaves, int64_t num_runs,
                      int64_t num_columns, int64_t num_threads, double* out) {
  try {
    std::vector<Leaf> all(num_leaves);
    Work work;
    work.num_runs = num_runs;
    work.num_columns = num_columns;
    work.out = out;
    for (int64_t i = 0; i < num_leaves; ++i) {
      const float* const* before = arrays + 2 * i * num_runs;
      const int64_t* shape = shapes + 4 * i;
      Leaf& leaf = all[i];
      leaf = {before, before + num_runs, shape[0], shape[1], shape[2], shape[3]};
      if (leaf.outer * leaf.filters * leaf.inner == 0) continue;
      if (leaf.filters == 1) leaf.inner *= std::exchange(leaf.outer, 1);
      const int64_t count = leaf.has_adjacent_values() ? std::max<int64_t>(1, kItem / (leaf.outer * leaf.inner)) : kWidth;
      for (int64_t first = 0; first < leaf.filters; first += count) {
        work.items.push_back({&leaf, first, std::min(count, leaf.filters - first)});
      }
    }
    const auto size = [](const Item& item) { return item.count * item.leaf->outer * item.leaf->inner; };
    std::sort(work.items.begin(), work.items.end(), [&](const Item& a, const Item& b) { return size(a) > size(b); });

    const int64_t memory = num_runs * kTerms * kWidth;
    std::vector<double> totals(num_threads * memory);
    std::vector<std::thread> threads;
    try {
      for (int64_t i = 1; i < num_threads; ++i) {
        threads.emplace_back([&, i] { work.run(totals.data() + i * memory); });
      }
    } catch (const std::system_error&) {
      // The threads that started do the work.
    }
    work.run(totals.data());
    for (std::thread& thread : threads) thread.join();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
}
