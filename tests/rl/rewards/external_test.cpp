#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "core/error.h"
#include "rl/rewards/child_process.h"
#include "test_support.h"

namespace tessera::rl {
namespace {

using testing::HasSubstr;

/// A Python program that has read `line` and parsed it as `r` where `body` runs.
RewardConfig program(const std::string& body, double deadline_seconds = 20,
                     const std::string& before = "") {
  const std::string source =
      "import sys, json, os, time\ndef say(text):\n  sys.stdout.write(text + '\\n'); "
      "sys.stdout.flush()\n" +
      before + "\nfor line in sys.stdin:\n  r = json.loads(line)\n" + body;
  return {.name = "program",
          .command = {"/usr/bin/python3", "-c", source},
          .deadline_seconds = deadline_seconds};
}

const char* kLength = "  say(json.dumps({'id': r['id'], 'reward': len(r['completion'])}))\n";

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool running(int pid) { return ::kill(pid, 0) == 0; }

TEST(ProgramReward, GetsTheSampleAndGivesItsReward) {
  auto reward =
      make_reward(program("  say(json.dumps({'id': r['id'], 'reward': r['sample']['weight'] * "
                          "len(r['completion']) + r['tokens'] + "
                          "(100 if r['stopped'] else 0) + (1000 if r['thinking_open'] else 0) + "
                          "len(r['prompt']) / 100}))\n"));
  const auto result = score_one(*reward, {{"weight", 2}}, "abc", true, true, 7);
  EXPECT_FALSE(result.failed) << result.error;
  EXPECT_DOUBLE_EQ(result.value, 6 + 7 + 100 + 1000 + 0.08);
}

TEST(ProgramReward, KeepsRunningBetweenBatches) {
  auto reward = make_reward(
      program("  n += 1\n  say(json.dumps({'id': r['id'], 'reward': n}))\n", 20, "n = 0"));
  EXPECT_EQ(score_one(*reward, {}, "a").value, 1);
  EXPECT_EQ(score_one(*reward, {}, "a").value, 2);
  EXPECT_EQ(score_all(*reward, {}, {"a", "b"})[1].value, 4);
  EXPECT_TRUE(score_all(*reward, {}, {}).empty());
}

TEST(ProgramReward, AnswersInAnyOrderInPiecesAndWithBlankLines) {
  auto reward = make_reward(program(
      "  kept.append(r)\n"
      "  if len(kept) == 3:\n"
      "    for r in reversed(kept):\n"
      "      text = json.dumps({'id': r['id'], 'reward': float(r['completion'])}) + '\\n\\n'\n"
      "      for c in text: sys.stdout.write(c); sys.stdout.flush()\n",
      20, "kept = []"));
  const auto results = score_all(*reward, {}, {"1", "2", "3"});
  for (size_t i = 0; i < 3; ++i)
    EXPECT_EQ(results[i].value, static_cast<double>(i + 1)) << results[i].error;
}

TEST(ProgramReward, LargeBatchesAndLongLinesDoNotLockUp) {
  // It answers at once with long lines, and writes much to standard error, while far more than a
  // pipe holds is on its way.
  auto reward =
      make_reward(program("  sys.stderr.write('e' * 20000)\n  say(json.dumps({'id': r['id'], "
                          "'reward': len(r['completion']), 'note': 'x' * 100000}))\n"));
  const std::vector<std::string> completions(100, std::string(200000, 'y'));
  const auto results = score_all(*reward, {}, completions);
  for (const auto& result : results) ASSERT_EQ(result.value, 200000) << result.error;
}

TEST(ProgramReward, TextThatIsNoUtf8Travels) {
  auto reward = make_reward(program(kLength));
  EXPECT_EQ(score_one(*reward, {},
                      "a\xff"
                      "b")
                .value,
            3);
}

TEST(ProgramReward, ItsErrorsAndOddValuesFailTheirSamplesOnly) {
  auto reward = make_reward(
      program("  c = r['completion']\n"
              "  if c == 'error': say(json.dumps({'id': r['id'], 'error': 'cannot judge'}))\n"
              "  elif c == 'nan': say(json.dumps({'id': r['id'], 'reward': float('nan')}))\n"
              "  elif c == 'infinite': say(json.dumps({'id': r['id'], 'reward': -float('inf')}))\n"
              "  elif c == 'text': say(json.dumps({'id': r['id'], 'reward': 'good'}))\n"
              "  elif c == 'none': say(json.dumps({'id': r['id']}))\n"
              "  else: say(json.dumps({'id': r['id'], 'reward': 1}))\n"));
  const auto results = score_all(*reward, {}, {"error", "nan", "infinite", "text", "none", "fine"});
  EXPECT_EQ(results[0].error, "cannot judge");
  for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(results[i].failed) << i;
  EXPECT_THAT(results[1].error, HasSubstr("no finite \"reward\""));
  EXPECT_FALSE(results[5].failed) << results[5].error;
}

TEST(ProgramReward, ACrashCostsItsSampleOnly) {
  auto reward =
      make_reward(program(std::string("  if r['completion'] == 'crash': sys.stderr.write('bad "
                                      "luck'); sys.stderr.flush(); os._exit(3)\n") +
                          kLength));
  const auto results = score_all(*reward, {}, {"a", "bb", "crash", "dddd", "eeeee"});
  EXPECT_TRUE(results[2].failed);
  EXPECT_THAT(results[2].error,
              testing::AllOf(HasSubstr("rl.rewards: program: the program exited with status 3"),
                             HasSubstr("bad luck")));
  for (const size_t i : {0u, 1u, 3u, 4u}) {
    EXPECT_FALSE(results[i].failed) << i << ": " << results[i].error;
    EXPECT_EQ(results[i].value, static_cast<double>(i + 1));
  }
  EXPECT_EQ(score_one(*reward, {}, "abc").value, 3) << "started anew";
}

TEST(ProgramReward, ASignalIsNamed) {
  auto reward = make_reward(program("  os.kill(os.getpid(), 11)\n"));
  EXPECT_THAT(score_one(*reward, {}, "a").error, HasSubstr("was killed by signal 11"));
}

TEST(ProgramReward, AHangIsEndedAtTheDeadlineWithAllItsProcesses) {
  auto reward =
      make_reward(program("  if r['completion'] == 'hang':\n"
                          "    child = os.fork()\n"
                          "    if child == 0: time.sleep(600)\n"
                          "    open(r['sample']['path'], 'w').write(str(child))\n"
                          "    time.sleep(600)\n" +
                              std::string(kLength),
                          1.5));
  const auto path =
      std::filesystem::temp_directory_path() / ("reward-child-" + std::to_string(::getpid()));
  const nlohmann::json sample = {{"path", path.string()}};
  std::vector<RewardResult> results;
  const double seconds = seconds_of([&] {
    results = score_all(*reward, sample, {"a", "hang", "ccc"});
  });
  EXPECT_GE(seconds, 1.4);
  EXPECT_LT(seconds, 6);
  EXPECT_FALSE(results[0].failed) << "answered before the hang";
  EXPECT_TRUE(results[1].failed);
  EXPECT_TRUE(results[2].failed);
  EXPECT_THAT(results[1].error, HasSubstr("did not answer within deadline_seconds = 1.5"));
  int child = 0;
  std::ifstream(path) >> child;
  std::filesystem::remove(path);
  ASSERT_GT(child, 0);
  for (int i = 0; i < 100 && running(child); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(running(child)) << "its child was in the group";
  EXPECT_EQ(score_one(*reward, {}, "abc").value, 3);
}

TEST(ProgramReward, BabbleEndsIt) {
  for (const char* babble :
       {"'hello'", "'[1]'", "'{\"id\": \"x\", \"reward\": 1}'", "'{\"id\": 123456, \"reward\": 1}'",
        "'{\"reward\": 1}'", "'x' * 20000000"}) {
    auto reward = make_reward(program(std::string("  if r['completion'] == 'babble': say(") +
                                      babble + ")\n  else:\n  " + kLength));
    const auto results = score_all(*reward, {}, {"a", "babble"});
    EXPECT_FALSE(results[0].failed) << babble << results[0].error;
    EXPECT_TRUE(results[1].failed) << babble;
    EXPECT_THAT(results[1].error, HasSubstr("wrote a line that is no answer"));
    EXPECT_EQ(score_one(*reward, {}, "abc").value, 3) << babble;
  }
}

TEST(ProgramReward, AnsweringTwiceIsBabble) {
  auto reward =
      make_reward(program("  say(json.dumps({'id': r['id'], 'reward': 1}) + '\\n' + "
                          "json.dumps({'id': r['id'], 'reward': 2}))\n"));
  const auto results = score_all(*reward, {}, {"a", "b"});
  EXPECT_EQ(results[0].value, 1) << "the first answer holds";
  EXPECT_TRUE(results[1].failed);
}

TEST(ProgramReward, OneThatNeverAnswersIsNamedWithItsLastWords) {
  auto reward = make_reward(
      {.name = "program", .command = {"/bin/sh", "-c", "echo cannot import verifier >&2; exit 7"}});
  EXPECT_THAT(
      [&] {
        (void)score_all(*reward, {}, {"a", "b", "c"});
      },
      testing::ThrowsMessage<ConfigError>(
          testing::AllOf(HasSubstr("rl.rewards: program: '/bin/sh -c echo cannot import verifier"),
                         HasSubstr("3 times in a row"), HasSubstr("exited with status 7"),
                         HasSubstr("ends: cannot import verifier"))));
}

TEST(ProgramReward, ABatchOfOneIsNotTriedAgainAndThreeOfThemEndIt) {
  auto reward = make_reward({.name = "program", .command = {"/bin/false"}});
  EXPECT_TRUE(score_one(*reward, {}, "a").failed);
  EXPECT_TRUE(score_one(*reward, {}, "a").failed);
  EXPECT_THROW((void)score_one(*reward, {}, "a"), ConfigError);
}

TEST(ProgramReward, OneThatIsNotThereIsRefusedAtOnce) {
  EXPECT_THAT([] { (void)make_reward({.name = "program", .command = {"/no/such/program"}}); },
              testing::ThrowsMessage<ConfigError>(testing::AllOf(
                  HasSubstr("rl.rewards: program: cannot start '/no/such/program': No such file"),
                  HasSubstr("set command"))));
}

TEST(ProgramReward, EndsWithTheReward) {
  auto reward = make_reward(program("  say(json.dumps({'id': r['id'], 'reward': os.getpid()}))\n"));
  const int pid = static_cast<int>(score_one(*reward, {}, "a").value);
  ASSERT_TRUE(running(pid));
  reward.reset();
  EXPECT_FALSE(running(pid));
}

TEST(ProgramReward, InheritsNeitherDescriptorsNorMpisVariablesNorSignals) {
  const int open_here = ::fcntl(0, F_DUPFD, 100);  // without close-on-exec, as libraries open them
  ::setenv("OMPI_COMM_WORLD_RANK", "3", 1);
  ::setenv("REWARD_TEST_VARIABLE", "kept", 1);
  const auto pipe_before = std::signal(SIGPIPE, SIG_IGN);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
  auto reward = make_reward(program(
      "  import signal\n"
      "  fds = [f for f in os.listdir('/proc/self/fd') if int(f) > 99]\n"
      "  masks = [l.split()[1] for l in open('/proc/self/status') if l.startswith('SigBlk')]\n"
      "  good = not fds and 'OMPI_COMM_WORLD_RANK' not in os.environ and "
      "os.environ.get('REWARD_TEST_VARIABLE') == 'kept' and int(masks[0], 16) == 0\n"
      "  say(json.dumps({'id': r['id'], 'reward': 1 if good else 0}))\n"));
  EXPECT_EQ(score_one(*reward, {}, "a").value, 1);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  std::signal(SIGPIPE, pipe_before);
  ::unsetenv("OMPI_COMM_WORLD_RANK");
  ::unsetenv("REWARD_TEST_VARIABLE");
  ::close(open_here);
}

TEST(ChildProcess, WritingToAClosedPipeRaisesNoSignal) {
  const auto before = std::signal(SIGPIPE, SIG_DFL);  // would end this process
  Pipe pipe = make_pipe();
  pipe.read.close();
  EXPECT_EQ(write_without_signal(pipe.write.get(), "x"), -1);
  EXPECT_EQ(errno, EPIPE);
  // A program that reads nothing and ends while a large batch is on its way.
  auto reward = make_reward(
      {.name = "program", .command = {"/bin/sh", "-c", "exec 0<&-; sleep 0.2; exit 1"}});
  EXPECT_THROW((void)score_all(*reward, {}, std::vector<std::string>(50, std::string(100000, 'x'))),
               ConfigError);
  std::signal(SIGPIPE, before);
}

RewardConfig plugin(double deadline_seconds = 20) {
  return {.name = "plugin", .library = REWARD_PLUGIN, .deadline_seconds = deadline_seconds};
}

TEST(PluginReward, GetsTheSampleAndGivesItsReward) {
  auto reward = make_reward(plugin());
  // As plugin.c computes: the completion's and the prompt's size, tokens, and both flags. It also
  // prints noise.
  EXPECT_DOUBLE_EQ(score_one(*reward, {}, std::string("a\0b", 3), false, true, 7).value,
                   3 + 0.07 + 1000 + 2000 + 8 * 10000);
  EXPECT_DOUBLE_EQ(score_one(*reward, {}, "ab").value, 2 + 8 * 10000);
}

TEST(PluginReward, CrashesHangsAndErrorsAreContained) {
  auto reward = make_reward(plugin(2));
  auto results = score_all(*reward, {{"key", 1}}, {"fail", "nan", "crash", "abc"});
  EXPECT_THAT(results[0].error, HasSubstr("no reward for {\"key\":1}"));
  EXPECT_THAT(results[1].error, HasSubstr("no finite"));
  EXPECT_TRUE(results[2].failed);
  EXPECT_THAT(results[2].error, HasSubstr("signal 6"));
  EXPECT_FALSE(results[3].failed) << results[3].error;
  results = score_all(*reward, {}, {"abc", "hang"});
  EXPECT_FALSE(results[0].failed);
  EXPECT_THAT(results[1].error, HasSubstr("did not answer"));
  EXPECT_FALSE(score_one(*reward, {}, "abc").failed);
}

TEST(PluginReward, WrongLibrariesAreNamed) {
  EXPECT_THAT(
      [] { (void)make_reward({.name = "plugin", .library = "/no/such.so"}); },
      testing::ThrowsMessage<ConfigError>("rl.rewards: plugin: there is no library '/no/such.so'"));
  auto no_library = make_reward({.name = "plugin", .library = "/etc/passwd"});
  EXPECT_THAT(
      [&] {
        (void)score_all(*no_library, {}, {"a", "b"});
      },
      testing::ThrowsMessage<ConfigError>(HasSubstr("cannot load the plug-in: /etc/passwd")));
  ::setenv("TEST_PLUGIN_ABI", "99", 1);
  auto other = make_reward(plugin());
  EXPECT_THAT(
      [&] {
        (void)score_all(*other, {}, {"a", "b"});
      },
      testing::ThrowsMessage<ConfigError>(
          HasSubstr("was made for reward interface 99, this is 1; compile it anew")));
  ::unsetenv("TEST_PLUGIN_ABI");
}

TEST(RewardSetWithPrograms, CountsWhatFailed) {
  RewardSet set({program(std::string("  if r['completion'] == 'crash': os._exit(3)\n") + kLength),
                 {.name = "exact"}});
  const nlohmann::json sample = {{"answer", "a"}};
  std::vector<RewardInput> inputs;
  for (const char* completion : {"a", "crash", "ccc"})
    inputs.push_back({.sample = &sample, .completion = completion});
  const auto totals = set.score(inputs);
  EXPECT_EQ(totals[0].total, 2);
  EXPECT_TRUE(totals[1].failed);
  EXPECT_EQ(totals[2].total, 3);
  EXPECT_EQ(set.failures()[0].count, 1);
  EXPECT_EQ(set.failures()[1].count, 0);
}

}  // namespace
}  // namespace tessera::rl
