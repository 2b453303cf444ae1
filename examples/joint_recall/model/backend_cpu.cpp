// Memory, matrix products, random numbers and the moving of rows.
#include "model/backend_cpu.hpp"

#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "model/cpu_kernels.hpp"
#include "model/error.hpp"

namespace joint_recall {

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

void CpuBackend::gemm(bool transpose_a, bool transpose_b, float alpha, ConstMatrix a, ConstMatrix b,
                      float beta, Matrix c) {
  if (c.rows == 0 || c.columns == 0) return;
  const int64_t inner = transpose_a ? a.rows : a.columns;
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, static_cast<blasint>(c.rows),
              static_cast<blasint>(c.columns), static_cast<blasint>(inner), alpha, a.data,
              static_cast<blasint>(a.stride), b.data, static_cast<blasint>(b.stride), beta, c.data,
              static_cast<blasint>(c.stride));
}

void CpuBackend::gather_rows(ConstMatrix table, const int32_t* index, Matrix out) {
  for_row_chunks(out.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(table.row(index[r]), out.columns, out.row(r));
    }
  });
}

void CpuBackend::scatter_add_rows(ConstMatrix d_out, const int32_t* index, Matrix d_table) {
  // Threads share out the columns, so every sum runs over the rows in order.
  constexpr int64_t kColumns = 16;
  const int64_t blocks = (d_out.columns + kColumns - 1) / kColumns;
#pragma omp parallel for schedule(static) num_threads(num_threads_)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * kColumns, last = std::min(first + kColumns, d_out.columns);
    for (int64_t r = 0; r < d_out.rows; ++r) {
      const float* source = d_out.row(r);
      float* target = d_table.row(index[r]);
      for (int64_t c = first; c < last; ++c) target[c] += source[c];
    }
  }
}

void CpuBackend::scatter_rows(ConstMatrix source, const int32_t* index, Matrix target) {
  for_row_chunks(source.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(source.row(r), source.columns, target.row(index[r]));
    }
  });
}

void CpuBackend::mask_rows(const uint8_t* mask, Matrix x) {
  for_row_chunks(x.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (mask[r] == 0) std::fill_n(x.row(r), x.columns, 0.0f);
    }
  });
}

void CpuBackend::add(float scale, ConstMatrix source, Matrix target) {
  for_row_chunks(target.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* from = source.row(r);
      float* to = target.row(r);
      for (int64_t c = 0; c < target.columns; ++c) to[c] += scale * from[c];
    }
  });
}

void CpuBackend::copy(ConstMatrix source, Matrix target) {
  for_row_chunks(target.rows, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(source.row(r), target.columns, target.row(r));
    }
  });
}

void CpuBackend::random_normal(const RandomKey& key, int64_t count, float* out) {
  for_row_chunks(count, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] = joint_recall::random_normal(key, static_cast<uint64_t>(i));
    }
  });
}

void CpuBackend::random_uniform(const RandomKey& key, int64_t count, float* out) {
  for_row_chunks(count, num_threads_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] = joint_recall::random_uniform(key, static_cast<uint64_t>(i));
    }
  });
}

void CpuBackend::top_positions(const float* noise, const uint8_t* mask, const int32_t* offset,
                               int64_t sequences, int64_t length, int64_t count, int32_t* pick) {
#pragma omp parallel for schedule(static) num_threads(num_threads_)
  for (int64_t s = 0; s < sequences; ++s) {
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
