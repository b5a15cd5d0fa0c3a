// Every mistake people make gives one line that says what, where and what to do, and an exit code, within 5 s.
#include <doctest/doctest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "tests/cluster/commands_fixture.hpp"

using tessera::testing::Outcome;
using tessera::testing::Workshop;

namespace {

// The last line on stderr that is ours; upstream's own chatter about layers comes before it.
std::string message_of(const Outcome& outcome) {
  const std::size_t at = outcome.err.rfind("darknet: ");
  return at == std::string::npos ? "" : outcome.err.substr(at);
}

void check_error(const Workshop& workshop, const std::vector<std::string>& words, int code, const std::vector<std::string>& parts) {
  Outcome outcome = workshop.run(words, "", 20);
  // The 5 s are the program's own; on a machine busy with other things it gets two more chances.
  for (int again = 0; again < 2 && outcome.seconds >= 5; ++again) outcome = workshop.run(words, "", 20);
  INFO(outcome.out);
  INFO(outcome.err);
  CHECK_FALSE(outcome.timed_out);
  CHECK(outcome.code == code);
  CHECK(outcome.seconds < 5);
  const std::string message = message_of(outcome);
  CHECK(std::count(message.begin(), message.end(), '\n') == 1);
  for (const std::string& part : parts) CHECK_MESSAGE(message.find(part) != std::string::npos, "wanted: ", part, "\nmessage: ", message);
}

const std::vector<std::string> kTrain = {"detector", "train", "obj.data", "bad.cfg", "-dont_show"};

void check_cfg_error(const Workshop& workshop, const std::string& from, const std::string& to, const std::vector<std::string>& parts) {
  INFO(to);
  workshop.derive_cfg("bad.cfg", from, to);
  check_error(workshop, kTrain, 1, parts);
}

}  // namespace

TEST_CASE("commands and options that do not exist are refused with a suggestion") {
  const Workshop workshop;
  check_error(workshop, {"detector", "trian", "obj.data", "tiny.cfg"}, 2, {"detector trian", "did you mean `darknet detector train`?"});
  check_error(workshop, {"detecter", "train"}, 2, {"did you mean `darknet detector train`?"});
  check_error(workshop, {"xyzzy"}, 2, {"no command `xyzzy`", "darknet help"});
  check_error(workshop, {"detector"}, 2, {"`darknet detector` needs one of train, test"});
  check_error(workshop, {"detector", "xyzzy"}, 2, {"no command `detector xyzzy`", "there are train, test"});
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg", "-dont_shwo"}, 2,
              {"unknown option -dont_shwo", "did you mean -dont_show?"});
  check_error(workshop, {"detector", "map", "obj.data", "tiny.cfg", "x.weights", "-clear"}, 2, {"no option -clear"});
  check_error(workshop, {"detector", "train", "obj.data"}, 2, {"needs more arguments", "DATA CFG [WEIGHTS]"});
  check_error(workshop, {"partial", "a", "b", "c", "4", "5"}, 2, {"'5' is one argument too many"});
  check_error(workshop, {"detector", "test", "obj.data", "tiny.cfg", "x.weights", "-thresh", "high"}, 2,
              {"option -thresh needs a number, not 'high'"});
  check_error(workshop, {"detector", "test", "obj.data", "tiny.cfg", "x.weights", "-thresh"}, 2, {"-thresh needs a number"});
  check_error(workshop, {"speed"}, 2, {"needs at least 1"});
}

TEST_CASE("missing files are named") {
  const Workshop workshop;
  check_error(workshop, {"detector", "train", "obj.data", "absent.cfg"}, 1, {"absent.cfg", "cannot open the cfg"});
  check_error(workshop, {"detector", "train", "absent.data", "tiny.cfg"}, 1, {"absent.data", "cannot open the .data file"});
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg", "absent.weights"}, 1,
              {"absent.weights", "cannot open the weights file"});
  check_error(workshop, {"detector", "map", "obj.data", "tiny.cfg", "absent.weights"}, 1, {"absent.weights"});
  workshop.write("obj.data", "classes = 2\ntrain = absent.txt\nnames = obj.names\n");
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg"}, 1, {"obj.data:2", "absent.txt"});
  workshop.write("obj.data", "classes = 2\ntrain = train.txt\nnames = absent.names\n");
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg"}, 1, {"absent.names"});
  workshop.write("obj.data", "classes = 2\ntrian = train.txt\n");
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg"}, 1, {"obj.data:2", "did you mean 'train'?"});
  workshop.write("obj.data", "classes = 2\ntrain = train.txt\nnames = obj.names\n");
  check_error(workshop, {"detector", "train", "-map", "obj.data", "tiny.cfg"}, 1, {"has no valid="});
}

TEST_CASE("mistakes in the cfg are found with file and line") {
  const Workshop workshop;
  check_cfg_error(workshop, "filters=21", "filters=30", {"bad.cfg:52: filters=30 does not fit [yolo] on line 55", "filters must be 21"});
  check_cfg_error(workshop, "classes=2", "classes=5", {"bad.cfg:52", "filters must be 30"});
  check_cfg_error(workshop, "jitter=.1", "jiter=.1", {"bad.cfg:60: [yolo] has no key 'jiter'; did you mean 'jitter'?"});
  check_cfg_error(workshop, "[maxpool]", "[maxpol]", {"bad.cfg:28", "did you mean [maxpool]?"});
  check_cfg_error(workshop, "batch=8", "batch=eight", {"bad.cfg:3: batch=eight is no good value; it must be a whole number of at least 1"});
  check_cfg_error(workshop, "subdivisions=2", "subdivisions=3", {"bad.cfg:4", "no multiple"});
  check_cfg_error(workshop, "activation=leaky", "activation=leeky", {"bad.cfg:26", "one of linear, leaky"});
  check_cfg_error(workshop, "anchors=12,12, 20,20, 30,30", "anchors=12,12, 20,20", {"bad.cfg:57", "4 numbers", "num=3 needs 6"});
  check_cfg_error(workshop, "mask=0,1,2", "mask=0,1,5", {"bad.cfg:56", "num=3 allows 0 to 2"});
  check_cfg_error(workshop, "scales=.1,.1", "scales=.1", {"bad.cfg:18", "one scale per step"});
  check_cfg_error(workshop, "steps=15,18", "steps=18,15", {"bad.cfg:17", "must rise"});
  check_cfg_error(workshop, "[convolutional]\nsize=1", "[route]\nlayers=-9\n\n[convolutional]\nsize=1",
                  {"bad.cfg:49", "layers=-9 points to layer -5"});
  check_cfg_error(workshop, "[convolutional]\nsize=1", "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n\n[convolutional]\nsize=1",
                  {"bad.cfg:51", "groups=2 allows 0 to 1"});
  check_cfg_error(workshop, "[convolutional]", "[distributed]\nworkrs=local:2\n\n[convolutional]",
                  {"bad.cfg:21", "did you mean 'workers'?"});
  check_cfg_error(workshop, "[convolutional]", "[distributed]\ngrid=2by2\n\n[convolutional]", {"bad.cfg:21", "ROWSxCOLUMNS"});
  check_cfg_error(workshop, "max_batches=20\n", "", {"bad.cfg:2", "max_batches"});
}

TEST_CASE("mistakes in images and labels stop a training before it starts") {
  const Workshop workshop;
  const std::vector<std::string> words = {"detector", "train", "obj.data", "tiny.cfg"};
  workshop.write("labels/square0.txt", "0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n");
  check_error(workshop, words, 1, {"labels/square0.txt:2: class 7 is out of range"});
  CHECK(workshop.read("bad_label.list").find("labels/square0.txt:2") != std::string::npos);
  workshop.write("labels/square0.txt", "0 50 50 20 20\n");
  check_error(workshop, words, 1, {"labels/square0.txt:1", "outside the image"});
  workshop.write("labels/square0.txt", "square 0.5 0.5\n");
  check_error(workshop, words, 1, {"labels/square0.txt:1", "is no label"});
  workshop.write("train.txt", "images/none1.png\nimages/none2.png\n");
  check_error(workshop, words, 1, {"obj.data:2", "none of the images", "images/none1.png"});
  CHECK(workshop.read("bad.list").find("images/none2.png") != std::string::npos);
  workshop.write("train.txt", "\n");
  check_error(workshop, words, 1, {"lists no images"});
  workshop.write("obj.data", "classes = 3\ntrain = train.txt\n");
  check_error(workshop, words, 1, {"tiny.cfg:58: classes=2", "obj.data:1", "classes=3"});
}

TEST_CASE("a backup folder that cannot be written to is found before training; a missing one is made") {
  const Workshop workshop;
  workshop.write("occupied", "a file");
  workshop.write("obj.data", "classes = 2\ntrain = train.txt\nbackup = occupied/backup\n");
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg"}, 1, {"obj.data:3", "occupied/backup"});
  workshop.write("obj.data", "classes = 2\ntrain = train.txt\nbackup = /proc/1\n");
  check_error(workshop, {"detector", "train", "obj.data", "tiny.cfg"}, 1, {"/proc/1", "backup = FOLDER"});
  workshop.write("obj.data", "classes = 2\ntrain = train.txt\n");
  workshop.derive_cfg("short.cfg", "max_batches=20", "max_batches=2");
  const Outcome outcome = workshop.run({"detector", "train", "obj.data", "short.cfg"});
  INFO(outcome.err);
  CHECK(outcome.code == 0);
  CHECK(workshop.has("backup/short_final.weights"));
}

TEST_CASE("weights that do not fit are refused with the layer") {
  const Workshop workshop;
  workshop.derive_cfg("short.cfg", "max_batches=20", "max_batches=2");
  REQUIRE(workshop.run({"detector", "train", "obj.data", "short.cfg"}).code == 0);
  const std::string good = workshop.read("backup/short_final.weights");
  workshop.write("torn.weights", good.substr(0, good.size() - 10));
  check_error(workshop, {"detector", "map", "obj.data", "tiny.cfg", "torn.weights"}, 1, {"torn.weights", "layer 4 (convolutional)"});
  workshop.write("long.weights", good + "12345678");
  check_error(workshop, {"detector", "map", "obj.data", "tiny.cfg", "long.weights"}, 1, {"long.weights", "8 bytes more"});
  workshop.write("text.weights", "hello");
  check_error(workshop, {"detector", "map", "obj.data", "tiny.cfg", "text.weights"}, 1, {"text.weights", "is no weights file"});
}

TEST_CASE("a loss that is no number stops the training and keeps the last good weights") {
  const Workshop workshop;
  workshop.derive_cfg("wild.cfg", "learning_rate=0.003", "learning_rate=1e30");
  workshop.derive_cfg("wild.cfg", "burn_in=5\n", "", "wild.cfg");
  const Outcome outcome = workshop.run({"detector", "train", "obj.data", "wild.cfg"});
  INFO(outcome.out);
  INFO(outcome.err);
  CHECK(outcome.code == 3);
  CHECK(outcome.err.find("the first value that is no number is in layer ") != std::string::npos);
  CHECK_FALSE(workshop.has("backup/wild_final.weights"));
}

TEST_CASE("nothing is asked on stdin") {
  const Workshop workshop;
  workshop.derive_cfg("short.cfg", "max_batches=20", "max_batches=2");
  REQUIRE(workshop.run({"detector", "train", "obj.data", "short.cfg"}).code == 0);
  check_error(workshop, {"detector", "test", "obj.data", "short.cfg", "backup/short_final.weights", "-dont_show"}, 1,
              {"no image is given"});
  check_error(workshop, {"detector", "test", "obj.data", "short.cfg", "backup/short_final.weights", "absent.jpg"}, 1,
              {"absent.jpg: cannot open the image"});
}
