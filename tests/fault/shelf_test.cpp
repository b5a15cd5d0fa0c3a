// The emulated shelf of the benchmarks: what it promises about nodes, cables, limits and cleaning up.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace {

struct Answer {
  int code = -1;
  std::string text;
};

Answer shell(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe);
  Answer answer;
  std::array<char, 4096> part;
  while (const std::size_t got = std::fread(part.data(), 1, part.size(), pipe)) answer.text.append(part.data(), got);
  const int status = ::pclose(pipe);
  answer.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return answer;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// A shelf of this process's own beside whatever else is up.
class Shelf {
 public:
  ~Shelf() { (*this)("down"); }
  Answer operator()(const std::string& words) const {
    return shell(fmt::format("SHELF={} {}/tests/bench/shelf/shelf.sh {}", name, TESSERA_SOURCE_ROOT, words));
  }
  std::string must(const std::string& words) const {
    const Answer answer = (*this)(words);
    INFO(words);
    INFO(answer.text);
    REQUIRE(answer.code == 0);
    return answer.text;
  }
  nlohmann::json stats(std::size_t node) const { return nlohmann::json::parse(must("stats --json")).at(node - 1); }
  // Bytes that arrive in node 2 when node 1 sends 50 datagrams of 1000 bytes.
  long arrive() const {
    const long before = stats(2)["received_bytes"];
    must("exec 1 bash -c 'for i in {1..50}; do head -c 1000 /dev/zero >/dev/udp/10.91.0.2/9; done 2>/dev/null; sleep 0.2'");
    return stats(2)["received_bytes"].get<long>() - before;
  }

  const std::string name = fmt::format("test{}", ::getpid());
};

void check_words(const Shelf& shelf) {
  CHECK(has(shelf.must("show pi3 1 160"), "rate 94mbit, 0.1250 of a core (1250 10000 us), 1024 MiB"));
  CHECK(has(shelf.must("show pi3 1 400"), "0.0500 of a core (1000 20000 us)"));  // no quota under 1 ms
  CHECK(has(shelf.must("show mixed 4 160"), "940mbit, 0.5000 of a core"));
  CHECK(has(shelf("show pi9 1 160").text, "there are pi3, pi3+, pi4, pi5, mixed"));
  CHECK(has(shelf("show pi5 1 10").text, "a node of 80 GFLOP/s does not fit a core of 10"));
}

}  // namespace

TEST_CASE("an emulated shelf keeps its rates and limits, counts, cuts cables and removes what it made and nothing else") {
  const Shelf shelf;
  check_words(shelf);
  if (const Answer can = shelf("check"); can.code != 0) {
    MESSAGE("no shelf can be made here (", can.text, "): only its arithmetic and its messages were tested");
    CHECK(shelf("up 2").code != 0);
    return;
  }
  const std::string stranger = fmt::format("tessera-stranger{}", ::getpid());
  REQUIRE(shell("ip netns add " + stranger).code == 0);
  shelf.must("up 2 --rate 20mbit --cpu 0.5 --memory 256 --awake 0");
  CHECK(has(shelf("up 2").text, "is up already"));
  CHECK(has(shelf("exec 3 true").text, "there is no node '3'"));
  CHECK(has(shelf("set 1 --rate fast").text, "--rate 'fast'"));

  CHECK(has(shelf.must("exec 1 ip -brief address show dev eth0"), "10.91.0.1/24"));
  CHECK(shelf("exec 1 sh -c 'exit 7'").code == 7);
  CHECK(has(shelf.must("exec 1 tc qdisc show dev eth0"), "tbf"));
  CHECK(has(shelf.must("exec 1 tc qdisc show dev eth0"), "rate 20Mbit"));
  CHECK(has(shell("ip netns exec tessera-" + shelf.name + "-switch tc qdisc show dev port1").text, "rate 20Mbit"));
  shelf.must("set 2 --rate 5mbit --memory 64");
  CHECK(has(shelf.must("list"), "2 10.91.0.2 5mbit 0.5 64 10000"));

  CHECK(shelf.arrive() >= 25'000);  // some are refused at once, for nobody listens
  shelf.must("cut 2");
  CHECK(shelf.arrive() == 0);
  shelf.must("heal 2");
  CHECK(shelf.arrive() >= 25'000);

  shelf.must("reset");
  shelf.must("exec 1 sh -c 'head -c 20M /dev/zero | md5sum'");
  CHECK(shelf.stats(1)["cpu_s"] > 0.005);
  CHECK(shelf.stats(1)["peak_bytes"] > 100'000);
  CHECK(shelf("exec 2 sh -c 'head -c 200M /dev/zero | tail >/dev/null'").code != 0);  // tail keeps it all
  CHECK(shelf.stats(2)["oom_kills"] > 0);
  CHECK(shelf.stats(2)["peak_bytes"] <= 65LL * 1024 * 1024);

  shelf.must("spawn 1 /dev/null sleep 1000");
  CHECK(has(shelf("reset").text, "something runs there"));
  shelf.must("quit all");
  shelf.must("reset");
  shelf.must("spawn 1 /dev/null sleep 1000");
  CHECK(shelf.must("down").empty());
  const std::string spaces = shell("ip netns list").text;
  CHECK_FALSE(has(spaces, "tessera-" + shelf.name + "-"));
  CHECK(has(spaces, stranger));
  CHECK(shell("find /sys/fs/cgroup -maxdepth 2 -name 'tessera-" + shelf.name + "*'").text.empty());
  CHECK_FALSE(std::filesystem::exists("/run/tessera-shelf/" + shelf.name));
  CHECK(shell("ip netns delete " + stranger).code == 0);
}
