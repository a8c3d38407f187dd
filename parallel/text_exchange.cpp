#include "parallel/text_exchange.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

namespace tessera::parallel {

std::vector<std::string> all_gather_text(Communicator& group, const std::string& text) {
  at::Tensor sizes = at::zeros({group.size()}, at::kLong);
  group.all_gather(sizes, at::full({1}, static_cast<int64_t>(text.size()), at::kLong))->wait();
  const int64_t longest = std::max<int64_t>(1, sizes.max().item<int64_t>());
  at::Tensor mine = at::zeros({longest}, at::kByte), all = at::empty({group.size() * longest}, at::kByte);
  std::memcpy(mine.data_ptr(), text.data(), text.size());
  group.all_gather(all, mine)->wait();
  std::vector<std::string> texts;
  for (int rank = 0; rank < group.size(); ++rank)
    texts.emplace_back(static_cast<const char*>(all.const_data_ptr()) + rank * longest,
                       static_cast<size_t>(sizes[rank].item<int64_t>()));
  return texts;
}

std::string broadcast_text(Communicator& group, const std::string& text) {
  return all_gather_text(group, group.rank() == 0 ? text : std::string()).front();
}

}  // namespace tessera::parallel
