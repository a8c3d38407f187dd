#include "data/prepare.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "data/sample.h"
#include "data/unicode.h"

namespace tessera::data {

namespace {
namespace fs = std::filesystem;
constexpr size_t kBlock = 1024;   // lines encoded at a time
constexpr int kCacheVersion = 1;  // changes when the same input gives other tokens

// A sample's text in a mapped file.
struct Line {
  int32_t file;
  int64_t number;  // 0 = the whole file
  std::string_view text;
};

struct Sources {
  std::vector<std::string> names;
  std::vector<MappedFile> files;
  std::vector<StoreSource> hashed;
};

Sources open_sources(const std::vector<std::string>& names) {
  Sources sources;
  for (const std::string& name : names) {
    sources.names.push_back(name);
    sources.files.emplace_back(name);
    sources.hashed.push_back({name, hash_bytes(sources.files.back().bytes())});
  }
  return sources;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

// The lines of this rank: those that begin in its share of all bytes.
std::vector<Line> lines_of(const Sources& sources, const Share& share) {
  uint64_t total = 0;
  for (const auto& file : sources.files) total += file.bytes().size();
  const auto size = static_cast<uint64_t>(share.size), rank = static_cast<uint64_t>(share.rank);
  const uint64_t begin = total / size * rank + std::min(rank, total % size);
  const uint64_t end = begin + total / size + (rank < total % size ? 1 : 0);
  std::vector<Line> lines;
  uint64_t at = 0;  // in all bytes
  for (size_t i = 0; i < sources.files.size(); ++i) {
    std::string_view rest = sources.files[i].bytes();
    const auto mine = [&](uint64_t start) { return start >= begin && start < end; };
    if (sources.names[i].ends_with(".txt")) {
      if (mine(at) && !is_blank(rest)) lines.push_back({static_cast<int32_t>(i), 0, rest});
      at += rest.size();
      continue;
    }
    if (rest.starts_with("\xEF\xBB\xBF")) {
      rest.remove_prefix(3);
      at += 3;
    }
    for (int64_t number = 1; !rest.empty(); ++number) {
      const size_t length = std::min(rest.find('\n'), rest.size() - 1) + 1;
      const std::string_view text = rest.substr(0, length);
      if (mine(at) && !is_blank(text)) lines.push_back({static_cast<int32_t>(i), number, text});
      rest.remove_prefix(length);
      at += length;
    }
  }
  return lines;
}

EncodedSample encode_line(const Line& line, const Sources& sources, const Tokenizer& tokenizer,
                          const ChatTemplate* chat_template) {
  const std::string& name = sources.names[static_cast<size_t>(line.file)];
  if (line.number == 0) {
    if (!is_valid_utf8(line.text))
      throw ConfigError(name + ": not UTF-8; convert it (iconv -f latin1 -t utf-8)");
    return encode_text(line.text, tokenizer, name);
  }
  const std::string where = name + ":" + std::to_string(line.number);
  return encode_sample(parse_json(line.text, where), tokenizer, chat_template, where);
}

// Encodes lines [first, first + samples.size()) on `threads` threads; the error of the first bad
// line is thrown.
void encode_block(const std::vector<Line>& lines, size_t first, int threads, const Sources& sources,
                  const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                  std::vector<EncodedSample>& samples) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  size_t bad = samples.size();
  std::exception_ptr error;
  const auto work = [&] {
    for (size_t i = next++; i < samples.size(); i = next++) {
      try {
        samples[i] = encode_line(lines[first + i], sources, tokenizer, chat_template);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (i < bad) {
          bad = i;
          error = std::current_exception();
        }
        return;
      }
    }
  };
  {
    std::vector<std::jthread> pool;
    for (int i = 1; i < threads && static_cast<size_t>(i) < samples.size(); ++i)
      pool.emplace_back(work);
    work();
  }
  if (error) std::rethrow_exception(error);
}

StoreInfo info_of(const Sources& sources, const Tokenizer& tokenizer,
                  const ChatTemplate* chat_template) {
  return {sources.hashed, tokenizer.hash(), chat_template == nullptr ? "" : chat_template->hash(),
          tokenizer.vocab_size()};
}

void write_share(const fs::path& path, const Sources& sources, const Tokenizer& tokenizer,
                 const ChatTemplate* chat_template, const Share& share, bool show_progress) {
  const std::vector<Line> lines = lines_of(sources, share);
  TokenStoreWriter writer(path, info_of(sources, tokenizer, chat_template));
  Progress progress("tokenize", static_cast<int64_t>(lines.size()), "samples",
                    show_progress && share.rank == 0);
  std::vector<EncodedSample> samples;
  for (size_t first = 0; first < lines.size(); first += kBlock) {
    samples.assign(std::min(kBlock, lines.size() - first), {});
    encode_block(lines, first, share.threads, sources, tokenizer, chat_template, samples);
    for (size_t i = 0; i < samples.size(); ++i) {
      writer.append(samples[i].tokens, samples[i].loss_mask, lines[first + i].file,
                    lines[first + i].number);
    }
    progress.update(static_cast<int64_t>(first + samples.size()));
  }
  writer.finish();
}

fs::path part_path(const fs::path& output, int rank, int size) {
  fs::path part = output;
  part += ".part-" + std::to_string(rank) + "-of-" + std::to_string(size);
  return part;
}

void merge_parts(const fs::path& output, int size) {
  std::unique_ptr<TokenStoreWriter> writer;
  std::vector<int32_t> tokens;
  std::vector<uint8_t> mask;
  for (int rank = 0; rank < size; ++rank) {
    const TokenStore part(part_path(output, rank, size));
    if (writer == nullptr) writer = std::make_unique<TokenStoreWriter>(output, part.info());
    for (int64_t d = 0; d < part.num_documents(); ++d) {
      tokens.clear();
      mask.clear();
      const int64_t begin = part.offsets()[static_cast<size_t>(d)];
      part.read(begin, part.offsets()[static_cast<size_t>(d) + 1] - begin, tokens, mask);
      writer->append(tokens, mask, part.origin_file(d), part.origin_line(d));
    }
  }
  writer->finish();
  for (int rank = 0; rank < size; ++rank) fs::remove(part_path(output, rank, size));
}

// Both barriers are passed whatever this rank found, so that ranks that see the folder differently
// do not part ways.
void prepare(const fs::path& output, const Sources& sources, const Tokenizer& tokenizer,
             const ChatTemplate* chat_template, const Share& share, bool show_progress,
             bool keep_existing) {
  const auto done = [&] { return keep_existing && fs::exists(output); };
  if (share.size == 1) {
    if (!done()) write_share(output, sources, tokenizer, chat_template, share, show_progress);
    return;
  }
  if (!done())
    write_share(part_path(output, share.rank, share.size), sources, tokenizer, chat_template, share,
                show_progress);
  share.barrier();
  if (share.rank == 0 && !done()) merge_parts(output, share.size);
  share.barrier();
}
}  // namespace

std::vector<std::string> list_source_files(const std::string& path) {
  const auto known = [](const fs::path& p) {
    return p.extension() == ".jsonl" || p.extension() == ".txt";
  };
  if (fs::is_directory(path)) {
    std::vector<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file() && known(entry.path())) files.push_back(entry.path().string());
    }
    if (files.empty()) throw ConfigError(path + ": the folder has no .jsonl or .txt file");
    std::sort(files.begin(), files.end());
    return files;
  }
  if (!fs::exists(path))
    throw ConfigError(path + ": no such file or folder; mend the path under data");
  if (!known(path))
    throw ConfigError(path +
                      ": unknown kind of data; use .jsonl, .txt, .h5 (a token store), or a folder "
                      "of the first two");
  return {path};
}

void prepare_store(const PrepareOptions& options, const Tokenizer& tokenizer,
                   const ChatTemplate* chat_template, const Share& share) {
  std::vector<std::string> files;
  for (const std::string& input : options.inputs) {
    const auto more = list_source_files(input);
    files.insert(files.end(), more.begin(), more.end());
  }
  if (files.empty()) throw ConfigError("prepare needs at least one input file");
  if (options.output.extension() != ".h5")
    throw ConfigError(options.output.string() + ": the output must end in .h5");
  prepare(options.output, open_sources(files), tokenizer, chat_template, share,
          options.show_progress, false);
}

fs::path cached_store(const std::vector<std::string>& files, const fs::path& cache_folder,
                      const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                      const Share& share, bool show_progress) {
  const Sources sources = open_sources(files);
  Hasher key;
  key.update(tessera::detail::concat(kCacheVersion, " ", tokenizer.hash(), " ",
                                     chat_template == nullptr ? "" : chat_template->hash()));
  for (const auto& source : sources.hashed) key.update(source.path + "\n" + source.hash + "\n");
  const fs::path path = cache_folder / (fs::path(files.front()).stem().string() + "-" +
                                        key.hex().substr(0, 16) + ".h5");
  prepare(path, sources, tokenizer, chat_template, share, show_progress, true);
  return path;
}

}  // namespace tessera::data
