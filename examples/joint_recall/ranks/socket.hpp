// TCP connections between ranks.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

namespace joint_recall {

using Deadline = std::chrono::steady_clock::time_point;

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();

  int get() const { return fd_; }
  // False when the other side is gone.
  bool send(const void* data, size_t bytes) const;
  bool receive(void* data, size_t bytes) const;
  // For what receive() waits for; 0: for ever.
  void wait_at_most(std::chrono::seconds time) const;

 private:
  int fd_ = -1;
};

// Throws a TrainError.
Socket listen_on(int port);
// Nothing when the deadline passes first.
std::optional<Socket> accept_from(const Socket& listener, Deadline deadline);
std::optional<Socket> connect_to(const std::string& address, int port, Deadline deadline);

}  // namespace joint_recall
