#include "data/post_processor.h"

#include <string>

#include "core/error.h"

namespace tessera::data {

namespace {
using nlohmann::json;

[[noreturn]] void refuse(std::string_view where, const std::string& what) {
  throw ConfigError(detail::concat(where, ": post_processor ", what));
}

int32_t read_id(const json& value, std::string_view where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX)
    refuse(where, "has an id that is none");
  return value.get<int32_t>();
}

// ["</s>", 2]
int32_t read_pair(const json& spec, const char* key, std::string_view where) {
  if (!spec.contains(key) || !spec[key].is_array() || spec[key].size() != 2)
    refuse(where, detail::concat("needs \"", key, "\": [token, id]"));
  return read_id(spec[key][1], where);
}

const json& member(const json& object, const char* key) {
  static const json null;
  return object.is_object() && object.contains(key) ? object[key] : null;
}

std::vector<int32_t> ids_of(const json& spec, const json& item, std::string_view where) {
  const json& name = member(member(item, "SpecialToken"), "id");
  if (!name.is_string())
    refuse(where, "TemplateProcessing: \"single\" holds neither the text nor a special token");
  const json& token = member(member(spec, "special_tokens"), name.get<std::string>().c_str());
  const json& ids = member(token, "ids");
  if (!ids.is_array())
    refuse(where, "TemplateProcessing: " + name.dump() + " is not among \"special_tokens\"");
  std::vector<int32_t> out;
  for (const json& id : ids) out.push_back(read_id(id, where));
  return out;
}

Affixes read_template(const json& spec, std::string_view where) {
  const json& single = member(spec, "single");
  if (!single.is_array()) refuse(where, "TemplateProcessing needs the list \"single\"");
  Affixes out;
  bool text_seen = false;
  for (const json& item : single) {
    if (!member(item, "Sequence").is_null()) {
      if (text_seen) refuse(where, "TemplateProcessing with the text twice is not supported");
      text_seen = true;
      continue;
    }
    const auto ids = ids_of(spec, item, where);
    auto& side = text_seen ? out.behind : out.before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!text_seen) refuse(where, "TemplateProcessing: \"single\" lacks the text");
  return out;
}
}  // namespace

Affixes read_post_processor(const json& spec, std::string_view where) {
  if (spec.is_null()) return {};
  const std::string type = spec.is_object() && spec.contains("type") && spec["type"].is_string()
                               ? spec["type"].get<std::string>()
                               : "without a type";
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return read_template(spec, where);
  if (type == "BertProcessing" || type == "RobertaProcessing")
    return {{read_pair(spec, "cls", where)}, {read_pair(spec, "sep", where)}};
  if (type != "Sequence" || !spec.contains("processors") || !spec["processors"].is_array())
    refuse(where,
           "\"" + type +
               "\" is not supported (supported: ByteLevel, TemplateProcessing, BertProcessing, "
               "RobertaProcessing, Sequence)");
  Affixes out;
  for (const json& item : spec["processors"]) {
    const Affixes more = read_post_processor(item, where);
    out.before.insert(out.before.begin(), more.before.begin(), more.before.end());
    out.behind.insert(out.behind.end(), more.behind.begin(), more.behind.end());
  }
  return out;
}

}  // namespace tessera::data
