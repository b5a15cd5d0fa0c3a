#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "cfg/cfg_check.hpp"
#include "darknet/upstream/dialect.hpp"

using namespace tessera;

namespace {

tessera::base::Result<cfg::Cfg> check(const std::string& text) {
  auto file = cfg::parse_cfg("x.cfg", base::lines_of(base::decoded_text(text)));
  if (!file) return tl::unexpected(file.error());
  return cfg::check_cfg(std::move(*file));
}

std::string mistake(const std::string& text) {
  const auto cfg = check(text);
  return cfg ? "none" : cfg.error().message;
}

bool starts(const std::string& text, const std::string& start) { return text.rfind(start, 0) == 0; }

const std::string kNet = "[net]\nwidth=32\nheight=16\nchannels=3\n";

}  // namespace

TEST_CASE("spaces, comments, short section names and a byte order mark read as Darknet reads them") {
  const auto cfg = check(
      "\xEF\xBB\xBF[ net ]\n width = 32 # comment\nheight=16;more\r\nchannels=3\n\n; "
      "comment\n[conv]\nfilters=4\nsize=3\npad=1\n[max]\nsize=2\nstride=2\n");
  REQUIRE(cfg);
  REQUIRE(cfg->layers.size() == 2);
  CHECK(cfg->layers[0].type == "convolutional");
  CHECK(cfg->layers[0].c == 4);
  CHECK(cfg->layers[0].w == 32);
  CHECK(cfg->layers[1].h == 8);
  CHECK(cfg->layers[1].w == 16);
}

TEST_CASE("[distributed] is taken out for upstream and its place is kept") {
  const std::string conv = "[convolutional]\nfilters=2\n";
  const auto cfg = check(kNet + conv + "[distributed]\nworkers=local:2\ngrid=2x1\n" + conv);
  REQUIRE(cfg);
  CHECK(cfg->distributed.present);
  CHECK(cfg->distributed.first_layer == 1);
  CHECK(cfg->distributed.line == 7);
  CHECK(cfg->distributed.settings.at("grid").value == "2x1");
  CHECK(cfg->distributed.settings.at("grid").line == 9);
  CHECK(cfg->layers.size() == 2);
  const std::string upstream = darknet::upstream_text(*cfg);
  CHECK(upstream.find("distributed") == std::string::npos);
  CHECK(upstream.find("workers") == std::string::npos);
  CHECK(upstream == "[net]\nwidth=32\nheight=16\nchannels=3\n[convolutional]\nfilters=2\n[convolutional]\nfilters=2\n");
  CHECK_FALSE(check(kNet + conv)->distributed.present);
  CHECK(starts(mistake(kNet + conv + "[distributed]\n"), "x.cfg:7: no layer follows"));
  CHECK(starts(mistake(kNet + "[distributed]\n[distributed]\n" + conv), "x.cfg:6: [distributed] stands on line 5 already"));
}

TEST_CASE("the keys of [distributed] are known; their values are judged by the engine") {
  const auto with = [](const std::string& option) { return mistake(kNet + "[distributed]\n" + option + "\n[convolutional]\nfilters=2\n"); };
  for (const char* key : {"layers", "workers", "grid", "forward_groups", "backward_groups", "memory_mb", "threads", "wire"}) {
    CAPTURE(std::string(key));
    CHECK(with(std::string(key) + "=anything") == "none");
  }
  CHECK(with("gird=2x2") == "x.cfg:6: [distributed] has no key 'gird'; did you mean 'grid'?");
  CHECK(starts(with("nodes=2"), "x.cfg:6: [distributed] has no key 'nodes'"));
  CHECK(starts(with("learning_rate=2"), "x.cfg:6: [distributed] has no key 'learning_rate'"));
}

TEST_CASE("shapes flow through every kind of layer") {
  const auto cfg = check(kNet +
                         "[convolutional]\nfilters=8\nsize=3\nstride=2\npad=1\n"  // 0: 16x8x8
                         "[maxpool]\nsize=2\nstride=1\n"                          // 1: the same
                         "[shortcut]\nfrom=-2\n"                                  // 2
                         "[reorg]\nstride=2\n"                                    // 3: 8x4x32
                         "[upsample]\nstride=2\n"                                 // 4: 16x8x32
                         "[route]\nlayers=-1,0\n"                                 // 5: 16x8x40
                         "[avgpool]\n"                                            // 6: 1x1x40
                         "[connected]\noutput=10\n"                               // 7
                         "[dropout]\nprobability=.5\n[softmax]\n[cost]\n");
  REQUIRE(cfg);
  CHECK(cfg->layers[0].w == 16);
  CHECK(cfg->layers[1].w == 16);
  CHECK(cfg->layers[3].c == 32);
  CHECK(cfg->layers[3].h == 4);
  CHECK(cfg->layers[5].c == 40);
  CHECK(cfg->layers[6].outputs == 40);
  CHECK(cfg->layers[7].outputs == 10);
  CHECK(cfg->layers[10].outputs == 10);
}

TEST_CASE("layers that do not fit each other") {
  CHECK(starts(mistake("width=3\n"), "x.cfg:1: 'width=3' stands before the first section"));
  CHECK(starts(mistake("[convolutional]\nfilters=1\n"), "x.cfg:1: the first section is"));
  CHECK(starts(mistake("[net]\nwidth=3\n[maxpool]\n"), "x.cfg:1: [net] has no input size"));
  CHECK(starts(mistake(kNet), "x.cfg:1: the network has no layers"));
  CHECK(starts(mistake("[net]\nwidth=3\nheight=3\nchannels=3\namsgrad=1\n[maxpool]\n"), "x.cfg:5: amsgrad=1 is a variant of Adam"));
  CHECK(starts(mistake(kNet + "[distill]\n[softmax]\n"), "x.cfg:5: [distill] must be the last section"));
  CHECK(starts(mistake(kNet + "[distill]\ntemperature=0\n"), "x.cfg:6: temperature=0 must be above 0"));
  CHECK(starts(mistake(kNet + "[distill]\nalpha=-1\n"), "x.cfg:6: alpha=-1 must not be negative"));
  CHECK(starts(mistake(kNet + "[net]\n"), "x.cfg:5: there is a second [net]"));
  CHECK(starts(mistake(kNet + "[convolutional]\nsize=40\n"), "x.cfg:5: [convolutional] (layer 0) would have no output"));
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=4\ngroups=3\n"), "x.cfg:7: groups=3 must divide"));
  CHECK(starts(mistake(kNet + "[connected]\noutput=4\n[softmax]\n[route]\n"), "x.cfg:8: [route] needs layers="));
  CHECK(starts(mistake(kNet + "[maxpool]\nstride=2\n[route]\nlayers=0,1\n"), "x.cfg:8: layers=1 points to layer 1"));
  CHECK(starts(mistake(kNet + "[convolutional]\n[maxpool]\nstride=2\n[route]\nlayers=0,1\n"),
               "x.cfg:9: layers=0,1 joins maps of 32x16 and 16x8"));
  CHECK(starts(mistake(kNet + "[dropout]\n"), "x.cfg:5: [dropout] cannot be the first layer"));
  CHECK(starts(mistake(kNet + "[gru]\noutput=4\n[maxpool]\n"), "x.cfg:7: [maxpool] (layer 1) needs a map"));
  CHECK(starts(mistake("[net]\nbatch=4\nsubdivisions=3\n"), "x.cfg:3: batch=4 is no multiple"));
  CHECK(starts(mistake("[net\n"), "x.cfg:1: '[net' is no section"));
  CHECK(starts(mistake(kNet + "filters\n"), "x.cfg:5: 'filters' is no option"));
  CHECK(starts(mistake(kNet + "filters=\n"), "x.cfg:5: 'filters=' is no option"));
}

TEST_CASE("heads and what comes before them") {
  const std::string yolo = "[yolo]\nclasses=2\nnum=4\nmask=0,1\nanchors=1,2,3,4,5,6,7,8\n";
  CHECK(mistake(kNet + "[convolutional]\nfilters=14\n" + yolo) == "none");
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=28\n" + yolo), "x.cfg:6: filters=28 does not fit [yolo] on line 7"));
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=14\n" + yolo + "max=20000\n"), "x.cfg:12: max=20000 is more than the 10000 boxes"));
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=14\n[maxpool]\n[yolo]\nclasses=1\nnum=2\n"), "x.cfg:8: [yolo] gets 14 channels"));
  CHECK(mistake(kNet + "[convolutional]\nfilters=18\n[region]\nclasses=4\nnum=2\n") == "none");
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=18\n[region]\nclasses=4\nnum=2\nanchors=1,1,0,2\n"),
               "x.cfg:10: anchors= contains 0"));
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=18\n[region]\nclasses=4\nnum=2\nmax=31\n"), "x.cfg:10: max=31"));
  CHECK(starts(mistake(kNet + "[convolutional]\nfilters=7\n[yolo]\nclasses=2\n[route]\nlayers=0\n[convolutional]"
                              "\nfilters=8\n[yolo]\nclasses=3\n"),
               "x.cfg:14: classes=3 differs from classes=2 on line 8"));
}

TEST_CASE("all mistakes of a cfg come at once, with what unknown keys change; what changes nothing is taken out") {
  const std::string many = mistake(kNet +
                                   "contrastive=1\n[convolutional]\nfilters=3\nantialiasing=1\n[maxpool]\nantialiasing=0\nsiez=2\n"
                                   "[yolo]\nclasses=two\n[local_avgpool]\n");
  const std::vector<std::string> lines = base::lines_of(many);
  REQUIRE(lines.size() == 5);
  CHECK(starts(lines[0], "x.cfg:5: [net] has no key 'contrastive': it changes training only"));
  CHECK(starts(lines[1], "x.cfg:8: [convolutional] has no key 'antialiasing': it changes what a trained network finds"));
  CHECK(starts(lines[2], "x.cfg:11: [maxpool] has no key 'siez'; did you mean 'size'?"));
  CHECK(starts(lines[3], "x.cfg:13: classes=two is no good value"));
  CHECK(starts(lines[4], "x.cfg:14: there is no section [local_avgpool]"));
  // Mistakes of what fits together, too.
  const std::vector<std::string> fit =
      base::lines_of(mistake(kNet + "batch=3\nsubdivisions=2\n[convolutional]\nfilters=9\n[yolo]\nclasses=2\n"
                                    "num=2\nanchors=1,2\nmax=2000000\n"));
  REQUIRE(fit.size() == 4);
  CHECK(fit[3].find("filters=9 does not fit [yolo]") != std::string::npos);
  const auto fine = check(kNet + "contrastive=0\nloss_scale=128\n[convolutional]\nfilters=3\n");
  REQUIRE(fine);
  REQUIRE(fine->file.warnings.size() == 1);
  CHECK(fine->file.warnings[0] == "x.cfg: without effect here: contrastive (line 5), loss_scale (line 6)");
}

TEST_CASE("of an option given twice the first counts, with a warning") {
  const auto cfg = check(kNet + "width=64\n[convolutional]\n");
  REQUIRE(cfg);
  CHECK(cfg->layers[0].w == 32);
  REQUIRE(cfg->file.warnings.size() == 1);
  CHECK(cfg->file.warnings[0] == "x.cfg:5: 'width' was given on line 2 already; width=32 counts");
}

TEST_CASE("every cfg that upstream ships is accepted") {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(TESSERA_UPSTREAM_ROOT) + "/cfg")) {
    if (entry.path().extension() != ".cfg") continue;
    CAPTURE(entry.path().string());
    auto file = cfg::read_cfg_file(entry.path().string());
    REQUIRE(file);
    const auto cfg = cfg::check_cfg(std::move(*file));
    if (!cfg) FAIL_CHECK(cfg.error().message);
    ++count;
  }
  CHECK(count > 30);
}

TEST_CASE("numbers whose products upstream could not count, and numbers that are none, are refused with file and line") {
  const std::string conv = "[convolutional]\nfilters=6\n", net = "[net]\nwidth=32\nheight=32\nchannels=3\n";
  CHECK(mistake(net + conv) == "none");
  for (const char* layer :
       {"[convolutional]\nfilters=1000000000\n", "[convolutional]\nfilters=357913942\nsize=3\n", "[convolutional]\npadding=1000000000\n",
        "[reorg]\nstride=4\n", "[reorg]\nstride=2000000000\n", "[reorg]\nreverse=1\nstride=2000000000\n", "[upsample]\nstride=100000\n",
        "[upsample]\nstride=2000000000\n", "[connected]\noutput=2000000000\n", "[maxpool]\nsize=2\nstride=2\npadding=2000000000\n",
        "[maxpool]\nsize=2\npadding=3\n", "[normalization]\nsize=1000000000\n", "[crop]\ncrop_width=33\ncrop_height=32\n",
        "[lstm]\noutput=2000000000\n", "[crnn]\noutput_filters=2000000000\n", "[local]\nfilters=2000000\n",
        "[deconvolutional]\nfilters=2000000000\n"}) {
    INFO(layer);
    CHECK(starts(mistake(net + conv + layer), "x.cfg:"));
  }
  CHECK(starts(mistake("[net]\nwidth=65536\nheight=65536\nchannels=3\n" + conv),
               "x.cfg:1: [net] would have 12884901888 values in a batch, 51.5 GB of memory"));
  CHECK(starts(mistake(net + "batch=1000000000\n" + conv), "x.cfg:1:"));
  CHECK(starts(mistake(net + "batch=2000000000\nsubdivisions=2000000000\ntime_steps=2000000000\n" + conv), "x.cfg:"));
  for (const char* number : {"nan", "-nan", "inf", "1e99", "nan(1)"})
    CHECK(starts(mistake(net + "learning_rate=" + number + "\n" + conv), "x.cfg:5: learning_rate="));
  CHECK(starts(mistake(net + "[route]\nlayers=99999999999999999\n"), "x.cfg:6:"));
}
