#include "data/render.hpp"
#include "joint_recall/dataset_fixture.hpp"

namespace joint_recall {
namespace {

const Vocabulary kVocabulary{8, 2, 2};

// c0: k0 v1, k1 v7; c1: k0 v3, k1 v0
Item small_item() {
  static const std::vector<std::uint8_t> tokens = {1, 21, 19, 10, 18, 13, 20, 19, 17, 18, 11,
                                                   4, 20, 18, 11, 19, 17, 21, 19, 10, 18, 13};
  return {reinterpret_cast<const std::byte*>(tokens.data()), 1, ItemShape{2, 2}};
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST(RenderText, ShowsTheItem) {
  EXPECT_EQ(item_text(small_item(), kVocabulary),
            "2 contexts x 2 keys, 22 tokens, 4 asked\n"
            "   0  start\n"
            "   1  c1   | k1 v0   | k0 v3\n"
            "   6  c0   | k1 v7   | k0 v1\n"
            "  11  sep   asked: the value after every key marked ?\n"
            "  12  c0   | k0? v1   | k1? v7\n"
            "  17  c1   | k1? v0   | k0? v3\n");
}

TEST(RenderText, ShowsPredictions) {
  const std::vector<int> predictions = {11, 12, 10, 21};
  EXPECT_EQ(item_text(small_item(), kVocabulary, predictions),
            "2 contexts x 2 keys, 22 tokens, 4 asked, 2 predicted right\n"
            "   0  start\n"
            "   1  c1   | k1 v0            | k0 v3\n"
            "   6  c0   | k1 v7            | k0 v1\n"
            "  11  sep   asked: the value after every key marked ?\n"
            "  12  c0   | k0? v1 ok        | k1? v7 not v2\n"
            "  17  c1   | k1? v0 ok        | k0? v3 not c1\n");
}

TEST(RenderSvg, HasEveryTokenAndMark) {
  const std::string plain = item_svg(small_item(), kVocabulary, "a < b & c");
  EXPECT_TRUE(plain.starts_with("<svg xmlns="));
  EXPECT_TRUE(plain.ends_with("</svg>\n"));
  EXPECT_TRUE(contains(plain, "a &lt; b &amp; c: 2 contexts x 2 keys, 22 tokens<"));
  EXPECT_EQ(count(plain, "<g>"), 22u);
  EXPECT_EQ(count(plain, "</g>"), 22u);
  EXPECT_EQ(count(plain, "<text "), count(plain, "</text>"));
  EXPECT_EQ(count(plain, ", asked</title>"), 4u);
  EXPECT_EQ(count(plain, "stroke-width"), 5u);  // and once in the legend
  EXPECT_TRUE(contains(plain, "<title>position 13: k0 (token 18), asked</title>"));
  EXPECT_EQ(count(plain, "#2b8a3e") + count(plain, "#c92a2a"), 0u);

  const std::vector<int> predictions = {11, 12, 10, 13};
  const std::string predicted = item_svg(small_item(), kVocabulary, "item", predictions);
  EXPECT_TRUE(contains(predicted, "3 of 4 predicted right"));
  EXPECT_EQ(count(predicted, "#2b8a3e"), 3u + 1);  // and once in the legend
  EXPECT_EQ(count(predicted, "#c92a2a"), 1u + 1);
}

TEST(Render, WrongNumberOfPredictionsIsRefused) {
  const std::vector<int> predictions = {11, 12, 10};
  EXPECT_TRUE(contains(error_of([&] { item_text(small_item(), kVocabulary, predictions); }),
                       "4 asked positions got 3 predictions"));
  EXPECT_TRUE(contains(error_of([&] { item_svg(small_item(), kVocabulary, "", predictions); }),
                       "4 asked positions got 3 predictions"));
}

}  // namespace
}  // namespace joint_recall
