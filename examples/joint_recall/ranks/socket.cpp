#include "ranks/socket.hpp"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>

#include "train/error.hpp"

namespace joint_recall {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(100);

int milliseconds_left(Deadline deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  return static_cast<int>(std::max<int64_t>(left.count(), 0));
}

// Numbers are small and waited for.
void send_at_once(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

bool Socket::send(const void* data, size_t bytes) const {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::send(fd_, from, bytes, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    from += count;
    bytes -= static_cast<size_t>(count);
  }
  return true;
}

bool Socket::receive(void* data, size_t bytes) const {
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::recv(fd_, to, bytes, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    to += count;
    bytes -= static_cast<size_t>(count);
  }
  return true;
}

void Socket::wait_at_most(std::chrono::seconds time) const {
  const timeval wait = {time.count(), 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
}

Socket listen_on(int port) {
  Socket listener(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1, off = 0;
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_addr = in6addr_any;
  any.sin6_port = htons(static_cast<uint16_t>(port));
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  ::setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  bool bound = listener.get() >= 0 &&
               ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0;
  if (!bound) {
    // A host without IPv6.
    sockaddr_in any4{};
    any4.sin_family = AF_INET;
    any4.sin_port = any.sin6_port;
    listener = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bound = ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&any4), sizeof any4) == 0;
  }
  if (!bound || ::listen(listener.get(), 1024) != 0) {
    throw TrainError(fmt::format("rank 0 cannot listen on port {}: {}; MASTER_PORT is one less",
                                 port, std::generic_category().message(errno)));
  }
  return listener;
}

std::optional<Socket> accept_from(const Socket& listener, Deadline deadline) {
  pollfd entry = {listener.get(), POLLIN, 0};
  if (::poll(&entry, 1, milliseconds_left(deadline)) <= 0) return std::nullopt;
  Socket accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (accepted.get() < 0) return std::nullopt;
  send_at_once(accepted.get());
  return accepted;
}

std::optional<Socket> connect_to(const std::string& address, int port, Deadline deadline) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  while (true) {
    if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) == 0) {
      for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
        Socket socket(::socket(entry->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (::connect(socket.get(), entry->ai_addr, entry->ai_addrlen) == 0) {
          ::freeaddrinfo(found);
          send_at_once(socket.get());
          return socket;
        }
      }
      ::freeaddrinfo(found);
    }
    if (milliseconds_left(deadline) == 0) return std::nullopt;
    std::this_thread::sleep_for(kRetry);
  }
}

}  // namespace joint_recall
