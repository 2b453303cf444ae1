// Which of several processes this one is, as torchrun or mpirun tell it.
#pragma once

#include <optional>
#include <string>

namespace joint_recall {

struct RankPlace {
  int rank = 0;
  int size = 1;
  int local_rank = 0;                 // on its host: the number of its GPU
  std::string address = "127.0.0.1";  // where rank 0 runs
  int port = 29500;
};

// From RANK, WORLD_SIZE, LOCAL_RANK or OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, and MASTER_ADDR,
// MASTER_PORT; nothing where none of the first are set. Throws a TrainError that names what is missing.
std::optional<RankPlace> find_rank_place();

}  // namespace joint_recall
