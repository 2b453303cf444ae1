#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "comparator.hpp"
#include "oracle_scan.hpp"
#include "safetensors.hpp"

// The scan oracles against the recorded operator cases, which were computed in fp64 and stored as
// fp32: what is left is the rounding of the stored values.
namespace hax_test {
namespace {

constexpr double kTolerance = 1e-6;

const Safetensors& golden() {
  static const Safetensors file(golden_path("golden_ops.safetensors"));
  return file;
}

std::set<std::string> cases_of(const std::string& operation) {
  std::set<std::string> cases;
  for (const std::string& name : golden().names()) {
    if (name.rfind(operation + "_", 0) == 0) cases.insert(name.substr(0, name.find('/')));
  }
  return cases;
}

// Every recorded tensor of the case whose name starts with `prefix` must be among `got`.
void expect_all_recorded(const std::string& case_name, const std::string& prefix,
                         const std::map<std::string, Array>& got) {
  int compared = 0;
  for (const std::string& name : golden().names()) {
    const std::string start = case_name + "/" + prefix;
    if (name.rfind(start, 0) != 0) continue;
    const auto found = got.find(name.substr(start.size()));
    ASSERT_NE(found, got.end()) << name << " is not compared";
    EXPECT_TRUE(expect_close(name, found->second, golden().load(name), kTolerance));
    ++compared;
  }
  EXPECT_GT(compared, 0) << case_name;
}

Array input(const std::string& case_name, const std::string& name) {
  return golden().load_if_present(case_name + "/" + name);
}

TEST(GoldenOps, CausalConv1d) {
  ASSERT_EQ(cases_of("causal_conv1d").size(), 3U);
  for (const std::string& c : cases_of("causal_conv1d")) {
    Conv1dArgs args;
    args.x = input(c, "x");
    args.weight = input(c, "weight");
    args.bias = input(c, "bias");
    args.initial_state = input(c, "initial_state");
    args.silu = c != "causal_conv1d_linear_state";
    const Conv1dResult out = oracle_causal_conv1d(args);
    expect_all_recorded(c, "out_", {{"y", out.y}, {"final_state", out.final_state}});
    const Conv1dGrads grads =
        oracle_causal_conv1d_backward(args, input(c, "grad_y"), input(c, "grad_final_state"));
    expect_all_recorded(c, "d_",
                        {{"x", grads.dx},
                         {"weight", grads.dweight},
                         {"bias", grads.dbias},
                         {"initial_state", grads.dinitial_state}});
  }
}

TEST(GoldenOps, SelectiveScan) {
  ASSERT_EQ(cases_of("selective_scan").size(), 4U);
  for (const std::string& c : cases_of("selective_scan")) {
    SelectiveScanArgs args;
    args.u = input(c, "u");
    args.delta = input(c, "delta");
    args.A = input(c, "A");
    args.B = input(c, "B");
    args.C = input(c, "C");
    args.D = input(c, "D");
    args.z = input(c, "z");
    args.delta_bias = input(c, "delta_bias");
    args.initial_state = input(c, "initial_state");
    const ScanResult out = oracle_selective_scan(args);
    expect_all_recorded(c, "out_", {{"y", out.y}, {"final_state", out.final_state}});
    const SelectiveScanGrads grads =
        oracle_selective_scan_backward(args, input(c, "grad_y"), input(c, "grad_final_state"));
    expect_all_recorded(c, "d_",
                        {{"u", grads.du},
                         {"delta", grads.ddelta},
                         {"A", grads.dA},
                         {"B", grads.dB},
                         {"C", grads.dC},
                         {"D", grads.dD},
                         {"z", grads.dz},
                         {"delta_bias", grads.ddelta_bias},
                         {"initial_state", grads.dinitial_state}});
  }
}

TEST(GoldenOps, Ssd) {
  ASSERT_EQ(cases_of("ssd").size(), 4U);
  for (const std::string& c : cases_of("ssd")) {
    SsdArgs args;
    args.x = input(c, "x");
    args.dt = input(c, "dt");
    args.A = input(c, "A");
    args.B = input(c, "B");
    args.C = input(c, "C");
    args.D = input(c, "D");
    args.z = input(c, "z");
    args.dt_bias = input(c, "dt_bias");
    args.initial_state = input(c, "initial_state");
    if (c == "ssd_dt_limit") {
      args.dt_min = 0.05;
      args.dt_max = 0.3;
    }
    const ScanResult out = oracle_ssd(args);
    expect_all_recorded(c, "out_", {{"y", out.y}, {"final_state", out.final_state}});
    const SsdGrads grads =
        oracle_ssd_backward(args, input(c, "grad_y"), input(c, "grad_final_state"));
    expect_all_recorded(c, "d_",
                        {{"x", grads.dx},
                         {"dt", grads.ddt},
                         {"A", grads.dA},
                         {"B", grads.dB},
                         {"C", grads.dC},
                         {"D", grads.dD},
                         {"z", grads.dz},
                         {"dt_bias", grads.ddt_bias},
                         {"initial_state", grads.dinitial_state}});
  }
}

}  // namespace
}  // namespace hax_test
