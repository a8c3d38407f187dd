#include "data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <thread>

#include "core/hash.h"
#include "data/inspect.h"
#include "data/loader.h"
#include "data/mixture.h"
#include "data/packing.h"
#include "tests/data/test_support.h"

namespace tessera::data {
namespace {

using test::config_error;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(MicroBatch, ListsTargetsWithTheTokenThatPredictsThem) {
  const Row a{{10, 11, 12, 13}, {0, 1, 0, 1}, {{0, 3, 0, -1}, {3, 1, 0, -1}}};
  const Row b{{20, 21, 22, 23},
              {0, 0, 1, 1},
              {{0, 2, 0, -1}, {2, 2, 2, 0}}};  // a rollout behind its prompt
  const MicroBatch batch = make_micro_batch({a, b});
  EXPECT_THAT(batch.positions, ElementsAre(0, 1, 2, 0, 0, 1, 2, 3));
  EXPECT_THAT(batch.target_sources,
              ElementsAre(0, 5, 6));  // a's second document begins with 13: no target
  EXPECT_THAT(batch.targets, ElementsAre(11, 22, 23));
  EXPECT_EQ(batch.segments.back(), (Segment{6, 2, 2, 2}));
  EXPECT_TRUE(make_micro_batch({}).tokens.empty());
}

TEST(Packing, EveryPieceOnceAndNoRowOverlong) {
  uint32_t state = 7;
  const auto random = [&] { return state = state * 1664525 + 1013904223, state >> 8; };
  for (int trial = 0; trial < 50; ++trial) {
    const int64_t capacity = 2 + random() % 600;
    std::vector<int32_t> lengths(random() % 2000);
    for (auto& length : lengths)
      length = 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(capacity));
    const Packing packing = pack_best_fit(lengths, capacity, trial % 2 == 0 ? 1 << 17 : 64);
    std::vector<int64_t> order = packing.order;
    std::sort(order.begin(), order.end());
    for (size_t i = 0; i < order.size(); ++i) ASSERT_EQ(order[i], static_cast<int64_t>(i));
    ASSERT_EQ(order.size(), lengths.size());
    for (int64_t r = 0; r < packing.num_rows(); ++r) {
      int64_t sum = 0;
      for (int64_t i = packing.row_begin[static_cast<size_t>(r)];
           i < packing.row_begin[static_cast<size_t>(r) + 1]; ++i) {
        sum += lengths[static_cast<size_t>(packing.order[static_cast<size_t>(i)])];
      }
      ASSERT_GT(sum, 0);
      ASSERT_LE(sum, capacity);
    }
    EXPECT_EQ(packing.order, pack_best_fit(lengths, capacity, trial % 2 == 0 ? 1 << 17 : 64).order);
  }
}

TEST(Packing, FillsRowsWell) {
  std::vector<int32_t> lengths;
  for (int i = 0; i < 5000; ++i) lengths.push_back(20 + i * 7919 % 300);
  const Packing packing = pack_best_fit(lengths, 512);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  EXPECT_GT(static_cast<double>(tokens) / (512.0 * static_cast<double>(packing.num_rows())), 0.98);
}

TEST(Mixture, SharesFollowTheWeightsEverywhere) {
  const Mixture mixture({0.7, 0.2, 0.1});
  std::map<int64_t, int64_t> seen;
  for (int64_t i = 0; i < 25'000; ++i) {
    const auto place = mixture.place(i);
    ASSERT_EQ(place.ordinal, seen[place.source]++);  // each source's rows in order, none left out
    if (i == 99) {
      EXPECT_THAT(seen, ElementsAre(std::pair(0, 70), std::pair(1, 20), std::pair(2, 10)));
    }
  }
  EXPECT_EQ(seen[0], 17'500);
  EXPECT_EQ(seen[2], 2'500);
  EXPECT_EQ(Mixture({3.0}).place(123).ordinal, 123);
}

class DatasetTest : public testing::Test {
 protected:
  DatasetTest() {
    test::write_model_folder(folder_);
    tokenizer_.emplace(Tokenizer::load(folder_.path()));
    template_.emplace(ChatTemplate::load(folder_.path()));
    config_.sequence_length = 32;
  }
  // `count` documents of different lengths; document i begins with the byte i.
  std::string write_tokens(const std::string& name, int count, int longest = 20) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      const int length = 2 + i * 7 % (longest - 1);
      Json line;
      for (int t = 0; t < length; ++t) {
        line["tokens"].push_back(t == 0 ? i % 256 : t % 256);
        line["loss_mask"].push_back(t == length - 1 ? 1 : 0);
      }
      text += line.dump() + "\n";
    }
    return folder_.write(name, text);
  }
  Dataset make(const std::vector<SourceConfig>& sources, uint64_t seed = 1,
               const Share& share = {}) const {
    return Dataset(sources, config_, *tokenizer_, &*template_, seed, folder_ / "cache", share,
                   false);
  }
  std::string refusal(const std::vector<SourceConfig>& sources) const {
    return config_error([&] { (void)make(sources); });
  }
  test::TemporaryFolder folder_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  DataConfig config_;
};

std::multiset<int32_t> first_tokens(const Row& row) {
  std::multiset<int32_t> out;
  for (const Segment& segment : row.segments)
    out.insert(row.tokens[static_cast<size_t>(segment.start)]);
  return out;
}

TEST_F(DatasetTest, OnePassShowsEveryDocumentOnce) {
  const std::string path = write_tokens("a.jsonl", 200);
  for (const bool packing : {true, false}) {
    config_.packing = packing;
    const Dataset dataset = make({{path, 1.0}});
    for (int64_t epoch = 0; epoch < 2; ++epoch) {
      std::multiset<int32_t> seen;
      for (int64_t i = 0; i < dataset.num_rows(); ++i) {
        const Row row = dataset.row(epoch * dataset.num_rows() + i);
        EXPECT_LE(row.tokens.size(), 32u);
        seen.merge(first_tokens(row));
      }
      EXPECT_EQ(seen.size(), 200u);
      for (int32_t i = 0; i < 200; ++i) EXPECT_EQ(seen.count(i), 1u);
    }
    EXPECT_EQ(dataset.num_rows() == 200, !packing);
  }
}

TEST_F(DatasetTest, RowsAreShuffledBySeedAndPass) {
  config_.packing = false;
  const std::string path = write_tokens("a.jsonl", 200);
  const Dataset one = make({{path, 1.0}}, 1), again = make({{path, 1.0}}, 1),
                two = make({{path, 1.0}}, 2);
  int same_seed = 0, same_pass = 0;
  for (int64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(one.row(i).tokens, again.row(i).tokens);
    same_seed += one.row(i).tokens == two.row(i).tokens;
    same_pass += one.row(i).tokens == one.row(i + 200).tokens;
    EXPECT_EQ(one.row_in_order(i).tokens[0], i);
  }
  EXPECT_LT(same_seed, 20);
  EXPECT_LT(same_pass, 20);
  EXPECT_EQ(one.hash(), again.hash());
  EXPECT_NE(one.hash(), two.hash());
}

TEST_F(DatasetTest, WeightsAreSharesOfRows) {
  config_.packing = false;
  const std::string a = folder_.write("a.jsonl", "{\"tokens\": [1, 1], \"loss_mask\": [0, 1]}\n");
  const std::string b = folder_.write(
      "b.jsonl",
      "{\"tokens\": [2, 2], \"loss_mask\": [0, 1]}\n{\"tokens\": [2, 3], \"loss_mask\": [0, 1]}\n");
  const Dataset dataset = make({{a, 3.0}, {b, 1.0}});
  EXPECT_EQ(dataset.num_rows(), 3);
  int first = 0;
  for (int64_t i = 0; i < 400; ++i) first += dataset.row(i).tokens[0] == 1;
  EXPECT_EQ(first, 300);
}

TEST_F(DatasetTest, StepsAreTheSameForEveryLayout) {
  const Dataset dataset = make({{write_tokens("a.jsonl", 100), 1.0}});
  const auto whole =
      make_step(dataset, {.sequences_per_step = 7, .sequences_per_microbatch = 7}, 5);
  for (const int dp : {1, 2, 3, 8}) {
    std::vector<int32_t> tokens;
    size_t count = 0;
    for (int rank = 0; rank < dp; ++rank) {
      const StepPlan plan{.sequences_per_step = 7,
                          .sequences_per_microbatch = 2,
                          .dp_rank = rank,
                          .dp_size = dp,
                          .first_step = 4};
      StepLoader loader(dataset, plan);
      (void)loader.next();
      const StepBatch batch = loader.next();
      EXPECT_EQ(batch.step, 5);
      if (rank == 0) count = batch.micro_batches.size();
      EXPECT_EQ(batch.micro_batches.size(), count);
      int64_t targets = 0;
      for (const MicroBatch& micro_batch : batch.micro_batches) {
        tokens.insert(tokens.end(), micro_batch.tokens.begin(), micro_batch.tokens.end());
        targets += static_cast<int64_t>(micro_batch.targets.size());
      }
      EXPECT_EQ(batch.num_targets, targets);
    }
    EXPECT_EQ(tokens, whole.micro_batches[0].tokens) << dp << " ranks";
  }
  EXPECT_EQ(num_microbatches({.sequences_per_microbatch = 2,
                              .dp_size = 2,
                              .microbatch_multiple = 4,
                              .min_microbatches = 5},
                             7),
            8);
  EXPECT_THAT(config_error([&] { StepLoader loader(dataset, {.sequences_per_step = 0}); }),
              HasSubstr("sequences_per_step = 0"));
}

TEST_F(DatasetTest, BatchRampTakesRowsOneAfterTheOther) {
  const Dataset dataset = make({{write_tokens("a.jsonl", 100), 1.0}});
  const StepPlan plan{.sequences_per_step = 10, .ramp_from = 2, .ramp_steps = 4};
  const std::vector<int64_t> sizes = {2, 4, 6, 8, 10, 10};
  int64_t row = 0;
  for (size_t step = 0; step < sizes.size(); ++step) {
    const auto s = static_cast<int64_t>(step);
    EXPECT_EQ(rows_of_step(plan, s), sizes[step]);
    EXPECT_EQ(rows_before(plan, s), row);
    std::vector<int32_t> expected, tokens;
    for (int64_t i = row; i < row + sizes[step]; ++i) {
      const Row next = dataset.row(i);
      expected.insert(expected.end(), next.tokens.begin(), next.tokens.end());
    }
    for (const auto& batch : make_step(dataset, plan, s).micro_batches)
      tokens.insert(tokens.end(), batch.tokens.begin(), batch.tokens.end());
    EXPECT_EQ(tokens, expected) << "step " << step;
    row += sizes[step];
  }
  EXPECT_THAT(config_error([&] {
                StepLoader loader(dataset, {.sequences_per_step = 4, .ramp_from = 5, .ramp_steps = 2});
              }),
              HasSubstr("train.batch_ramp.from = 5"));
}

TEST_F(DatasetTest, ValidationDealsEveryRowOnce) {
  const Dataset dataset = make({{write_tokens("a.jsonl", 100), 1.0}});
  int64_t tokens = 0;
  std::set<size_t> counts;
  for (int rank = 0; rank < 3; ++rank) {
    const auto batches = validation_batches(dataset, 4, rank, 3);
    counts.insert(batches.size());
    for (const auto& batch : batches) tokens += static_cast<int64_t>(batch.tokens.size());
  }
  EXPECT_EQ(counts.size(), 1u);
  EXPECT_EQ(tokens, dataset.num_tokens());
}

TEST_F(DatasetTest, OverlongDocuments) {
  Json line;
  for (int t = 0; t < 70; ++t) {
    line["tokens"].push_back(t);
    line["loss_mask"].push_back(t >= 40 ? 1 : 0);
  }
  const std::string path =
      folder_.write("long.jsonl", "{\"text\": \"hello\"}\n" + line.dump() + "\n");
  EXPECT_THAT(refusal({{path, 1.0}}),
              testing::AllOf(HasSubstr("long.jsonl:2: this sample has 70 tokens"),
                             HasSubstr("data.overlong")));
  config_.overlong = "truncate";
  EXPECT_THAT(refusal({{path, 1.0}}),
              HasSubstr("long.jsonl:2: truncating this sample of 70 tokens"));
  config_.overlong = "skip";
  EXPECT_EQ(make({{path, 1.0}}).num_tokens(), 2);
  EXPECT_EQ(make({{path, 1.0}}).stats().skipped, 1);
  config_.overlong = "split";
  config_.packing = false;
  const Dataset split = make({{path, 1.0}});
  EXPECT_EQ(split.num_rows(), 3);  // [0, 32) has no target and is left out
  EXPECT_EQ(split.row_in_order(1).tokens.front(), 32);
  EXPECT_EQ(split.row_in_order(2).tokens, (std::vector<int32_t>{64, 65, 66, 67, 68, 69}));
  EXPECT_EQ(split.row_in_order(2).loss_mask, (std::vector<uint8_t>{0, 1, 1, 1, 1, 1}));
}

TEST_F(DatasetTest, BadInputIsNamed) {
  EXPECT_THAT(refusal({{(folder_ / "none.jsonl").string(), 1.0}}),
              HasSubstr("none.jsonl: no such file or folder"));
  EXPECT_THAT(refusal({{folder_.write("x.csv", "a"), 1.0}}),
              HasSubstr("x.csv: unknown kind of data"));
  EXPECT_THAT(refusal({{folder_.write("b.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 1}\n"), 1.0}}),
              HasSubstr("b.jsonl:3: \"text\" is an integer"));
  EXPECT_THAT(refusal({{folder_.write("c.jsonl", "{\"text\": \"a\"}\n{oops}\n"), 1.0}}),
              HasSubstr("c.jsonl:2: not valid JSON"));
  EXPECT_THAT(refusal({{folder_.write("e.jsonl", "\n"), 1.0}}), HasSubstr("no sample is left"));
  EXPECT_THAT(refusal({{folder_.write("u.txt", "\xFF\xFE"), 1.0}}), HasSubstr("u.txt: not UTF-8"));
  EXPECT_THAT(refusal({}), HasSubstr("no source is given"));
  EXPECT_THAT(refusal({{folder_.write("f.h5", "not hdf5"), 1.0}}), HasSubstr("not an HDF5 file"));
  std::filesystem::create_directory(folder_ / "empty");
  EXPECT_THAT(refusal({{(folder_ / "empty").string(), 1.0}}), HasSubstr("no .jsonl or .txt file"));
  config_.overlong = "splt";
  EXPECT_THAT(refusal({}), HasSubstr("did you mean split?"));
  config_.overlong = "split";
  config_.sequence_length = 1;
  EXPECT_THAT(refusal({}), HasSubstr("data.sequence_length = 1"));
  config_ = {};
  config_.train = {{"a.jsonl", 0.0}};
  EXPECT_THAT(config_error([&] { config_.validate(); }), HasSubstr("data.train[0].weight = 0"));
}

TEST_F(DatasetTest, TextFilesAndFolders) {
  std::filesystem::create_directory(folder_ / "corpus");
  folder_.write("corpus/b.txt", "hello\n\nhello");
  folder_.write("corpus/a.jsonl", "\xEF\xBB\xBF{\"text\": \"hello\"}\r\n");
  config_.packing = false;
  const Dataset dataset = make({{(folder_ / "corpus").string(), 1.0}});
  EXPECT_EQ(dataset.num_rows(), 2);
  EXPECT_THAT(dataset.row_in_order(1).tokens, ElementsAre(259, '\n', '\n', 259, 262));
  EXPECT_THAT(dataset.origins(0), ElementsAre(HasSubstr("a.jsonl:1")));
}

TEST_F(DatasetTest, StoresAreCachedByContentAndRefuseAnotherTokenizer) {
  const std::string path = write_tokens("a.jsonl", 50);
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(folder_ / "cache"), {});
  };
  const Dataset first = make({{path, 1.0}});
  const Dataset second = make({{path, 1.0}});
  EXPECT_EQ(files(), 1);
  write_tokens("a.jsonl", 51);
  const Dataset third = make({{path, 1.0}});
  EXPECT_EQ(files(), 2);
  EXPECT_NE(first.hash(), third.hash());
  const auto store = (folder_ / "all.h5").string();
  prepare_store({.inputs = {path}, .output = store}, *tokenizer_, &*template_, {});
  EXPECT_EQ(make({{store, 1.0}}).num_tokens(), third.num_tokens());
  EXPECT_EQ(TokenStore(store).info().sources[0].hash, hash_file(path));
  folder_.write("tokenizer_config.json", R"({"eos_token": "<|user|>"})");
  tokenizer_.emplace(Tokenizer::load(folder_.path()));
  EXPECT_THAT(refusal({{store, 1.0}}), HasSubstr("prepared with another tokenizer"));
}

TEST_F(DatasetTest, RanksTokeniseTheirShareToTheSameStore) {
  const std::string path = write_tokens("a.jsonl", 333);
  const auto alone = folder_ / "alone.h5", together = folder_ / "together.h5";
  prepare_store({.inputs = {path}, .output = alone}, *tokenizer_, nullptr, {});
  std::barrier sync(3);
  {
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < 3; ++rank) {
      ranks.emplace_back([&, rank] {
        const Share share{
            .rank = rank, .size = 3, .threads = 2, .barrier = [&] { sync.arrive_and_wait(); }};
        prepare_store({.inputs = {path}, .output = together}, *tokenizer_, nullptr, share);
      });
    }
  }
  const TokenStore a(alone), b(together);
  EXPECT_EQ(a.offsets(), b.offsets());
  std::vector<int32_t> tokens_a, tokens_b;
  std::vector<uint8_t> mask_a, mask_b;
  a.read(0, a.num_tokens(), tokens_a, mask_a);
  b.read(0, b.num_tokens(), tokens_b, mask_b);
  EXPECT_EQ(tokens_a, tokens_b);
  EXPECT_EQ(mask_a, mask_b);
  EXPECT_EQ(a.origin(332), b.origin(332));
  EXPECT_THAT(b.origin(332), HasSubstr("a.jsonl:333"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}),
            3 + 1 + 2);  // no part is left
}

TEST_F(DatasetTest, ADamagedStoreIsRefused) {
  const auto store = folder_ / "s.h5";
  prepare_store({.inputs = {write_tokens("a.jsonl", 3000)}, .output = store}, *tokenizer_, nullptr,
                {});
  const std::string good = read_text_file(store);
  int refused = 0, trials = 0;
  for (size_t at = 0; at < good.size(); at += good.size() / 97 + 1, ++trials) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x55);
    folder_.write("s.h5", bad);
    try {
      const TokenStore opened(store);
      std::vector<int32_t> tokens;
      std::vector<uint8_t> mask;
      opened.read(0, opened.num_tokens(), tokens, mask);
    } catch (const ConfigError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, trials / 4);  // the rest hit unused bytes of the format
  folder_.write("s.h5", good.substr(0, good.size() / 2));
  EXPECT_THAT(config_error([&] { TokenStore opened(store); }), HasSubstr("s.h5: "));
}

TEST_F(DatasetTest, InspectMarksTrainedTokens) {
  config_.packing = false;
  const std::string path = folder_.write(
      "a.jsonl",
      R"({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "12"}]})"
      "\n");
  const Dataset dataset = make({{path, 1.0}});
  std::ostringstream out;
  inspect_dataset(dataset, config_, *tokenizer_, {}, out);
  EXPECT_THAT(out.str(), HasSubstr("<|user|>hello<|end|>\n<|bot|>[[12<|end|>]]\n"));
  EXPECT_THAT(
      out.str(),
      HasSubstr("documents        1\nrows             1 of up to 32 tokens, one document each"));
  EXPECT_THAT(out.str(), HasSubstr("a.jsonl:1"));
  EXPECT_THAT(describe_row(dataset.row_in_order(0), *tokenizer_, true),
              HasSubstr("\033[1;32m12<|end|>\033[0m"));
}

TEST_F(DatasetTest, LoaderErrorsSurfaceInNext) {
  const auto store = folder_ / "s.h5";
  prepare_store({.inputs = {write_tokens("a.jsonl", 3000)}, .output = store}, *tokenizer_, nullptr,
                {});
  const Dataset dataset = make({{store.string(), 1.0}});
  {
    StepLoader unused(dataset, {.sequences_per_step = 4});  // destroyed while it reads ahead
  }
  std::filesystem::resize_file(store, 5000);
  StepLoader loader(dataset, {.sequences_per_step = 4});
  EXPECT_THAT(config_error([&] { (void)loader.next(); }), HasSubstr("damaged"));
}

}  // namespace
}  // namespace tessera::data
