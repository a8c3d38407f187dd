#include "data/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "core/error.h"
#include "data/unicode.h"

namespace tessera::data {

Normalizer::Normalizer(const nlohmann::json& spec, std::string_view where) {
  if (!spec.is_null()) add(spec, where);
}

void Normalizer::add(const nlohmann::json& spec, std::string_view where) {
  const auto type = spec.is_object() ? spec.find("type") : spec.end();
  if (!spec.is_object() || type == spec.end() || !type->is_string()) {
    throw ConfigError(detail::concat(where, ": a normalizer must be an object with a \"type\""));
  }
  const auto name = type->get<std::string>();
  if (name == "Sequence") {
    const auto list = spec.find("normalizers");
    if (list == spec.end() || !list->is_array()) {
      throw ConfigError(
          detail::concat(where, ": normalizer Sequence needs the list \"normalizers\""));
    }
    for (const auto& item : *list) add(item, where);
  } else if (name == "NFC") {
    forms_.push_back(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  } else if (name == "NFD") {
    forms_.push_back(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  } else if (name == "NFKC") {
    forms_.push_back(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  } else if (name == "NFKD") {
    forms_.push_back(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  } else {
    throw ConfigError(
        detail::concat(where, ": normalizer \"", name,
                       "\" is not supported (supported: NFC, NFD, NFKC, NFKD, Sequence)"));
  }
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

std::string Normalizer::apply(std::string_view text) const {
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
