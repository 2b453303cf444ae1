#include "train/stop_signal.hpp"

#include <signal.h>

namespace joint_recall {
namespace {

volatile sig_atomic_t caught = 0;

extern "C" void note_signal(int signal_number) { caught = signal_number; }

}  // namespace

void catch_stop_signals() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

int stop_signal() { return caught; }

}  // namespace joint_recall
