// The processes that train one model together.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ranks/rank_place.hpp"
#include "ranks/rank_watch.hpp"
#include "ranks/socket.hpp"

namespace joint_recall {

// Every rank has two connections to rank 0: one for numbers, and one on which both sides show that they
// are alive. A rank that is gone ends all others, wherever they are.
class Ranks {
 public:
  // Nothing: this process alone. Otherwise waits until all ranks are there; throws a TrainError when
  // some don't come.
  explicit Ranks(const std::optional<RankPlace>& place);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return place_.rank; }
  int size() const { return place_.size; }
  int local_rank() const { return place_.local_rank; }
  bool first() const { return place_.rank == 0; }
  bool several() const { return place_.size > 1; }
  bool started_as_rank() const { return started_as_rank_; }

  // All ranks must call these in the same order.
  //
  // Sums over the ranks, added in their order: equal bits on all.
  void sum(std::span<double> values) const;
  void sum(std::span<float> values) const;
  // Rank 0's text, on every rank. Also waits for rank 0.
  std::string broadcast(std::string text) const;
  // Throws a TrainError where a rank's text isn't that of rank 0. `what` names it.
  void agree(const std::string& what, const std::string& text) const;

 private:
  void accept_all();
  void connect();
  template <class T>
  void sum_in_order(std::span<T> values) const;
  void send(int rank, const void* data, size_t bytes) const;
  void receive(int rank, void* data, size_t bytes) const;

  RankPlace place_;
  bool started_as_rank_ = false;
  std::vector<Socket> data_;  // by rank; those but rank 0 have rank 0's alone
  std::unique_ptr<RankWatch> watch_;
};

}  // namespace joint_recall
