#include <gtest/gtest.h>

#include "rl/rewards/helper.h"

int main(int argc, char** argv) {
  if (const auto status = tessera::rl::run_helper(argc, argv)) return *status;
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
