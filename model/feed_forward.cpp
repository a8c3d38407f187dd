#include "model/feed_forward.h"

#include "kernels/rms_norm.h"
#include "moe/dispatcher.h"
#include "moe/experts.h"

namespace tessera::model {

namespace {

constexpr const char* kNormName = "post_attention_layernorm";

/// down(silu(gate) * up)
struct Mlp {
  LinearLayer gate_up, down;

  Mlp(const std::string& name, int64_t dim, int64_t width, bool bias)
      : gate_up(make_linear({{name + ".gate_proj", width}, {name + ".up_proj", width}}, dim, bias)),
        down(make_linear({{name + ".down_proj", dim}}, width, bias)) {
    down.spec.prologue = kernels::Prologue::kSwiglu;
  }

  at::Tensor forward(const at::Tensor& x, const Pass& pass, const at::Tensor& residual) const {
    return finish(begin(x, pass), pass, residual);
  }
  at::Tensor begin(const at::Tensor& x, const Pass& pass) const { return run_linear(pass, x, gate_up); }
  at::Tensor finish(const at::Tensor& inner, const Pass& pass, const at::Tensor& residual) const { return run_linear(pass, inner, down, residual); }
};

class DenseMlp final : public FeedForward {
 public:
  explicit DenseMlp(const ModelConfig& c) : mlp_("mlp", c.hidden_size, c.intermediate_size, c.mlp_bias) {
    put_norm_in_front(mlp_.gate_up, kNormName, c.rms_norm_eps);
  }

  at::Tensor forward(const at::Tensor& x_TD, const Pass& pass) override { return mlp_.forward(x_TD, pass, x_TD); }
  [[nodiscard]] std::vector<LinearLayer*> linears() override { return {&mlp_.gate_up, &mlp_.down}; }
  void list_weights(const std::string& prefix, std::vector<NamedWeight>& list) const override {
    list_linear(prefix, mlp_.gate_up, list);
    list_linear(prefix, mlp_.down, list);
  }
  void list_stacks(const std::string&, std::vector<NamedWeight>&) const override {}

 private:
  Mlp mlp_;
};

std::unique_ptr<moe::Dispatcher> make_dispatcher(int64_t num_experts, int64_t layer, const Shard& shard) {
  if (!shard.shares_experts()) return moe::make_local_dispatcher(num_experts);
  return moe::make_all_to_all_dispatcher(num_experts, shard.ep, "moe layer " + std::to_string(layer), shard.passages, shard.queue);
}

class MoeLayer final : public FeedForward {
 public:
  MoeLayer(const ModelConfig& c, int64_t layer, const Shard& shard)
      : config_(c.moe), names_(c.expert_names), dim_(c.hidden_size), eps_(static_cast<float>(c.rms_norm_eps)),
        norm_(kernels::make_parameter({c.hidden_size})), router_(c.moe, c.hidden_size, layer), dispatcher_(make_dispatcher(c.moe.num_experts, layer, shard)),
        experts_(c.moe, dispatcher_->num_local_experts(), c.hidden_size) {
    if (c.moe.shared_intermediate_size > 0)
      shared_ = std::make_unique<Mlp>(names_.layer + ".shared_experts", dim_, c.moe.shared_intermediate_size, false);
  }

  // The shared expert runs while the tokens travel: two of its products on their way there, one on the way back.
  at::Tensor forward(const at::Tensor& x_TD, const Pass& pass) override {
    const at::Tensor u_TD = kernels::rms_norm_layer(x_TD, norm_, eps_);
    const auto dispatch = dispatcher_->dispatch(u_TD, router_.route(u_TD, pass.segments, pass.routing),
                                                pass.kind == PassKind::kTraining ? wire_ : moe::Wire{});
    const at::Tensor inner = shared_ ? shared_->begin(u_TD, pass) : at::Tensor();
    const moe::Arrived arrived = dispatch->arrive();
    dispatch->send_back(experts_.forward(arrived.tokens, arrived.map, arrived.groups, pass.kind));
    return dispatch->combine(shared_ ? shared_->finish(inner, pass, x_TD) : x_TD);
  }

  [[nodiscard]] std::vector<LinearLayer*> linears() override {
    if (!shared_) return {};
    return {&shared_->gate_up, &shared_->down};
  }

  void list_weights(const std::string& prefix, std::vector<NamedWeight>& list) const override {
    const std::string layer = prefix + names_.layer;
    list_weight(prefix + kNormName + ".weight", norm_, list);
    list_weight(layer + ".gate.weight", router_.weight(), list);
    if (router_.bias()) {
      list_weight(layer + ".gate.e_score_correction_bias", router_.bias(), list);
      list.back().buffer = true;
    }
    const int64_t width = config_.intermediate_size;
    for (int64_t e = 0; e < dispatcher_->num_local_experts(); ++e) {
      const std::string expert = layer + ".experts." + std::to_string(dispatcher_->first_expert() + e) + ".";
      list.push_back({expert + names_.gate + ".weight", experts_.gate_up(), 2 * e * width, {width, dim_}, false, true});
      list.push_back({expert + names_.up + ".weight", experts_.gate_up(), (2 * e + 1) * width, {width, dim_}, false, true});
      list.push_back({expert + names_.down + ".weight", experts_.down(), e * dim_, {dim_, width}, false, true});
    }
    if (!shared_) return;
    list_linear(prefix, shared_->gate_up, list);
    list_linear(prefix, shared_->down, list);
  }

  void list_stacks(const std::string& prefix, std::vector<NamedWeight>& list) const override {
    const int64_t experts = dispatcher_->num_local_experts(), width = config_.intermediate_size;
    list.push_back({prefix + "mlp.experts.gate_up_proj", experts_.gate_up(), 0, {experts, 2 * width, dim_}});
    list.push_back({prefix + "mlp.experts.down_proj", experts_.down(), 0, {experts, dim_, width}});
    for (auto stack = list.end() - 2; stack != list.end(); ++stack) {
      stack->file_rows = config_.num_experts;
      stack->file_row_begin = dispatcher_->first_expert();
    }
  }

  [[nodiscard]] moe::Router* router() override { return &router_; }
  [[nodiscard]] std::vector<kernels::ParameterPtr> experts() const override { return {experts_.gate_up(), experts_.down()}; }
  void use_fp8(const kernels::fp8::Recipe& recipe) override { experts_.use_fp8(recipe); }
  void use_wire(const moe::Wire& wire) override { wire_ = wire; }

 private:
  moe::MoeConfig config_;
  ExpertNames names_;
  int64_t dim_;
  float eps_;
  kernels::ParameterPtr norm_;
  moe::Router router_;
  std::unique_ptr<moe::Dispatcher> dispatcher_;
  moe::Experts experts_;
  moe::Wire wire_;
  std::unique_ptr<Mlp> shared_;
};

}  // namespace

std::unique_ptr<FeedForward> make_dense_mlp(const ModelConfig& config) { return std::make_unique<DenseMlp>(config); }
std::unique_ptr<FeedForward> make_moe_layer(const ModelConfig& config, int64_t layer, const Shard& shard) {
  return std::make_unique<MoeLayer>(config, layer, shard);
}

}  // namespace tessera::model
