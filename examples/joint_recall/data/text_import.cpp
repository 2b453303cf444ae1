#include <fmt/format.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <map>
#include <optional>

#include "data/dataset_error.hpp"
#include "data/files.hpp"
#include "data/item_check.hpp"
#include "data/text_format.hpp"

namespace joint_recall {
namespace {

constexpr std::int64_t kImportProgressInterval = 4096;
constexpr int kMaxToken = 65535;

// Hands out the lines of a text file, without their newlines.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path)
      : path_(path.string()), file_(MappedFile::open(path)) {
    const std::span<const std::byte> bytes = file_.bytes();
    rest_ = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  bool done() const { return rest_.empty(); }
  std::int64_t file_bytes() const { return static_cast<std::int64_t>(file_.bytes().size()); }

  std::string_view next() {
    ++line_;
    if (done()) fail("the file ends where another line is expected: it is truncated");
    const std::size_t end = rest_.find('\n');
    if (end == std::string_view::npos) fail("no newline at its end: the file is truncated");
    const std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return line;
  }

  [[noreturn]] void fail(const std::string& problem) const {
    throw DatasetError(fmt::format("{}, line {}: {}", path_, line_, problem));
  }

 private:
  std::string path_;
  MappedFile file_;
  std::string_view rest_;
  std::int64_t line_ = 0;
};

// The tokens of a line before its padding; checks that the padding fills the rest.
void parse_inputs(const LineReader& file, std::string_view line, int padded_length,
                  std::vector<int>& tokens) {
  tokens.clear();
  const char* at = line.data();
  const char* const end = at + line.size();
  int count = 0;
  bool padding = false;
  while (true) {
    int token = 0;
    const char* const begin = at;
    while (at != end && *at >= '0' && *at <= '9' && token <= kMaxToken) {
      token = 10 * token + (*at++ - '0');
    }
    if (at == begin || token > kMaxToken || (at != end && *at != ' ')) {
      file.fail(fmt::format("entry {} is not a token id from 0 to {} followed by one space",
                            count + 1, kMaxToken));
    }
    ++count;
    padding = padding || token == kPaddingToken;
    if (!padding) {
      tokens.push_back(token);
    } else if (token != kPaddingToken) {
      file.fail(fmt::format("entry {} is token {}, but padding has begun before it", count, token));
    }
    if (at == end) break;
    ++at;
  }
  if (count != padded_length) {
    file.fail(fmt::format("it has {} tokens, expected {}", count, padded_length));
  }
}

std::string mask_line(const ItemShape& shape, int padded_length) {
  std::string line(2 * static_cast<std::size_t>(padded_length) - 1, ' ');
  for (std::size_t i = 0; i < line.size(); i += 2) line[i] = '0';
  for (int ask = 0; ask < shape.asked_count(); ++ask) {
    line[2 * static_cast<std::size_t>(shape.asked_position(ask))] = '1';
  }
  return line;
}

// The sizes of the table follow from how many positions are asked and where they begin.
std::optional<ItemShape> shape_of_mask(std::string_view line, const TextFiles& files) {
  const std::size_t first = line.find('1');
  if (first == std::string_view::npos) return {};
  const std::int64_t asked = std::count(line.begin(), line.end(), '1');
  const std::int64_t n_context = static_cast<std::int64_t>(first / 2) - 3 - 2 * asked;
  if (n_context < 1 || n_context > files.max_n_context || asked % n_context != 0 ||
      asked / n_context > files.max_n_key) {
    return {};
  }
  return ItemShape{static_cast<int>(n_context), static_cast<int>(asked / n_context)};
}

// What the first item tells about the whole set: the smallest sizes and the number of values.
GeneratorArgs infer_args(const TextFiles& files) {
  GeneratorArgs args;
  args.max_n_context = files.max_n_context;
  args.max_n_key = files.max_n_key;
  args.seed = files.seed;
  args.min_n_context = args.max_n_context;
  args.min_n_key = args.max_n_key;
  args.n_train_per_context_key = args.n_test_per_context_key = 1;
  try {
    check_args(args);
  } catch (const DatasetError& error) {
    throw DatasetError(fmt::format("{}: {}", files.prefix(), error.what()));
  }

  LineReader mask(files.folder / files.mask_name(SplitName::kTrain));
  const std::optional<ItemShape> shape = shape_of_mask(mask.next(), files);
  if (!shape) {
    mask.fail(fmt::format("it is not the mask of a table of at most {} contexts x {} keys",
                          files.max_n_context, files.max_n_key));
  }
  LineReader inputs(files.folder / files.inputs_name(SplitName::kTrain));
  std::vector<int> tokens;
  parse_inputs(inputs, inputs.next(), args.order().padded_length(), tokens);
  if (static_cast<int>(tokens.size()) != shape->length()) {
    inputs.fail(fmt::format("it has {} tokens before the padding, its mask belongs to {}",
                            tokens.size(), shape->length()));
  }
  int first_key = kMaxToken;
  for (int ask = 0; ask < shape->asked_count(); ++ask) {
    first_key = std::min(first_key, tokens[static_cast<std::size_t>(shape->asked_position(ask))]);
  }
  if (first_key <= kFirstValueToken) {
    inputs.fail(fmt::format("token {} stands where a key is expected", first_key));
  }
  args.n_value = first_key - kFirstValueToken;
  args.min_n_context = shape->n_context;
  args.min_n_key = shape->n_key;
  return args;
}

class SplitImporter {
 public:
  SplitImporter(const TextFiles& files, SplitName split, const GeneratorArgs& args)
      : inputs_(files.folder / files.inputs_name(split)),
        mask_(files.folder / files.mask_name(split)),
        source_((files.folder / files.inputs_name(split)).string()),
        vocabulary_(args.vocabulary()),
        order_(args.order()),
        checker_(vocabulary_) {}

  // From the mask's lines, which are all equally long.
  std::int64_t expected_items() const {
    return mask_.file_bytes() / (2 * std::int64_t{order_.padded_length()});
  }

  Split read(const std::function<bool(std::int64_t)>& progress) {
    auto bytes = std::make_shared<std::vector<std::byte>>();
    std::int64_t items = 0;
    for (; !inputs_.done(); ++items) {
      if (items % kImportProgressInterval == 0 && !progress(items))
        inputs_.fail("reading was stopped");
      read_item(order_.shape(items), *bytes);
    }
    if (!mask_.done())
      mask_.fail(fmt::format("more lines follow than the {} of the inputs", items));
    if (items == 0 || items % order_.items_per_round() != 0) {
      inputs_.fail(
          fmt::format("the file ends after {} items, which is not a multiple of {} (one for "
                      "each table size): it is truncated",
                      items, order_.items_per_round()));
    }
    return {source_, vocabulary_, order_, items, *bytes, bytes};
  }

 private:
  void read_item(const ItemShape& shape, std::vector<std::byte>& bytes) {
    parse_inputs(inputs_, inputs_.next(), order_.padded_length(), tokens_);
    const std::string problem = checker_.problem(shape, tokens_);
    if (!problem.empty()) inputs_.fail(problem);
    if (mask_.next() != expected_mask(shape)) {
      mask_.fail(
          fmt::format("it is not the mask of {} contexts x {} keys", shape.n_context, shape.n_key));
    }
    for (const int token : tokens_) {
      bytes.push_back(static_cast<std::byte>(token));
      if (vocabulary_.token_bytes() == 2) bytes.push_back(static_cast<std::byte>(token >> 8));
    }
  }

  const std::string& expected_mask(const ItemShape& shape) {
    std::string& line = masks_[{shape.n_context, shape.n_key}];
    if (line.empty()) line = mask_line(shape, order_.padded_length());
    return line;
  }

  LineReader inputs_;
  LineReader mask_;
  std::string source_;
  Vocabulary vocabulary_;
  ItemOrder order_;
  ItemChecker checker_;
  std::map<std::pair<int, int>, std::string> masks_;
  std::vector<int> tokens_;
};

}  // namespace

std::string TextFiles::prefix() const {
  return fmt::format("max_n_context_{}_max_n_key_{}_seed_{}", max_n_context, max_n_key, seed);
}

std::string TextFiles::inputs_name(SplitName split) const {
  return fmt::format("{}_{}_inputs.txt", prefix(), to_string(split));
}

std::string TextFiles::mask_name(SplitName split) const {
  return fmt::format("{}_{}_mask.txt", prefix(), to_string(split));
}

std::vector<TextFiles> find_text_files(const std::filesystem::path& folder) {
  std::vector<TextFiles> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    TextFiles files{folder};
    const int numbers = std::sscanf(
        name.c_str(), "max_n_context_%9" SCNd64 "_max_n_key_%9" SCNd64 "_seed_%10" SCNd64 "_train",
        &files.max_n_context, &files.max_n_key, &files.seed);
    if (numbers == 3 && files.inputs_name(SplitName::kTrain) == name) found.push_back(files);
  }
  if (error) {
    throw DatasetError(fmt::format("cannot list {}: {}", folder.string(), error.message()));
  }
  std::sort(found.begin(), found.end(),
            [](const TextFiles& a, const TextFiles& b) { return a.prefix() < b.prefix(); });
  return found;
}

Dataset read_text(const TextFiles& files, const Progress& progress) {
  GeneratorArgs args = infer_args(files);
  std::array<SplitImporter, 3> importers = {SplitImporter(files, SplitName::kTrain, args),
                                            SplitImporter(files, SplitName::kValid, args),
                                            SplitImporter(files, SplitName::kTest, args)};
  std::int64_t total = 0;
  for (const SplitImporter& importer : importers) total += importer.expected_items();
  std::int64_t done = 0;
  const auto read = [&](SplitName name) {
    Split split = importers[static_cast<std::size_t>(name)].read(
        [&](std::int64_t items) { return !progress || progress(done + items, total); });
    done += split.size();
    return split;
  };
  Split train = read(SplitName::kTrain);
  Split valid = read(SplitName::kValid);
  Split test = read(SplitName::kTest);
  if (progress) progress(done, total);
  if (valid.size() != test.size()) {
    throw DatasetError(fmt::format("{} has {} items, but {} has {}: one of them is truncated",
                                   valid.source(), valid.size(), test.source(), test.size()));
  }
  args.n_train_per_context_key = train.size() / args.order().items_per_round();
  args.n_test_per_context_key = test.size() / args.order().items_per_round();
  return {args, std::move(train), std::move(valid), std::move(test)};
}

}  // namespace joint_recall
