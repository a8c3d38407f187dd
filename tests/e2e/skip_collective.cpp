// Linked around the objects of tessera (--wrap, see CMakeLists.txt): makes a program whose rank $TESSERA_SKIP_RANK leaves out one
// operation, the first $TESSERA_SKIP that it comes to once the file $TESSERA_SKIP_WHEN exists, and goes on as if it had been
// carried out. For layout_faults.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "parallel/communicator.h"

using namespace tessera::parallel;

// The member functions of Communicator as functions whose first argument is the object, which is how they are called.
#define ALL_REDUCE _ZN7tessera8parallel12Communicator10all_reduceEN2at6TensorENS0_8ReduceOpESt17basic_string_viewIcSt11char_traitsIcEE
#define ALL_GATHER _ZN7tessera8parallel12Communicator10all_gatherEN2at6TensorES3_St17basic_string_viewIcSt11char_traitsIcEE
#define REDUCE_SCATTER \
  _ZN7tessera8parallel12Communicator14reduce_scatterEN2at6TensorES3_NS0_8ReduceOpESt17basic_string_viewIcSt11char_traitsIcEE
#define ALL_TO_ALL _ZN7tessera8parallel12Communicator10all_to_allEN2at6TensorES3_St6vectorIlSaIlEES6_St17basic_string_viewIcSt11char_traitsIcEE
#define EXCHANGE _ZN7tessera8parallel12Communicator8exchangeESt6vectorINS0_7MessageESaIS3_EES5_St17basic_string_viewIcSt11char_traitsIcEE
#define JOIN(a, b) a##b
#define NAMED(prefix, name) JOIN(prefix, name)
#define REAL(name) NAMED(__real_, name)
#define WRAP(name) NAMED(__wrap_, name)

namespace {

bool skips(const char* operation, const Communicator& on, std::string_view site) {
  static std::atomic<bool> skipped = false;
  const auto is = [](const char* variable, const char* value) {
    const char* set = std::getenv(variable);
    return set != nullptr && value != nullptr && std::string(set) == value;
  };
  if (skipped || on.size() == 1 || on.axis() == "checkpoint" || !is("TESSERA_SKIP", operation) ||
      !is("TESSERA_SKIP_RANK", std::getenv("OMPI_COMM_WORLD_RANK")) || !std::filesystem::exists(std::getenv("TESSERA_SKIP_WHEN")))
    return false;
  if (skipped.exchange(true)) return false;
  std::fprintf(stderr, "test: skipping %s %s at %s\n", on.axis().c_str(), operation, std::string(site).c_str());
  return true;
}

}  // namespace

extern "C" {
// NOLINTBEGIN
WorkPtr REAL(ALL_REDUCE)(Communicator*, at::Tensor, ReduceOp, std::string_view);
WorkPtr REAL(ALL_GATHER)(Communicator*, at::Tensor, at::Tensor, std::string_view);
WorkPtr REAL(REDUCE_SCATTER)(Communicator*, at::Tensor, at::Tensor, ReduceOp, std::string_view);
WorkPtr REAL(ALL_TO_ALL)(Communicator*, at::Tensor, at::Tensor, std::vector<int64_t>, std::vector<int64_t>, std::string_view);
WorkPtr REAL(EXCHANGE)(Communicator*, std::vector<Message>, std::vector<Message>, std::string_view);

static WorkPtr nothing() {
  return REAL(ALL_REDUCE)(make_self_communicator().get(), at::empty({0}), ReduceOp::kSum, {});
}

WorkPtr WRAP(ALL_REDUCE)(Communicator* self, at::Tensor tensor, ReduceOp op, std::string_view site) {
  return skips("all_reduce", *self, site) ? nothing() : REAL(ALL_REDUCE)(self, std::move(tensor), op, site);
}
WorkPtr WRAP(ALL_GATHER)(Communicator* self, at::Tensor output, at::Tensor input, std::string_view site) {
  return skips("all_gather", *self, site) ? nothing() : REAL(ALL_GATHER)(self, std::move(output), std::move(input), site);
}
WorkPtr WRAP(REDUCE_SCATTER)(Communicator* self, at::Tensor output, at::Tensor input, ReduceOp op, std::string_view site) {
  return skips("reduce_scatter", *self, site) ? nothing() : REAL(REDUCE_SCATTER)(self, std::move(output), std::move(input), op, site);
}
WorkPtr WRAP(ALL_TO_ALL)(Communicator* self, at::Tensor output, at::Tensor input, std::vector<int64_t> output_splits,
                         std::vector<int64_t> input_splits, std::string_view site) {
  if (skips("all_to_all", *self, site)) {
    if (input.sizes() == output.sizes()) output.copy_(input);  // counts that make sense
    return nothing();
  }
  return REAL(ALL_TO_ALL)(self, std::move(output), std::move(input), std::move(output_splits), std::move(input_splits), site);
}
WorkPtr WRAP(EXCHANGE)(Communicator* self, std::vector<Message> sends, std::vector<Message> receives, std::string_view site) {
  if (!sends.empty() && skips("exchange", *self, site)) return nothing();
  return REAL(EXCHANGE)(self, std::move(sends), std::move(receives), site);
}
// NOLINTEND
}
