#include "launch/app.h"

#include <iostream>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "kernels/accelerator.h"
#include "model/hf_folder.h"
#include "parallel/text_exchange.h"

namespace tessera::launch {

c10::Device use_device(const App& app, const std::string& name) {
  if (name == "cpu") return at::kCPU;
  const parallel::DeviceKind& kind = app.devices.find(name);
  if (kind.accelerator == nullptr)
    throw ConfigError("device = " + name + ": its plug-in brings no kernels (DeviceKind::accelerator), so that nothing can be trained or generated there");
  const c10::Device device = parallel::device_of(kind, app.world);
  kind.make_current(device.index());
  kernels::set_accelerator(kind.type, kind.accelerator);
  return device;
}

void add_model_options(CLI::App& cli, ModelOptions& options) {
  cli.add_option("--model", options.folder, "Hugging Face or PEFT folder")->required();
  cli.add_option("--device", options.device, "cpu, or cuda in a build for GPUs, or a kind that a plug-in brings")->capture_default_str();
  cli.add_option("--compute", options.compute, "float32, or on another device bfloat16")->capture_default_str()->check(CLI::IsMember({"float32", "bfloat16"}));
}

LoadedModel load_for_inference(const App& app, const ModelOptions& options) {
  const std::filesystem::path folder = options.folder;
  if (options.device == "cpu" && options.compute != "float32")
    throw ConfigError("--compute " + options.compute + ": a CPU generates in float32; leave it out, or name a --device");
  if (!std::filesystem::is_directory(folder)) throw ConfigError("--model " + folder.string() + " is no folder");
  const auto base = model::base_folder(folder);
  LoadedModel loaded{nullptr, data::Tokenizer::load(base), data::ChatTemplate::load_if_present(base), false};
  const c10::Device device = use_device(app, options.device);
  loaded.model = model::load_model(folder);
  if (options.device != "cpu") loaded.model->move_to(device, options.compute == "bfloat16" ? at::kBFloat16 : at::kFloat);
  return loaded;
}

std::vector<int32_t> prompt_tokens(const data::Json& line, const LoadedModel& loaded, const char* text_key,
                                   bool add_generation_prompt, const std::string& where) {
  auto ids = loaded.reader().read(line, text_key, add_generation_prompt, where);
  const int64_t longest = loaded.model->config().max_position_embeddings;
  if (static_cast<int64_t>(ids.size()) > longest)
    throw ConfigError(detail::concat(where, ": ", ids.size(), " tokens are more than the model's max_position_embeddings = ", longest));
  return ids;
}

std::vector<std::string> share_out(App& app, int64_t count,
                                   const std::function<std::vector<std::string>(int64_t, int64_t)>& work) {
  const int64_t rank = app.world.rank(), size = app.world.size();
  std::vector<std::string> mine;
  {
    const auto busy = app.world.announce("working on its share");
    mine = work(count * rank / size, count * (rank + 1) / size);
  }
  if (size == 1) return mine;
  std::string joined;
  for (const auto& line : mine) joined += line + "\n";
  std::vector<std::string> all;
  for (const auto& part : parallel::all_gather_text(app.world, joined)) {
    std::istringstream lines(part);
    for (std::string line; app.first() && std::getline(lines, line);) all.push_back(line);
  }
  return all;
}

void write_lines(const std::filesystem::path& path, const std::vector<std::string>& lines) {
  std::string text;
  for (const auto& line : lines) text += line + "\n";
  if (path.empty()) {
    std::cout << text << std::flush;
  } else {
    write_file_atomically(path, text);
  }
}

}  // namespace tessera::launch
