// The tensors of one libhax call.
#pragma once

#include <array>
#include <deque>
#include <initializer_list>
#include <vector>

#include "model/operation.hpp"
#include "model/parameters.hpp"
#include "model/pass.hpp"

namespace joint_recall {

// Makes hax_tensor descriptors of a pass's matrices, in the precision libhax is to be given, and
// calls an operator with a workspace. Everything made lives as long as the object, which gives its
// arena memory back at its end.
class Operands {
 public:
  explicit Operands(Pass& pass) : pass_(pass), scope_(pass.arena) {}

  // Activations: a matrix of one row per token as (B, L, axes...); absent ones give NULL.
  const hax_tensor* in(ConstTokens tokens, std::initializer_list<int64_t> axes);
  const hax_tensor* out(Tokens tokens, std::initializer_list<int64_t> axes);
  // Compact fp32, int32 and int64 tensors of any shape; null pointers give NULL.
  const hax_tensor* fp32(const float* data, std::initializer_list<int64_t> shape);
  const hax_tensor* int32(const int32_t* data, std::initializer_list<int64_t> shape);
  const hax_tensor* int64(const int64_t* data, std::initializer_list<int64_t> shape);
  // One head, of `heads`, of what is (B, heads, L).
  const hax_tensor* int64_head(const int64_t* data, int64_t head, int64_t heads);
  const hax_tensor* cu_seqlens();  // NULL when padded
  // The weight's gradient as an fp32 output, the fresh one where it is to be added; NULL for an absent weight.
  const hax_tensor* gradient(const Weight& weight, std::initializer_list<int64_t> shape);

  // Asks for the workspace and runs the operator. Throws ModelError with libhax's error text.
  template <class Args>
  void run(const char* name,
           hax_status (*workspace_size)(const hax_context*, const Args*, size_t*) noexcept,
           hax_status (*function)(const hax_context*, const Args*, void*, size_t, void*) noexcept,
           const Args& args) {
    const hax_context* context = pass_.backend.context();
    size_t bytes = 0;
    check(name, workspace_size(context, &args, &bytes));
    void* workspace = bytes == 0 ? nullptr : pass_.arena.take_bytes(bytes);
    {
      const OperationScope scope({name, tensor_bytes()});
      check(name, function(context, &args, workspace, bytes, pass_.backend.stream()));
    }
    finish();
  }

 private:
  struct Tensor {
    hax_tensor descriptor;
    std::array<int64_t, 4> shape, strides;
  };
  struct Output {
    ConstTokens source;
    Tokens target;
  };

  const hax_tensor* make(const void* data, hax_data_type type,
                         std::initializer_list<int64_t> shape);
  const hax_tensor* make_tokens(ConstTokens tokens, std::initializer_list<int64_t> axes);
  // Whether libhax is to be given bf16 where the backend keeps fp32.
  bool converts(ConstTokens tokens) const;
  Tokens converted(ConstTokens tokens);
  double tensor_bytes() const;  // of all together
  static void check(const char* name, hax_status status);
  void finish();  // converts outputs

  Pass& pass_;
  Arena::Scope scope_;
  std::deque<Tensor> tensors_;
  std::vector<Output> outputs_;
};

}  // namespace joint_recall
