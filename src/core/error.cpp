#include "core/error.hpp"

#include <cstring>

namespace hax {
namespace {

// A fixed buffer, so that reporting an error can't itself fail for want of memory.
constexpr size_t kCapacity = 1024;
thread_local char last_error[kCapacity] = "";

}  // namespace

void set_last_error(std::string text) noexcept {
  const size_t length = text.size() < kCapacity ? text.size() : kCapacity - 1;
  std::memcpy(last_error, text.data(), length);
  last_error[length] = '\0';
}

}  // namespace hax

extern "C" const char* hax_last_error(void) noexcept { return hax::last_error; }
