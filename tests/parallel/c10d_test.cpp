// What goes wrong with devices and their backends is told, and ends waits.
#include "parallel/c10d_communicator.h"

#include <gmock/gmock.h>
#include <torch/torch.h>

#include <chrono>
#include <cstdlib>

#include "core/error.h"
#include "mpi_main.h"

namespace tessera::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// The plug-in's fault while this lives.
struct Fault {
  explicit Fault(const char* name) { ::setenv("TESSERA_TEST_BACKEND_FAULT", name, 1); }
  ~Fault() { ::unsetenv("TESSERA_TEST_BACKEND_FAULT"); }
};

template <typename Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(DeviceRegistry, SaysWhatIsWrongWithAPlugin) {
  DeviceRegistry devices;
  EXPECT_THAT(message_of([&] { devices.load_plugin("/nowhere/lib.so"); }), AllOf(HasSubstr("--plugin /nowhere/lib.so"), HasSubstr("cannot be loaded")));
  EXPECT_THAT(message_of([&] { devices.load_plugin(TESSERA_TEST_OTHER_LIBRARY); }), HasSubstr("does not export tessera_register_devices"));
  {
    const Fault fault("register");
    EXPECT_THAT(message_of([&] { devices.load_plugin(TESSERA_TEST_PLUGIN); }), HasSubstr("failed to register its devices: no licence"));
  }
  EXPECT_THAT(message_of([&] { (void)devices.find("twin"); }), HasSubstr("known: none"));
  devices.load_plugin(TESSERA_TEST_PLUGIN);
  EXPECT_EQ(devices.names(), std::vector<std::string>{"twin"});
  EXPECT_THAT(message_of([&] { devices.load_plugin(TESSERA_TEST_PLUGIN); }), HasSubstr("registered twice"));
  EXPECT_THAT(message_of([&] { (void)devices.find("cuba"); }), HasSubstr("known: twin"));
}

TEST(DeviceRegistry, TheNthRankOfAHostHasItsNthDevice) {
  DeviceRegistry devices;
  devices.load_plugin(TESSERA_TEST_PLUGIN);
  DeviceKind kind = devices.find("twin");
  EXPECT_EQ(device_of(kind, test_world()).index(), test_world().rank());
  kind.count = [] { return 1; };
  if (test_world().rank() == 0) return;
  EXPECT_THAT(message_of([&] { (void)device_of(kind, test_world()); }), HasSubstr("start at most 1 ranks a host"));
}

class Backend : public testing::Test {
 protected:
  Backend() { devices.load_plugin(TESSERA_TEST_PLUGIN); }
  DeviceRegistry devices;
  at::Tensor tensor = torch::ones({256});
};

TEST_F(Backend, FailuresBecomeCommErrorsOfAllGroups) {
  const auto world = make_c10d_communicator(test_world(), devices.find("twin"), {.timeout_seconds = 10});
  const auto other = world->split(std::vector<int>(static_cast<size_t>(world->size()), 0), "dp");
  other->all_reduce(tensor)->wait();
  {
    const Fault fault("fail");
    EXPECT_THAT(message_of([&] { other->all_reduce(tensor, ReduceOp::kSum, "gradients 3")->wait(); }),
                AllOf(HasSubstr("dp all_reduce #2 at gradients 3 (1.0 KiB) failed: the link is down"), HasSubstr("all quiet")));
  }
  EXPECT_THAT(message_of([&] { world->broadcast(tensor, 0)->wait(); }), HasSubstr("the link is down"));  // the job is over
}

TEST_F(Backend, AWaitPastTheDeadlineEnds) {
  const auto world = make_c10d_communicator(test_world(), devices.find("twin"), {.timeout_seconds = 0.5});
  const Fault fault("hang");
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_THAT(message_of([&] { world->all_gather(torch::empty({world->size() * 256}), tensor, "parameters 0")->wait(); }),
              HasSubstr("world all_gather #1 at parameters 0 (2.0 KiB) did not complete within 0.5"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

}  // namespace
}  // namespace tessera::parallel
