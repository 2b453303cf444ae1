#include "ranks/rank_place.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "train/error.hpp"

namespace joint_recall {
namespace {

struct Names {
  const char *rank, *size, *local_rank;
};
constexpr Names kTorchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK"};
constexpr Names kOpenMpi = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                            "OMPI_COMM_WORLD_LOCAL_RANK"};

int number(const char* name, int least, int most) {
  const char* const text = std::getenv(name);
  if (text == nullptr) {
    throw TrainError(fmt::format("{}: it isn't set, though other variables of a rank are", name));
  }
  const std::string_view view = text;
  int value = 0;
  const auto [stop, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  if (error != std::errc() || stop != view.data() + view.size() || value < least || value > most) {
    throw TrainError(
        fmt::format("{}: expected a number from {} to {}, got '{}'", name, least, most, view));
  }
  return value;
}

}  // namespace

std::optional<RankPlace> find_rank_place() {
  for (const Names& names : {kTorchrun, kOpenMpi}) {
    if (std::getenv(names.rank) == nullptr && std::getenv(names.size) == nullptr) continue;
    RankPlace place;
    place.size = number(names.size, 1, 1 << 20);
    place.rank = number(names.rank, 0, place.size - 1);
    place.local_rank = std::getenv(names.local_rank) == nullptr
                           ? place.rank
                           : number(names.local_rank, 0, place.size - 1);
    if (const char* address = std::getenv("MASTER_ADDR")) place.address = address;
    if (std::getenv("MASTER_PORT") != nullptr) place.port = number("MASTER_PORT", 1, 65534);
    return place;
  }
  return std::nullopt;
}

}  // namespace joint_recall
