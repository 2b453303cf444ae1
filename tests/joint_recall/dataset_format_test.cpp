#include <sys/stat.h>

#include <cstring>
#include <memory>

#include "data/batch.hpp"
#include "data/checksum.hpp"
#include "data/files.hpp"
#include "joint_recall/dataset_fixture.hpp"

namespace joint_recall {
namespace {

namespace fs = std::filesystem;

class DatasetFormatTest : public DatasetTest {
 protected:
  std::string open_error(bool verify_checksum = true) {
    return error_of([&] { open_dataset(folder_, {.verify_checksum = verify_checksum}); });
  }
  std::string create_error(const GeneratorArgs& args) {
    return error_of([&] { create_dataset(folder_, args); });
  }
  // Replaces one piece of the manifest, which must be there once.
  void edit_manifest(const std::string& from, const std::string& to) {
    std::string text = manifest_;
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    write_file(folder_ / "dataset.json", text.replace(at, from.size(), to));
  }

  const GeneratorArgs args_ = fixed_size_args(4, 4, 8, 50, 10);
  const Dataset dataset_ = create_dataset(folder_, args_).dataset;
  const std::string manifest_ = read_file(folder_ / "dataset.json");
  const std::string train_ = read_file(folder_ / "train.jrd");
};

TEST_F(DatasetFormatTest, RoundTrip) {
  expect_equal(open_dataset(folder_), dataset_);
  EXPECT_EQ(names_in(folder_),
            (std::vector<std::string>{"dataset.json", "test.jrd", "train.jrd", "valid.jrd"}));
  EXPECT_EQ(train_.size(), 64u + 50 * 74);
}

TEST_F(DatasetFormatTest, SplitsOutliveTheDataset) {
  auto dataset = std::make_unique<Dataset>(open_dataset(folder_));
  const Split test = dataset->test;
  dataset.reset();
  fs::remove_all(folder_);
  EXPECT_EQ(all_items(test), all_items(dataset_.test));
}

TEST_F(DatasetFormatTest, ItemAccess) {
  const Item item = dataset_.train[49];
  const std::vector<int> tokens = item.tokens();
  ASSERT_EQ(tokens.size(), 74u);
  for (int i = 0; i < item.size(); ++i) EXPECT_EQ(item.token(i), tokens[i]);
  std::vector<std::int32_t> part(10);
  item.copy_tokens(60, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), tokens.begin() + 60));
  EXPECT_TRUE(contains(error_of([&] { dataset_.train[50]; }), "has 50 items; there is no item 50"));
  EXPECT_TRUE(contains(error_of([&] { dataset_.train[-1]; }), "there is no item -1"));
}

TEST_F(DatasetFormatTest, SameArgumentsReuseTheFiles) {
  struct stat before {
  }, after{};
  ASSERT_EQ(stat((folder_ / "train.jrd").c_str(), &before), 0);
  const CreatedDataset again = create_dataset(folder_, args_);
  ASSERT_EQ(stat((folder_ / "train.jrd").c_str(), &after), 0);
  EXPECT_TRUE(again.reused);
  EXPECT_EQ(before.st_ino, after.st_ino);
  expect_equal(again.dataset, dataset_);
  EXPECT_FALSE(create_dataset(folder_ / "deep" / "er", args_).reused);
}

TEST_F(DatasetFormatTest, OtherArgumentsNeverOverwrite) {
  for (const ArgField& field : kArgFields) {
    GeneratorArgs other = args_;
    other.*field.member += std::string(field.name).starts_with("min_") ? -1 : 1;
    const std::string error = create_error(other);
    EXPECT_TRUE(contains(error, "dataset.json"));
    EXPECT_TRUE(contains(error, std::string(field.name) + " is "));
  }
  EXPECT_EQ(read_file(folder_ / "train.jrd"), train_);
  EXPECT_EQ(read_file(folder_ / "dataset.json"), manifest_);
}

TEST_F(DatasetFormatTest, FilesInTheWayAreNotOverwritten) {
  fs::remove(folder_ / "dataset.json");
  write_file(folder_ / "valid.jrd", "mine");
  fs::remove(folder_ / "train.jrd");
  EXPECT_TRUE(contains(create_error(args_), "valid.jrd already exists"));
  EXPECT_EQ(read_file(folder_ / "valid.jrd"), "mine");
  EXPECT_EQ(names_in(folder_), (std::vector<std::string>{"test.jrd", "valid.jrd"}));
}

TEST_F(DatasetFormatTest, SecondWriterIsRefused) {
  const FolderLock lock(folder_);
  EXPECT_TRUE(contains(create_error(args_), "another program is writing to the folder"));
}

TEST_F(DatasetFormatTest, MissingThings) {
  EXPECT_TRUE(contains(error_of([&] { open_dataset(folder_ / "none"); }), "there is no folder"));
  EXPECT_TRUE(contains(error_of([&] { open_dataset(folder_ / "train.jrd"); }), "is not a folder"));
  EXPECT_TRUE(
      contains(error_of([&] { create_dataset(folder_ / "train.jrd", args_); }), "train.jrd"));
  fs::create_directory(folder_ / "empty");
  EXPECT_TRUE(contains(error_of([&] { open_dataset(folder_ / "empty"); }), "holds no data set"));
  fs::remove(folder_ / "valid.jrd");
  EXPECT_TRUE(contains(open_error(), "valid.jrd: No such file"));
  fs::create_directory(folder_ / "valid.jrd");
  EXPECT_TRUE(contains(open_error(), "valid.jrd is not a regular file"));
}

TEST_F(DatasetFormatTest, UnwritablePlacesAndFullDisks) {
  EXPECT_TRUE(contains(error_of([&] { create_dataset("/proc/joint_recall", args_); }),
                       "cannot make the folder /proc/joint_recall"));
  EXPECT_TRUE(contains(error_of([&] { create_dataset("/proc", args_); }), "/proc/.train.jrd.tmp"));
  FileWriter full("/dev/full");
  full.write("x");
  EXPECT_TRUE(contains(error_of([&] { full.close(); }), "cannot write /dev/full: No space left"));
  EXPECT_TRUE(contains(error_of([&] { MappedFile::create(folder_ / "x", std::int64_t{1} << 62); }),
                       "cannot reserve 4611686018427387904 bytes for"));
}

TEST_F(DatasetFormatTest, FailedCommitRemovesEveryNewFile) {
  const fs::path folder = folder_ / "commit";
  fs::create_directory(folder);
  const auto commit = [&] {
    NewFiles files(folder);
    write_file(files.temporary("a"), "a");
    write_file(files.temporary("b"), "b");
    fs::create_directory(folder / "b");  // renaming a file to a folder's name fails
    files.commit();
  };
  EXPECT_TRUE(contains(error_of(commit), "cannot rename to"));
  EXPECT_EQ(names_in(folder), (std::vector<std::string>{"b"}));
}

TEST_F(DatasetFormatTest, TruncatedAndTooLongSplits) {
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{63}, std::size_t{64}, std::size_t{100}, train_.size() - 1}) {
    write_file(folder_ / "train.jrd", train_.substr(0, size));
    EXPECT_TRUE(contains(open_error(), "train.jrd is truncated")) << size;
  }
  write_file(folder_ / "train.jrd", train_ + "x");
  EXPECT_TRUE(contains(open_error(), "train.jrd is too long"));
}

TEST_F(DatasetFormatTest, ForeignSplits) {
  write_file(folder_ / "train.jrd", std::string(train_.size(), 'x'));
  EXPECT_TRUE(contains(open_error(), "train.jrd is not a joint-recall split"));

  fs::copy_file(folder_ / "valid.jrd", folder_ / "train.jrd", fs::copy_options::overwrite_existing);
  EXPECT_TRUE(contains(open_error(), "split in its header is 1, expected 0"));

  GeneratorArgs other = args_;
  other.seed = 2;
  create_dataset(folder_ / "other", other);
  fs::copy_file(folder_ / "other" / "train.jrd", folder_ / "train.jrd",
                fs::copy_options::overwrite_existing);
  EXPECT_TRUE(contains(open_error(false), "seed in its header is 2, expected 1"));
}

TEST_F(DatasetFormatTest, EveryHeaderByteIsChecked) {
  for (std::size_t at = 0; at < 64; ++at) {
    std::string changed = train_;
    changed[at] = static_cast<char>(changed[at] ^ 0x40);
    write_file(folder_ / "train.jrd", changed);
    EXPECT_TRUE(contains(open_error(false), "train.jrd")) << at;
  }
  std::string newer = train_;
  newer[8] = 2;
  write_file(folder_ / "train.jrd", newer);
  EXPECT_TRUE(contains(open_error(), "format version 2; this program reads version 1"));
}

TEST_F(DatasetFormatTest, ChecksumFindsEveryChangedByte) {
  for (std::size_t at = 64; at < train_.size(); at += 97) {
    std::string changed = train_;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    write_file(folder_ / "train.jrd", changed);
    EXPECT_TRUE(contains(open_error(), "train.jrd is corrupt: its XXH64 checksum is"));
    EXPECT_NO_THROW(open_dataset(folder_, {.verify_checksum = false}));
  }
}

TEST_F(DatasetFormatTest, CorruptTokensNeverLeaveTheVocabulary) {
  std::string changed = train_;
  changed[64 + 3 * 74 + 20] = static_cast<char>(200);
  write_file(folder_ / "train.jrd", changed);
  const Dataset dataset = open_dataset(folder_, {.verify_checksum = false});
  const BatchIterator batches(dataset.train, 5, Repeat::kOnce);
  PackedBatch packed;
  PaddedBatch padded;
  EXPECT_TRUE(
      contains(error_of([&] { batches.fill(0, packed); }), "corrupt: item 3 has token 200"));
  EXPECT_TRUE(
      contains(error_of([&] { batches.fill(0, padded); }), "corrupt: item 3 has token 200"));
  EXPECT_NO_THROW(batches.fill(1, packed));
}

TEST_F(DatasetFormatTest, BadManifests) {
  const auto expect_error = [&](const std::string& from, const std::string& to,
                                const std::string& error) {
    SCOPED_TRACE(to);
    edit_manifest(from, to);
    EXPECT_TRUE(contains(open_error(), "dataset.json: " + error));
  };
  expect_error("{", "{,", "it is not valid JSON");
  expect_error(manifest_, "", "it is not valid JSON");
  expect_error(manifest_, "[]", "the top level is not an object");
  expect_error(manifest_.substr(200), "", "it is not valid JSON");
  expect_error("joint_recall dataset", "other", "format is \"other\"");
  expect_error("\"format_version\": 1", "\"format_version\": 9", "format_version is 9, expected 1");
  expect_error("\"format_version\": 1,", "", "format_version is missing");
  expect_error("\"n_value\": 8", "\"n_value\": \"8\"", "args.n_value must be an integer");
  expect_error("\"n_value\": 8", "\"n_value\": 8.5", "args.n_value must be an integer");
  expect_error("\"seed\": 1", "\"seed\": 18446744073709551615", "args.seed must be an integer");
  expect_error("\"n_value\": 8", "\"n_value\": 0", "args: n_value must be between 1");
  expect_error("\"n_value\": 8", "\"n_value\": 9", "vocab_size is 26, expected 27");
  expect_error("\"args\": {", "\"args\": 3, \"x\": {", "args is not an object");
  expect_error("\"items\": 50", "\"items\": 51", "splits.train.items is 51, expected 50");
  expect_error("\"file\": \"test.jrd\"", "\"file\": \"/etc/passwd\"", "splits.test.file is");
  expect_error("\"valid\": {", "\"velid\": {", "splits.valid is missing");
  expect_error("\"xxh64\": \"", "\"xxh64\": \"0",
               "splits.train.xxh64 must be 16 hexadecimal digits");

  edit_manifest("\"seed\": 1", "\"seed\": 5");
  EXPECT_TRUE(contains(open_error(), "train.jrd does not belong to this data set: seed"));
}

TEST_F(DatasetFormatTest, LeftoversOfAKilledRunAreNoObstacle) {
  const fs::path folder = folder_ / "killed";
  fs::create_directory(folder);
  write_file(folder / ".train.jrd.tmp", std::string(100'000, 'x'));
  write_file(folder / ".dataset.json.tmp", std::string(100'000, 'x'));
  expect_equal(create_dataset(folder, args_).dataset, dataset_);
  EXPECT_EQ(read_file(folder / "train.jrd"), train_);
  EXPECT_EQ(read_file(folder / "dataset.json"), manifest_);
  EXPECT_EQ(names_in(folder).size(), 4u);
}

TEST(Xxh64, KnownHashes) {
  const auto hash = [](const std::string& text) {
    return xxh64(std::as_bytes(std::span(text.data(), text.size())));
  };
  EXPECT_EQ(hash(""), 0xef46db3751d8e999u);
  EXPECT_EQ(hash("a"), 0xd24ec4f1a98c6e5bu);
  EXPECT_EQ(hash("abc"), 0x44bc2cf5ad770999u);
  EXPECT_EQ(hash("Nobody inspects the spammish repetition"), 0xfbcea83c8a378bf1u);
  std::string all_bytes(256, '\0');
  for (std::size_t i = 0; i < 256; ++i) all_bytes[i] = static_cast<char>(i);
  EXPECT_EQ(hash(all_bytes), 0x1facbe8406cd904bu);
}

}  // namespace
}  // namespace joint_recall
