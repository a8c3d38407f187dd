#include <iostream>

#include "data/tasks/task.h"
#include "parallel/mesh.h"

int main() {
  const auto world = tessera::parallel::make_self_communicator();
  const tessera::parallel::Mesh mesh(*world, {});
  std::cout << mesh.describe() << '\n';
  for (const auto& task : tessera::data::tasks()) std::cout << task.name << '\n';
  return mesh.size("dp") == 1 ? 0 : 1;
}
