// What the test plug-in wants of the program that loads it: the communicator that its backend goes through.
#pragma once

#include "parallel/communicator.h"

namespace tessera::parallel {

/// Defined by the program, found by the plug-in when it is loaded.
extern "C" Communicator* twin_world_pointer();
inline Communicator* twin_world() { return twin_world_pointer(); }

}  // namespace tessera::parallel
