#include "data/tokenizer.h"

#include <algorithm>
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

size_t Tokenizer::Impl::length_in(std::string_view word, int32_t id) const {
  const std::string_view token = bytes_of(id);
  if (!bpe.by_character() || word.starts_with(token)) return std::min(token.size(), word.size());
  if (byte_of_token(token) >= 0) return 1;
  return word.empty() ? 0 : bpe.unknown_length(word);
}

void Tokenizer::Impl::encode_words(const Body& body, Scratch& scratch, std::vector<int32_t>& out,
                                   std::vector<int64_t>* ends) const {
  const std::string_view text =
      pre_tokenizer->prepare(body.text, body.origin(0) == 0, scratch.prepared, scratch.split);
  const bool prepared = text.data() != body.text.data();
  pre_tokenizer->split(text, scratch.pre);
  for (const Piece& piece : scratch.pre.pieces) {
    const size_t first = out.size();
    bpe.encode(text.substr(piece.begin, piece.end - piece.begin), scratch.bpe, out);
    if (ends == nullptr) continue;
    size_t at = piece.begin;
    for (size_t i = first; i < out.size(); ++i) {
      at = std::min(at + length_in(text.substr(at, piece.end - at), out[i]), piece.end);
      if (i + 1 == out.size())
        at = piece.end;  // a byte without a token belongs to the word's last id
      ends->push_back(static_cast<int64_t>(body.origin(prepared ? scratch.split[at] : at)));
    }
  }
}

void Tokenizer::Impl::encode(std::string_view text, bool skip_special, Scratch& scratch,
                             std::vector<int32_t>& out, std::vector<int64_t>* ends,
                             std::span<const size_t> plain) const {
  raw_added.cut(text, skip_special, scratch.raw_parts, plain);
  std::string composed, rewritten;
  for (const auto& raw : scratch.raw_parts) {
    if (raw.token != nullptr) {
      out.push_back(raw.token->id);
      if (ends != nullptr) ends->push_back(static_cast<int64_t>(raw.end));
      continue;
    }
    Body body{text.substr(raw.begin, raw.end - raw.begin), raw.begin, 0, nullptr};
    if (normalizer.has_forms()) body.text = composed = normalizer.compose(body.text);
    if (normalizer.has_rewrites()) {
      body.text = rewritten = normalizer.rewrite(body.text, &scratch.rewritten);
      body.alignment = &scratch.rewritten;
    }
    if (normalized_added.empty()) {
      encode_words(body, scratch, out, ends);
      continue;
    }
    std::vector<size_t>
        inside;  // the places, in the part; special tokens looked for in normalised text are rare
    for (const size_t place : plain)
      if (place >= raw.begin && place < raw.end && body.alignment == nullptr)
        inside.push_back(place - raw.begin);
    normalized_added.cut(body.text, skip_special, scratch.parts, inside);
    for (const auto& part : scratch.parts) {
      if (part.token != nullptr) {
        out.push_back(part.token->id);
        if (ends != nullptr) ends->push_back(static_cast<int64_t>(body.origin(part.end)));
      } else {
        encode_words({body.text.substr(part.begin, part.end - part.begin), raw.begin, part.begin,
                      body.alignment},
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

std::vector<int32_t> Tokenizer::encode(std::string_view text, std::vector<int64_t>& ends,
                                       std::span<const size_t> plain) const {
  TESSERA_CHECK(is_valid_utf8(text), "offsets need a normalised text");
  std::vector<int32_t> out;
  ends.clear();
  auto scratch = impl_->borrow();
  impl_->encode(text, false, *scratch, out, &ends, plain);
  impl_->give_back(std::move(scratch));
  TESSERA_CHECK(ends.size() == out.size(), "an id without an end");
  return out;
}

std::vector<int32_t> Tokenizer::encode_whole(std::string_view text) const {
  std::vector<int32_t> out = impl_->affixes.before;
  const auto ids = encode(text);
  out.insert(out.end(), ids.begin(), ids.end());
  out.insert(out.end(), impl_->affixes.behind.begin(), impl_->affixes.behind.end());
  return out;
}

const std::vector<int32_t>& Tokenizer::opening() const { return impl_->affixes.before; }

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
  if (!impl_->normalizer.has_forms()) return std::string(text);
  // Added tokens that are looked for in the raw text stay as they are.
  std::vector<AddedTokenMatcher::Part> parts;
  impl_->raw_added.cut(text, false, parts);
  std::string out;
  for (const auto& part : parts) {
    const std::string_view body = text.substr(part.begin, part.end - part.begin);
    part.token != nullptr ? out.append(body) : out.append(impl_->normalizer.compose(body));
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string out;
  std::vector<std::string> tokens;
  for (const int32_t id : ids) {
    if (skip_special_tokens && is_special(id)) continue;
    const std::string_view token = impl_->bytes_of(id);
    if (!impl_->bpe.by_character()) {
      out += token;
    } else if (!token.empty()) {
      tokens.emplace_back(token);
    }
  }
  if (impl_->bpe.by_character()) return impl_->decoder.apply(std::move(tokens));
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

std::vector<std::string> Tokenizer::special_tokens() const {
  std::vector<std::string> out;
  for (const auto& [token, id] : impl_->ids)
    if (is_special(id)) out.push_back(token);
  std::sort(out.begin(), out.end());
  return out;
}

std::optional<int32_t> Tokenizer::bos_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->eos; }
const std::vector<int32_t>& Tokenizer::stop_ids() const { return impl_->stops; }
const std::string& Tokenizer::hash() const { return impl_->hash; }

}  // namespace tessera::data
