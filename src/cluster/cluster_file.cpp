#include "cluster/cluster_file.hpp"

#include <set>

#include "base/text.hpp"
#include "transport/address.hpp"
#include "wire/control.hpp"

namespace tessera::cluster {

using base::ErrorCode;

namespace {

const std::set<std::string> kKeys = {"name", "address", "speed", "threads", "memory_mb", "gflops", "bandwidth_mbit", "batch"};

base::Result<WorkerSpec> read_worker(const nlohmann::json& json, const std::string& path, std::size_t index) {
  const auto bad = [&](const std::string& what) {
    return base::error(ErrorCode::kInvalidArgument, "{}: worker {}: {}", path, index + 1, what);
  };
  if (!json.is_object()) return bad("an object with an \"address\" is expected");
  WorkerSpec worker;
  for (const auto& [key, value] : json.items()) {
    if ((key == "name" || key == "address") && value.is_string()) {
      (key == "name" ? worker.name : worker.address) = value.get<std::string>();
    } else if (key == "speed" && value.is_number() && value.get<double>() > 0) {
      worker.speed = value.get<double>();
    } else if ((key == "threads" || key == "memory_mb") && value.is_number_unsigned() && value.get<std::uint64_t>() < (1u << 24)) {
      (key == "threads" ? worker.threads : worker.memory_mb) = value.get<int>();
    } else if ((key == "gflops" || key == "bandwidth_mbit") && value.is_number() && value.get<double>() > 0) {
      (key == "gflops" ? worker.gflops : worker.bandwidth_mbit) = value.get<double>();
    } else if (key == "batch" && value.is_number_unsigned() && value.get<std::uint64_t>() - 1 < 4096) {
      worker.batch = value.get<int>();
    } else if (kKeys.contains(key)) {
      return bad(fmt::format("\"{}\" has an impossible value {}", key, value.dump()));
    } else {
      return bad(fmt::format("unknown key \"{}\" (known: {})", key, fmt::join(kKeys, ", ")));
    }
  }
  if (auto address = transport::parse_address(worker.address); !address) return bad(address.error().message);
  if (worker.name.empty()) worker.name = worker.address;
  return worker;
}

base::Result<nlohmann::json> read_json(const std::string& path) {
  const auto text = base::read_text(path, "cluster file");
  if (!text)
    return base::error(ErrorCode::kNotFound, "{}: cannot be read; workers = local:N or the path of a cluster file is expected", path);
  auto json = wire::parse_json(*text);
  if (!json) return base::error(ErrorCode::kInvalidArgument, "{}: {}", path, json.error().message);
  return std::move(*json);
}

}  // namespace

base::Result<std::vector<WorkerSpec>> read_cluster_file(const std::string& path) {
  TESSERA_ASSIGN(const nlohmann::json json, read_json(path));
  const auto* workers = json.is_object() && json.contains("workers") ? &json.at("workers") : nullptr;
  if (!workers || !workers->is_array() || workers->empty())
    return base::error(ErrorCode::kInvalidArgument, "{}: {{\"workers\": [{{\"address\": \"tcp://host:port\"}}, ...]}} is expected", path);
  std::vector<WorkerSpec> specs;
  std::set<std::string> names, addresses;
  for (std::size_t i = 0; i < workers->size(); ++i) {
    TESSERA_ASSIGN(const WorkerSpec spec, read_worker(workers->at(i), path, i));
    if (!names.insert(spec.name).second || !addresses.insert(spec.address).second)
      return base::error(ErrorCode::kInvalidArgument, "{}: worker {}: {} is there twice", path, i + 1, spec.name);
    specs.push_back(spec);
  }
  return specs;
}

base::Result<ServerSpec> read_server(const std::string& path) {
  TESSERA_ASSIGN(const nlohmann::json json, read_json(path));
  ServerSpec server;
  if (!json.is_object() || !json.contains("server")) return server;
  const nlohmann::json& given = json.at("server");
  bool good = given.is_object();
  for (const auto& [key, value] : given.items()) {
    good = good && (key == "gflops" || key == "bandwidth_mbit") && value.is_number() && value.get<double>() > 0;
    if (good) (key == "gflops" ? server.gflops : server.bandwidth_mbit) = value.get<double>();
  }
  if (!good)
    return base::error(ErrorCode::kInvalidArgument, "{}: server: {{\"gflops\": 200, \"bandwidth_mbit\": 940}} is expected, both above 0",
                       path);
  return server;
}

}  // namespace tessera::cluster
