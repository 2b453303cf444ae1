// Memory, matrix products, random numbers and the moving of rows.
#include "model/backend_cpu.hpp"

#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "model/assemble.hpp"
#include "model/cpu_kernels.hpp"
#include "model/error.hpp"

namespace joint_recall {
namespace {

RandomKey at_step(RandomKey key, const RandomStep* at) {
  if (at != nullptr) key.step = at->step, key.part = at->part, key.first = at->first;
  return key;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int num_threads) {
  return std::make_unique<CpuBackend>(num_threads);
}

CpuBackend::CpuBackend(int num_threads)
    : num_threads_(num_threads > 0 ? num_threads : omp_get_max_threads()) {
  if (num_threads < 0) {
    throw ModelError(fmt::format("num_threads: expected 0 or more, got {}", num_threads));
  }
  if (num_threads > 0) openblas_set_num_threads(num_threads);
  hax_context_options options = {};
  options.struct_size = sizeof options;
  options.num_threads = num_threads;
  if (hax_context_create(&options, &context_) != HAX_SUCCESS) {
    throw ModelError(fmt::format("hax_context_create: {}", hax_last_error()));
  }
}

CpuBackend::~CpuBackend() { hax_context_destroy(context_); }

void* CpuBackend::allocate(size_t bytes) {
  constexpr size_t kAlignment = 256;
  void* memory = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  if (memory == nullptr) throw ModelError(fmt::format("no memory for {} bytes", bytes));
  return memory;
}

void CpuBackend::release(void* memory) { std::free(memory); }

void CpuBackend::copy_in(void* target, const void* host, size_t bytes) {
  if (bytes > 0) std::memcpy(target, host, bytes);
}

void CpuBackend::copy_out(void* host, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(host, source, bytes);
}

void CpuBackend::copy_within(void* target, const void* source, size_t bytes) {
  if (bytes > 0) std::memcpy(target, source, bytes);
}

void CpuBackend::run(const WorkKey&, const std::function<void()>& work) { work(); }

void CpuBackend::zero(void* memory, size_t bytes) {
  if (bytes > 0) std::memset(memory, 0, bytes);
}

void CpuBackend::gemm(bool transpose_a, bool transpose_b, ConstTokens a, ConstTokens b,
                      ConstTokens addend, Tokens c) {
  if (c.rows == 0 || c.columns == 0) return;
  if (addend.present() && addend.data != c.data) copy(addend, c);
  const ConstMatrix left = a.fp32(), right = b.fp32();
  const Matrix out = c.fp32();
  const int64_t inner = transpose_a ? a.rows : a.columns;
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, static_cast<blasint>(out.rows),
              static_cast<blasint>(out.columns), static_cast<blasint>(inner), 1.0f, left.data,
              static_cast<blasint>(left.stride), right.data, static_cast<blasint>(right.stride),
              addend.present() ? 1.0f : 0.0f, out.data, static_cast<blasint>(out.stride));
}

void CpuBackend::assemble(const ItemTokens& tokens, const BatchArrays& out) {
  for_row_chunks(out.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) assembling::fill_row(tokens, out, row);
  });
  for (int64_t ask = 0; ask < out.asked; ++ask) assembling::fill_asked(tokens, out, ask);
}

void CpuBackend::gather_rows(ConstTokens table, const int32_t* index, Tokens out) {
  const ConstMatrix from = table.fp32();
  const Matrix to = out.fp32();
  for_row_chunks(to.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(from.row(index[r]), to.columns, to.row(r));
    }
  });
}

void CpuBackend::scatter_add_rows(ConstTokens d_out, const int32_t* index, Matrix d_table) {
  // Threads share out the columns, so every sum runs over the rows in order.
  constexpr int64_t kColumns = 16;
  const ConstMatrix rows = d_out.fp32();
  const int64_t blocks = (rows.columns + kColumns - 1) / kColumns;
#pragma omp parallel for schedule(static) num_threads(num_threads_)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kColumns, last = std::min(first + kColumns, rows.columns);
    for (int64_t r = 0; r < rows.rows; ++r) {
      const float* source = rows.row(r);
      float* target = d_table.row(index[r]);
      for (int64_t c = first; c < last; ++c) target[c] += source[c];
    }
  }
}

void CpuBackend::scatter_rows(ConstTokens source, const int32_t* index, Tokens target) {
  const ConstMatrix from = source.fp32();
  const Matrix to = target.fp32();
  for_row_chunks(from.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(from.row(r), from.columns, to.row(index[r]));
    }
  });
}

void CpuBackend::mask_rows(const uint8_t* mask, Tokens x) {
  const Matrix m = x.fp32();
  for_row_chunks(m.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (mask[r] == 0) std::fill_n(m.row(r), m.columns, 0.0f);
    }
  });
}

void CpuBackend::add(ConstTokens source, Tokens target) {
  const ConstMatrix addend = source.fp32();
  const Matrix sum = target.fp32();
  for_row_chunks(sum.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* from = addend.row(r);
      float* to = sum.row(r);
      for (int64_t c = 0; c < sum.columns; ++c) to[c] += from[c];
    }
  });
}

void CpuBackend::random_normal(const RandomKey& key, const RandomStep* at, int64_t count,
                               float* out) {
  const RandomKey own = at_step(key, at);
  for_row_chunks(count, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] = joint_recall::random_normal(own, static_cast<uint64_t>(i));
    }
  });
}

void CpuBackend::random_uniform(const RandomKey& key, const RandomStep* at, int64_t count,
                                float* out) {
  const RandomKey own = at_step(key, at);
  for_row_chunks(count, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] = joint_recall::random_uniform(own, static_cast<uint64_t>(i));
    }
  });
}

void CpuBackend::top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                               int64_t items, int64_t sequences, int64_t length, int64_t count,
                               int32_t* pick) {
  std::fill(pick + items * count, pick + sequences * count, -1);
#pragma omp parallel for schedule(static) num_threads(num_threads_)
  for (int64_t s = 0; s < items; ++s) {
    const int64_t first = offset != nullptr ? offset[s] : s * length;
    const int64_t size = offset != nullptr ? offset[s + 1] - first : length;
    std::vector<int32_t> order(static_cast<size_t>(size));
    for (int64_t t = 0; t < size; ++t) order[static_cast<size_t>(t)] = static_cast<int32_t>(t);
    const float* draws = noise + first;
    const uint8_t* real = mask == nullptr ? nullptr : mask + first;
    const auto before = [&](int32_t a, int32_t b) {
      if (real != nullptr && (real[a] != 0) != (real[b] != 0)) return real[a] != 0;
      return draws[a] != draws[b] ? draws[a] > draws[b] : a < b;
    };
    const int64_t filled = std::min(count, size);
    std::partial_sort(order.begin(), order.begin() + filled, order.end(), before);
    int32_t* row = pick + s * count;
    std::copy_n(order.begin(), filled, row);
    std::fill(row + filled, row + count, -1);
  }
}

}  // namespace joint_recall
