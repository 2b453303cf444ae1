#include "model/batch_on_device.hpp"

#include "data/vocabulary.hpp"

namespace joint_recall {
namespace {

// Batches of a data set then have some dozens of lengths, and a fortieth of their tokens is padding.
constexpr int64_t kTokenStep = 1024;
constexpr int64_t kAskedStep = 512;

int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

template <class T>
const T* upload(Pass& pass, std::span<const T> values) {
  auto* memory = pass.arena.take<T>(static_cast<int64_t>(values.size()));
  pass.backend.copy_in(memory, values.data(), values.size_bytes());
  return memory;
}

// The values and `count - values.size()` times the filling.
template <class T>
std::vector<T> lengthened(std::span<const T> values, int64_t count, T filling) {
  std::vector<T> result(values.begin(), values.end());
  result.resize(static_cast<size_t>(count), filling);
  return result;
}

std::vector<int32_t> token_positions(const Pass& pass, std::span<const int32_t> cu_seqlens) {
  std::vector<int32_t> positions(static_cast<size_t>(pass.tokens()));
  size_t sequence = 0;
  for (size_t t = 0; t < positions.size(); ++t) {
    if (cu_seqlens.empty()) {
      positions[t] = static_cast<int32_t>(t % static_cast<size_t>(pass.length));
      continue;
    }
    while (static_cast<size_t>(cu_seqlens[sequence + 1]) <= t) ++sequence;
    positions[t] = static_cast<int32_t>(t) - cu_seqlens[sequence];
  }
  return positions;
}

}  // namespace

BatchOnDevice upload_batch(const BatchView& batch, bool lengthen, bool positions, float loss_scale,
                           Pass& pass) {
  const bool pad = batch.packed() && lengthen;
  pass.batch = batch.batch;
  // At least one token of padding, which padded askings can name.
  pass.length = pad ? round_up(batch.length + 1, kTokenStep) : batch.length;
  pass.items = batch.items();
  pass.sequences = pass.items + (pad ? 1 : 0);

  BatchOnDevice result;
  const std::vector<int32_t> inputs =
      lengthened(batch.inputs, pass.tokens(), static_cast<int32_t>(kPaddingToken));
  result.inputs = upload(pass, std::span<const int32_t>(inputs));
  std::vector<int32_t> cu_seqlens;
  if (batch.packed()) {
    cu_seqlens =
        lengthened(batch.cu_seqlens, pass.sequences + 1, static_cast<int32_t>(pass.length));
    pass.cu_seqlens = upload(pass, std::span<const int32_t>(cu_seqlens));
  }
  if (!batch.attention_mask.empty()) pass.attention_mask = upload(pass, batch.attention_mask);
  if (positions) {
    const std::vector<int32_t> all = token_positions(pass, cu_seqlens);
    pass.position = upload(pass, std::span<const int32_t>(all));
  }

  AskedTokensOnDevice& asked = result.asked;
  const auto count = static_cast<int64_t>(batch.asked_positions.size());
  asked.count = pad ? round_up(count, kAskedStep) : count;
  // Their gradient is 0.
  const auto last = static_cast<int32_t>(pass.tokens() - 1);
  const std::vector<int32_t> at = lengthened(batch.asked_positions, asked.count, last);
  const std::vector<int32_t> targets = lengthened(batch.asked_targets, asked.count, -1);
  asked.positions = upload(pass, std::span<const int32_t>(at));
  asked.targets = upload(pass, std::span<const int32_t>(targets));
  asked.offsets = upload(pass, batch.asked_offsets);
  if (loss_scale != 0.0f) asked.scale = upload(pass, std::span<const float>(&loss_scale, 1));
  asked.loss = pass.arena.take<float>(asked.count);
  asked.prediction = pass.arena.take<int32_t>(asked.count);
  return result;
}

}  // namespace joint_recall
