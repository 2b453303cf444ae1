// (y + E o) SiLU(gate) and its gradients, an octet at a time.
#pragma once

#include "model/cuda_rows.cuh"

namespace joint_recall::cuda_rows {

// An octet of (y + E o) SiLU(gate) and its parts.
struct GatedOctet {
  Octet sum, o, E, gate, sigmoid;

  __device__ float value(int i) const { return sum.at[i] * gate.at[i] * sigmoid.at[i]; }
  __device__ float silu(int i) const { return gate.at[i] * sigmoid.at[i]; }
  // d SiLU / d gate
  __device__ float slope(int i) const {
    return sigmoid.at[i] * (1.0f + gate.at[i] * (1.0f - sigmoid.at[i]));
  }
};

template <class T>
struct GatedCells {
  T y, o;
  const float* E;
  T gate;

  explicit GatedCells(const GatedSum& s) : y(s.y), o(s.o), E(s.E), gate(s.gate) {}

  __device__ GatedOctet load(int64_t r, int c) const {
    GatedOctet q;
    q.sum = y.load(r, c);
    q.gate = gate.load(r, c);
    q.o = o.present() ? o.load(r, c) : Octet{};
    q.E = o.present() ? T::load_vector(E, c, y.columns) : Octet{};
    for (int i = 0; i < kOctet; ++i) {
      q.sum.at[i] += q.E.at[i] * q.o.at[i];
      q.sigmoid.at[i] = sigmoid(q.gate.at[i]);
    }
    return q;
  }
};

template <class T>
struct GatedGradients {
  T y, o, gate;

  explicit GatedGradients(const GatedSumGradients& g) : y(g.y), o(g.o), gate(g.gate) {}

  // d: of the gated sum; returns the octet's term of dE.
  __device__ Octet store(int64_t r, int c, const GatedOctet& q, const Octet& d) const {
    Octet dy, d_o, d_gate, dE;
    for (int i = 0; i < kOctet; ++i) {
      dy.at[i] = d.at[i] * q.silu(i);
      d_o.at[i] = dy.at[i] * q.E.at[i];
      dE.at[i] = dy.at[i] * q.o.at[i];
      d_gate.at[i] = d.at[i] * q.sum.at[i] * q.slope(i);
    }
    y.store(r, c, dy);
    gate.store(r, c, d_gate);
    if (o.present()) o.store(r, c, d_o);
    return dE;
  }
};

}  // namespace joint_recall::cuda_rows
