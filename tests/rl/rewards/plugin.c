/* What a reward plug-in may do, by the completion's first words. */
#include "rl/rewards/plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint32_t tessera_reward_abi(void) {
  const char* abi = getenv("TEST_PLUGIN_ABI");
  return abi == NULL ? TESSERA_REWARD_ABI : (uint32_t)atoi(abi);
}

int tessera_reward(const TesseraRewardInput* input, double* reward, char* error,
                   size_t error_size) {
  if (strcmp(input->completion, "crash") == 0) abort();
  if (strcmp(input->completion, "hang") == 0) pause();
  if (strcmp(input->completion, "fail") == 0) {
    snprintf(error, error_size, "no reward for %s", input->sample);
    return 1;
  }
  if (strcmp(input->completion, "nan") == 0) {
    *reward = 0.0 / (double)(input->size == 0);
    return 0;
  }
  printf("noise on standard output\n");
  fflush(stdout);
  *reward = (double)input->completion_size + (double)input->tokens / 100 +
            (input->stopped ? 0 : 1000) + (input->thinking_open ? 2000 : 0) +
            (double)input->prompt_size * 10000;
  return 0;
}
