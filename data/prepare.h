// Turns sources (.jsonl, .txt, folders of them) into a token store: `tessera prepare`, and what a
// Dataset does by itself for a source that is not a store yet.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/store.h"
#include "data/tokenizer.h"

namespace tessera::data {

/// How several processes work on one store: each tokenises its share of the bytes, rank 0 merges.
/// `barrier` is called twice a store by every rank. All ranks see the same folder.
struct Share {
  int rank = 0;
  int size = 1;
  int threads = 1;  // of this process
  std::function<void()> barrier = [] {};
};

struct PrepareOptions {
  std::vector<std::string> inputs;  // .jsonl and .txt files, folders of them
  std::filesystem::path output;     // .h5
  bool show_progress = false;
  bool plain_content = false;  // special tokens inside of messages are text
};

/// The files a source stands for: itself, or a folder's .jsonl and .txt files in name order. Throws
/// ConfigError when it does not exist, holds none, or has another ending.
[[nodiscard]] std::vector<std::string> list_source_files(const std::string& path);

/// Writes the store. `chat_template` may be null. Throws ConfigError "file:line: ..." on the first
/// bad line.
void prepare_store(const PrepareOptions& options, const Tokenizer& tokenizer,
                   const ChatTemplate* chat_template, const Share& share);

/// The path in `cache_folder` of the store of these files under this tokenizer and template;
/// prepared if it is not there.
[[nodiscard]] std::filesystem::path cached_store(const std::vector<std::string>& files,
                                                 const std::filesystem::path& cache_folder,
                                                 const Tokenizer& tokenizer,
                                                 const ChatTemplate* chat_template,
                                                 const Share& share, bool show_progress);

}  // namespace tessera::data
