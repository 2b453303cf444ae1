#include <fmt/format.h>

#include "data/dataset_error.hpp"
#include "data/files.hpp"
#include "data/text_format.hpp"

namespace joint_recall {
namespace {

constexpr std::int64_t kExportProgressInterval = 4096;

// Lines of numbers joined by single spaces.
class LineBuilder {
 public:
  LineBuilder(int max_number, int padded_length) : padded_length_(padded_length) {
    for (int number = 0; number <= max_number; ++number) {
      texts_.push_back(std::to_string(number) + ' ');
    }
  }

  void add(int number) {
    line_ += texts_[static_cast<std::size_t>(number)];
    ++count_;
  }

  std::string_view finish(int padding) {
    while (count_ < padded_length_) add(padding);
    line_.back() = '\n';
    return line_;
  }

  void clear() {
    line_.clear();
    count_ = 0;
  }

 private:
  int padded_length_;
  std::vector<std::string> texts_;
  std::string line_;
  int count_ = 0;
};

class SplitExporter {
 public:
  SplitExporter(const Split& split, const std::filesystem::path& inputs,
                const std::filesystem::path& mask)
      : split_(split),
        inputs_(inputs),
        mask_(mask),
        tokens_(split.vocabulary().size() - 1, split.padded_length()),
        bits_(1, split.padded_length()) {}

  void write(std::int64_t index) {
    const Item item = split_[index];
    tokens_.clear();
    bits_.clear();
    int ask = 0;
    for (int position = 0; position < item.size(); ++position) {
      tokens_.add(checked_token(item, index, position));
      const bool asked =
          ask < item.shape().asked_count() && position == item.shape().asked_position(ask);
      bits_.add(asked ? 1 : 0);
      if (asked) ++ask;
    }
    inputs_.write(tokens_.finish(kPaddingToken));
    mask_.write(bits_.finish(0));
  }

  void close() {
    inputs_.close();
    mask_.close();
  }

 private:
  int checked_token(const Item& item, std::int64_t index, int position) const {
    const int token = item.token(position);
    if (token >= split_.vocabulary().size()) {
      throw DatasetError(fmt::format("{} is corrupt: item {} has token {} at position {}",
                                     split_.source(), index, token, position));
    }
    return token;
  }

  const Split& split_;
  FileWriter inputs_;
  FileWriter mask_;
  LineBuilder tokens_;
  LineBuilder bits_;
};

}  // namespace

TextFiles export_text(const Dataset& dataset, const std::filesystem::path& folder,
                      const Progress& progress) {
  make_folder(folder);
  const FolderLock lock(folder);
  const TextFiles files{folder, dataset.args.max_n_context, dataset.args.max_n_key,
                        dataset.args.seed};
  std::int64_t total = 0;
  for (const SplitName name : kSplitNames) total += dataset.split(name).size();

  NewFiles new_files(folder);
  std::int64_t done = 0;
  for (const SplitName name : kSplitNames) {
    const Split& split = dataset.split(name);
    SplitExporter exporter(split, new_files.temporary(files.inputs_name(name)),
                           new_files.temporary(files.mask_name(name)));
    for (std::int64_t item = 0; item < split.size(); ++item) {
      exporter.write(item);
      ++done;
      if (progress && (done % kExportProgressInterval == 0 || done == total) &&
          !progress(done, total)) {
        throw DatasetError(fmt::format("stopped after {} of {} items", done, total));
      }
    }
    exporter.close();
  }
  new_files.commit();
  return files;
}

}  // namespace joint_recall
