#include "data/generator.hpp"

#include <fmt/format.h>

#include <string_view>
#include <unordered_set>

#include "data/dataset_error.hpp"
#include "data/numpy_random.hpp"

namespace joint_recall {
namespace {

constexpr std::int64_t kProgressInterval = 4096;

template <class Token>
class ItemGenerator {
 public:
  explicit ItemGenerator(const GeneratorArgs& args)
      : vocabulary_(args.vocabulary()),
        random_(static_cast<std::uint32_t>(args.seed)),
        table_(static_cast<std::size_t>(args.max_n_context * args.max_n_key)),
        contexts_(static_cast<std::size_t>(args.max_n_context)),
        keys_(static_cast<std::size_t>(args.max_n_key)) {}

  // Writes shape.length() tokens.
  void draw(const ItemShape& shape, Token* out) {
    random_.randint(static_cast<std::uint32_t>(vocabulary_.n_value),
                    std::span(table_).first(static_cast<std::size_t>(shape.asked_count())));
    *out++ = kStartToken;
    out = draw_half(shape, out);
    *out++ = kSeparatorToken;
    draw_half(shape, out);
  }

 private:
  Token* draw_half(const ItemShape& shape, Token* out) {
    const auto contexts = std::span(contexts_).first(static_cast<std::size_t>(shape.n_context));
    const auto keys = std::span(keys_).first(static_cast<std::size_t>(shape.n_key));
    random_.permutation(contexts);
    for (const int context : contexts) {
      *out++ = static_cast<Token>(vocabulary_.context(context));
      const int* const values = table_.data() + std::ptrdiff_t{context} * shape.n_key;
      random_.permutation(keys);
      for (const int key : keys) {
        *out++ = static_cast<Token>(vocabulary_.key(key));
        *out++ = static_cast<Token>(vocabulary_.value(values[key]));
      }
    }
    return out;
  }

  Vocabulary vocabulary_;
  NumpyRandom random_;
  std::vector<int> table_;
  std::vector<int> contexts_;
  std::vector<int> keys_;
};

template <class Token>
void generate_tokens(const GeneratorArgs& args, std::array<SplitOutput, 3>& splits,
                     const Progress& progress) {
  std::int64_t total = 0;
  for (const SplitName name : kSplitNames) total += args.items(name);

  ItemGenerator<Token> generator(args);
  std::unordered_set<std::string_view> seen;  // views into the splits' own tokens
  seen.reserve(static_cast<std::size_t>(total));
  const ItemOrder order = args.order();
  std::int64_t done = 0;
  for (const SplitName name : kSplitNames) {
    SplitOutput& split = splits[static_cast<std::size_t>(name)];
    split.duplicates = 0;
    Token* out = reinterpret_cast<Token*>(split.tokens.data());
    const std::int64_t items = args.items(name);
    for (std::int64_t item = 0; item < items; ++item) {
      const ItemShape shape = order.shape(item);
      const std::string_view bytes(reinterpret_cast<const char*>(out),
                                   static_cast<std::size_t>(shape.length()) * sizeof(Token));
      generator.draw(shape, out);
      while (!seen.insert(bytes).second) {
        ++split.duplicates;
        generator.draw(shape, out);
      }
      out += shape.length();
      ++done;
      if (progress && (done % kProgressInterval == 0 || done == total) && !progress(done, total)) {
        throw DatasetError(fmt::format("stopped after {} of {} items", done, total));
      }
    }
  }
}

}  // namespace

void generate(const GeneratorArgs& args, std::array<SplitOutput, 3>& splits,
              const Progress& progress) {
  check_args(args);
  const int token_bytes = args.vocabulary().token_bytes();
  for (const SplitName name : kSplitNames) {
    const std::int64_t needed = args.order().first_token(args.items(name)) * token_bytes;
    const auto given =
        static_cast<std::int64_t>(splits[static_cast<std::size_t>(name)].tokens.size());
    if (given != needed) {
      throw DatasetError(fmt::format("generate: split {} needs {} bytes, but its output has {}",
                                     to_string(name), needed, given));
    }
  }
  if (token_bytes == 1) {
    generate_tokens<std::uint8_t>(args, splits, progress);
  } else {
    generate_tokens<std::uint16_t>(args, splits, progress);
  }
}

}  // namespace joint_recall
