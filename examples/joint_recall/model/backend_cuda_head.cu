// The end of a model in one pass: asked rows, norm, logits, cross entropy and the gradient of the stream's rows.
#include "model/cuda_quad_launch.cuh"

namespace joint_recall {
namespace {

using namespace cuda_quads;

constexpr int kHeadThreads = 128;

struct HeadPass {
  OctetCells<float> stream;
  const int32_t *positions, *targets;
  const float* weight;
  float eps;
  Bf16Cells table;
  int64_t rows;
  int symbols;  // rows of the table
  const float* scale;
  float* loss;
  int32_t* prediction;
  Bf16Cells normed, d_logits, d_stream;
  float* partial;
};

// Of the logits seen so far.
struct Softmax {
  float largest = -INFINITY, sum = 0.0f, target = 0.0f;
  int best = INT32_MAX;

  __device__ void add(const Octet& logits, int column, int columns, int label) {
    for (int e = 0; e < kOctet; ++e) {
      const int at = column + e;
      if (at >= columns) return;
      const float logit = logits.at[e];
      if (at == label) target = logit;
      if (logit > largest) {
        sum = sum * __expf(largest - logit) + 1.0f;
        largest = logit, best = at;
      } else {
        sum += __expf(logit - largest);
      }
    }
  }
  // With what the quad's other lanes saw; of equal logits the first is best.
  __device__ void join() {
    for (int distance = 1; distance < 4; distance *= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, largest, distance);
      const float other_sum = __shfl_xor_sync(0xffffffffu, sum, distance);
      const int other_best = __shfl_xor_sync(0xffffffffu, best, distance);
      target += __shfl_xor_sync(0xffffffffu, target, distance);
      const float most = fmaxf(largest, other);
      sum = (largest == most ? sum : sum * __expf(largest - most)) +
            (other == most ? other_sum : other_sum * __expf(other - most));
      if (other > largest || (other == largest && other_best < best)) best = other_best;
      largest = most;
    }
  }
};

template <int kGroups>
__global__ void __launch_bounds__(kHeadThreads) head_kernel(HeadPass p) {
  extern __shared__ uint4 shared[];
  constexpr int kColumns = kGroups * kGroup;
  const int groups = groups_of(p.symbols), units = groups * kGroup * kGroups * 4;
  const SharedRows table = {{shared, kGroups}};
  const SharedColumns back = {{shared + units, kGroups}};
  float* const sums = reinterpret_cast<float*>(shared + 2 * units);
  const bool trains = p.d_logits.present();
  const Place place(p.rows);
  int label[2];
  int64_t position[2];
  OctetPair x[kGroups];
  Operand left[kGroups];
  float norm_scale[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    label[i] = p.targets[place.row[i]];
    position[i] = p.positions[place.row[i]];
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      x[j].row[i] = p.stream.load(position[i], j * kGroup + place.column);
      squares += dot(x[j].row[i], x[j].row[i]);
    }
    norm_scale[i] = rsqrtf(Place::row_sum(squares) / kColumns + p.eps);
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int column = j * kGroup + place.column;
      Octet value = Bf16Cells::load_vector(p.weight, column, 0);
      for (int e = 0; e < kOctet; ++e) value.at[e] *= norm_scale[i] * x[j].row[i].at[e];
      left[j].row[i] = rounded(value);
      if (place.counts[i]) p.normed.store_units(place.row[i], column, left[j].row[i]);
    }
  }
  table.fill(p.table, p.symbols, 0, p.symbols);
  if (trains) back.fill(p.table, p.symbols, 0, p.symbols);
  SharedRows::wait();
  __syncthreads();

  Softmax softmax[2];
  for (int q = 0; q < groups; ++q) {
    const OctetPair logits = product(place, left, table, q).octets();
    const int column = q * kGroup + place.column;
    for (int i = 0; i < 2; ++i) softmax[i].add(logits.row[i], column, p.symbols, label[i]);
  }
  float log_sum[2], factor[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    softmax[i].join();
    log_sum[i] = softmax[i].largest + logf(softmax[i].sum);
    const bool asked = label[i] >= 0;
    factor[i] = trains && asked && place.counts[i] ? *p.scale : 0.0f;
    if (!place.counts[i] || place.column != 0) continue;
    p.loss[place.row[i]] = asked ? log_sum[i] - softmax[i].target : 0.0f;
    p.prediction[place.row[i]] = softmax[i].best < p.symbols ? softmax[i].best : 0;
  }
  if (!trains) return;

  Product d_normed[kGroups];
  for (int q = 0; q < groups; ++q) {
    OctetPair d = product(place, left, table, q).octets();
    const int column = q * kGroup + place.column;
    Operand d_logits;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      for (int e = 0; e < kOctet; ++e) {
        const int at = column + e;
        const float share = __expf(d.row[i].at[e] - log_sum[i]) - (at == label[i] ? 1.0f : 0.0f);
        d.row[i].at[e] = at < p.symbols ? factor[i] * share : 0.0f;
      }
      d_logits.row[i] = rounded(d.row[i]);
      // The gap behind a row takes what an octet has beyond its end.
      if (column < p.symbols && place.counts[i]) {
        p.d_logits.store_units(place.row[i], column, d_logits.row[i]);
      }
    }
#pragma unroll
    for (int c = 0; c < kGroups; ++c) {
#pragma unroll
      for (int t = 0; t < 4; ++t) d_normed[c].add(t, d_logits, back.load(place.lane, c, t, q));
    }
  }
  Octet dw[kGroups] = {};
  OctetPair d[kGroups];
#pragma unroll
  for (int j = 0; j < kGroups; ++j) d[j] = d_normed[j].octets();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float products = 0.0f;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const Octet w = Bf16Cells::load_vector(p.weight, j * kGroup + place.column, 0);
      for (int e = 0; e < kOctet; ++e) {
        products += d[j].row[i].at[e] * w.at[e] * x[j].row[i].at[e];
      }
    }
    const float scale = norm_scale[i];
    const float along = Place::row_sum(products) * scale * scale / kColumns;
    if (!place.counts[i]) continue;
#pragma unroll
    for (int j = 0; j < kGroups; ++j) {
      const int column = j * kGroup + place.column;
      const Octet w = Bf16Cells::load_vector(p.weight, column, 0);
      Octet out;
      for (int e = 0; e < kOctet; ++e) {
        const float slope = d[j].row[i].at[e];
        out.at[e] = scale * (slope * w.at[e] - x[j].row[i].at[e] * along);
        dw[j].at[e] += slope * x[j].row[i].at[e] * scale;
      }
      p.d_stream.store(position[i], column, out);
    }
  }
#pragma unroll
  for (int j = 0; j < kGroups; ++j) {
    column_sums(place, dw[j], sums + place.warp * kColumns + j * kGroup);
  }
  block_sums(sums, kColumns, p.partial);
}

}  // namespace

void CudaBackend::head(const HeadTerms& h) {
  const auto symbols = static_cast<int>(h.table.rows);
  const auto columns = static_cast<int>(h.table.columns);
  constexpr int64_t kWarps = kHeadThreads / kWarp;
  const int64_t shared = 2 * SharedWeight::bytes(symbols, columns) +
                         kWarps * columns * static_cast<int64_t>(sizeof(float));
  // Octets of d_logits may reach into the gap behind its rows.
  const Tokens& d = h.d_logits;
  const bool fits = shared <= kMostSharedBytes && are_whole({h.stream}, Element::kFp32) &&
                    are_whole({h.table, h.normed, h.d_stream}, Element::kBf16) &&
                    (!d.present() || (d.is_bf16() && d.stride % kOctet == 0)) &&
                    has_whole_octets(h.norm.weight);
  const bool done = fits && with_groups<1, 2, 4>(columns, [&]<int kGroups>() {
                      const int64_t blocks = blocks_for(h.count, kHeadThreads / kWarp * kTile);
                      float* partial = d.present() ? block_sums(blocks, columns) : nullptr;
                      launch_quads(head_kernel<kGroups>, here(), h.count, shared,
                                   HeadPass{h.stream, h.positions, h.targets, h.norm.weight,
                                            h.norm.eps, h.table, h.count, symbols, h.scale, h.loss,
                                            h.prediction, h.normed, d, h.d_stream, partial},
                                   kHeadThreads);
                      if (d.present())
                        add_block_sums(partial, blocks, columns, columns, h.norm.gradient);
                    });
  if (!done) Backend::head(h);
}

}  // namespace joint_recall
