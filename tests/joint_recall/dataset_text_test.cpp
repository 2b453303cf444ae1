#include "data/text_format.hpp"
#include "joint_recall/dataset_fixture.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

GeneratorArgs two_sizes() {
  GeneratorArgs args = fixed_size_args(3, 3, 7, 5, 2);
  args.min_n_context = 2;  // 2 x 3 and 3 x 3: 30 and 44 tokens
  return args;
}

class DatasetTextTest : public DatasetTest {
 protected:
  DatasetTextTest() {
    files_ = export_text(dataset_, text_);
    inputs_ = text_ / files_.inputs_name(SplitName::kTrain);
    mask_ = text_ / files_.mask_name(SplitName::kTrain);
    inputs_text_ = read_file(inputs_);
    mask_text_ = read_file(mask_);
  }

  // The error after line `line` (from 1) of `file` became `text`, which is put back afterwards.
  std::string error_with_line(const fs::path& file, int line, const std::string& text) {
    const std::string whole = read_file(file);
    std::size_t begin = 0;
    for (int i = 1; i < line; ++i) begin = whole.find('\n', begin) + 1;
    const std::size_t end = whole.find('\n', begin);
    std::string changed = whole;
    return error_with(file, changed.replace(begin, end - begin, text));
  }

  std::string error_with(const fs::path& file, const std::string& content) {
    const std::string whole = read_file(file);
    write_file(file, content);
    const std::string error = error_of([&] { open_dataset(text_); });
    write_file(file, whole);
    EXPECT_TRUE(contains(error, file.filename().string()));
    return error;
  }

  // Line `line` of the train inputs with entry `entry` (from 0) replaced.
  std::string inputs_line(int line, std::size_t entry, const std::string& text) const {
    std::vector<std::string> entries = {""};
    int at = 1;
    for (const char c : inputs_text_) {
      if (c == '\n' && at++ == line) break;
      if (at != line || c == '\n') continue;
      if (c == ' ') {
        entries.emplace_back();
      } else {
        entries.back() += c;
      }
    }
    entries.at(entry) = text;
    std::string joined;
    for (const std::string& word : entries) joined += (joined.empty() ? "" : " ") + word;
    return joined;
  }

  const Dataset dataset_ = create_dataset(folder_ / "binary", two_sizes()).dataset;
  const fs::path text_ = folder_ / "text";
  TextFiles files_;
  fs::path inputs_;
  fs::path mask_;
  std::string inputs_text_;
  std::string mask_text_;
};

TEST_F(DatasetTextTest, RoundTripAndShape) {
  const Dataset read = open_dataset(text_);
  expect_equal(read, dataset_);
  EXPECT_EQ(read.padded_length(), 44);
  for (std::int64_t i = 0; i < read.train.size(); ++i) {
    EXPECT_EQ(read.train[i].shape(), dataset_.train[i].shape());
  }
  const std::string first = inputs_text_.substr(0, inputs_text_.find('\n'));
  EXPECT_TRUE(first.ends_with(" 3 3 3 3 3 3 3 3 3 3 3 3 3 3"));
  EXPECT_EQ(std::count(first.begin(), first.end(), ' '), 43);
}

TEST_F(DatasetTextTest, TwoByteTokens) {
  GeneratorArgs args = two_sizes();
  args.n_value = 1000;
  const Dataset dataset = create_dataset(folder_ / "binary2", args).dataset;
  export_text(dataset, folder_ / "text2");
  expect_equal(open_dataset(folder_ / "text2"), dataset);
}

TEST_F(DatasetTextTest, ReExportIsIdentical) {
  export_text(open_dataset(text_), folder_ / "again");
  EXPECT_EQ(read_file(folder_ / "again" / inputs_.filename()), inputs_text_);
  EXPECT_EQ(read_file(folder_ / "again" / mask_.filename()), mask_text_);
}

TEST_F(DatasetTextTest, ExportNeverOverwrites) {
  fs::remove(inputs_);
  EXPECT_TRUE(
      contains(error_of([&] { export_text(dataset_, text_); }), "train_mask.txt already exists"));
  EXPECT_FALSE(fs::exists(inputs_));
  EXPECT_EQ(names_in(text_).size(), 5u);
}

TEST_F(DatasetTextTest, StoppedExportLeavesNothing) {
  const auto stop = [](std::int64_t, std::int64_t) { return false; };
  EXPECT_TRUE(contains(error_of([&] { export_text(dataset_, folder_ / "stopped", stop); }),
                       "stopped after"));
  EXPECT_TRUE(names_in(folder_ / "stopped").empty());
  EXPECT_TRUE(contains(error_of([&] { read_text(files_, stop); }), "reading was stopped"));
}

TEST_F(DatasetTextTest, ProgressOfReadingReachesTheTotal) {
  std::int64_t last = 0;
  read_text(files_, [&](std::int64_t done, std::int64_t total) {
    EXPECT_EQ(total, 18);
    EXPECT_GE(done, last);
    last = done;
    return true;
  });
  EXPECT_EQ(last, 18);
}

TEST_F(DatasetTextTest, SeveralSetsInOneFolderAreToldApart) {
  GeneratorArgs other = two_sizes();
  other.seed = 22;
  export_text(create_dataset(folder_ / "other", other).dataset, text_);
  const std::string error = error_of([&] { open_dataset(text_); });
  EXPECT_TRUE(contains(error, "holds 2 data sets in text form"));
  EXPECT_TRUE(contains(error, "max_n_context_3_max_n_key_3_seed_22"));
  const std::vector<TextFiles> sets = find_text_files(text_);
  ASSERT_EQ(sets.size(), 2u);
  EXPECT_EQ(sets[1].seed, 22);
  expect_equal(read_text(sets[0]), dataset_);
}

TEST_F(DatasetTextTest, OtherFilesAreNotTakenForDatasets) {
  const fs::path folder = folder_ / "others";
  fs::create_directory(folder);
  for (const char* name : {"notes.txt", "max_n_context_16_max_n_key_16_seed_1_train_inputs.txt.bak",
                           "max_n_context_016_max_n_key_16_seed_1_train_inputs.txt",
                           "max_n_context_16_max_n_key_16_seed_1_valid_inputs.txt",
                           "max_n_context_16_max_n_key_16_seed_99999999999_train_inputs.txt"}) {
    write_file(folder / name, "");
  }
  EXPECT_TRUE(find_text_files(folder).empty());
  write_file(folder / "max_n_context_999999999_max_n_key_5_seed_1_train_inputs.txt", "");
  EXPECT_TRUE(
      contains(error_of([&] { open_dataset(folder); }),
               "max_n_context_999999999_max_n_key_5_seed_1: max_n_context must be between"));
}

TEST_F(DatasetTextTest, BrokenLinesAreNamed) {
  const auto changed = [&](int line, std::size_t entry, const std::string& text) {
    return error_with_line(inputs_, line, inputs_line(line, entry, text));
  };
  const std::string bad_entry = "is not a token id from 0 to 65535 followed by one space";
  EXPECT_TRUE(contains(changed(4, 2, "x"), "line 4: entry 3 " + bad_entry));
  EXPECT_TRUE(contains(changed(4, 2, ""), "line 4: entry 3 " + bad_entry));
  EXPECT_TRUE(contains(changed(4, 2, "-5"), "line 4: entry 3 " + bad_entry));
  EXPECT_TRUE(contains(changed(4, 2, "65536"), "line 4: entry 3 " + bad_entry));
  EXPECT_TRUE(contains(changed(4, 2, "99999999999999999999"), "entry 3 " + bad_entry));
  EXPECT_TRUE(
      contains(changed(3, 43, "12"), "line 3: entry 44 is token 12, but padding has begun"));
  EXPECT_TRUE(contains(changed(4, 43, "3"), "line 4: the item has 43 tokens"));
  EXPECT_TRUE(contains(changed(4, 43, "3 3"), "line 4: it has 45 tokens, expected 44"));
  EXPECT_TRUE(contains(changed(4, 0, "2"), "line 4: it starts with token 2"));
  EXPECT_TRUE(contains(changed(4, 22, "5"), "position 22 has token 5, not the separator 4"));
  EXPECT_TRUE(contains(changed(4, 1, "17"), "position 1 has token 17, not a context"));
  EXPECT_TRUE(contains(changed(3, 1, "22"), "position 1 has token 22, not a context"));
  EXPECT_TRUE(contains(changed(4, 2, "12"), "position 2 has token 12, not a key"));
  EXPECT_TRUE(contains(changed(4, 3, "17"), "position 3 has token 17, not a value"));
  const int value = dataset_.train[3].token(3);
  EXPECT_TRUE(contains(changed(4, 3, std::to_string(value == 10 ? 11 : 10)),
                       "line 4: its halves hold different tables"));
  const int key = dataset_.train[3].token(2);
  EXPECT_TRUE(contains(changed(4, 4, std::to_string(key)), "comes twice under context"));
  EXPECT_TRUE(contains(error_with_line(mask_, 4, mask_text_.substr(0, 87)),
                       "line 4: it is not the mask of 3 contexts x 3 keys"));
}

TEST_F(DatasetTextTest, BrokenFirstLinesAreNamed) {
  EXPECT_TRUE(
      contains(error_with_line(mask_, 1, "0 0 0"), "line 1: it is not the mask of a table"));
  EXPECT_TRUE(
      contains(error_with_line(mask_, 1, "1 1 1"), "line 1: it is not the mask of a table"));
  EXPECT_TRUE(contains(error_with(mask_, ""), "truncated"));
  EXPECT_TRUE(contains(error_with(inputs_, ""), "truncated"));
  EXPECT_TRUE(contains(error_with_line(inputs_, 1, inputs_line(2, 0, "1")),
                       "line 1: it has 44 tokens before the padding, its mask belongs to 30"));
  EXPECT_TRUE(contains(error_with_line(inputs_, 1, inputs_line(1, 17, "9")),
                       "line 1: token 9 stands where a key is expected"));
}

TEST_F(DatasetTextTest, TruncatedFilesAreNamed) {
  const std::string no_newline = inputs_text_.substr(0, inputs_text_.size() - 1);
  EXPECT_TRUE(contains(error_with(inputs_, no_newline), "line 10: no newline at its end"));
  const std::size_t last_line = no_newline.rfind('\n') + 1;
  EXPECT_TRUE(contains(error_with(mask_, mask_text_.substr(0, mask_text_.size() - 88)),
                       "line 10: the file ends where another line is expected"));
  EXPECT_TRUE(contains(error_with(mask_, mask_text_ + mask_text_.substr(0, 88)),
                       "more lines follow than the 10 of the inputs"));
  write_file(mask_, mask_text_.substr(0, mask_text_.size() - 88));
  EXPECT_TRUE(contains(error_with(inputs_, inputs_text_.substr(0, last_line)),
                       "ends after 9 items, which is not a multiple of 2"));
  write_file(mask_, mask_text_);

  fs::path test_mask = text_ / files_.mask_name(SplitName::kTest);
  fs::path test_inputs = text_ / files_.inputs_name(SplitName::kTest);
  const std::string test_text = read_file(test_inputs);
  write_file(test_mask, mask_text_.substr(0, 2 * 88));
  std::size_t two_lines = test_text.find('\n', test_text.find('\n') + 1) + 1;
  EXPECT_TRUE(contains(error_with(test_inputs, test_text.substr(0, two_lines)),
                       "test_inputs.txt has 2: one of them is truncated"));
  fs::remove(test_mask);
  EXPECT_TRUE(contains(error_of([&] { open_dataset(text_); }), "test_mask.txt: No such file"));
}

}  // namespace
}  // namespace joint_recall
