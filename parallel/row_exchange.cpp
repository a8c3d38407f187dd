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
  WayFormats formats;
  WorkPtr forward, backward;
  at::Tensor packed;  // on its way between the two halves of a pass, as is
  at::Tensor d_rows;  // room for what the backward pass gets
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

/// Room for the rows that arrive, float32; where they travel packed, `packed` is what they arrive in.
at::Tensor room(int64_t rows, const at::Tensor& like, kernels::RowFormat format, at::Tensor& packed) {
  at::Tensor result = at::empty({rows, like.size(1)}, like.options());
  packed = format.rounds() ? kernels::packed_room(rows, like.size(1), format, like.options()) : result;
  return result;
}

void arrived(at::Tensor& packed, kernels::RowFormat format, const at::Tensor& rows) {
  if (format.rounds()) kernels::unpack(packed, format, rows);
  packed = at::Tensor();
}

struct StartFunction : torch::autograd::Function<StartFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const TransferPtr& transfer) {
    const kernels::RowFormat format = transfer->formats.there;
    at::Tensor received = room(total(transfer->receive_rows), rows, format, transfer->packed);
    transfer->forward =
        transfer->group->all_to_all(transfer->packed, kernels::pack(rows, format), transfer->receive_rows, transfer->send_rows, transfer->site);
    hold(ctx, transfer);
    return received;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& /*a placeholder*/) {
    const TransferPtr transfer = held(ctx);
    while (transfer->queue != nullptr && !transfer->backward->done() && transfer->queue->fill()) {
    }
    transfer->backward->wait();
    transfer->backward.reset();
    arrived(transfer->packed, transfer->formats.back, transfer->d_rows);
    return {std::exchange(transfer->d_rows, at::Tensor()), at::Tensor()};
  }
};

struct FinishFunction : torch::autograd::Function<FinishFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& pending, const TransferPtr& transfer) {
    transfer->forward->wait();
    transfer->forward.reset();
    arrived(transfer->packed, transfer->formats.there, pending);
    hold(ctx, transfer);
    return pending;
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const TransferPtr transfer = held(ctx);
    const at::Tensor d_received = gradients[0].contiguous();
    const kernels::RowFormat format = transfer->formats.back;
    transfer->d_rows = room(total(transfer->send_rows), d_received, format, transfer->packed);
    transfer->backward = transfer->group->all_to_all(transfer->packed, kernels::pack(d_received, format), transfer->send_rows, transfer->receive_rows,
                                                     transfer->site + ", backward");
    return {d_received, at::Tensor()};  // for autograd's bookkeeping only: start() returns what arrives
  }
};

}  // namespace

RowExchange::RowExchange(Communicator& group, std::vector<int64_t> send_rows, std::vector<int64_t> receive_rows, std::string site,
                         kernels::GradientQueue* queue, WayFormats formats)
    : transfer_(std::make_shared<RowTransfer>()) {
  transfer_->group = &group;
  transfer_->send_rows = std::move(send_rows);
  transfer_->receive_rows = std::move(receive_rows);
  transfer_->site = std::move(site);
  transfer_->queue = queue;
  transfer_->formats = formats;
}

at::Tensor RowExchange::start(const at::Tensor& rows) const {
  TESSERA_CHECK(rows.is_contiguous() && rows.dim() == 2 && rows.size(0) == total(transfer_->send_rows), "exchange of ", rows.sizes());
  return StartFunction::apply(rows, transfer_);
}

at::Tensor RowExchange::finish(const at::Tensor& pending) const { return FinishFunction::apply(pending, transfer_); }

}  // namespace tessera::parallel
