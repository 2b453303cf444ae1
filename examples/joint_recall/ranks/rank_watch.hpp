// Watches whether the other ranks are alive, on a thread of its own.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "ranks/socket.hpp"

namespace joint_recall {

class RankWatch {
 public:
  // Connections by the rank at their other end. When one of these ranks is gone, or silent for half a
  // minute, prints which and ends this process with code 1. start: how long they may take to be heard at first.
  RankWatch(int rank, std::map<int, Socket> peers, std::chrono::seconds start);
  // Tells the others that this rank is done, unless an exception is what ends it.
  ~RankWatch();
  RankWatch(const RankWatch&) = delete;
  RankWatch& operator=(const RankWatch&) = delete;

 private:
  struct Peer {
    Socket socket;
    std::chrono::steady_clock::time_point heard;
    bool done = false;
  };

  void watch();
  void listen(int rank, Peer& peer);
  void end(int lost, const char* how);  // returns only where this rank is ending by itself

  int rank_;
  std::map<int, Peer> peers_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace joint_recall
