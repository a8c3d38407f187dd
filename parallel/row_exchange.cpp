#include "parallel/row_exchange.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <utility>

#include "core/error.h"

namespace tessera::parallel {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RowTransfer {
  Communicator* group = nullptr;
  std::vector<int64_t> send_rows, receive_rows;
  std::string site;
  kernels::GradientQueue* queue = nullptr;
  WorkPtr forward, backward;
  at::Tensor d_rows;  // on its way between the two halves of the backward pass
};

namespace {

using TransferPtr = std::shared_ptr<RowTransfer>;

struct TransferHolder : torch::CustomClassHolder {
  TransferPtr transfer;
};

void hold(AutogradContext* ctx, const TransferPtr& transfer) {
  auto holder = c10::make_intrusive<TransferHolder>();
  holder->transfer = transfer;
  ctx->saved_data["transfer"] = c10::IValue::make_capsule(holder);
}

TransferPtr held(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<TransferHolder>(ctx->saved_data["transfer"].toCapsule())->transfer;
}

int64_t total(const std::vector<int64_t>& rows) { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }

struct StartFunction : torch::autograd::Function<StartFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const TransferPtr& transfer) {
    at::Tensor received = at::empty({total(transfer->receive_rows), rows.size(1)}, rows.options());
    transfer->forward = transfer->group->all_to_all(received, rows, transfer->receive_rows, transfer->send_rows, transfer->site);
    hold(ctx, transfer);
    return received;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& /*a placeholder*/) {
    const TransferPtr transfer = held(ctx);
    while (transfer->queue != nullptr && !transfer->backward->done() && transfer->queue->fill()) {
    }
    transfer->backward->wait();
    transfer->backward.reset();
    return {std::exchange(transfer->d_rows, at::Tensor()), at::Tensor()};
  }
};

struct FinishFunction : torch::autograd::Function<FinishFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& pending, const TransferPtr& transfer) {
    transfer->forward->wait();
    transfer->forward.reset();
    hold(ctx, transfer);
    return pending;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const TransferPtr transfer = held(ctx);
    const at::Tensor d_received = gradients[0].contiguous();
    transfer->d_rows = at::empty({total(transfer->send_rows), d_received.size(1)}, d_received.options());
    transfer->backward = transfer->group->all_to_all(transfer->d_rows, d_received, transfer->send_rows, transfer->receive_rows,
                                                     transfer->site + ", backward");
    return {d_received, at::Tensor()};  // for autograd's bookkeeping only: start() returns what arrives
  }
};

}  // namespace

RowExchange::RowExchange(Communicator& group, std::vector<int64_t> send_rows, std::vector<int64_t> receive_rows, std::string site,
                         kernels::GradientQueue* queue)
    : transfer_(std::make_shared<RowTransfer>()) {
  transfer_->group = &group;
  transfer_->send_rows = std::move(send_rows);
  transfer_->receive_rows = std::move(receive_rows);
  transfer_->site = std::move(site);
  transfer_->queue = queue;
}

at::Tensor RowExchange::start(const at::Tensor& rows) const {
  TESSERA_CHECK(rows.is_contiguous() && rows.dim() == 2 && rows.size(0) == total(transfer_->send_rows), "exchange of ", rows.sizes());
  return StartFunction::apply(rows, transfer_);
}

at::Tensor RowExchange::finish(const at::Tensor& pending) const { return FinishFunction::apply(pending, transfer_); }

}  // namespace tessera::parallel
