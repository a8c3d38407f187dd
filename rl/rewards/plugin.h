/* The C interface of reward plug-ins: rl.rewards: [{name: plugin, library: libmine.so}].
 *
 * A plug-in is a shared library that exports the two functions below. A child process loads it, so
 * a crash or a hang costs the samples concerned and a restart, not the run. Nothing of Tessera
 * needs to be linked. Standard output of the plug-in is turned into standard error. The functions
 * are called from one thread.
 */
#ifndef TESSERA_RL_REWARDS_PLUGIN_H_
#define TESSERA_RL_REWARDS_PLUGIN_H_

#include <stddef.h>
#include <stdint.h>

#define TESSERA_REWARD_ABI 1

#ifdef __cplusplus
extern "C" {
#endif

/* UTF-8; not only terminated by a zero but also given with a size, since completions may hold
 * zeros. New members come last, and `size` grows with them. */
typedef struct TesseraRewardInput {
  size_t size; /* of this structure */
  const char* prompt;
  size_t prompt_size;
  const char* completion;
  size_t completion_size;
  const char* sample; /* the data line, as JSON */
  size_t sample_size;
  int64_t tokens;        /* of the completion */
  int32_t stopped;       /* 1: by itself; 0: by the length limit */
  int32_t thinking_open; /* 1: the template has already written <think> */
} TesseraRewardInput;

/* Returns the TESSERA_REWARD_ABI the plug-in was compiled with. */
uint32_t tessera_reward_abi(void);

/* Puts the reward, a finite number, into *reward and returns 0. Returns another number and puts a
 * message, ended by a zero, into error (error_size bytes) where there is no reward for this sample.
 * Must not throw. */
int tessera_reward(const TesseraRewardInput* input, double* reward, char* error, size_t error_size);

#ifdef __cplusplus
}
#endif

#endif /* TESSERA_RL_REWARDS_PLUGIN_H_ */
