// What main() of every test program does. Counts test cases for run_tests.sh and holds every case to the project's rules: one
// that is skipped or that asserts nothing has failed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>
#include <ext/stdio_filebuf.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <ostream>

#include "tests/support/run.hpp"
#include "tests/support/seed.hpp"

namespace tessera::testing {

std::uint64_t seed() {
  const char* text = std::getenv("TESSERA_SEED");
  return text ? std::strtoull(text, nullptr, 0) : kDefaultSeed;
}

namespace {

struct Counts {
  int passed = 0;
  int failed = 0;
};
Counts counts;

void fail(const doctest::TestCaseData& test, const char* reason) {
  std::printf("%s:%u: FAILED: \"%s\" %s\n", test.m_file.c_str(), test.m_line, test.m_name, reason);
  ++counts.failed;
}

class CountingListener : public doctest::IReporter {
 public:
  explicit CountingListener(const doctest::ContextOptions&) : process_(getpid()) {}

  void test_case_start(const doctest::TestCaseData& test) override { current_ = &test; }
  void test_case_end(const doctest::CurrentTestCaseStats& stats) override {
    if (!stats.testCaseSuccess)
      ++counts.failed;
    else if (stats.numAssertsCurrentTest == 0)
      fail(*current_, "asserts nothing");
    else
      ++counts.passed;
  }
  // doctest reports cases that a filter on the command line leaves out in the same way; those are not failures.
  void test_case_skipped(const doctest::TestCaseData& test) override {
    if (test.m_skip) fail(test, "is skipped");
  }
  // doctest calls this when a signal ends the program, too, with the case it hit counted as failed. A child process
  // that a test has forked does not speak for the run.
  void test_run_end(const doctest::TestRunStats&) override {
    const char* path = std::getenv("TESSERA_TEST_COUNTS");
    if (path && getpid() == process_) std::ofstream(path) << counts.passed << ' ' << counts.failed << '\n';
  }

  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}

 private:
  const pid_t process_;
  const doctest::TestCaseData* current_ = nullptr;
};

REGISTER_LISTENER("counting", 1, CountingListener);

}  // namespace

int run(int argc, char** argv) {
  doctest::Context context(argc, argv);
  // A descriptor of its own: failures are reported, too, while a test keeps upstream's layers quiet.
  __gnu_cxx::stdio_filebuf<char> buffer(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0), std::ios::out);
  std::ostream report(&buffer);
  context.setCout(&report);
  std::printf("seed %llu (TESSERA_SEED=n repeats another run)\n", static_cast<unsigned long long>(seed()));
  std::fflush(stdout);
  const int status = context.run();
  return status != 0 ? status : counts.failed > 0;
}

}  // namespace tessera::testing
