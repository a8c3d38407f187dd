#include "checkpoint/safetensors.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/hash.h"

namespace tessera::checkpoint {

namespace {

using nlohmann::json;

struct DtypeName {
  const char* name;
  at::ScalarType dtype;
};
constexpr std::array kDtypes = {
    DtypeName{"F32", at::kFloat}, DtypeName{"BF16", at::kBFloat16}, DtypeName{"F16", at::kHalf},
    DtypeName{"F64", at::kDouble}, DtypeName{"I64", at::kLong},     DtypeName{"I32", at::kInt},
    DtypeName{"I16", at::kShort},  DtypeName{"I8", at::kChar},      DtypeName{"U8", at::kByte},
    DtypeName{"BOOL", at::kBool},  DtypeName{"F8_E4M3", at::kFloat8_e4m3fn},
};

const char* dtype_name(at::ScalarType dtype) {
  for (const auto& entry : kDtypes)
    if (entry.dtype == dtype) return entry.name;
  throw CheckpointError("safetensors cannot hold dtype " + std::string(c10::toString(dtype)));
}

[[noreturn]] void fail(const std::string& source, const std::string& what) {
  throw CheckpointError(source + ": " + what + "; the file is damaged or not a safetensors file: fetch it again");
}

TensorInfo parse_tensor(const std::string& name, const json& entry, size_t data_size, const std::string& source) {
  const auto bad = [&](const std::string& what) { fail(source, "tensor '" + name + "' " + what); };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets"))
    bad("lacks dtype, shape or data_offsets");
  if (!entry["dtype"].is_string() || !entry["shape"].is_array()) bad("has a malformed dtype or shape");
  TensorInfo info;
  const auto dtype = entry["dtype"].get<std::string>();
  const auto known = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const auto& d) { return dtype == d.name; });
  if (known == kDtypes.end()) bad("has the unknown dtype '" + dtype + "'");
  info.dtype = known->dtype;
  // Checked multiplication: a lying shape must not wrap around.
  size_t bytes = c10::elementSize(info.dtype);
  for (const auto& dim : entry["shape"]) {
    if (!dim.is_number_unsigned()) bad("has a malformed shape");
    const auto size = dim.get<uint64_t>();
    if (size > static_cast<uint64_t>(INT64_MAX) || __builtin_mul_overflow(bytes, size, &bytes)) bad("has an impossible shape");
    info.shape.push_back(static_cast<int64_t>(size));
  }
  const auto& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
    bad("has malformed data_offsets");
  info.begin = offsets[0].get<uint64_t>();
  info.end = offsets[1].get<uint64_t>();
  if (info.begin > info.end || info.end > data_size)
    bad(detail::concat("claims bytes ", info.begin, "..", info.end, " of ", data_size));
  if (info.end - info.begin != bytes)
    bad(detail::concat("holds ", info.end - info.begin, " bytes where its shape needs ", bytes));
  return info;
}

/// Rejects duplicate names, which JSON parsers silently merge.
json parse_header_json(std::string_view text, const std::string& source) {
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > 4) fail(source, "header is nested too deeply");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.empty() && !keys.back().insert(parsed.get<std::string>()).second)
      duplicate = parsed.get<std::string>();
    return true;
  };
  json header = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) fail(source, "header is not a JSON object");
  if (!duplicate.empty()) fail(source, "names '" + duplicate + "' twice");
  return header;
}

}  // namespace

SafetensorsHeader SafetensorsHeader::parse(std::string_view file, const std::string& source) {
  if (file.size() < 8) fail(source, detail::concat("has ", file.size(), " bytes, too few for a header"));
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(file[static_cast<size_t>(i)]);
  constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
  if (length > kMaxHeader || length > file.size() - 8)
    fail(source, detail::concat("claims a header of ", length, " bytes in a file of ", file.size()));
  const json header = parse_header_json(file.substr(8, length), source);
  SafetensorsHeader result;
  result.data_offset = 8 + length;
  const size_t data_size = file.size() - result.data_offset;
  std::vector<std::pair<size_t, size_t>> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) fail(source, "__metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail(source, "__metadata__ '" + key + "' is not a string");
        result.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    TensorInfo info = parse_tensor(name, entry, data_size, source);
    ranges.emplace_back(info.begin, info.end);
    result.tensors.emplace(name, std::move(info));
  }
  std::sort(ranges.begin(), ranges.end());
  size_t covered = 0;
  for (const auto& [begin, end] : ranges) {
    if (begin != covered) fail(source, "tensors overlap or leave a gap");
    covered = end;
  }
  if (covered != data_size)
    fail(source, detail::concat("holds ", data_size, " bytes of data where its header describes ", covered));
  return result;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path), header_(SafetensorsHeader::parse(file_.bytes(), path.string())) {}

at::Tensor SafetensorsFile::view(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  if (found == header_.tensors.end()) throw CheckpointError(path().string() + " has no tensor '" + name + "'");
  const TensorInfo& info = found->second;
  const char* data = file_.bytes().data() + header_.data_offset + info.begin;
  return at::from_blob(const_cast<char*>(data), info.shape, at::TensorOptions().dtype(info.dtype));
}

void SafetensorsFile::release(const std::string& name) const {
  const TensorInfo& info = header_.tensors.at(name);
  file_.release(header_.data_offset + info.begin, info.end - info.begin);
}

SafetensorsFolder::SafetensorsFolder(const std::filesystem::path& folder, const std::string& stem) : folder_(folder) {
  const auto single = folder / (stem + ".safetensors"), index = folder / (stem + ".safetensors.index.json");
  std::vector<std::string> files;
  json weight_map;
  if (std::filesystem::exists(index)) {
    const json parsed = json::parse(read_text_file(index), nullptr, false);
    if (parsed.is_discarded() || !parsed.is_object() || !parsed.contains("weight_map") || !parsed["weight_map"].is_object())
      throw CheckpointError(index.string() + ": not a safetensors index (an object with 'weight_map')");
    weight_map = parsed["weight_map"];
    std::set<std::string> unique;
    for (const auto& [name, file] : weight_map.items()) {
      if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos)
        throw CheckpointError(index.string() + ": '" + name + "' does not name a file of the folder");
      unique.insert(file.get<std::string>());
    }
    files.assign(unique.begin(), unique.end());
  } else if (std::filesystem::exists(single)) {
    files.push_back(single.filename().string());
  } else {
    throw ConfigError(folder.string() + " holds neither " + single.filename().string() + " nor " +
                      index.filename().string() + "; point to a Hugging Face folder with safetensors weights");
  }
  for (const auto& file : files) {
    if (!std::filesystem::exists(folder / file))
      throw CheckpointError(index.string() + " lists " + file + ", which is missing: fetch it");
    files_.emplace_back(folder / file);
    for (const auto& [name, info] : files_.back().header().tensors)
      if (!where_.emplace(name, files_.size() - 1).second)
        throw CheckpointError(folder.string() + ": tensor '" + name + "' is in two files");
  }
  for (const auto& [name, file] : weight_map.items()) {
    const auto* holder = find(name);
    if (holder == nullptr || holder->path().filename() != file.get<std::string>())
      throw CheckpointError(index.string() + ": '" + name + "' is not in " + file.get<std::string>());
  }
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : where_) names.push_back(name);
  return names;
}

const SafetensorsFile* SafetensorsFolder::find(const std::string& name) const {
  const auto found = where_.find(name);
  return found == where_.end() ? nullptr : &files_[found->second];
}

std::string SafetensorsFolder::hash() const {
  Hasher hasher;
  for (const auto& file : files_) hasher.update(hash_file(file.path()));
  return hasher.hex();
}

std::string write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const auto& tensor : tensors) {
    size_t bytes = c10::elementSize(tensor.dtype);
    for (int64_t dim : tensor.shape) bytes *= static_cast<size_t>(dim);
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)}, {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::array<unsigned char, 8> length{};
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<unsigned char>(text.size() >> (8 * i));
  FileWriter writer(path);
  Hasher hasher;
  const auto put = [&](const void* data, size_t size) {
    hasher.update(data, size);
    writer.write(data, size);
  };
  put(length.data(), length.size());
  put(text.data(), text.size());
  for (const auto& tensor : tensors) {
    const at::Tensor value = tensor.make().to(tensor.dtype).contiguous();
    TESSERA_CHECK(value.sizes() == at::IntArrayRef(tensor.shape), tensor.name, " has shape ", value.sizes());
    put(value.const_data_ptr(), static_cast<size_t>(value.numel()) * value.element_size());
  }
  writer.finish();
  return hasher.hex();
}

void write_safetensors_folder(const std::filesystem::path& folder, const std::string& stem,
                              const std::vector<TensorToWrite>& tensors, int64_t shard_bytes) {
  std::vector<std::vector<TensorToWrite>> shards(1);
  int64_t in_shard = 0, total = 0;
  for (const auto& tensor : tensors) {
    auto bytes = static_cast<int64_t>(c10::elementSize(tensor.dtype));
    for (int64_t dim : tensor.shape) bytes *= dim;
    if (in_shard > 0 && in_shard + bytes > shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(tensor);
    in_shard += bytes;
    total += bytes;
  }
  if (shards.size() == 1) {
    write_safetensors(folder / (stem + ".safetensors"), shards[0]);
  } else {
    json weight_map = json::object();
    for (size_t i = 0; i < shards.size(); ++i) {
      char name[64];
      std::snprintf(name, sizeof name, "-%05zu-of-%05zu.safetensors", i + 1, shards.size());
      write_safetensors(folder / (stem + name), shards[i]);
      for (const auto& tensor : shards[i]) weight_map[tensor.name] = stem + name;
    }
    const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
    write_file_atomically(folder / (stem + ".safetensors.index.json"), index.dump(2));
  }
  sync_directory(folder);
}

}  // namespace tessera::checkpoint
