#include "data/tokenizer.h"

#include <atomic>
#include <exception>
#include <thread>

#include "core/error.h"
#include "data/tokenizer_impl.h"
#include "data/unicode.h"

namespace tessera::data {

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::unique_ptr<Tokenizer::Impl::Scratch> Tokenizer::Impl::borrow() const {
  {
    const std::lock_guard lock(pool_mutex);
    if (!pool.empty()) {
      auto scratch = std::move(pool.back());
      pool.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>();
}

void Tokenizer::Impl::give_back(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(pool_mutex);
  pool.push_back(std::move(scratch));
}

// `text` begins at `offset` of the whole text.
void Tokenizer::Impl::encode_words(std::string_view text, size_t offset, Scratch& scratch,
                                   std::vector<int32_t>& out, std::vector<int64_t>* ends) const {
  size_t prefix = 0;
  if (pre_tokenizer->add_prefix_space() && text.front() != ' ') {
    scratch.prefixed.assign(1, ' ').append(text);
    text = scratch.prefixed;
    prefix = 1;
  }
  pre_tokenizer->split(text, scratch.pre);
  for (const Piece& piece : scratch.pre.pieces) {
    const size_t first = out.size();
    bpe.encode(text.substr(piece.begin, piece.end - piece.begin), scratch.bpe, out);
    if (ends == nullptr) continue;
    size_t at = piece.begin;
    for (size_t i = first; i < out.size(); ++i) {
      at = std::min(at + bytes_of(out[i]).size(), piece.end);
      // A byte without a token belongs to the word's last id.
      ends->push_back(
          static_cast<int64_t>(offset + (i + 1 == out.size() ? piece.end : at) - prefix));
    }
  }
}

void Tokenizer::Impl::encode(std::string_view text, bool skip_special, Scratch& scratch,
                             std::vector<int32_t>& out, std::vector<int64_t>* ends) const {
  const auto push = [&](const AddedTokenMatcher::Part& part, size_t offset) {
    out.push_back(part.token->id);
    if (ends != nullptr) ends->push_back(static_cast<int64_t>(offset + part.end));
  };
  raw_added.cut(text, skip_special, scratch.raw_parts);
  std::string normal_form;
  for (const auto& raw : scratch.raw_parts) {
    if (raw.token != nullptr) {
      push(raw, 0);
      continue;
    }
    std::string_view body = text.substr(raw.begin, raw.end - raw.begin);
    if (!normalizer.empty()) {
      normal_form = normalizer.apply(body);
      body = normal_form;
    }
    if (normalized_added.empty()) {
      encode_words(body, raw.begin, scratch, out, ends);
      continue;
    }
    normalized_added.cut(body, skip_special, scratch.parts);
    for (const auto& part : scratch.parts) {
      if (part.token != nullptr) {
        push(part, raw.begin);
      } else {
        encode_words(body.substr(part.begin, part.end - part.begin), raw.begin + part.begin,
                     scratch, out, ends);
      }
    }
  }
}

namespace {
// Well-formed UTF-8: the text itself, or its mended copy in `storage`.
std::string_view well_formed(std::string_view text, std::string& storage) {
  if (is_valid_utf8(text)) return text;
  storage = replace_invalid_utf8(text);
  return storage;
}
}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::string mended;
  text = well_formed(text, mended);
  std::vector<int32_t> out;
  out.reserve(text.size() / 4 + 8);
  auto scratch = impl_->borrow();
  impl_->encode(text, false, *scratch, out, nullptr);
  impl_->give_back(std::move(scratch));
  return out;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, std::vector<int64_t>& ends) const {
  TESSERA_CHECK(is_valid_utf8(text), "offsets need a normalised text");
  std::vector<int32_t> out;
  ends.clear();
  auto scratch = impl_->borrow();
  impl_->encode(text, false, *scratch, out, &ends);
  impl_->give_back(std::move(scratch));
  TESSERA_CHECK(ends.size() == out.size(), "an id without an end");
  return out;
}

std::vector<int32_t> Tokenizer::encode_ordinary(std::string_view text) const {
  std::string mended;
  text = well_formed(text, mended);
  std::vector<int32_t> out;
  auto scratch = impl_->borrow();
  impl_->encode(text, true, *scratch, out, nullptr);
  impl_->give_back(std::move(scratch));
  return out;
}

std::vector<std::vector<int32_t>> Tokenizer::encode_batch(
    const std::vector<std::string_view>& texts, int threads) const {
  std::vector<std::vector<int32_t>> out(texts.size());
  std::atomic<size_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
  const auto work = [&] {
    try {
      for (size_t i = next++; i < texts.size(); i = next++) out[i] = encode(texts[i]);
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      error = std::current_exception();
      next = texts.size();
    }
  };
  {
    std::vector<std::jthread> pool;
    for (int i = 1; i < threads && static_cast<size_t>(i) < texts.size(); ++i)
      pool.emplace_back(work);
    work();
  }
  if (error) std::rethrow_exception(error);
  return out;
}

std::string Tokenizer::normalize(std::string_view text) const {
  std::string mended;
  text = well_formed(text, mended);
  if (impl_->normalizer.empty()) return std::string(text);
  // Added tokens that are looked for in the raw text stay as they are.
  std::vector<AddedTokenMatcher::Part> parts;
  impl_->raw_added.cut(text, false, parts);
  std::string out;
  for (const auto& part : parts) {
    const std::string_view body = text.substr(part.begin, part.end - part.begin);
    part.token != nullptr ? out.append(body) : out.append(impl_->normalizer.apply(body));
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string out;
  for (const int32_t id : ids) {
    if (!skip_special_tokens || !is_special(id)) out += impl_->bytes_of(id);
  }
  return is_valid_utf8(out) ? out : replace_invalid_utf8(out);
}

std::string_view Tokenizer::token_bytes(int32_t id) const { return impl_->bytes_of(id); }

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->special.size()); }

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  const auto found = impl_->ids.find(std::string(token));
  return found == impl_->ids.end() ? std::nullopt : std::optional(found->second);
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < impl_->special.size() &&
         impl_->special[static_cast<size_t>(id)] != 0;
}

std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }
const std::vector<int32_t>& Tokenizer::stop_ids() const { return impl_->stops; }
const std::string& Tokenizer::hash() const { return impl_->hash; }

}  // namespace tessera::data
