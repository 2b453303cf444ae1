#include "train/train_flags.hpp"

#include <fmt/format.h>

namespace joint_recall {
namespace {

constexpr const char* kOfficialOptions = "The official trainer's options";

template <class T>
void add_field(CLI::App& command, const std::string& group, TrainFlags& flags, const char* name,
               const char* help, T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    const auto setter = [&flags, &value, name](bool chosen) {
      return [&flags, &value, name, chosen] {
        value = chosen;
        flags.given.insert(name);
      };
    };
    CLI::Option* on = command.add_flag_callback(fmt::format("--{}", name), setter(true), help);
    command.add_flag_callback(fmt::format("--no-{}", name), setter(false))
        ->group(group)
        ->excludes(on);
    on->group(group);
  } else {
    const auto set = [&flags, &value, name](const std::string& text) {
      parse_field(name, text, value);
      flags.given.insert(name);
    };
    CLI::Option* option =
        command.add_option_function<std::string>(fmt::format("--{}", name), set, help)
            ->group(group);
    const std::string text = field_text(value);
    if (!text.empty()) option->default_str(text);
  }
}

}  // namespace

void add_train_options(CLI::App& command, TrainFlags& flags) {
  const auto add_to = [&](const char* group) {
    return [&, group](const char* name, const char* help, Keep, auto access) {
      add_field(command, group, flags, name, help, access(flags.value));
    };
  };
  visit_official_fields(add_to(kOfficialOptions));
  visit_own_fields(add_to(kOwnOptions));
}

}  // namespace joint_recall
