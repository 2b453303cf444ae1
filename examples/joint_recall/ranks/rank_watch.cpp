#include "ranks/rank_watch.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <vector>

namespace joint_recall {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBeat = std::chrono::seconds(1);
constexpr auto kSilence = std::chrono::seconds(30);

// For this rank to end by itself, with words of its own, where the same has befallen all.
constexpr auto kGrace = std::chrono::seconds(2);

// What is sent: one byte, and behind kLost the number of the rank.
constexpr char kAlive = '.', kDone = 'd', kLost = 'l';

}  // namespace

RankWatch::RankWatch(int rank, std::map<int, Socket> peers, std::chrono::seconds start)
    : rank_(rank) {
  for (auto& [number, socket] : peers) {
    peers_.emplace(number, Peer{std::move(socket), Clock::now() + start});
  }
  thread_ = std::thread([this] { watch(); });
}

RankWatch::~RankWatch() {
  stop_ = true;
  thread_.join();
  if (std::uncaught_exceptions() > 0) return;
  for (const auto& [number, peer] : peers_) peer.socket.send(&kDone, 1);
}

void RankWatch::watch() {
  Clock::time_point sent{};
  while (!stop_) {
    if (Clock::now() - sent > kBeat) {
      sent = Clock::now();
      for (const auto& [number, peer] : peers_) {
        if (!peer.done) peer.socket.send(&kAlive, 1);
      }
    }
    std::vector<pollfd> entries;
    for (const auto& [number, peer] : peers_) {
      entries.push_back({peer.done ? -1 : peer.socket.get(), POLLIN, 0});
    }
    ::poll(entries.data(), entries.size(), 50);
    auto entry = entries.begin();
    for (auto& [number, peer] : peers_) {
      if ((entry++)->revents != 0) listen(number, peer);
      if (!peer.done && Clock::now() - peer.heard > kSilence) {
        end(number, "was silent for 30 s");
      }
    }
  }
}

void RankWatch::listen(int rank, Peer& peer) {
  char bytes[64];
  const ssize_t count = ::recv(peer.socket.get(), bytes, sizeof bytes, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return end(rank, "ended before the run did");
  peer.heard = Clock::now();
  for (ssize_t i = 0; i < count; ++i) {
    if (bytes[i] == kDone) peer.done = true;
    if (bytes[i] != kLost) continue;
    int32_t lost = rank;
    if (i + 1 + static_cast<ssize_t>(sizeof lost) <= count) {
      std::copy_n(bytes + i + 1, sizeof lost, reinterpret_cast<char*>(&lost));
    }
    return end(lost, "ended before the run did");
  }
}

// The main thread may wait for numbers that never come.
void RankWatch::end(int lost, const char* how) {
  for (const auto start = Clock::now(); Clock::now() - start < kGrace;) {
    if (stop_) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  for (const auto& [number, peer] : peers_) {
    if (number == lost || peer.done) continue;
    char message[1 + sizeof(int32_t)] = {kLost};
    const int32_t named = lost;
    std::copy_n(reinterpret_cast<const char*>(&named), sizeof named, message + 1);
    peer.socket.send(message, sizeof message);
  }
  fmt::print(
      stderr,
      "joint_recall: rank {}: rank {} {}; the last checkpoint is whole, and --resume goes on "
      "from it\n",
      rank_, lost, how);
  std::fflush(stderr);
  ::_exit(1);
}

}  // namespace joint_recall
