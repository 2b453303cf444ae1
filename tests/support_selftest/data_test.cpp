#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "array.hpp"
#include "comparator.hpp"
#include "safetensors.hpp"

namespace hax_test {
namespace {

TEST(Array, IndexesRowMajorAndChecksBounds) {
  Array a({2, 3}, std::vector<double>{0, 1, 2, 3, 4, 5});
  EXPECT_EQ(a.at(1, 0), 3.0);
  EXPECT_THROW(a.at(0, 3), std::out_of_range);
  EXPECT_THROW(a.at(0), std::out_of_range);
  EXPECT_THROW(a.reshape({4, 2}), std::invalid_argument);
  EXPECT_EQ(a.reshape({-1, 2}).shape, (std::vector<int64_t>{3, 2}));
  EXPECT_FALSE(Array().present());
  EXPECT_TRUE(zeros({0}).present());
}

TEST(Array, SlicesAndJoins) {
  const Array a = random_normal({2, 5, 3}, 1);
  for (int64_t axis : {0, 1, 2, -1}) {
    const Array joined = concat_axis({slice_axis(a, axis, 0, 1), slice_axis(a, axis, 1, 1),
                                      slice_axis(a, axis, 1, a.size(axis))},
                                     axis);
    EXPECT_EQ(joined.shape, a.shape);
    EXPECT_EQ(joined.data, a.data);
  }
  EXPECT_EQ(slice_axis(a, 1, 2, 4).at(1, 0, 2), a.at(1, 2, 2));
  Array sum = zeros_like(a);
  add_into_last(sum, 1, slice_last(a, 1, 3));
  EXPECT_EQ(sum.at(1, 4, 0), 0.0);
  EXPECT_EQ(sum.at(1, 4, 2), a.at(1, 4, 2));
}

TEST(Array, SequencesOfBatchAndPackedTensors) {
  const auto batch = sequences_of(zeros({2, 4, 1}), {});
  ASSERT_EQ(batch.size(), 2U);
  EXPECT_EQ(batch[1].first_row, 4);
  const auto packed = sequences_of(zeros({1, 8, 1}), {0, 3, 3, 8});
  ASSERT_EQ(packed.size(), 3U);
  EXPECT_EQ(packed[1].length, 0);
  EXPECT_EQ(packed[2].first_row, 3);
  EXPECT_THROW(sequences_of(zeros({1, 8, 1}), {0, 9}), std::invalid_argument);
  EXPECT_THROW(sequences_of(zeros({1, 8, 1}), {0, 5, 3, 8}), std::invalid_argument);
}

class SafetensorsFile : public ::testing::Test {
 protected:
  ~SafetensorsFile() override { std::remove(path_.c_str()); }

  void write(const std::string& header, const std::string& payload) {
    const uint64_t length = header.size();
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), sizeof length);
    file << header << payload;
  }

  std::string path_ = ::testing::TempDir() + "hax_" +
                      ::testing::UnitTest::GetInstance()->current_test_info()->name() +
                      ".safetensors";
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

TEST_F(SafetensorsFile, ReadsEveryElementType) {
  struct Case {
    std::string dtype, payload;
  };
  const std::vector<Case> cases = {
      {"F64", bytes_of<double>({1.5, -2.0})},
      {"F32", bytes_of<float>({1.5F, -2.0F})},
      {"F16", bytes_of<uint16_t>({0x3e00, 0xc000})},
      {"BF16", bytes_of<uint16_t>({0x3fc0, 0xc000})},
  };
  const std::vector<Case> integers = {
      {"U8", bytes_of<uint8_t>({1, 254})},
      {"I32", bytes_of<int32_t>({1, 254})},
      {"I64", bytes_of<int64_t>({1, 254})},
  };
  auto read = [&](const Case& c) {
    write(R"({"__metadata__":{"who":"test"},"x":{"dtype":")" + c.dtype +
              R"(","shape":[2],"data_offsets":[0,)" + std::to_string(c.payload.size()) + "]}}",
          c.payload);
    const Safetensors file(path_);
    EXPECT_EQ(file.metadata().at("who"), "test");
    EXPECT_EQ(file.names(), std::vector<std::string>{"x"});
    return file.load("x").data;
  };
  for (const Case& c : cases) EXPECT_EQ(read(c), (std::vector<double>{1.5, -2.0})) << c.dtype;
  for (const Case& c : integers) EXPECT_EQ(read(c), (std::vector<double>{1, 254})) << c.dtype;
}

TEST_F(SafetensorsFile, ReadsHalfPrecisionExtremes) {
  const std::string payload = bytes_of<uint16_t>({0x0001, 0x7bff, 0xfc00, 0x7e00});
  write(R"({"x":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})", payload);
  const Array x = Safetensors(path_).load("x");
  EXPECT_EQ(x.at(0), std::ldexp(1.0, -24));
  EXPECT_EQ(x.at(1), 65504.0);
  EXPECT_EQ(x.at(2), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(x.at(3)));
}

TEST_F(SafetensorsFile, RefusesDamagedFiles) {
  EXPECT_THROW(Safetensors(path_ + ".none"), std::runtime_error);
  write(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "only4");
  EXPECT_THROW(Safetensors{path_}, std::runtime_error);
  write(R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "12345678");
  EXPECT_THROW(Safetensors(path_).load("x"), std::runtime_error);
  write(R"({"x":{"dtype":"C64","shape":[1],"data_offsets":[0,8]}})", "12345678");
  EXPECT_THROW(Safetensors(path_).load("x"), std::runtime_error);
  EXPECT_THROW(Safetensors(path_).load("y"), std::runtime_error);
  EXPECT_FALSE(Safetensors(path_).load_if_present("y").present());
}

}  // namespace
}  // namespace hax_test
