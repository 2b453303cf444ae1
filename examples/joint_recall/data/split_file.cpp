#include "data/split_file.hpp"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

#include "data/checksum.hpp"
#include "data/dataset_error.hpp"

namespace joint_recall {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are little-endian");

constexpr std::uint32_t kSplitVersion = 1;
constexpr std::array<char, 8> kMagic = {'J', 'R', 'E', 'C', 'A', 'L', 'L', '\n'};

struct Header {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kSplitVersion;
  std::uint32_t split = 0;
  std::uint32_t token_bytes = 0;
  std::uint32_t n_value = 0;
  std::uint32_t min_n_context = 0;
  std::uint32_t max_n_context = 0;
  std::uint32_t min_n_key = 0;
  std::uint32_t max_n_key = 0;
  std::uint32_t seed = 0;
  std::uint32_t reserved = 0;
  std::uint64_t items = 0;
  std::uint64_t tokens = 0;
};
static_assert(sizeof(Header) == kSplitHeaderBytes);

Header make_header(const GeneratorArgs& args, SplitName split) {
  const auto narrow = [](std::int64_t number) { return static_cast<std::uint32_t>(number); };
  Header header;
  header.split = static_cast<std::uint32_t>(split);
  header.token_bytes = static_cast<std::uint32_t>(args.vocabulary().token_bytes());
  header.n_value = narrow(args.n_value);
  header.min_n_context = narrow(args.min_n_context);
  header.max_n_context = narrow(args.max_n_context);
  header.min_n_key = narrow(args.min_n_key);
  header.max_n_key = narrow(args.max_n_key);
  header.seed = narrow(args.seed);
  header.items = static_cast<std::uint64_t>(args.items(split));
  header.tokens = static_cast<std::uint64_t>(args.order().first_token(args.items(split)));
  return header;
}

void check_header(const std::string& source, const Header& found, const Header& expected) {
  if (found.magic != kMagic) {
    throw DatasetError(source +
                       " is not a joint-recall split: its first 8 bytes are not the ones "
                       "such a file begins with");
  }
  if (found.version != kSplitVersion) {
    throw DatasetError(fmt::format("{} has format version {}; this program reads version {}",
                                   source, found.version, kSplitVersion));
  }
  const auto check = [&](const char* field, std::uint64_t actual, std::uint64_t wanted) {
    if (actual == wanted) return;
    throw DatasetError(
        fmt::format("{} does not belong to this data set: {} in its header is {}, expected {}",
                    source, field, actual, wanted));
  };
  check("split", found.split, expected.split);
  check("token_bytes", found.token_bytes, expected.token_bytes);
  check("n_value", found.n_value, expected.n_value);
  check("min_n_context", found.min_n_context, expected.min_n_context);
  check("max_n_context", found.max_n_context, expected.max_n_context);
  check("min_n_key", found.min_n_key, expected.min_n_key);
  check("max_n_key", found.max_n_key, expected.max_n_key);
  check("seed", found.seed, expected.seed);
  check("reserved", found.reserved, expected.reserved);
  check("items", found.items, expected.items);
  check("tokens", found.tokens, expected.tokens);
}

}  // namespace

std::string split_file_name(SplitName split) { return fmt::format("{}.jrd", to_string(split)); }

std::int64_t split_file_bytes(const GeneratorArgs& args, SplitName split) {
  return kSplitHeaderBytes +
         args.order().first_token(args.items(split)) * args.vocabulary().token_bytes();
}

void write_split_header(const GeneratorArgs& args, SplitName split, MappedFile& file) {
  const Header header = make_header(args, split);
  std::memcpy(file.writable_bytes().data(), &header, sizeof header);
}

Split open_split_file(const std::filesystem::path& path, const GeneratorArgs& args, SplitName split,
                      std::uint64_t checksum, const OpenOptions& options) {
  const std::string source = path.string();
  auto file = std::make_shared<const MappedFile>(MappedFile::open(path));
  const std::span<const std::byte> bytes = file->bytes();
  if (bytes.size() < sizeof(Header)) {
    throw DatasetError(fmt::format("{} is truncated: it has {} bytes, its header alone has {}",
                                   source, bytes.size(), sizeof(Header)));
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  check_header(source, header, make_header(args, split));

  const auto expected = static_cast<std::size_t>(split_file_bytes(args, split));
  if (bytes.size() != expected) {
    throw DatasetError(fmt::format("{} {}: it has {} bytes, its header tells of {}", source,
                                   bytes.size() < expected ? "is truncated" : "is too long",
                                   bytes.size(), expected));
  }
  if (options.verify_checksum) {
    const std::uint64_t actual = xxh64(bytes);
    file->drop_from_memory();
    if (actual != checksum) {
      throw DatasetError(
          fmt::format("{} is corrupt: its XXH64 checksum is {:016x}, expected {:016x}", source,
                      actual, checksum));
    }
  }
  return {source, args.vocabulary(), args.order(), args.items(split), bytes.subspan(sizeof(Header)),
          file};
}

}  // namespace joint_recall
