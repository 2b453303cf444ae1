#include "ranks/ranks.hpp"

#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "train/error.hpp"

namespace joint_recall {
namespace {

constexpr auto kStartTime = std::chrono::seconds(120);
constexpr auto kHelloTime = std::chrono::seconds(5);
constexpr uint32_t kMagic = 0x4b52524au;
constexpr uint32_t kChannels = 2;  // numbers, signs of life

// A rank's first words on each of its connections.
struct Hello {
  uint32_t magic = kMagic;
  uint32_t rank = 0;
  uint32_t size = 0;
  uint32_t channel = 0;
};

// torchrun itself listens on MASTER_PORT.
int port_of(const RankPlace& place) { return place.port + 1; }

}  // namespace

Ranks::Ranks(const std::optional<RankPlace>& place)
    : place_(place.value_or(RankPlace{})), started_as_rank_(place.has_value()) {
  if (!several()) return;
  data_.resize(static_cast<size_t>(size()));
  if (first()) {
    accept_all();
  } else {
    connect();
  }
}

Ranks::~Ranks() = default;

void Ranks::accept_all() {
  const Deadline deadline = std::chrono::steady_clock::now() + kStartTime;
  const Socket listener = listen_on(port_of(place_));
  std::map<int, Socket> watched;
  for (int connections = 0; connections < static_cast<int>(kChannels) * (size() - 1);) {
    std::optional<Socket> socket = accept_from(listener, deadline);
    if (!socket) {
      std::string missing;
      for (int r = 1; r < size(); ++r) {
        if (!watched.contains(r)) missing += fmt::format(" {}", r);
      }
      throw TrainError(fmt::format("rank 0 waited {} s on port {}, but these ranks didn't come:{}",
                                   kStartTime.count(), port_of(place_), missing));
    }
    Hello hello;
    socket->wait_at_most(kHelloTime);
    const bool said = socket->receive(&hello, sizeof hello);
    socket->wait_at_most(std::chrono::seconds(0));
    if (!said || hello.magic != kMagic || hello.rank == 0 || hello.channel >= kChannels) {
      continue;  // somebody else
    }
    if (hello.size != static_cast<uint32_t>(size()) || hello.rank >= hello.size) {
      throw TrainError(fmt::format("rank {} was started as one of {} ranks, but rank 0 of {}",
                                   hello.rank, hello.size, size()));
    }
    const int rank = static_cast<int>(hello.rank);
    Socket& place = hello.channel == 0 ? data_[hello.rank] : watched[rank];
    if (place.get() >= 0) throw TrainError(fmt::format("two processes are rank {}", rank));
    place = std::move(*socket);
    ++connections;
  }
  watch_ = std::make_unique<RankWatch>(0, std::move(watched), std::chrono::seconds(0));
}

void Ranks::connect() {
  const Deadline deadline = std::chrono::steady_clock::now() + kStartTime;
  std::map<int, Socket> watched;
  for (uint32_t channel = 0; channel < kChannels; ++channel) {
    std::optional<Socket> socket = connect_to(place_.address, port_of(place_), deadline);
    const Hello hello = {.magic = kMagic,
                         .rank = static_cast<uint32_t>(rank()),
                         .size = static_cast<uint32_t>(size()),
                         .channel = channel};
    if (!socket || !socket->send(&hello, sizeof hello)) {
      throw TrainError(fmt::format("rank {} found no rank 0 at {}, port {}, in {} s", rank(),
                                   place_.address, port_of(place_), kStartTime.count()));
    }
    (channel == 0 ? data_[0] : watched[0]) = std::move(*socket);
  }
  // Rank 0 is heard once all are there.
  watch_ = std::make_unique<RankWatch>(rank(), std::move(watched), kStartTime);
}

void Ranks::send(int rank, const void* data, size_t bytes) const {
  if (data_[static_cast<size_t>(rank)].send(data, bytes)) return;
  std::this_thread::sleep_for(std::chrono::seconds(5));  // the watch ends this process first
  throw TrainError(fmt::format("rank {} can't reach rank {} any more", this->rank(), rank));
}

void Ranks::receive(int rank, void* data, size_t bytes) const {
  if (data_[static_cast<size_t>(rank)].receive(data, bytes)) return;
  std::this_thread::sleep_for(std::chrono::seconds(5));
  throw TrainError(fmt::format("rank {} can't hear rank {} any more", this->rank(), rank));
}

template <class T>
void Ranks::sum_in_order(std::span<T> values) const {
  if (!several()) return;
  if (!first()) {
    send(0, values.data(), values.size_bytes());
    receive(0, values.data(), values.size_bytes());
    return;
  }
  std::vector<T> others(values.size());
  for (int r = 1; r < size(); ++r) {
    receive(r, others.data(), values.size_bytes());
    for (size_t i = 0; i < values.size(); ++i) values[i] += others[i];
  }
  for (int r = 1; r < size(); ++r) send(r, values.data(), values.size_bytes());
}

void Ranks::sum(std::span<double> values) const { sum_in_order(values); }
void Ranks::sum(std::span<float> values) const { sum_in_order(values); }

std::string Ranks::broadcast(std::string text) const {
  if (!several()) return text;
  auto bytes = static_cast<uint64_t>(text.size());
  if (first()) {
    for (int r = 1; r < size(); ++r) {
      send(r, &bytes, sizeof bytes);
      send(r, text.data(), text.size());
    }
    return text;
  }
  receive(0, &bytes, sizeof bytes);
  text.resize(bytes);
  receive(0, text.data(), text.size());
  return text;
}

void Ranks::agree(const std::string& what, const std::string& text) const {
  if (!several()) return;
  std::vector<double> differs(static_cast<size_t>(size()));
  differs[static_cast<size_t>(rank())] = broadcast(text) == text ? 0.0 : 1.0;
  sum(differs);
  for (size_t r = 0; r < differs.size(); ++r) {
    if (differs[r] == 0.0) continue;
    throw TrainError(fmt::format("rank {} has another {} than rank 0", r, what));
  }
}

}  // namespace joint_recall
