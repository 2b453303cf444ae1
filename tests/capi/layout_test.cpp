// The ABI in numbers (64-bit): structs grow at their end only, so no offset below may ever change, and a
// size only when a field is appended.
#include <gtest/gtest.h>

#include <cstddef>

#include "hax/hax.h"

namespace {

#define HAX_SIZE(type, bytes) EXPECT_EQ(sizeof(type), size_t{bytes}) << #type
#define HAX_FIELD(type, field, bytes) \
  EXPECT_EQ(offsetof(type, field), size_t{bytes}) << #type "." #field

TEST(Layout, StructsKeepTheirOffsets) {
  static_assert(sizeof(void*) == 8);

  HAX_SIZE(hax_device, 8);
  HAX_FIELD(hax_device, type, 0);
  HAX_FIELD(hax_device, index, 4);

  HAX_SIZE(hax_data_type, 4);
  HAX_FIELD(hax_data_type, code, 0);
  HAX_FIELD(hax_data_type, bits, 1);
  HAX_FIELD(hax_data_type, lanes, 2);

  HAX_SIZE(hax_tensor, 48);
  HAX_FIELD(hax_tensor, data, 0);
  HAX_FIELD(hax_tensor, device, 8);
  HAX_FIELD(hax_tensor, ndim, 16);
  HAX_FIELD(hax_tensor, dtype, 20);
  HAX_FIELD(hax_tensor, shape, 24);
  HAX_FIELD(hax_tensor, strides, 32);
  HAX_FIELD(hax_tensor, byte_offset, 40);

  HAX_SIZE(hax_context_options, 24);
  HAX_FIELD(hax_context_options, struct_size, 0);
  HAX_FIELD(hax_context_options, num_threads, 8);
  HAX_FIELD(hax_context_options, cpu_level, 16);

  HAX_SIZE(hax_causal_conv1d_forward_args, 72);
  HAX_FIELD(hax_causal_conv1d_forward_args, struct_size, 0);
  HAX_FIELD(hax_causal_conv1d_forward_args, x, 8);
  HAX_FIELD(hax_causal_conv1d_forward_args, weight, 16);
  HAX_FIELD(hax_causal_conv1d_forward_args, bias, 24);
  HAX_FIELD(hax_causal_conv1d_forward_args, cu_seqlens, 32);
  HAX_FIELD(hax_causal_conv1d_forward_args, initial_state, 40);
  HAX_FIELD(hax_causal_conv1d_forward_args, y, 48);
  HAX_FIELD(hax_causal_conv1d_forward_args, final_state, 56);
  HAX_FIELD(hax_causal_conv1d_forward_args, activation, 64);

  HAX_SIZE(hax_causal_conv1d_backward_args, 104);
  HAX_FIELD(hax_causal_conv1d_backward_args, struct_size, 0);
  HAX_FIELD(hax_causal_conv1d_backward_args, x, 8);
  HAX_FIELD(hax_causal_conv1d_backward_args, weight, 16);
  HAX_FIELD(hax_causal_conv1d_backward_args, bias, 24);
  HAX_FIELD(hax_causal_conv1d_backward_args, cu_seqlens, 32);
  HAX_FIELD(hax_causal_conv1d_backward_args, initial_state, 40);
  HAX_FIELD(hax_causal_conv1d_backward_args, dy, 48);
  HAX_FIELD(hax_causal_conv1d_backward_args, dfinal_state, 56);
  HAX_FIELD(hax_causal_conv1d_backward_args, dx, 64);
  HAX_FIELD(hax_causal_conv1d_backward_args, dweight, 72);
  HAX_FIELD(hax_causal_conv1d_backward_args, dbias, 80);
  HAX_FIELD(hax_causal_conv1d_backward_args, dinitial_state, 88);
  HAX_FIELD(hax_causal_conv1d_backward_args, activation, 96);
  HAX_FIELD(hax_causal_conv1d_backward_args, deterministic, 100);

  HAX_SIZE(hax_causal_conv1d_step_args, 72);
  HAX_FIELD(hax_causal_conv1d_step_args, struct_size, 0);
  HAX_FIELD(hax_causal_conv1d_step_args, x, 8);
  HAX_FIELD(hax_causal_conv1d_step_args, weight, 16);
  HAX_FIELD(hax_causal_conv1d_step_args, bias, 24);
  HAX_FIELD(hax_causal_conv1d_step_args, state, 32);
  HAX_FIELD(hax_causal_conv1d_step_args, src_slots, 40);
  HAX_FIELD(hax_causal_conv1d_step_args, dst_slots, 48);
  HAX_FIELD(hax_causal_conv1d_step_args, y, 56);
  HAX_FIELD(hax_causal_conv1d_step_args, activation, 64);

  HAX_SIZE(hax_selective_scan_forward_args, 128);
  HAX_FIELD(hax_selective_scan_forward_args, struct_size, 0);
  HAX_FIELD(hax_selective_scan_forward_args, u, 8);
  HAX_FIELD(hax_selective_scan_forward_args, delta, 16);
  HAX_FIELD(hax_selective_scan_forward_args, A, 24);
  HAX_FIELD(hax_selective_scan_forward_args, B, 32);
  HAX_FIELD(hax_selective_scan_forward_args, C, 40);
  HAX_FIELD(hax_selective_scan_forward_args, D, 48);
  HAX_FIELD(hax_selective_scan_forward_args, z, 56);
  HAX_FIELD(hax_selective_scan_forward_args, delta_bias, 64);
  HAX_FIELD(hax_selective_scan_forward_args, cu_seqlens, 72);
  HAX_FIELD(hax_selective_scan_forward_args, initial_state, 80);
  HAX_FIELD(hax_selective_scan_forward_args, y, 88);
  HAX_FIELD(hax_selective_scan_forward_args, final_state, 96);
  HAX_FIELD(hax_selective_scan_forward_args, checkpoints, 104);
  HAX_FIELD(hax_selective_scan_forward_args, checkpoint_every, 112);
  HAX_FIELD(hax_selective_scan_forward_args, delta_softplus, 120);

  HAX_SIZE(hax_selective_scan_backward_args, 200);
  HAX_FIELD(hax_selective_scan_backward_args, struct_size, 0);
  HAX_FIELD(hax_selective_scan_backward_args, u, 8);
  HAX_FIELD(hax_selective_scan_backward_args, delta, 16);
  HAX_FIELD(hax_selective_scan_backward_args, A, 24);
  HAX_FIELD(hax_selective_scan_backward_args, B, 32);
  HAX_FIELD(hax_selective_scan_backward_args, C, 40);
  HAX_FIELD(hax_selective_scan_backward_args, D, 48);
  HAX_FIELD(hax_selective_scan_backward_args, z, 56);
  HAX_FIELD(hax_selective_scan_backward_args, delta_bias, 64);
  HAX_FIELD(hax_selective_scan_backward_args, cu_seqlens, 72);
  HAX_FIELD(hax_selective_scan_backward_args, initial_state, 80);
  HAX_FIELD(hax_selective_scan_backward_args, checkpoints, 88);
  HAX_FIELD(hax_selective_scan_backward_args, dy, 96);
  HAX_FIELD(hax_selective_scan_backward_args, dfinal_state, 104);
  HAX_FIELD(hax_selective_scan_backward_args, du, 112);
  HAX_FIELD(hax_selective_scan_backward_args, ddelta, 120);
  HAX_FIELD(hax_selective_scan_backward_args, dA, 128);
  HAX_FIELD(hax_selective_scan_backward_args, dB, 136);
  HAX_FIELD(hax_selective_scan_backward_args, dC, 144);
  HAX_FIELD(hax_selective_scan_backward_args, dD, 152);
  HAX_FIELD(hax_selective_scan_backward_args, dz, 160);
  HAX_FIELD(hax_selective_scan_backward_args, ddelta_bias, 168);
  HAX_FIELD(hax_selective_scan_backward_args, dinitial_state, 176);
  HAX_FIELD(hax_selective_scan_backward_args, checkpoint_every, 184);
  HAX_FIELD(hax_selective_scan_backward_args, delta_softplus, 192);
  HAX_FIELD(hax_selective_scan_backward_args, deterministic, 196);

  HAX_SIZE(hax_selective_scan_step_args, 112);
  HAX_FIELD(hax_selective_scan_step_args, struct_size, 0);
  HAX_FIELD(hax_selective_scan_step_args, u, 8);
  HAX_FIELD(hax_selective_scan_step_args, delta, 16);
  HAX_FIELD(hax_selective_scan_step_args, A, 24);
  HAX_FIELD(hax_selective_scan_step_args, B, 32);
  HAX_FIELD(hax_selective_scan_step_args, C, 40);
  HAX_FIELD(hax_selective_scan_step_args, D, 48);
  HAX_FIELD(hax_selective_scan_step_args, z, 56);
  HAX_FIELD(hax_selective_scan_step_args, delta_bias, 64);
  HAX_FIELD(hax_selective_scan_step_args, state, 72);
  HAX_FIELD(hax_selective_scan_step_args, src_slots, 80);
  HAX_FIELD(hax_selective_scan_step_args, dst_slots, 88);
  HAX_FIELD(hax_selective_scan_step_args, y, 96);
  HAX_FIELD(hax_selective_scan_step_args, delta_softplus, 104);

  HAX_SIZE(hax_ssd_forward_args, 128);
  HAX_FIELD(hax_ssd_forward_args, struct_size, 0);
  HAX_FIELD(hax_ssd_forward_args, x, 8);
  HAX_FIELD(hax_ssd_forward_args, dt, 16);
  HAX_FIELD(hax_ssd_forward_args, A, 24);
  HAX_FIELD(hax_ssd_forward_args, B, 32);
  HAX_FIELD(hax_ssd_forward_args, C, 40);
  HAX_FIELD(hax_ssd_forward_args, D, 48);
  HAX_FIELD(hax_ssd_forward_args, z, 56);
  HAX_FIELD(hax_ssd_forward_args, dt_bias, 64);
  HAX_FIELD(hax_ssd_forward_args, cu_seqlens, 72);
  HAX_FIELD(hax_ssd_forward_args, initial_state, 80);
  HAX_FIELD(hax_ssd_forward_args, y, 88);
  HAX_FIELD(hax_ssd_forward_args, final_state, 96);
  HAX_FIELD(hax_ssd_forward_args, checkpoints, 104);
  HAX_FIELD(hax_ssd_forward_args, checkpoint_every, 112);
  HAX_FIELD(hax_ssd_forward_args, dt_min, 120);
  HAX_FIELD(hax_ssd_forward_args, dt_max, 124);

  HAX_SIZE(hax_ssd_backward_args, 208);
  HAX_FIELD(hax_ssd_backward_args, struct_size, 0);
  HAX_FIELD(hax_ssd_backward_args, x, 8);
  HAX_FIELD(hax_ssd_backward_args, dt, 16);
  HAX_FIELD(hax_ssd_backward_args, A, 24);
  HAX_FIELD(hax_ssd_backward_args, B, 32);
  HAX_FIELD(hax_ssd_backward_args, C, 40);
  HAX_FIELD(hax_ssd_backward_args, D, 48);
  HAX_FIELD(hax_ssd_backward_args, z, 56);
  HAX_FIELD(hax_ssd_backward_args, dt_bias, 64);
  HAX_FIELD(hax_ssd_backward_args, cu_seqlens, 72);
  HAX_FIELD(hax_ssd_backward_args, initial_state, 80);
  HAX_FIELD(hax_ssd_backward_args, checkpoints, 88);
  HAX_FIELD(hax_ssd_backward_args, dy, 96);
  HAX_FIELD(hax_ssd_backward_args, dfinal_state, 104);
  HAX_FIELD(hax_ssd_backward_args, dx, 112);
  HAX_FIELD(hax_ssd_backward_args, ddt, 120);
  HAX_FIELD(hax_ssd_backward_args, dA, 128);
  HAX_FIELD(hax_ssd_backward_args, dB, 136);
  HAX_FIELD(hax_ssd_backward_args, dC, 144);
  HAX_FIELD(hax_ssd_backward_args, dD, 152);
  HAX_FIELD(hax_ssd_backward_args, dz, 160);
  HAX_FIELD(hax_ssd_backward_args, ddt_bias, 168);
  HAX_FIELD(hax_ssd_backward_args, dinitial_state, 176);
  HAX_FIELD(hax_ssd_backward_args, checkpoint_every, 184);
  HAX_FIELD(hax_ssd_backward_args, dt_min, 192);
  HAX_FIELD(hax_ssd_backward_args, dt_max, 196);
  HAX_FIELD(hax_ssd_backward_args, deterministic, 200);

  HAX_SIZE(hax_ssd_step_args, 112);
  HAX_FIELD(hax_ssd_step_args, struct_size, 0);
  HAX_FIELD(hax_ssd_step_args, x, 8);
  HAX_FIELD(hax_ssd_step_args, dt, 16);
  HAX_FIELD(hax_ssd_step_args, A, 24);
  HAX_FIELD(hax_ssd_step_args, B, 32);
  HAX_FIELD(hax_ssd_step_args, C, 40);
  HAX_FIELD(hax_ssd_step_args, D, 48);
  HAX_FIELD(hax_ssd_step_args, z, 56);
  HAX_FIELD(hax_ssd_step_args, dt_bias, 64);
  HAX_FIELD(hax_ssd_step_args, state, 72);
  HAX_FIELD(hax_ssd_step_args, src_slots, 80);
  HAX_FIELD(hax_ssd_step_args, dst_slots, 88);
  HAX_FIELD(hax_ssd_step_args, y, 96);
  HAX_FIELD(hax_ssd_step_args, dt_min, 104);
  HAX_FIELD(hax_ssd_step_args, dt_max, 108);

  HAX_SIZE(hax_lsh_hash_forward_args, 56);
  HAX_FIELD(hax_lsh_hash_forward_args, struct_size, 0);
  HAX_FIELD(hax_lsh_hash_forward_args, x, 8);
  HAX_FIELD(hax_lsh_hash_forward_args, R, 16);
  HAX_FIELD(hax_lsh_hash_forward_args, cu_seqlens, 24);
  HAX_FIELD(hax_lsh_hash_forward_args, code, 32);
  HAX_FIELD(hax_lsh_hash_forward_args, statistics, 40);
  HAX_FIELD(hax_lsh_hash_forward_args, max_seqlen, 48);

  HAX_SIZE(hax_lsh_bucket_forward_args, 72);
  HAX_FIELD(hax_lsh_bucket_forward_args, struct_size, 0);
  HAX_FIELD(hax_lsh_bucket_forward_args, code_q, 8);
  HAX_FIELD(hax_lsh_bucket_forward_args, code_k, 16);
  HAX_FIELD(hax_lsh_bucket_forward_args, cu_seqlens, 24);
  HAX_FIELD(hax_lsh_bucket_forward_args, key_order, 32);
  HAX_FIELD(hax_lsh_bucket_forward_args, begin, 40);
  HAX_FIELD(hax_lsh_bucket_forward_args, end, 48);
  HAX_FIELD(hax_lsh_bucket_forward_args, num_bits, 56);
  HAX_FIELD(hax_lsh_bucket_forward_args, budget, 60);
  HAX_FIELD(hax_lsh_bucket_forward_args, max_seqlen, 64);

  HAX_SIZE(hax_key_score_forward_args, 104);
  HAX_FIELD(hax_key_score_forward_args, struct_size, 0);
  HAX_FIELD(hax_key_score_forward_args, q, 8);
  HAX_FIELD(hax_key_score_forward_args, k, 16);
  HAX_FIELD(hax_key_score_forward_args, W1, 24);
  HAX_FIELD(hax_key_score_forward_args, b1, 32);
  HAX_FIELD(hax_key_score_forward_args, W2, 40);
  HAX_FIELD(hax_key_score_forward_args, b2, 48);
  HAX_FIELD(hax_key_score_forward_args, W3, 56);
  HAX_FIELD(hax_key_score_forward_args, b3, 64);
  HAX_FIELD(hax_key_score_forward_args, cu_seqlens, 72);
  HAX_FIELD(hax_key_score_forward_args, score, 80);
  HAX_FIELD(hax_key_score_forward_args, k_scale, 88);
  HAX_FIELD(hax_key_score_forward_args, normalization, 92);
  HAX_FIELD(hax_key_score_forward_args, max_seqlen, 96);

  HAX_SIZE(hax_key_score_backward_args, 160);
  HAX_FIELD(hax_key_score_backward_args, struct_size, 0);
  HAX_FIELD(hax_key_score_backward_args, q, 8);
  HAX_FIELD(hax_key_score_backward_args, k, 16);
  HAX_FIELD(hax_key_score_backward_args, W1, 24);
  HAX_FIELD(hax_key_score_backward_args, b1, 32);
  HAX_FIELD(hax_key_score_backward_args, W2, 40);
  HAX_FIELD(hax_key_score_backward_args, b2, 48);
  HAX_FIELD(hax_key_score_backward_args, W3, 56);
  HAX_FIELD(hax_key_score_backward_args, b3, 64);
  HAX_FIELD(hax_key_score_backward_args, cu_seqlens, 72);
  HAX_FIELD(hax_key_score_backward_args, dscore, 80);
  HAX_FIELD(hax_key_score_backward_args, dW1, 88);
  HAX_FIELD(hax_key_score_backward_args, db1, 96);
  HAX_FIELD(hax_key_score_backward_args, dW2, 104);
  HAX_FIELD(hax_key_score_backward_args, db2, 112);
  HAX_FIELD(hax_key_score_backward_args, dW3, 120);
  HAX_FIELD(hax_key_score_backward_args, db3, 128);
  HAX_FIELD(hax_key_score_backward_args, k_scale, 136);
  HAX_FIELD(hax_key_score_backward_args, normalization, 140);
  HAX_FIELD(hax_key_score_backward_args, deterministic, 144);
  HAX_FIELD(hax_key_score_backward_args, max_seqlen, 152);

  HAX_SIZE(hax_ranking_loss_forward_args, 72);
  HAX_FIELD(hax_ranking_loss_forward_args, struct_size, 0);
  HAX_FIELD(hax_ranking_loss_forward_args, q, 8);
  HAX_FIELD(hax_ranking_loss_forward_args, k, 16);
  HAX_FIELD(hax_ranking_loss_forward_args, score, 24);
  HAX_FIELD(hax_ranking_loss_forward_args, pick, 32);
  HAX_FIELD(hax_ranking_loss_forward_args, cu_seqlens, 40);
  HAX_FIELD(hax_ranking_loss_forward_args, loss, 48);
  HAX_FIELD(hax_ranking_loss_forward_args, target, 56);
  HAX_FIELD(hax_ranking_loss_forward_args, k_scale, 64);

  HAX_SIZE(hax_ranking_loss_backward_args, 56);
  HAX_FIELD(hax_ranking_loss_backward_args, struct_size, 0);
  HAX_FIELD(hax_ranking_loss_backward_args, score, 8);
  HAX_FIELD(hax_ranking_loss_backward_args, pick, 16);
  HAX_FIELD(hax_ranking_loss_backward_args, target, 24);
  HAX_FIELD(hax_ranking_loss_backward_args, cu_seqlens, 32);
  HAX_FIELD(hax_ranking_loss_backward_args, dloss, 40);
  HAX_FIELD(hax_ranking_loss_backward_args, dscore, 48);

  HAX_SIZE(hax_key_select_forward_args, 48);
  HAX_FIELD(hax_key_select_forward_args, struct_size, 0);
  HAX_FIELD(hax_key_select_forward_args, score, 8);
  HAX_FIELD(hax_key_select_forward_args, cu_seqlens, 16);
  HAX_FIELD(hax_key_select_forward_args, eviction, 24);
  HAX_FIELD(hax_key_select_forward_args, budget, 32);
  HAX_FIELD(hax_key_select_forward_args, max_seqlen, 40);

  HAX_SIZE(hax_sparse_pattern, 56);
  HAX_FIELD(hax_sparse_pattern, struct_size, 0);
  HAX_FIELD(hax_sparse_pattern, patterns, 8);
  HAX_FIELD(hax_sparse_pattern, window, 12);
  HAX_FIELD(hax_sparse_pattern, sink, 16);
  HAX_FIELD(hax_sparse_pattern, dilation, 20);
  HAX_FIELD(hax_sparse_pattern, key_order, 24);
  HAX_FIELD(hax_sparse_pattern, begin, 32);
  HAX_FIELD(hax_sparse_pattern, end, 40);
  HAX_FIELD(hax_sparse_pattern, eviction, 48);

  HAX_SIZE(hax_sparse_attention_forward_args, 80);
  HAX_FIELD(hax_sparse_attention_forward_args, struct_size, 0);
  HAX_FIELD(hax_sparse_attention_forward_args, q, 8);
  HAX_FIELD(hax_sparse_attention_forward_args, k, 16);
  HAX_FIELD(hax_sparse_attention_forward_args, v, 24);
  HAX_FIELD(hax_sparse_attention_forward_args, cu_seqlens, 32);
  HAX_FIELD(hax_sparse_attention_forward_args, o, 40);
  HAX_FIELD(hax_sparse_attention_forward_args, lse, 48);
  HAX_FIELD(hax_sparse_attention_forward_args, pattern, 56);
  HAX_FIELD(hax_sparse_attention_forward_args, scale, 64);
  HAX_FIELD(hax_sparse_attention_forward_args, max_seqlen, 72);

  HAX_SIZE(hax_sparse_attention_backward_args, 120);
  HAX_FIELD(hax_sparse_attention_backward_args, struct_size, 0);
  HAX_FIELD(hax_sparse_attention_backward_args, q, 8);
  HAX_FIELD(hax_sparse_attention_backward_args, k, 16);
  HAX_FIELD(hax_sparse_attention_backward_args, v, 24);
  HAX_FIELD(hax_sparse_attention_backward_args, cu_seqlens, 32);
  HAX_FIELD(hax_sparse_attention_backward_args, o, 40);
  HAX_FIELD(hax_sparse_attention_backward_args, lse, 48);
  HAX_FIELD(hax_sparse_attention_backward_args, d_o, 56);
  HAX_FIELD(hax_sparse_attention_backward_args, dlse, 64);
  HAX_FIELD(hax_sparse_attention_backward_args, dq, 72);
  HAX_FIELD(hax_sparse_attention_backward_args, dk, 80);
  HAX_FIELD(hax_sparse_attention_backward_args, dv, 88);
  HAX_FIELD(hax_sparse_attention_backward_args, pattern, 96);
  HAX_FIELD(hax_sparse_attention_backward_args, scale, 104);
  HAX_FIELD(hax_sparse_attention_backward_args, deterministic, 108);
  HAX_FIELD(hax_sparse_attention_backward_args, max_seqlen, 112);

  HAX_SIZE(hax_layer_attention_forward_args, 224);
  HAX_FIELD(hax_layer_attention_forward_args, struct_size, 0);
  HAX_FIELD(hax_layer_attention_forward_args, q, 8);
  HAX_FIELD(hax_layer_attention_forward_args, k, 16);
  HAX_FIELD(hax_layer_attention_forward_args, v, 24);
  HAX_FIELD(hax_layer_attention_forward_args, cu_seqlens, 32);
  HAX_FIELD(hax_layer_attention_forward_args, R, 40);
  HAX_FIELD(hax_layer_attention_forward_args, W1, 48);
  HAX_FIELD(hax_layer_attention_forward_args, b1, 56);
  HAX_FIELD(hax_layer_attention_forward_args, W2, 64);
  HAX_FIELD(hax_layer_attention_forward_args, b2, 72);
  HAX_FIELD(hax_layer_attention_forward_args, W3, 80);
  HAX_FIELD(hax_layer_attention_forward_args, b3, 88);
  HAX_FIELD(hax_layer_attention_forward_args, pick, 96);
  HAX_FIELD(hax_layer_attention_forward_args, o, 104);
  HAX_FIELD(hax_layer_attention_forward_args, lse, 112);
  HAX_FIELD(hax_layer_attention_forward_args, key_order, 120);
  HAX_FIELD(hax_layer_attention_forward_args, begin, 128);
  HAX_FIELD(hax_layer_attention_forward_args, end, 136);
  HAX_FIELD(hax_layer_attention_forward_args, score, 144);
  HAX_FIELD(hax_layer_attention_forward_args, eviction, 152);
  HAX_FIELD(hax_layer_attention_forward_args, loss, 160);
  HAX_FIELD(hax_layer_attention_forward_args, target, 168);
  HAX_FIELD(hax_layer_attention_forward_args, patterns, 176);
  HAX_FIELD(hax_layer_attention_forward_args, window, 180);
  HAX_FIELD(hax_layer_attention_forward_args, sink, 184);
  HAX_FIELD(hax_layer_attention_forward_args, dilation, 188);
  HAX_FIELD(hax_layer_attention_forward_args, lsh_budget, 192);
  HAX_FIELD(hax_layer_attention_forward_args, statistics, 196);
  HAX_FIELD(hax_layer_attention_forward_args, selection_budget, 200);
  HAX_FIELD(hax_layer_attention_forward_args, normalization, 204);
  HAX_FIELD(hax_layer_attention_forward_args, scale, 208);
  HAX_FIELD(hax_layer_attention_forward_args, max_seqlen, 216);

  HAX_SIZE(hax_layer_attention_backward_args, 296);
  HAX_FIELD(hax_layer_attention_backward_args, struct_size, 0);
  HAX_FIELD(hax_layer_attention_backward_args, q, 8);
  HAX_FIELD(hax_layer_attention_backward_args, k, 16);
  HAX_FIELD(hax_layer_attention_backward_args, v, 24);
  HAX_FIELD(hax_layer_attention_backward_args, cu_seqlens, 32);
  HAX_FIELD(hax_layer_attention_backward_args, W1, 40);
  HAX_FIELD(hax_layer_attention_backward_args, b1, 48);
  HAX_FIELD(hax_layer_attention_backward_args, W2, 56);
  HAX_FIELD(hax_layer_attention_backward_args, b2, 64);
  HAX_FIELD(hax_layer_attention_backward_args, W3, 72);
  HAX_FIELD(hax_layer_attention_backward_args, b3, 80);
  HAX_FIELD(hax_layer_attention_backward_args, pick, 88);
  HAX_FIELD(hax_layer_attention_backward_args, o, 96);
  HAX_FIELD(hax_layer_attention_backward_args, lse, 104);
  HAX_FIELD(hax_layer_attention_backward_args, key_order, 112);
  HAX_FIELD(hax_layer_attention_backward_args, begin, 120);
  HAX_FIELD(hax_layer_attention_backward_args, end, 128);
  HAX_FIELD(hax_layer_attention_backward_args, eviction, 136);
  HAX_FIELD(hax_layer_attention_backward_args, score, 144);
  HAX_FIELD(hax_layer_attention_backward_args, target, 152);
  HAX_FIELD(hax_layer_attention_backward_args, d_o, 160);
  HAX_FIELD(hax_layer_attention_backward_args, dlse, 168);
  HAX_FIELD(hax_layer_attention_backward_args, dloss, 176);
  HAX_FIELD(hax_layer_attention_backward_args, dq, 184);
  HAX_FIELD(hax_layer_attention_backward_args, dk, 192);
  HAX_FIELD(hax_layer_attention_backward_args, dv, 200);
  HAX_FIELD(hax_layer_attention_backward_args, dW1, 208);
  HAX_FIELD(hax_layer_attention_backward_args, db1, 216);
  HAX_FIELD(hax_layer_attention_backward_args, dW2, 224);
  HAX_FIELD(hax_layer_attention_backward_args, db2, 232);
  HAX_FIELD(hax_layer_attention_backward_args, dW3, 240);
  HAX_FIELD(hax_layer_attention_backward_args, db3, 248);
  HAX_FIELD(hax_layer_attention_backward_args, patterns, 256);
  HAX_FIELD(hax_layer_attention_backward_args, window, 260);
  HAX_FIELD(hax_layer_attention_backward_args, sink, 264);
  HAX_FIELD(hax_layer_attention_backward_args, dilation, 268);
  HAX_FIELD(hax_layer_attention_backward_args, normalization, 272);
  HAX_FIELD(hax_layer_attention_backward_args, scale, 276);
  HAX_FIELD(hax_layer_attention_backward_args, deterministic, 280);
  HAX_FIELD(hax_layer_attention_backward_args, max_seqlen, 288);
}

}  // namespace
