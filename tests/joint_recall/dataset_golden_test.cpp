#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/text_format.hpp"
#include "joint_recall/dataset_fixture.hpp"
#include "support/sha256.hpp"

namespace joint_recall {
namespace {

using Json = nlohmann::json;

TEST(Sha256, KnownDigests) {
  using hax_test::sha256;
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

const Json& golden() {
  static const Json json = Json::parse(read_file(HAX_TEST_GOLDEN_DIR "/joint_recall_dataset.json"));
  return json;
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& [name, setting] : golden().items()) names.push_back(name);
  return names;
}

class GoldenDatasetTest : public DatasetTest, public ::testing::WithParamInterface<std::string> {
 protected:
  static const Json& setting() { return golden().at(GetParam()); }

  static GeneratorArgs args() {
    GeneratorArgs args;
    const Json& given = setting().at("args");
    for (const ArgField& field : kArgFields) {
      if (given.contains(field.name)) args.*field.member = given.at(field.name);
    }
    return args;
  }

  Dataset dataset_ = create_dataset(folder_ / "binary", args()).dataset;
};

TEST_P(GoldenDatasetTest, ExportedTextHasTheOfficialDigests) {
  const TextFiles files = export_text(dataset_, folder_ / "text");
  EXPECT_EQ(names_in(folder_ / "text").size(), 6u);
  for (const SplitName name : kSplitNames) {
    const Json& split = setting().at("splits").at(to_string(name));
    EXPECT_EQ(dataset_.split(name).size(), split.at("items"));
    EXPECT_EQ(hax_test::sha256(read_file(files.folder / files.inputs_name(name))),
              split.at("inputs_sha256"))
        << to_string(name);
    EXPECT_EQ(hax_test::sha256(read_file(files.folder / files.mask_name(name))),
              split.at("mask_sha256"))
        << to_string(name);
  }
}

TEST_P(GoldenDatasetTest, FirstItems) {
  for (const SplitName name : kSplitNames) {
    std::int64_t index = 0;
    for (const Json& expected : setting().at("first_items").at(to_string(name))) {
      const Item item = dataset_.split(name)[index++];
      std::istringstream text(expected.at("tokens").get<std::string>());
      EXPECT_EQ(item.tokens(), std::vector<int>(std::istream_iterator<int>(text), {}));
      EXPECT_EQ(dataset_.padded_length(), expected.at("padded_length"));
      std::vector<int> asked;
      for (int ask = 0; ask < item.shape().asked_count(); ++ask) {
        asked.push_back(item.shape().asked_position(ask));
      }
      EXPECT_EQ(asked, expected.at("mask_ones").get<std::vector<int>>());
    }
    EXPECT_EQ(index, 2);
  }
}

TEST_P(GoldenDatasetTest, TextReadsBackAsTheSameDataset) {
  export_text(dataset_, folder_ / "text");
  expect_equal(open_dataset(folder_ / "text"), dataset_);
}

INSTANTIATE_TEST_SUITE_P(Settings, GoldenDatasetTest, ::testing::ValuesIn(golden_names()),
                         [](const auto& test) { return test.param; });

TEST_F(DatasetTest, OfficialFileNames) {
  GeneratorArgs args = fixed_size_args(16, 16, 16, 1, 1);
  const TextFiles files =
      export_text(create_dataset(folder_ / "binary", args).dataset, folder_ / "text");
  EXPECT_EQ(names_in(folder_ / "text"),
            (std::vector<std::string>{"max_n_context_16_max_n_key_16_seed_1_test_inputs.txt",
                                      "max_n_context_16_max_n_key_16_seed_1_test_mask.txt",
                                      "max_n_context_16_max_n_key_16_seed_1_train_inputs.txt",
                                      "max_n_context_16_max_n_key_16_seed_1_train_mask.txt",
                                      "max_n_context_16_max_n_key_16_seed_1_valid_inputs.txt",
                                      "max_n_context_16_max_n_key_16_seed_1_valid_mask.txt"}));
  EXPECT_EQ(files.prefix(), "max_n_context_16_max_n_key_16_seed_1");
}

}  // namespace
}  // namespace joint_recall
