// What the tests under mpirun share: the context that mpi_main.cpp brings up.
#pragma once

#include "parallel/mpi_communicator.h"

namespace tessera::parallel {

/// A world communicator for the tests, its ordinary path.
Communicator& test_world();
MpiContext& test_context();

}  // namespace tessera::parallel
