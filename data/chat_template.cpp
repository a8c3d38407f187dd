#include "data/chat_template.h"

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "data/jinja_eval.h"

namespace tessera::data {

namespace {
constexpr const char* kTokenNames[] = {"bos_token", "eos_token", "pad_token", "unk_token",
                                       "sep_token", "cls_token", "mask_token"};

// The template of this name, "" when there is none.
std::string named_template(const Json& config, const char* name, const std::string& where) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return "";
  if (found->is_string())
    return std::string_view(name) == "default" ? found->get<std::string>() : "";
  if (found->is_array()) {
    for (const Json& item : *found) {
      if (item.is_object() && item.contains("name") && item["name"] == name &&
          item.contains("template") && item["template"].is_string())
        return item["template"].get<std::string>();
    }
    if (std::string_view(name) != "default") return "";
  }
  throw ConfigError(detail::concat(
      where, ": chat_template must be a string, or a list with an entry \"default\""));
}
}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, const Json& variables, std::string name)
    : name_(std::move(name)), variables_(variables) {
  program_ = jinja::parse_template(source, name_);
  Hasher hasher;
  hasher.update(source);
  hasher.update(variables_.dump());
  hash_ = hasher.hex();
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::optional<ChatTemplate> ChatTemplate::load_if_present(const std::filesystem::path& folder) {
  const auto config_path = folder / "tokenizer_config.json";
  Json config = Json::object();
  if (std::filesystem::exists(config_path))
    config = parse_json(read_text_file(config_path), config_path.string());
  if (!config.is_object()) throw ConfigError(config_path.string() + ": must be a JSON object");
  Json variables = Json::object();
  for (const char* key : kTokenNames) {
    const auto found = config.find(key);
    if (found == config.end()) continue;
    if (found->is_string()) variables[key] = *found;
    if (found->is_object() && found->contains("content")) variables[key] = (*found)["content"];
  }
  const auto jinja_path = folder / "chat_template.jinja";
  if (std::filesystem::exists(jinja_path))
    return ChatTemplate(read_text_file(jinja_path), variables, jinja_path.string());
  const std::string source = named_template(config, "default", config_path.string());
  if (source.empty()) return std::nullopt;
  ChatTemplate out(source, variables, config_path.string() + ": chat_template");
  const std::string with_tools = named_template(config, "tool_use", config_path.string());
  if (!with_tools.empty()) {
    out.tool_program_ = jinja::parse_template(with_tools, out.name_);
    out.hash_ = hash_bytes(out.hash_ + with_tools);
  }
  return out;
}

ChatTemplate ChatTemplate::load(const std::filesystem::path& folder) {
  auto found = load_if_present(folder);
  if (!found) {
    throw ConfigError(
        detail::concat(folder.string(),
                       ": no chat template; add a chat_template.jinja, or use data in the "
                       "form {\"prompt\", \"completion\"} or {\"text\"}"));
  }
  return std::move(*found);
}

namespace {
// transformers leaves out members that are null, and gives reasoning all the names that templates
// read.
Json as_templates_read(const Json& messages) {
  Json out = Json::array();
  for (const Json& message : messages) {
    Json kept = Json::object();
    const Json* reasoning = nullptr;
    for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
      const auto found = message.find(key);
      if (reasoning == nullptr && found != message.end() && !found->is_null()) reasoning = &*found;
    }
    if (reasoning != nullptr) kept["thinking"] = *reasoning;
    for (const auto& [key, value] : message.items())
      if (!value.is_null()) kept[key] = value;
    if (reasoning != nullptr) kept["reasoning_content"] = *reasoning;
    out.push_back(std::move(kept));
  }
  return out;
}
}  // namespace

std::string ChatTemplate::render(const Json& messages, bool add_generation_prompt,
                                 const Json& extra) const {
  std::map<std::string, jinja::Value> names;
  for (const Json* source : {&variables_, &extra}) {
    for (const auto& [key, value] : source->items()) names[key] = jinja::Value(value);
  }
  names["messages"] = jinja::Value(as_templates_read(messages));
  names["add_generation_prompt"] = jinja::Value(Json(add_generation_prompt));
  for (const char* absent : {"tools", "documents"}) names.try_emplace(absent, jinja::Value(Json()));
  const bool tools = tool_program_ != nullptr && !names["tools"].is_none();
  return jinja::render(tools ? *tool_program_ : *program_, names, name_);
}

void check_messages(const Json& messages, std::string_view where) {
  if (!messages.is_array() || messages.empty()) {
    throw ConfigError(detail::concat(
        where, ": \"messages\" must be a list of {\"role\", \"content\"} that is not empty"));
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    const auto role = message.is_object() ? message.find("role") : message.end();
    if (!message.is_object() || role == message.end() || !role->is_string()) {
      throw ConfigError(
          detail::concat(where, ": message ", i + 1, " must be an object with a \"role\""));
    }
    const auto content = message.find("content");
    const bool none = content == message.end() || content->is_null();
    if (none && !message.contains("tool_calls")) {
      throw ConfigError(detail::concat(where, ": message ", i + 1, " has no \"content\""));
    }
    if (!none && !content->is_string() && !content->is_array()) {
      throw ConfigError(detail::concat(where, ": message ", i + 1, ": \"content\" is ",
                                       json_kind(*content), "; it must be a string"));
    }
  }
}

}  // namespace tessera::data
