#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace joint_recall {

// XXH64 with seed 0, as `xxhsum -H64` prints it.
std::uint64_t xxh64(std::span<const std::byte> bytes);

}  // namespace joint_recall
