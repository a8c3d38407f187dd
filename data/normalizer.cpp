#include "data/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data {

// Prepends `text`, or replaces `pattern` (a string or a regular expression) by it.
struct Normalizer::Rewrite {
  std::string text, pattern;
  std::unique_ptr<Regex> regex;

  [[nodiscard]] std::string apply(std::string_view source, Alignment* alignment) const;
};

Normalizer::Normalizer() = default;
Normalizer::~Normalizer() = default;
Normalizer::Normalizer(Normalizer&&) noexcept = default;
Normalizer& Normalizer::operator=(Normalizer&&) noexcept = default;

Normalizer::Normalizer(const nlohmann::json& spec, std::string_view where) {
  if (!spec.is_null()) add(spec, where);
}

void Normalizer::add(const nlohmann::json& spec, std::string_view where) {
  const auto type = spec.is_object() ? spec.find("type") : spec.end();
  if (!spec.is_object() || type == spec.end() || !type->is_string()) {
    throw ConfigError(detail::concat(where, ": a normalizer must be an object with a \"type\""));
  }
  static const std::pair<const char*, int> kForms[] = {
      {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
      {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
      {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
      {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT}};
  const auto name = type->get<std::string>();
  const auto* form = std::find_if(std::begin(kForms), std::end(kForms),
                                  [&](const auto& f) { return name == f.first; });
  if (name == "Sequence") {
    const auto list = spec.find("normalizers");
    if (list == spec.end() || !list->is_array()) {
      throw ConfigError(
          detail::concat(where, ": normalizer Sequence needs the list \"normalizers\""));
    }
    for (const auto& item : *list) add(item, where);
  } else if (form != std::end(kForms)) {
    if (!rewrites_.empty())
      throw ConfigError(detail::concat(where, ": normalizer ", name,
                                       " behind Prepend or Replace is not supported"));
    forms_.push_back(form->second);
  } else if (name == "Prepend" && spec.contains("prepend") && spec["prepend"].is_string()) {
    rewrites_.push_back(
        {.text = spec["prepend"].get<std::string>(), .pattern = "", .regex = nullptr});
  } else if (name == "Replace") {
    add_replace(spec, where);
  } else {
    throw ConfigError(detail::concat(
        where, ": normalizer \"", name,
        "\" is not supported (supported: NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence)"));
  }
}

void Normalizer::add_replace(const nlohmann::json& spec, std::string_view where) {
  const auto pattern = spec.find("pattern"), content = spec.find("content");
  const bool whole = pattern != spec.end() && pattern->is_object() && pattern->size() == 1 &&
                     pattern->begin()->is_string() && content != spec.end() && content->is_string();
  const std::string kind = whole ? pattern->begin().key() : "";
  if (kind != "String" && kind != "Regex") {
    throw ConfigError(detail::concat(
        where,
        ": normalizer Replace needs \"pattern\": {\"String\" or \"Regex\": ..} and \"content\""));
  }
  Rewrite rewrite{content->get<std::string>(), pattern->begin()->get<std::string>(), nullptr};
  if (rewrite.pattern.empty())
    throw ConfigError(detail::concat(where, ": normalizer Replace has an empty pattern"));
  if (kind == "Regex") rewrite.regex = std::make_unique<Regex>(rewrite.pattern, where);
  rewrites_.push_back(std::move(rewrite));
}

namespace {
// Copies `source` with replacements, and keeps the alignment.
class Copier {
 public:
  Copier(std::string_view source, Alignment* alignment) : source_(source), alignment_(alignment) {
    if (alignment_ != nullptr) alignment_->assign(1, 0);
  }
  /// What comes before `begin` stays; [begin, end) becomes `text`.
  void replace(size_t begin, size_t end, std::string_view text) {
    copy(begin);
    out_.append(text);
    if (alignment_ != nullptr) alignment_->resize(out_.size() + 1, end);
    at_ = end;
  }
  std::string finish() {
    copy(source_.size());
    return std::move(out_);
  }

 private:
  void copy(size_t end) {
    out_.append(source_.substr(at_, end - at_));
    if (alignment_ != nullptr)
      for (size_t i = at_; i < end; ++i) alignment_->push_back(i + 1);
    at_ = end;
  }
  std::string_view source_;
  Alignment* alignment_;
  std::string out_;
  size_t at_ = 0;
};
}  // namespace

std::string replace_text(std::string_view text, std::string_view from, std::string_view to,
                         Alignment* alignment) {
  Copier copier(text, alignment);
  for (size_t at = text.find(from); at != std::string_view::npos;
       at = text.find(from, at + from.size()))
    copier.replace(at, at + from.size(), to);
  return copier.finish();
}

std::string Normalizer::Rewrite::apply(std::string_view source, Alignment* alignment) const {
  if (regex == nullptr && !pattern.empty()) return replace_text(source, pattern, text, alignment);
  Copier copier(source, alignment);
  if (regex == nullptr) {
    if (!source.empty()) copier.replace(0, 0, text);
    return copier.finish();
  }
  RegexScratch scratch;
  for (size_t from = 0; from <= source.size();) {
    const auto [begin, end] = regex->find(source, from, scratch);
    if (begin == std::string_view::npos) break;
    copier.replace(begin, end, text);
    from = end > begin           ? end
           : end < source.size() ? end + decode_utf8(source.data() + end).length
                                 : end + 1;
  }
  return copier.finish();
}

bool Normalizer::has_rewrites() const { return !rewrites_.empty(); }

std::string Normalizer::rewrite(std::string_view text, Alignment* alignment) const {
  std::string out(text);
  Alignment total, step;
  for (size_t i = 0; i < rewrites_.size(); ++i) {
    out = rewrites_[i].apply(out, alignment == nullptr ? nullptr : i == 0 ? &total : &step);
    if (alignment == nullptr || i == 0) continue;
    for (size_t& at : step) at = total[at];
    total.swap(step);
  }
  if (alignment != nullptr) alignment->swap(total);
  return out;
}

namespace {
bool is_too_new(uint32_t c) {
  const auto* end = table::kUnnormalized + table::kNumUnnormalized;
  const auto* range =
      std::partition_point(table::kUnnormalized, end, [c](const auto& r) { return r[1] < c; });
  return range != end && (*range)[0] <= c;
}

void append_normal_form(std::string_view text, int form, std::string& out) {
  if (text.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                 static_cast<utf8proc_option_t>(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  TESSERA_CHECK(size >= 0, "normalisation failed: ", utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}
}  // namespace

std::string Normalizer::compose(std::string_view text) const {
  std::string out(text);
  for (const int form : forms_) {
    const bool ascii = std::all_of(out.begin(), out.end(),
                                   [](char c) { return static_cast<unsigned char>(c) < 0x80; });
    if (ascii) break;  // unchanged by every form
    std::string next;
    size_t done = 0;
    for (size_t i = 0; i < out.size();) {
      const CodePoint c = decode_utf8(out.data() + i);
      if (c.length > 2 && is_too_new(c.value)) {
        append_normal_form(std::string_view(out).substr(done, i - done), form, next);
        next.append(out, i, c.length);
        done = i + c.length;
      }
      i += c.length;
    }
    append_normal_form(std::string_view(out).substr(done), form, next);
    out = std::move(next);
  }
  return out;
}

}  // namespace tessera::data
