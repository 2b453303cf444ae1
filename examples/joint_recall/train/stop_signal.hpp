// Ctrl-C and SIGTERM ask a run to stop at the next good moment; a second one ends it at once.
#pragma once

namespace joint_recall {

void catch_stop_signals();
int stop_signal();  // 0 while none has come

}  // namespace joint_recall
