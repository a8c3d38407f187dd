#include "recipes/pipeline.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "recipes/reader.h"
#include "recipes/recipe.h"
#include "recipes/resolve.h"
#include "recipes/schema.h"
#include "recipes/writer.h"

namespace tessera::recipes {

namespace {

using pipeline::Pipeline;
using pipeline::Stage;

// Sections of the whole, which are no defaults of stages.
const std::set<std::string> kOwnKeys = {"name", "task", "output", "stages", "report"};
const std::set<std::string> kStageTasks = {"sft", "pretrain", "grpo", "reject", "distill"};
// What a stage that trains nothing reads of the common sections.
const std::set<std::string> kRejectSections = {"seed", "model", "data", "parallel", "rl"};

[[noreturn]] void fail(const ConfigNode& node, const std::string& what) { throw ConfigError(node.where + ": " + what); }

/// The keys of the whole that are read here.
struct Head {
  std::string name = "pipeline", output;
  uint64_t seed = 0;
  trainer::ModelSource model;
  parallel::ParallelConfig parallel;
  trainer::CommunicationConfig communication;
  std::optional<pipeline::ReportConfig> report;
};

/// A stage of rejection sampling.
struct RejectRun {
  trainer::TrainerConfig config;
  std::optional<rl::RlConfig> rl;
  pipeline::SelectionConfig selection;
};

template <typename Visitor>
void describe(Visitor& v, Head& c) {
  v.field("name", c.name);
  v.field("output", c.output);
  v.field("seed", c.seed);
  v.section("model", c.model);
  v.section("parallel", c.parallel);
  v.section("communication", c.communication);
  v.optional_section("report", c.report);
}

template <typename Visitor>
void describe(Visitor& v, RejectRun& c) {
  v.field("name", c.config.name);
  v.field("task", c.config.task);
  v.field("seed", c.config.seed);
  v.field("output", c.config.output);
  v.section("model", c.config.model);
  v.section("data", c.config.data);
  v.section("parallel", c.config.parallel);
  v.optional_section("rl", c.rl);
  v.section("reject", c.selection);
}

ConfigNode text_node(const std::string& text, const std::string& where) {
  ConfigNode node;
  node.kind = ConfigNode::Kind::kScalar;
  node.scalar = text;
  node.quoted = true;
  node.where = where;
  return node;
}

void set(ConfigNode& map, const std::string& key, ConfigNode value) {
  std::erase_if(map.entries, [&](const auto& entry) { return entry.key == key; });
  map.entries.push_back({key, std::move(value)});
}

std::string scalar(const ConfigNode& node, const char* key) {
  const ConfigNode* value = node.find(key);
  if (value == nullptr) return "";
  if (value->kind != ConfigNode::Kind::kScalar) fail(*value, std::string(key) + " must be a single value");
  return value->scalar;
}

/// Reads the stages one after the other; each may refer to those before it.
class StageReader {
 public:
  StageReader(const ConfigNode& root, const Head& head) : root_(root), head_(head) {
    for (const auto& item : root.find("stages")->items) names_.push_back(name_of(item));
  }

  Stage read(const ConfigNode& written) {
    ConfigNode item = written;
    Stage stage;
    stage.name = scalar(item, "name");
    stage.task = task_of(item, stage.name);
    prefix_ = "stages." + stage.name + ".";
    substitute(item, stage);
    ConfigNode node = overlay(item, stage);
    if (stage.task == "reject") {
      read_reject(node, stage);
    } else {
      read_training(node, stage);
    }
    for (const auto& [key, value] : stage.run_keys) stage.keys.insert({key, value});
    std::sort(stage.inputs.begin(), stage.inputs.end());
    stage.inputs.erase(std::unique(stage.inputs.begin(), stage.inputs.end()), stage.inputs.end());
    done_.push_back(stage);
    return stage;
  }

 private:
  std::string name_of(const ConfigNode& item) const {
    if (item.kind != ConfigNode::Kind::kMap) fail(item, "a stage must be a section of 'key: value' lines, with name and task");
    const std::string name = scalar(item, "name");
    if (name.empty()) fail(item, "this stage has no name; give it one, such as name: cold-start");
    if (name == "start") fail(*item.find("name"), "name: start stands for the model that the pipeline starts with; choose another name");
    for (const char c : name)
      if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-' && c != '_')
        fail(*item.find("name"), "name: '" + name + "' is a folder's name as well; use letters, digits, - and _ only");
    for (const auto& other : root_.find("stages")->items) {
      if (&other == &item) break;
      if (scalar(other, "name") == name) fail(*item.find("name"), "two stages have the name " + name + " (the first at " + other.where + "); rename one");
    }
    return name;
  }

  std::string task_of(const ConfigNode& item, const std::string& name) const {
    const std::string task = scalar(item, "task");
    const std::vector<std::string> known(kStageTasks.begin(), kStageTasks.end());
    if (task.empty()) fail(item, "stage " + name + " has no task; use one of " + join(known));
    if (kStageTasks.count(task) > 0) return task;
    const std::string near = nearest_name(task, known);
    fail(*item.find("task"), "stage " + name + ": task = " + task + " is not known here; use one of " + join(known) + (near.empty() ? "" : " (did you mean '" + near + "'?)"));
  }

  /// The stage named so, which must come before. `asked_by` is the key that wants it.
  const Stage& before(const ConfigNode& where, const std::string& asked_by, const std::string& name) const {
    for (const auto& stage : done_)
      if (stage.name == name) return stage;
    if (std::find(names_.begin(), names_.end(), name) != names_.end())
      fail(where, asked_by + " refers to stage " + name + ", which does not come before it; "
                  "stages run in the order of the list: put " + name + " further up, or refer to another");
    const std::string near = nearest_name(name, names_);
    fail(where, asked_by + " refers to a stage '" + name + "' that does not exist; " +
                    (near.empty() ? "stages are " + join(names_) : "did you mean '" + near + "'?"));
  }

  /// ${stages.NAME.samples} and ${stages.NAME.exported} in any text of the stage.
  void substitute(ConfigNode& node, Stage& stage) const {
    for (auto& item : node.items) substitute(item, stage);
    for (auto& [key, value] : node.entries) substitute(value, stage);
    if (node.kind != ConfigNode::Kind::kScalar) return;
    constexpr std::string_view kOpening = "${stages.";
    for (size_t begin = node.scalar.find(kOpening); begin != std::string::npos; begin = node.scalar.find(kOpening)) {
      const size_t end = node.scalar.find('}', begin), dot = node.scalar.find('.', begin + kOpening.size());
      if (end == std::string::npos || dot == std::string::npos || dot > end)
        fail(node, node.scalar + " is not understood; write ${stages.NAME.samples} or ${stages.NAME.exported}");
      const std::string word = node.scalar.substr(begin, end - begin + 1), what = node.scalar.substr(dot + 1, end - dot - 1);
      const Stage& source = before(node, prefix_ + " " + word, node.scalar.substr(begin + kOpening.size(), dot - begin - kOpening.size()));
      if (what != "samples" && what != "exported") fail(node, word + ": a stage makes samples or exported, not '" + what + "'");
      if (what == "samples" && !source.samples())
        fail(node, word + ": stage " + source.name + " (task: " + source.task + ") makes no samples; those of task reject and distill do");
      if (what == "exported" && !source.trains()) fail(node, word + ": stage " + source.name + " (task: reject) trains no model; it makes samples");
      node.scalar.replace(begin, end - begin + 1, (what == "samples" ? source.samples_path() : source.exported_path()).string());
      stage.inputs.push_back(source.name);
    }
  }

  /// The common sections that the task reads, under those of the stage.
  ConfigNode overlay(const ConfigNode& item, Stage& stage) const {
    ConfigNode node;
    node.where = item.where;
    for (const auto& [key, value] : root_.entries) {
      if (kOwnKeys.count(key) > 0) continue;
      if (stage.task == "reject" ? kRejectSections.count(key) == 0 : key == "rl" && stage.task != "grpo") continue;
      node.entries.push_back({key, value});
    }
    const ConfigNode* own = item.find("model");
    const bool own_model = own != nullptr && (own->find("path") != nullptr || own->find("config") != nullptr);
    ConfigNode model = own_model ? *own : model_before(item, stage);
    if (own_model && item.find("model_from") != nullptr)
      fail(*item.find("model_from"), prefix_ + "model_from and a model of the stage's own exclude each other; keep one");
    if (own_model && own->find("config") != nullptr && own->find("tokenizer") == nullptr)
      set(model, "tokenizer", text_node(head_.model.tokenizer_folder(), own->where));
    if (!own_model && own != nullptr) merge(model, *own);
    ConfigNode rest = item;
    std::erase_if(rest.entries, [](const auto& e) { return e.key == "model" || e.key == "model_from"; });
    merge(node, rest);
    set(node, "model", model);
    set(node, "name", text_node(stage.name, item.where));
    set(node, "output", text_node(pipeline::stage_folder(head_.output, stage.name).string(), item.where));
    return node;
  }

  /// The model of the stage that is asked for, or of the last one before that has trained.
  ConfigNode model_before(const ConfigNode& item, Stage& stage) const {
    const ConfigNode* start = root_.find("model");
    const std::string from = scalar(item, "model_from");
    if (stage.task == "distill" && from.empty()) fail(item, prefix_ + "model is missing: the student, with a path, or a config for fresh weights");
    const Stage* source = nullptr;
    if (from.empty()) {
      for (const auto& other : done_) source = other.trains() ? &other : source;
    } else if (from != "start") {
      source = &before(*item.find("model_from"), prefix_ + "model_from", from);
      if (!source->trains())
        fail(*item.find("model_from"), prefix_ + "model_from = " + from + ": that stage (task: reject) trains no model; name one that does, or start");
    }
    if (source == nullptr) return *start;
    ConfigNode model;
    model.where = item.where;
    set(model, "path", text_node(source->exported_path().string(), item.where));
    if (const ConfigNode* lora = start->find("lora"); lora != nullptr) set(model, "lora", *lora);
    stage.inputs.push_back(source->name);
    return model;
  }

  void read_reject(const ConfigNode& node, Stage& stage) const {
    RejectRun run;
    Reader::read_struct(node, prefix_.substr(0, prefix_.size() - 1), run);
    try {
      if (!run.rl) throw ConfigError("rl is missing: how to sample and what to reward, such as rl: {rollouts_per_prompt: 8, rewards: [{name: exact}]}");
      if (run.config.data.train.empty()) throw ConfigError("data.train is missing: a list of {path} with prompts");
      run.config.model.validate();
      run.config.data.validate();
      if (run.rl->rollouts_per_prompt == 1) run.rl->advantage = "batch";  // there is nothing to compare here
      run.rl->validate();
      run.selection.validate("reject");
    } catch (const ConfigError& error) {
      throw ConfigError(located(node, error.what(), prefix_));
    }
    std::string yaml;
    Writer writer(yaml, stage.keys, "", 0);
    describe(writer, run);
    stage.config = run.config;
    stage.selection = run.selection;
    stage.sampling = {run.config.model, run.config.parallel, run.config.data.train, *run.rl, run.config.seed};
  }

  void read_training(ConfigNode node, Stage& stage) const {
    std::optional<pipeline::DistillConfig> distill;
    ConfigNode teacher;
    if (stage.task == "distill") {
      distill = read_distill(node);
      teacher = *node.find("distill")->find("teacher");
      std::erase_if(node.entries, [](const auto& e) { return e.key == "distill"; });
      set(node, "task", text_node("sft", node.where));
    }
    Recipe recipe = resolve(node, prefix_);
    stage.config.output = recipe.config.output;
    if (distill) {
      teach(teacher, *distill, recipe, stage);
      recipe.config.data.train = {{.path = stage.samples_path().string()}};
      write_out(recipe);
    }
    stage.config = recipe.config;
    stage.rl = recipe.rl;
    stage.run_yaml = recipe.yaml;
    stage.run_keys = recipe.keys;
  }

  pipeline::DistillConfig read_distill(const ConfigNode& node) const {
    const ConfigNode* section = node.find("distill");
    if (section == nullptr) fail(node, prefix_ + "distill is missing: at least distill: {teacher: STAGE or FOLDER}");
    pipeline::DistillConfig distill;
    Reader::read_struct(*section, prefix_ + "distill", distill);
    try {
      distill.validate();
    } catch (const ConfigError& error) {
      throw ConfigError(located(node, error.what(), prefix_));
    }
    return distill;
  }

  /// The teacher, and the prompts that the student's data.train named.
  void teach(const ConfigNode& where, pipeline::DistillConfig& distill, const Recipe& recipe, Stage& stage) const {
    stage.selection = distill.selection;
    if (distill.rewards.empty()) stage.selection.minimum_reward = 0;
    pipeline::SamplingJob job{{}, head_.parallel, recipe.config.data.train, distill.rollouts(), recipe.config.seed};
    if (distill.teacher == "start") {
      job.model = head_.model;
    } else if (std::filesystem::is_directory(distill.teacher)) {
      job.model.path = distill.teacher;
    } else {
      const Stage& teacher = before(where, prefix_ + "distill.teacher (a stage's name or an existing folder)", distill.teacher);
      if (!teacher.trains()) fail(where, prefix_ + "distill.teacher = " + teacher.name + ": that stage (task: reject) trains no model; name one that does");
      job.model.path = teacher.exported_path().string();
      job.parallel = teacher.config.parallel;
      stage.inputs.push_back(teacher.name);
    }
    std::string yaml;
    Writer writer(yaml, stage.keys, "", 0);
    writer.section("distill", distill);
    writer.list("prompts", job.prompts);
    stage.sampling = std::move(job);
  }

  const ConfigNode& root_;
  const Head& head_;
  std::vector<std::string> names_;
  std::vector<Stage> done_;
  std::string prefix_;  // of the stage that is read: "stages.NAME."
};

Head read_head(const ConfigNode& node) {
  ConfigNode own = node;
  std::erase_if(own.entries, [](const auto& e) { return kOwnKeys.count(e.key) == 0 && e.key != "seed" && e.key != "model" && e.key != "parallel" && e.key != "communication"; });
  std::erase_if(own.entries, [](const auto& e) { return e.key == "stages" || e.key == "task"; });
  Head head;
  Reader::read_struct(own, "", head);
  if (head.output.empty()) head.output = "runs/" + head.name;
  try {
    if (node.find("model") == nullptr) throw ConfigError("model is missing: what the first stage starts with, a path, or a config and a tokenizer");
    head.model.validate();
    head.communication.validate();
    if (head.report) head.report->validate();
  } catch (const ConfigError& error) {
    throw ConfigError(located(node, error.what()));
  }
  return head;
}

/// A common section that no stage's task could read is a mistake of spelling more often than not.
void check_common(const ConfigNode& node) {
  std::set<std::string> known = kOwnKeys;
  Recipe any;
  any.rl.emplace();
  std::string yaml;
  std::map<std::string, std::string> keys;
  Writer writer(yaml, keys, "", 0);
  describe(writer, any);
  for (const auto& [key, value] : keys) known.insert(key.substr(0, key.find_first_of(".[")));
  known.insert({"model", "data"});
  const std::vector<std::string> names(known.begin(), known.end());
  for (const auto& [key, value] : node.entries) {
    if (known.count(key) > 0) continue;
    if (key == "reject" || key == "distill") fail(value, key + " belongs into a stage, not beside the stages");
    const std::string near = nearest_name(key, names);
    fail(value, key + " is not a known key; " + (near.empty() ? "known here: " + join(names) : "did you mean '" + near + "'?"));
  }
}

}  // namespace

Pipeline resolve_pipeline(const ConfigNode& node) {
  check_common(node);
  const ConfigNode* stages = node.find("stages");
  if (stages == nullptr || stages->kind != ConfigNode::Kind::kList || stages->items.empty())
    fail(stages == nullptr ? node : *stages, "task = pipeline needs 'stages': a list such as [{name: cold-start, task: sft, ..}]");
  Head head = read_head(node);
  Pipeline result{head.name, head.output, head.seed, head.model, head.parallel, head.communication, {}, head.report, {}};
  StageReader reader(node, head);
  for (const auto& item : stages->items) result.stages.push_back(reader.read(item));
  if (head.report) {
    std::string yaml;
    Writer writer(yaml, result.report_keys, "", 0);
    writer.section("report", *head.report);
  }
  return result;
}

}  // namespace tessera::recipes
