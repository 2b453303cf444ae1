// Errors inside the library travel as one exception type up to the barrier in capi/entry.hpp.
#pragma once

#include <sstream>
#include <string>

#include "hax/base.h"

namespace hax {

struct Error {
  hax_status status;
  std::string text;
};

// Joins its arguments as operator<< prints them.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
[[noreturn]] void fail(hax_status status, const Parts&... parts) {
  throw Error{status, concat(parts...)};
}

// Text behind hax_last_error() of this thread.
void set_last_error(std::string text) noexcept;

}  // namespace hax
