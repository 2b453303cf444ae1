#include "train/safetensors.hpp"

#include <cstring>

#include "dataset_fixture.hpp"
#include "train/error.hpp"

namespace joint_recall {
namespace {

class SafetensorsTest : public DatasetTest {
 protected:
  std::string file_with(const std::string& header, size_t data_bytes) const {
    std::string bytes(8, '\0');
    const uint64_t length = header.size();
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header + std::string(data_bytes, 'x');
  }

  // The text of the TrainError that reading these bytes ends with.
  std::string problem(const std::string& bytes) const {
    const auto path = folder_ / "file.safetensors";
    write_file(path, bytes);
    SafetensorsFile file;
    try {
      read_safetensors(path, file);
    } catch (const TrainError& error) {
      EXPECT_TRUE(contains(error.what(), path.string()));
      return error.what();
    }
    return "no error";
  }
};

TEST_F(SafetensorsTest, ReadsWhatItWrote) {
  const std::vector<float> weights = {1.5f, -2.0f, 0.0f, 4.0f, 5.0f, 6.0f};
  const std::string_view data(reinterpret_cast<const char*>(weights.data()), 24);
  const std::string bytes = format_safetensors({{"note", "a \"quoted\" text"}},
                                               {{"w", "F32", {2, 3}, data},
                                                {"nothing", "F32", {0, 7}, {}},
                                                {"number", "I64", {}, data.substr(0, 8)}});
  EXPECT_EQ(bytes.size() % 8, 0u);
  write_file(folder_ / "a.safetensors", bytes);
  SafetensorsFile file;
  read_safetensors(folder_ / "a.safetensors", file);
  EXPECT_EQ(file.metadata, (std::map<std::string, std::string>{{"note", "a \"quoted\" text"}}));
  ASSERT_EQ(file.tensors.size(), 3u);
  EXPECT_EQ(file.tensors.at("w").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.tensors.at("w").dtype, "F32");
  EXPECT_EQ(file.tensors.at("w").data, data);
  EXPECT_TRUE(file.tensors.at("nothing").data.empty());
  EXPECT_EQ(file.tensors.at("number").data, data.substr(0, 8));
}

TEST_F(SafetensorsTest, NamesWhatIsWrong) {
  const struct {
    const char* header;
    size_t data_bytes;
    const char* problem;
  } cases[] = {
      {"hello", 0, "header is not JSON"},
      {"[1, 2]", 0, "header is not a JSON object"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, "truncated"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9, "but 9 are there"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4,
       "disagree with dtype and shape"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8,
       "disagree with dtype and shape"},
      {R"({"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8, "unknown dtype"},
      {R"({"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", 8, "dtype is not a string"},
      {R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "no size"},
      {R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})", 8, "shape is not an array"},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", 8,
       "too large"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8, "not two offsets"},
      {R"({"a":{"dtype":"F32","shape":[2]}})", 8, "expected dtype, shape and data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", 8,
       "expected dtype, shape and data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
           "a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       16, "names 'a' twice"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
           "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "overlap or leave a gap"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
           "b":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})",
       20, "overlap or leave a gap"},
      {R"({"__metadata__":3})", 0, "'__metadata__' is not a JSON object"},
      {R"({"__metadata__":{"k":3}})", 0, "metadata 'k' is not a string"},
  };
  for (const auto& [header, data_bytes, expected] : cases) {
    EXPECT_TRUE(contains(problem(file_with(header, data_bytes)), expected)) << header;
  }
  EXPECT_TRUE(contains(problem(""), "0 bytes"));
  EXPECT_TRUE(contains(problem("\x10"), "1 bytes"));
  EXPECT_TRUE(contains(problem(std::string(8, '\xff') + "{}"), "only 2 follow"));
}

TEST_F(SafetensorsTest, EveryTruncationIsFound) {
  const std::string bytes = format_safetensors({{"k", "v"}}, {{"a", "U8", {5}, "12345"}});
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(problem(bytes.substr(0, size)), "no error") << size;
  }
  EXPECT_EQ(problem(bytes), "no error");
}

TEST_F(SafetensorsTest, WhatIsNoFileIsAnError) {
  SafetensorsFile file;
  EXPECT_THROW(read_safetensors(folder_ / "absent", file), TrainError);
  EXPECT_THROW(read_safetensors(folder_, file), TrainError);
  EXPECT_THROW(read_safetensors("/dev/zero", file), TrainError);
}

}  // namespace
}  // namespace joint_recall
